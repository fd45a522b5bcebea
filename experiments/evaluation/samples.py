"""Texts that a model writes for people: what they continue, where they end, and the files that they are kept in.

samples.txt is for people, samples.json for programs. N prompts, B texts, L positions.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from algorithms.common.decoder import Decoder, Generation, Stop
from datasets.tokenizers import Tokenizer
from experiments.analysis.files import write
from experiments.run.files import write_json
from experiments.run.schema import SamplingConfig

KEY = "experiment.sampling"
KEPT = ("steps", "forwards", "tokens_per_forward", "token_forwards", "seconds")  # of a generation, in the summary


class Prompt(NamedTuple):
    """A text to continue and its ids; in the place of no text stands the tokenizer's start token."""

    text: str
    ids: list[int]


class Sample(NamedTuple):
    """A text with its prompt, the number-th of all; `ended` where it came to a stop, which is among its ids and not in
    the text."""

    number: int
    prompt: str
    seed: int
    ids: list[int]
    text: str
    ended: bool


def read_prompts(tokenizer: Tokenizer, sampling: SamplingConfig) -> list[Prompt]:
    """The prompts of a configuration. Raises ValueError or FileNotFoundError in a sentence that names the key, or the
    line of the file."""
    if sampling.prompt_file is not None:
        named = _read_prompt_file(Path(sampling.prompt_file).expanduser())
    elif isinstance(sampling.prompt, str):
        named = [(f"{KEY}.prompt", sampling.prompt)]
    else:
        named = [(f"{KEY}.prompt, text {i}", text) for i, text in enumerate(sampling.prompt, 1)]
    return [Prompt(text, encoded(tokenizer, text, name) or [tokenizer.start_id]) for name, text in named]


def _read_prompt_file(path: Path) -> list[tuple[str, str]]:
    """Texts, each with its place: of FILE.jsonl the `prompt` of every line, of other files every line that is not
    blank."""
    if not path.is_file():
        raise FileNotFoundError(f"{KEY}.prompt_file={path} is no file: check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{KEY}.prompt_file={path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{KEY}.prompt_file={path} holds no text: write a prompt in each line")
    return [(name, _prompt_of(name, line)) for name, line in lines] if path.suffix == ".jsonl" else lines


def _prompt_of(name: str, line: str) -> str:
    try:
        found = json.loads(line)["prompt"]
    except (json.JSONDecodeError, TypeError, KeyError):
        found = None
    if not isinstance(found, str):
        raise ValueError(f'{name} is not of the form {{"prompt": "TEXT"}}: write it so, or name the file .txt')
    return found


def stop_of(tokenizer: Tokenizer, sampling: SamplingConfig) -> Stop | None:
    """Where texts end early by a configuration, if they do. Raises ValueError on a text that no model can write."""
    stop, end = sampling.stop, tokenizer.end_id
    if isinstance(stop, str):
        encoded(tokenizer, stop, f"{KEY}.stop")
        tokens = len(stop.encode("utf-8"))  # it takes no more: each holds a byte at least
        return lambda generated: stop in tokenizer.decode(generated[-tokens:])
    if not stop or end is None or sampling.suffix:
        return None
    return lambda generated: generated[-1] == end


def read_samples(
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    generation: Generation,
    stop: Stop | None,
) -> list[Sample]:
    """What was written: B / N texts for each prompt, one prompt after the other."""
    samples = []
    for row, (seed, ids) in enumerate(zip(seeds, generation.texts, strict=True)):
        number = row * len(prompts) // len(seeds)
        prompt = prompts[number]
        generated = ids[len(prompt.ids) :]
        ended = stop is not None and stop(generated)
        if ended and sampling.stop is True:
            generated = generated[:-1]
        text = tokenizer.decode(generated)
        if ended and isinstance(sampling.stop, str):
            text = text.partition(sampling.stop)[0]
        samples.append(Sample(number + 1, prompt.text, seed, ids, prompt.text + text, ended))
    return samples


def write_samples(
    folder: Path, generation: Generation, samples: Sequence[Sample], *, decoder: Decoder, about: dict[str, Any]
) -> dict[str, Any]:
    """Write both files below `folder`; what the summary keeps of them. `about` is what was asked for."""
    cost = {key: getattr(generation, key) for key in KEPT}
    record = about | {
        "seeds": [sample.seed for sample in samples],
        **cost,
        "decoder": dataclasses.asdict(decoder),  # type: ignore[call-overload]  # every decoder is a dataclass
        "prompts": [sample.prompt for sample in samples],
        "ended": [sample.ended for sample in samples],
        "ids": [sample.ids for sample in samples],
        "texts": [sample.text for sample in samples],
    }
    write_json(folder / "samples.json", record)
    write(folder / "samples.txt", readable(samples))
    return cost | {"length": about["length"], "n_samples": len(samples)}


def encoded(tokenizer: Tokenizer, text: str, key: str) -> list[int]:
    """Ids of the text that the configuration gives under `key`. Raises ValueError on characters that are unknown."""
    try:
        return tokenizer.encode(text).tolist()
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def readable(samples: Sequence[Sample]) -> str:
    """Texts below lines that name their seeds, and their prompts where there are several."""
    several = len({sample.number for sample in samples}) > 1
    heads = [f"prompt {sample.number}, seed {sample.seed}" if several else f"seed {sample.seed}" for sample in samples]
    return "\n".join(f"----- {head}\n{sample.text}\n" for head, sample in zip(heads, samples, strict=True))
