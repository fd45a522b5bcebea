"""Noise levels uniform in information: each one hides the same number of nats of a token.

Sources: time warping by a fitted cumulative loss, CDCD (arXiv:2211.15089); a schedule linear in cross-entropy, RePlaid
(arXiv:2605.18530). SNR here is total, of a token of unit norm in unit noise: that of a coordinate times |e|².
K levels, V vocabulary; shapes (K,).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.common.artifact import Artifact
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess
from algorithms.diffusion_forcing.process.schedules import process_tables

NO_SIGNAL = 1e-7  # total SNR of the last level: 5e-8 nats of a token
INITIAL_SNR = np.exp(np.linspace(np.log(1e-3), np.log(1e3), 64))
CHANNEL_SAMPLES = 2**21  # normal draws for the initial curve


def channel_nats(snr: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Nats that are open of one of V equally likely tokens, orthonormal embeddings seen at `snr` (N,): (N,).

    By simulation with fixed draws, the same at every SNR, so that the curve is smooth.
    """
    rows = max(64, CHANNEL_SAMPLES // (4 * vocabulary_size))
    noise = torch.randn(rows, vocabulary_size, generator=torch.Generator().manual_seed(0))
    nats = []
    for value in snr.tolist():
        logits = value**0.5 * noise
        logits[:, 0] += value  # the true token is number 0
        nats.append(float((logits.logsumexp(-1) - logits[:, 0]).double().mean()))
    return np.array(nats)


def uniform_levels(snr: np.ndarray, nats: np.ndarray, levels: int) -> np.ndarray:
    """SNR of `levels` levels that hide 1/K, 2/K, ... of all nats, descending (K,).

    From points of a curve: `nats` (N,) still open at `snr` (N,), descending, the last with no signal. Nats that
    fall with the noise, as an estimate may, are lifted to their forerunners'.
    """
    root = np.sqrt(np.concatenate([[2 * snr[0]], snr]))  # nothing is open at twice the highest SNR
    root[-1] = 0.0
    open_nats = np.maximum.accumulate(np.concatenate([[0.0], nats]))
    wanted = np.arange(1, levels + 1) / levels * open_nats[-1]
    return np.maximum(np.interp(wanted, open_nats, root) ** 2, NO_SIGNAL)


class InformationLevels(nn.Module):
    """The SNR of every level, fitted to what tokens cost at each of them; part of a checkpoint."""

    snr: Tensor
    nats: Tensor
    count: Tensor

    def __init__(self, levels: int, vocabulary_size: int) -> None:
        super().__init__()
        nats = channel_nats(INITIAL_SNR, vocabulary_size)[::-1]
        first = uniform_levels(INITIAL_SNR[::-1], nats, levels)
        self.register_buffer("snr", torch.tensor(first, dtype=torch.float32))
        self.register_buffer("nats", torch.zeros(levels))  # sums of what was observed since the last fit
        self.register_buffer("count", torch.zeros(levels))

    def betas(self, squared_norm: float) -> Tensor:
        """Variance added at each level, float64, where embeddings have this squared norm."""
        snr = self.snr.cpu().double() / squared_norm
        abar = snr / (1 + snr)
        return 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])

    @torch.no_grad()
    def observe(self, levels: Tensor, nats: Tensor) -> None:
        """Count the nats (...) of tokens given all that is known of them, at their own levels (...), -1 for clean."""
        levels, nats = levels.flatten(), nats.flatten().to(self.nats)
        noisy = levels >= 0
        levels = levels.clamp(min=0)
        self.nats.index_add_(0, levels, nats.where(noisy, 0.0))
        self.count.index_add_(0, levels, noisy.to(nats))

    def forget(self) -> None:
        """Start to observe anew."""
        self.nats.zero_()
        self.count.zero_()

    def fit(self) -> None:
        """Move the levels to where they are uniform in the nats observed, and forget these. Nothing moves while a level
        has not been seen."""
        if bool((self.count > 0).all()):
            mean = (self.nats / self.count).cpu().double().numpy()
            snr = uniform_levels(self.snr.cpu().double().numpy(), mean, len(mean))
            self.snr.copy_(torch.tensor(snr, dtype=torch.float32))
        self.forget()


class FittedProcess(GaussianProcess):
    """A GaussianProcess whose levels are uniform in what tokens cost, and follow it in training.

    `squared_norm` is that of every embedding: what makes the SNR of a token one of a coordinate.
    """

    def __init__(self, *, timesteps: int, vocabulary_size: int, squared_norm: float, **options: Any) -> None:
        levels = InformationLevels(timesteps, vocabulary_size)
        super().__init__(timesteps=timesteps, beta_schedule=levels.betas(squared_norm), **options)
        self.levels = levels
        self.squared_norm = squared_norm

    @property
    def observes(self) -> bool:
        return self.training

    def observe(self, levels: Tensor, nats: Tensor) -> None:
        """In rows as they are trained on: a level is as far from the next as a token comes in a step, by its own noise
        falling and by its neighbours'."""
        self.levels.observe(levels, nats)

    @torch.no_grad()
    def gather(self, total: Callable[[Tensor], Tensor]) -> None:
        nats, count = total(torch.stack([self.levels.nats, self.levels.count]))
        self.levels.nats.copy_(nats)
        self.levels.count.copy_(count)

    def forget(self) -> None:
        self.levels.forget()

    @torch.no_grad()
    def fit(self) -> None:
        self.levels.fit()
        tables = process_tables(self.levels.betas(self.squared_norm), snr_clip=self.snr_clip)
        for name, table in tables.items():
            getattr(self, name).copy_(table)

    def artifacts(self) -> list[Artifact]:
        snr = self.levels.snr.cpu().numpy()
        labels = {"x_label": "signal-to-noise ratio of a token", "y_label": "share of its nats that is open"}
        options = {"y": np.arange(1, len(snr) + 1) / len(snr), **labels}
        return [Artifact("noise_levels", snr, "log_curve", options, in_summary=True)]
