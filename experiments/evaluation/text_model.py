"""A trained model in Python: what it writes, what it fills in, and how likely it finds texts.

B texts, N tokens of a text, T tokens of the model's context.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from algorithms.common.decoder import Decoder, Request
from algorithms.common.randomness import RowRandom
from experiments.evaluation.models import load_model
from experiments.evaluation.samples import Prompt, encoded, read_samples, stop_of
from experiments.evaluation.settings import ModelSettings, build_settings
from experiments.run.schema import SamplingConfig

GAP = re.compile(r"\{(\d+)\}")
ROWS_AT_ONCE = 64


class Score(NamedTuple):
    """How likely a text is: the `nats` of all its tokens, of the kind `exact`, or an estimate of a `bound` from
    above."""

    nats: float
    tokens: int
    characters: int
    kind: str


class TextModel:
    """The weights of a run folder or checkpoint with its tokenizer, on a device.

    Raises ValueError or FileNotFoundError in one sentence where there are none that can be rebuilt.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        model = load_model(str(path), "load")
        self.algorithm = model.algorithm.to(device)
        self.tokenizer = model.tokenizer
        own = model.choices.get("algorithm/decoder", "")
        self._settings = ModelSettings(model.algorithm.name, model.plain, own)

    def generate(
        self, prompts: str | Sequence[str], *, length: int = 256, decoder: Any = None, seed: int = 0
    ) -> str | list[str]:
        """Continue prompts by `length` tokens, or up to the tokenizer's end of a document.

        Args:
            prompts: a text, or a list of texts; an empty one starts at the tokenizer's start token.
            length: tokens to write after each.
            decoder: a file of configs/algorithm/decoder, {file: {option: value}} or a Decoder; by default the model's.
            seed: a prompt and its seed alone decide a text, as `seed=` does on the command line.

        Returns:
            The text for a text, the list of texts for a list; each begins with its prompt.

        Raises:
            ValueError: in one sentence, on what cannot be encoded or written.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            return []
        given = [
            Prompt(text, encoded(self.tokenizer, text, f"prompts[{i}]") or [self.tokenizer.start_id])
            for i, text in enumerate(texts)
        ]
        sampling = SamplingConfig(n_samples=1, length=length)
        stop, seeds = stop_of(self.tokenizer, sampling), [seed * 1_000_000] * len(texts)
        request = Request.continuing(
            [prompt.ids for prompt in given],
            length=length,
            seeds=seeds,
            stop=stop,
            rows_at_once=ROWS_AT_ONCE,
            device=self.algorithm.device,
            encode=self.tokenizer.encode,
        )
        out = self.algorithm.generate(request, self._decoder(decoder))
        written = [sample.text for sample in read_samples(self.tokenizer, sampling, given, seeds, out, stop)]
        return written[0] if isinstance(prompts, str) else written

    def infill(self, template: str, *, decoder: Any = None, seed: int = 0) -> str:
        """Write what is left open in a text: {8} stands for eight tokens.

        `decoder` and `seed` are as in `generate`. Raises ValueError in one sentence on a template without an open
        place, or with text behind it that the decoder cannot see.
        """
        parts = GAP.split(template)  # text, number of tokens, text, ..., text
        ids: list[int] = []
        given: list[bool] = []
        places: list[slice] = []
        for number, part in enumerate(parts):
            is_text = number % 2 == 0
            tokens = encoded(self.tokenizer, part, "template") if is_text else [0] * int(part)
            if number == 0 and not tokens:
                ids, given = [self.tokenizer.start_id], [True]
            places.append(slice(len(ids), len(ids) + len(tokens)))
            ids += tokens
            given += [is_text] * len(tokens)
        if all(given):
            raise ValueError("template has no open place: write {8} where eight tokens are to be written")
        device = self.algorithm.device
        request = Request(
            torch.tensor([ids], device=device),
            torch.tensor([given], device=device),
            [seed * 1_000_000],
            encode=self.tokenizer.encode,
        )
        (found,) = self.algorithm.generate(request, self._decoder(decoder)).texts
        return "".join(
            self.tokenizer.decode(found[place]) if number % 2 else part
            for number, (part, place) in enumerate(zip(parts, places, strict=True))
        )

    @torch.no_grad()
    def score(self, texts: str | Sequence[str]) -> Score | list[Score]:
        """How likely a text is, or each of several, from the tokenizer's start token on.

        A text longer than the context is read as `test/nll` reads a corpus: in windows of T tokens, of which each is
        given the last token of the one before it. Raises ValueError on characters that the tokenizer lacks.
        """
        if isinstance(texts, str):
            return self._score(texts, "texts")
        return [self._score(text, f"texts[{i}]") for i, text in enumerate(texts)]

    def _score(self, text: str, name: str) -> Score:
        ids, T = [self.tokenizer.start_id, *encoded(self.tokenizer, text, name)], self.algorithm.block_size
        device = self.algorithm.device
        nats = 0.0
        for number, begin in enumerate(range(0, len(ids) - 1, T)):
            window = torch.tensor([ids[begin : begin + T + 1]], device=device)
            nats += float(self.algorithm.nll(window, RowRandom.of_windows([number], device)).sum())
        return Score(nats, len(ids) - 1, len(text), self.algorithm.likelihood_kind)

    def _decoder(self, asked: Any) -> Decoder | None:
        if asked is None or isinstance(asked, Decoder):
            return asked
        settings = build_settings(self._settings, asked, None)
        if len(settings) != 1:
            raise ValueError(f"decoder makes {len(settings)} settings: give one, with one value for each option")
        return settings[0].decoder
