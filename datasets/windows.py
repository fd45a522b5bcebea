"""Which tokens a batch holds: pure functions of seed and step for training, a plain grid for evaluation.

A window is T + 1 tokens long: T inputs and, shifted by one, T targets. N tokens in the split, B windows a batch.
"""

import numpy as np


def training_starts(
    length: int, block_size: int, batch_size: int, *, seed: int, step: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Starts (B,) of the windows of micro-batch `step`, drawn uniformly with replacement (as nanoGPT does).

    The draw is made for all ranks at once and dealt out in turn: W ranks with B windows each see together what one
    process with W * B windows sees.
    """
    generator = np.random.default_rng((seed, step))
    starts = generator.integers(0, length - block_size, size=batch_size * world_size)  # a window ends inside
    return starts[rank::world_size]


def evaluation_batches(
    length: int, block_size: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[tuple[np.ndarray, int]]:
    """(starts (B,), T) for each batch of this rank: windows that overlap by the one token between input and target.

    Every token of the split but its first is a target exactly once. What the grid leaves over is one shorter window
    in a batch of its own, so that no token is padded.
    """
    full = (length - 1) // block_size
    starts = np.arange(full) * block_size
    batches = [(starts[i : i + batch_size], block_size) for i in range(0, full, batch_size)]
    rest = (length - 1) % block_size
    if rest:
        batches.append((np.array([full * block_size]), rest))
    return batches[rank::world_size]


def gather(ids: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """The windows (B, T + 1) int64 at starts (B,)."""
    return ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
