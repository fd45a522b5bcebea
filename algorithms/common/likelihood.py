"""Negative log-likelihood of a text: nats inside, bits per character and perplexity for people.

B batch, T tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import MeanMetric


@dataclass(frozen=True)
class Likelihood:
    """A likelihood that a method can state: its kind, and nats (B, T) of ids (B, T + 1) by `nll(ids, generator)`."""

    kind: str
    nll: Callable[[Tensor, torch.Generator], Tensor]


class NegativeLogLikelihood(MeanMetric):
    """Mean nats per token over all tokens seen, weighted by token and not by batch."""

    def update(self, nll: Tensor) -> None:
        """Add the nats of every token: nll (B, T)."""
        super().update(nll.mean(), weight=nll.numel())


def bits_per_character(nats_per_token: float, characters_per_token: float) -> float:
    """Bits per character of a text whose tokens hold `characters_per_token` characters on average."""
    return nats_per_token / (math.log(2) * characters_per_token)
