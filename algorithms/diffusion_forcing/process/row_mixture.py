"""Noise levels for training: which rows of a batch are noised how, token by token.

The plain recipe of Diffusion Forcing (arXiv:2407.01392, algorithm 1) draws every level independently; the
other kinds of row show the network what it meets while sampling. Shapes: B batch, T tokens; levels -1 (clean)
to timesteps - 1.
"""

from dataclasses import astuple
from functools import lru_cache

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.fields import STRICT, NonNegative

CLEAN = -1


@dataclass(frozen=True, config=STRICT)
class RowMixture:
    """Relative weights of the kinds of row; they need not add up to 1."""

    independent: NonNegative = 0.15  # every token's level uniform over 0..timesteps-1, on its own
    schedule: NonNegative = 0.6  # a row of a pyramid: clean up to a random position, a ramp of random width, then noise
    tail: NonNegative = 0.1  # a clean prefix of random length, then independent levels up to the end
    clean: NonNegative = 0.0  # every token clean
    together: NonNegative = 0.15  # one level for all tokens: ordinary diffusion

    def __post_init__(self) -> None:
        if sum(astuple(self)) == 0:
            raise ValueError("the weights of all kinds of rows are 0: give at least one a positive weight")


@lru_cache
def weights_on(device: torch.device, mixture: RowMixture) -> Tensor:
    """The weights (5,) there, copied once: a step waits for no copy."""
    return torch.tensor(astuple(mixture), dtype=torch.float32, device=device)


def sample_noise_levels(
    batch: int, tokens: int, *, timesteps: int, mixture: RowMixture, generator: torch.Generator, windows: bool = False
) -> Tensor:
    """Draw levels (B, T) int64 on the generator's device: for every row its kind, by the mixture's weights, then
    its levels.

    A ramp's width is log-uniform in 1..T tokens (1 is autoregressive), its start uniform from one width
    before the first token, where all is noise, to the end, where all is clean. Of `windows` every row is what stands
    behind a clean past: a ramp starts at most a token before it, and is up to 2T wide, so that T tokens are part of it.
    """
    device = generator.device
    kind = torch.multinomial(weights_on(device, mixture), batch, replacement=True, generator=generator)  # (B,)
    independent = torch.randint(timesteps, (batch, tokens), generator=generator, device=device)
    place, spread = torch.rand(2, batch, 1, generator=generator, device=device)

    position = torch.arange(tokens, device=device)
    width = (2 * tokens if windows else tokens) ** spread
    start = -place if windows else place * (tokens + width) - width
    ramp = (position - start) / width * (timesteps + 1) - 1  # -1 at the start, timesteps one width later
    schedule = ramp.floor().clamp(CLEAN, timesteps - 1).long()  # (B, T)
    tail = torch.where(position < (place * tokens).long(), CLEAN, independent)
    clean = torch.full_like(independent, CLEAN)
    together = independent[:, :1].expand_as(independent)
    kinds = torch.stack([independent, schedule, tail, clean, together])  # (5, B, T), in the order of RowMixture
    return kinds[kind, torch.arange(batch, device=device)]
