"""Texts that a model writes for people: samples.txt, and samples.json for programs.

B texts, L positions.
"""

import dataclasses
from pathlib import Path
from typing import Any

from algorithms.common.decoder import Decoder, Generation
from datasets.tokenizers import Tokenizer
from experiments.analysis.files import write
from experiments.run.files import write_json

KEPT = ("steps", "forwards", "tokens_per_forward", "token_forwards", "seconds")  # of a generation, in the summary


def write_samples(
    folder: Path, generation: Generation, *, seeds: list[int], texts: list[str], decoder: Decoder, about: dict[str, Any]
) -> dict[str, Any]:
    """Write both files of B texts below `folder`; what the summary keeps of them. `about` is what was asked for."""
    cost = {key: getattr(generation, key) for key in KEPT}
    record = about | {
        "seeds": seeds,
        **cost,
        "decoder": dataclasses.asdict(decoder),  # type: ignore[call-overload]  # every decoder is a dataclass
        "ids": generation.texts,
        "texts": texts,
    }
    write_json(folder / "samples.json", record)
    write(folder / "samples.txt", readable(seeds, texts))
    return cost | {"length": about["length"], "n_samples": len(seeds)}


def encoded(tokenizer: Tokenizer, text: str, key: str) -> list[int]:
    """Ids of the text that the configuration gives under `key`. Raises ValueError on characters that are unknown."""
    try:
        return tokenizer.encode(text).tolist()
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def readable(seeds: list[int], texts: list[str]) -> str:
    """Texts below lines that name their seeds."""
    return "\n".join(f"----- seed {seed}\n{text}\n" for seed, text in zip(seeds, texts, strict=True))
