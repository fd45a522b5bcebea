"""The task `likelihood`: every likelihood that a method can state of its weights, window by window.

likelihood.csv has a row for each, with its kind and standard error; likelihood_windows.csv the nats of every window, so
that two models are compared pair by pair (experiments/analysis/likelihood.py). B batch, T tokens.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.randomness import RowRandom
from experiments.analysis.files import write
from experiments.analysis.likelihood import FILE, Windows, mean_per_token, write_windows

REPORT_EVERY = 30.0  # seconds between lines that say how far a long evaluation is


@dataclass(frozen=True)
class Measured:
    """Nats of every window under each likelihood, and the kinds of these."""

    windows: Windows
    kinds: dict[str, str]

    def write(self, folder: Path, split: str) -> dict[str, tuple[str, float, float]]:
        """Write both files; (kind, nats per token, standard error) of each likelihood."""
        write_windows(folder / FILE, self.windows)
        tokens = self.windows.tokens
        found = {name: (self.kinds[name], *mean_per_token(v, tokens)) for name, v in self.windows.nats.items()}
        lines = ["split,likelihood,kind,nats_per_token,standard_error,windows,tokens"]
        for name, (kind, mean, error) in found.items():
            lines.append(f"{split},{name},{kind},{mean!r},{error!r},{len(tokens)},{int(tokens.sum())}")
        write(folder / "likelihood.csv", "\n".join(lines) + "\n")
        return found


@torch.no_grad()
def measure(
    algorithm: BaseAlgorithm,
    batches: Iterable[tuple[np.ndarray, torch.Tensor]],
    *,
    number: int,
    context: Callable[[], AbstractContextManager],
    report: Callable[[str], None],
) -> Measured:
    """Evaluate `number` batches under every likelihood of `algorithm`, on its device: of each the numbers (B,) of its
    windows in the split, from which their noise follows, and their ids (B, T + 1)."""
    likelihoods = algorithm.likelihoods()
    nats: dict[str, list[np.ndarray]] = {name: [] for name in likelihoods}
    tokens: list[np.ndarray] = []
    began = reported = time.monotonic()
    for index, (windows, batch) in enumerate(batches):
        ids = batch.to(algorithm.device)
        tokens.append(np.full(ids.size(0), ids.size(1) - 1))
        for name, likelihood in likelihoods.items():
            with context():
                nll = likelihood.nll(ids, RowRandom.of_windows(windows, ids.device))  # (B, T)
            nats[name].append(nll.cpu().double().sum(1).numpy())
        now = time.monotonic()
        if now - reported >= REPORT_EVERY:
            reported = now
            left = (now - began) / (index + 1) * (number - index - 1)
            report(f"batch {index + 1} of {number}, about {left:.0f} s left")
    found = Windows(np.concatenate(tokens), {name: np.concatenate(parts) for name, parts in nats.items()})
    return Measured(found, {name: likelihood.kind for name, likelihood in likelihoods.items()})
