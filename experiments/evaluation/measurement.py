"""Texts of models, of the corpus and of samplers without a model, all asked for and measured in the same way.

B texts of one seed, P prompt tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Request
from algorithms.common.device import now
from algorithms.common.metrics.adversaries import CONTROLS
from algorithms.common.metrics.corpus import CorpusReference
from algorithms.common.metrics.mauve import PieceFeatures
from datasets.data_module import TextDataModule
from datasets.tokenizers import Tokenizer
from experiments.analysis import decoding_table as table
from experiments.evaluation.judges.panel import JudgePanel
from experiments.evaluation.metrics import measure

HELD_OUT_SPLIT = "val"
SPLITS = {table.HELD_OUT: HELD_OUT_SPLIT, table.TRAINING_TEXT: "train"}
REAL_DRAWS = 16  # samples of real text that say how far its metrics range
REAL_SEED = 1_000_000  # of the first of them: none that a row would have
REFERENCE_TOKENS = 5_000_000  # of each split, for the metrics of a text against its corpus: 60 bytes each while sorted


class Assignment(NamedTuple):
    """What every setting is asked to write: B continuations of a prompt by `length` tokens.

    `prompt` is ids (P,), those of `text`, or the start token where it is empty.
    """

    prompt: tuple[int, ...]
    text: str
    length: int
    n_samples: int


class Texts(NamedTuple):
    """What is measured: texts, what each continues, where each is from, and what they cost together."""

    texts: list[str]
    prompts: list[str]
    origins: list[int]  # sampling seeds; of real text, positions in its split
    cost: dict[str, float]


@dataclass(frozen=True)
class Writer:
    """A trained model on its device."""

    algorithm: BaseAlgorithm
    tokenizer: Tokenizer
    device: torch.device

    def write(self, decoder: Any, assignment: Assignment, seed: int) -> Texts:
        """Continue the prompt B times; every setting gets the same sampling seeds."""
        B, P = assignment.n_samples, len(assignment.prompt)
        seeds = [seed * 1_000_000 + i for i in range(B)]
        asked = self.request(assignment, seeds)
        began = now(self.device)
        out = self.algorithm.generate(asked, decoder)
        seconds = now(self.device) - began
        cost = {
            "seconds": seconds,
            "tokens_per_second": B * assignment.length / seconds,
            "steps": out.steps,
            "forwards": out.forwards,
            "tokens_per_forward": out.tokens_per_forward,
        }
        return Texts([self.tokenizer.decode(ids[P:]) for ids in out.texts], [assignment.text] * B, seeds, cost)

    def request(self, assignment: Assignment, seeds: Sequence[int]) -> Request:
        """What the model's decoders are asked for: a text for each seed."""
        return Request.continuing(
            [assignment.prompt] * len(seeds),
            length=assignment.length,
            seeds=seeds,
            device=self.device,
            encode=self.tokenizer.encode,
        )


class TextEvaluator:
    """What texts are measured by: the corpus of their models, and judges."""

    def __init__(self, data: TextDataModule, judges: JudgePanel | None) -> None:
        self.data = data
        self.judges = judges
        self._ranges: dict[Assignment, list[dict[str, Any]]] = {}

    @cached_property
    def reference(self) -> CorpusReference:
        """The corpus that texts are measured by; of a large one the beginning, so that a copy rate is a lower bound."""
        parts = [self.data.splits[name][:REFERENCE_TOKENS].astype(np.int64) for name in ("train", HELD_OUT_SPLIT)]
        return CorpusReference(*map(self.data.tokenizer.decode, parts))

    @cached_property
    def features(self) -> PieceFeatures | None:
        return None if self.judges is None else PieceFeatures(self.judges.features)

    def has_real_text(self, assignment: Assignment) -> bool:
        """Whether the held-out split is as long as one text with its prompt."""
        return len(self.data.splits[HELD_OUT_SPLIT]) >= len(assignment.prompt) + assignment.length

    def real_text(self, setting: str, assignment: Assignment, seed: int) -> Texts:
        """As much real text: windows of a split, their first P tokens in the place of the prompt."""
        split = self.data.splits[SPLITS[setting]]
        P, width = len(assignment.prompt), len(assignment.prompt) + assignment.length
        starts = np.random.default_rng(seed).integers(len(split) - width + 1, size=assignment.n_samples)
        windows = [split[start : start + width].astype(np.int64) for start in starts]  # (P + length,) each
        decode = self.data.tokenizer.decode
        return Texts([decode(w[P:]) for w in windows], [decode(w[:P]) for w in windows], starts.tolist(), {})

    def control(self, setting: str, assignment: Assignment, seed: int) -> Texts:
        """As much text of a sampler without a model."""
        texts = CONTROLS[setting](self.reference.train_text, assignment.n_samples, assignment.length, seed)
        return Texts(texts, [assignment.text] * assignment.n_samples, [seed] * assignment.n_samples, {})

    def metrics(self, found: Texts, *, held_out_draw: int | None = None) -> dict[str, float | None]:
        """All metrics of quality; None where one cannot be measured.

        Real held-out text says so by its draw: it is measured by the other half of its split.
        """
        if held_out_draw is None:
            sample = self.reference.generated(found.texts)
        else:
            sample = self.reference.held_out([len(text) for text in found.texts], held_out_draw)
        judged = None if self.judges is None else self.judges.read(found.texts, found.prompts)
        inputs = {"text": found.texts, "texts": sample.texts, "sample": sample, "judged": judged}
        return measure(inputs | {"features": self.features})

    def real_range(self, assignment: Assignment) -> list[dict[str, Any]]:
        """Metrics of REAL_DRAWS samples of held-out text of a assignment's size."""
        if assignment not in self._ranges:
            self._ranges[assignment] = [
                self.metrics(self.real_text(table.HELD_OUT, assignment, draw), held_out_draw=draw)
                for draw in range(REAL_SEED, REAL_SEED + REAL_DRAWS)
            ]
        return self._ranges[assignment]
