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


def evaluation_lengths(length: int, block_size: int, batch_size: int, max_batches: int | None = None) -> np.ndarray:
    """Targets (W,) of the windows that an evaluation covers: all of the grid, or those of its first `max_batches`.

    Windows overlap by the one token between input and target, so that every token of the split but its first is a
    target exactly once. What the grid leaves over is one shorter window.
    """
    full, rest = divmod(length - 1, block_size)
    if max_batches is not None and full > 0:
        batches = -(-full // batch_size)  # the shorter window is in one of its own
        full, rest = min(full, max_batches * batch_size), rest if max_batches > batches else 0
    return np.array([block_size] * full + [rest] * (rest > 0))


def evaluation_batches(
    lengths: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[tuple[np.ndarray, int]]:
    """(numbers (B,), T) for each batch of this rank: window i starts at token i times the longest T.

    Windows are dealt out in turn. A batch holds windows of one length, so that no token is padded; a rank without
    windows gets one batch of none, as all ranks have to take part in an evaluation.
    """
    numbers = np.arange(len(lengths))[rank::world_size]
    batches = []
    for size in np.unique(lengths)[::-1].tolist():
        same = numbers[lengths[numbers] == size]
        batches += [(same[i : i + batch_size], size) for i in range(0, len(same), batch_size)]
    return batches or [(numbers, int(lengths.max()))]


def gather(ids: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """The windows (B, T + 1) int64 at starts (B,)."""
    return ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
