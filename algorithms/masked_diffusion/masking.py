"""The forward process of masked diffusion: which tokens are hidden, and what their loss weighs.

Sources: MDLM (arXiv:2406.07524, eq. 10: the bound with the weight 1/p of a linear schedule); any-order form: ARDM
(arXiv:2110.02037, eq. 6), Ou et al. (arXiv:2406.03736). B batch, T tokens that may be masked.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from algorithms.common.randomness import Source, uniform


class Masks(NamedTuple):
    """What is hidden in the windows of a step."""

    masked: Tensor  # (B, T) bool
    weight: Tensor  # (B,) of a row's cross-entropies in the bound
    total: Tensor | None  # () hidden tokens, the mean over the processes of a training; None where none divides by it


def stratified_shares(count: int, generator: torch.Generator, *, rows: int = 1) -> Tensor:
    """Uniform draws on (0, 1], one in each of `count` equal cells: (rows, count). Low discrepancy, no draw is 0."""
    jitter = torch.rand(rows, count, generator=generator, device=generator.device)
    cells = torch.arange(count, device=generator.device)
    return 1.0 - (cells + jitter) / count


def independent_masks(shares: Tensor, length: int, generator: Source) -> tuple[Tensor, Tensor]:
    """Mask each of `length` tokens with probability shares (B,).

    Returns masks (B, T) bool and weights (B,) = 1/share, with which the masked cross-entropies of a row add up to an
    estimate of the continuous-time bound of the row.
    """
    return uniform(generator, len(shares), length) < shares[:, None], 1.0 / shares


def counted_masks(shares: Tensor, length: int, generator: Source) -> tuple[Tensor, Tensor]:
    """Mask exactly n = ceil(share * T) tokens, chosen at random.

    Returns masks (B, T) bool and weights (B,) = T/n. With uniform shares n is uniform on 1..T: the same bound as with
    independent masks, without the variance of the number of masks.
    """
    counts = (shares * length).ceil().clamp(1, length)  # (B,)
    draws = uniform(generator, len(shares), length)
    ranks = draws.argsort(-1).argsort(-1)  # (B, T) a random permutation of 0..T-1
    return ranks < counts[:, None], length / counts


def hide(ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """ids (B, T + 1) with the mask in place of those of the last T that are `masked` (B, T)."""
    return torch.cat([ids[:, :1], ids[:, 1:].masked_fill(masked, mask_id)], dim=1)


def mean_where(losses: Tensor, counted: Tensor, total: Tensor) -> Tensor:
    """The mean of losses (B, T) over the positions `counted` (B, T) bool; 0 where none is.

    The gradients of several processes are averaged: so each divides by `total` (), the mean of their numbers of such
    positions, and not by its own.
    """
    return (losses * counted).sum() / total.clamp(min=1e-6)
