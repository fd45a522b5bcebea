"""What is hidden in the blocks of a step, and what its loss weighs.

The number of hidden tokens of a block is uniform, and stratified over the windows of a batch and the blocks of a
window, as BD3-LM's antithetic draws are (arXiv:2503.09573), for less variance. B batch, M blocks, h tokens of a whole
block that may be hidden.
"""

import math

import torch
from torch import Tensor

from algorithms.common.randomness import Source, uniform

GOLDEN = (math.sqrt(5) - 1) / 2


def shares_of_blocks(shares: Tensor, blocks: int) -> Tensor:
    """Shares (B, M) in (0, 1] of the blocks of windows with shares (B,): those of the first block, moved on by the
    golden ratio from block to block. Each is as uniform as the first, and those of a window are spread evenly."""
    steps = torch.arange(blocks, device=shares.device) * GOLDEN % 1
    moved = shares[:, None] + steps.to(shares.dtype)
    return torch.where(moved > 1, moved - 1, moved)


def hide_in_blocks(shares: Tensor, lengths: Tensor, longest: int, generator: Source) -> tuple[Tensor, Tensor]:
    """Hide n = ceil(share * length) tokens of each block, chosen at random, of `lengths` (M,) that may be hidden, h =
    `longest` at most.

    shares (B, M) -> masks (B, M, h) bool, and weights (B, M) = length / n, with which the cross-entropies of hidden
    tokens add up to an estimate of the block's bound, if shares are uniform.
    """
    draws = uniform(generator, *shares.shape, longest)  # (B, M, h)
    lacking = torch.arange(longest, device=shares.device) >= lengths[:, None]  # (M, h) places of shorter blocks
    counts = torch.minimum((shares * lengths).ceil().clamp(min=1), lengths)  # (B, M)
    ranks = draws.masked_fill(lacking, 2.0).argsort(-1).argsort(-1)  # a random permutation of 0..h-1, those last
    return ranks < counts[..., None], lengths / counts
