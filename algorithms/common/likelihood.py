"""Negative log-likelihood of a text: nats inside, bits per character and perplexity for people.

B batch, T tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from algorithms.common.randomness import Source


@dataclass(frozen=True)
class Likelihood:
    """A likelihood that a method can state: its kind, and nats (B, T) of ids (B, T + 1) by `nll(ids, generator)`, whose
    noise comes from `generator`: in evaluation from each window's own, so that no batch and no process decides it."""

    kind: str
    nll: Callable[[Tensor, Source], Tensor]


class WindowNats(Metric):
    """Nats per token of windows of `tokens` (W,) and their standard error, where each process measures some windows."""

    def __init__(self, tokens: Tensor, device: torch.device) -> None:
        super().__init__()
        self.tokens = tokens
        self.nats: Tensor
        self.add_state("nats", torch.zeros(len(tokens), device=device), dist_reduce_fx="sum")  # each from one process

    def update(self, numbers: Tensor, nll: Tensor) -> None:
        """Take in the nats nll (B, T) of the windows `numbers` (B,), none of them included."""
        self.nats[numbers] = nll.float().sum(1)

    def compute(self) -> tuple[float, float]:
        return mean_per_token(self.nats, self.tokens)


def mean_per_token(nats: Tensor, tokens: Tensor) -> tuple[float, float]:
    """Nats per token of windows with `nats` (W,) and `tokens` (W,), and its standard error over windows.

    A ratio of sums, as windows may differ in length; the error of a single window is NaN.
    """
    nats, tokens = nats.cpu().double(), tokens.cpu().double()
    mean, count = nats.sum() / tokens.sum(), len(nats)
    if count < 2:
        return float(mean), math.nan
    spread = (nats - mean * tokens).square().sum() * count / (count - 1)
    return float(mean), float(spread.sqrt() / tokens.sum())


def bits_per_character(nats_per_token: float, characters_per_token: float) -> float:
    """Bits per character of a text whose tokens hold `characters_per_token` characters on average."""
    return nats_per_token / (math.log(2) * characters_per_token)
