"""Windows as properties: evaluation predicts every token once; training depends on seed and step alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datasets.windows import evaluation_batches, evaluation_lengths, gather, training_starts

sizes = st.integers(1, 12)


@given(st.integers(2, 200), sizes, sizes, st.integers(1, 4))
def test_evaluation_predicts_every_token_but_the_first_once(length, block_size, batch_size, world_size):
    """Catches a lost tail, an overlap between windows, and batches that two ranks share or none has."""
    ids = np.arange(length)
    targets = []
    lengths = evaluation_lengths(length, block_size, batch_size)
    for rank in range(world_size):
        for numbers, t in evaluation_batches(lengths, batch_size, rank=rank, world_size=world_size):
            windows = gather(ids, numbers * block_size, t)  # (B, T + 1)
            assert windows.shape[0] <= batch_size and (numbers % world_size == rank).all()
            assert lengths[numbers].tolist() == [t] * len(numbers)
            assert windows.shape[1] <= block_size + 1
            assert (np.diff(windows, axis=1) == 1).all()
            targets += windows[:, 1:].ravel().tolist()
    assert sorted(targets) == list(range(1, length))


@given(st.integers(2, 200), sizes, sizes)
def test_a_short_window_is_alone(length, block_size, batch_size):
    """Catches padding: windows of two lengths in one batch could not be stacked without it."""
    batches = evaluation_batches(evaluation_lengths(length, block_size, batch_size), batch_size)
    short = [len(numbers) for numbers, t in batches if t < block_size]
    assert short in ([], [1])
    assert all(t == block_size for _, t in batches[:-1])


@given(st.integers(2, 200), sizes, sizes, st.integers(1, 9), sizes)
def test_first_batches_are_those_of_one_process(length, block_size, batch_size, world_size, batches):
    """Catches a limit that each of several processes applies for itself, so that they see other windows than one."""
    whole = evaluation_lengths(length, block_size, batch_size)
    first = evaluation_batches(whole, batch_size)[:batches]
    limited = evaluation_lengths(length, block_size, batch_size, batches)
    assert limited.tolist() == [t for numbers, t in first for _ in numbers]
    shares = [evaluation_batches(limited, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    numbers = sorted(number for share in shares for numbers, _ in share for number in numbers)
    assert numbers == list(range(len(limited))) and all(shares)


@given(st.integers(0, 2**32), st.integers(0, 10**6), sizes, st.integers(0, 50))
def test_training_windows_are_a_pure_function(seed, step, block_size, spare):
    """Catches a hidden state in the draw, and a window that ends beyond the split."""
    length = block_size + 1 + spare
    starts = training_starts(length, block_size, 5, seed=seed, step=step)
    assert starts.shape == (5,)
    assert starts.min() >= 0 and starts.max() + block_size + 1 <= length
    assert (starts == training_starts(length, block_size, 5, seed=seed, step=step)).all()


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5))
def test_ranks_share_out_the_batch_of_one_process(seed, step, batch_size, world_size):
    """Catches ranks that train on the same windows, or a run on W devices that sees other data than one device."""
    whole = training_starts(1000, 8, batch_size * world_size, seed=seed, step=step)
    parts = [
        training_starts(1000, 8, batch_size, seed=seed, step=step, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sorted(np.concatenate(parts)) == sorted(whole)


def test_steps_and_seeds_differ_and_every_start_is_drawn():
    """Catches a draw that ignores the step or the seed, and a last window that is never trained on."""
    first = training_starts(10**6, 8, 50, seed=0, step=0)
    assert (first != training_starts(10**6, 8, 50, seed=0, step=1)).any()
    assert (first != training_starts(10**6, 8, 50, seed=1, step=0)).any()
    assert set(training_starts(12, 8, 1000, seed=0, step=0)) == {0, 1, 2, 3}


@given(st.lists(st.integers(0, 90), min_size=1, max_size=5))
def test_gather_equals_the_loop(starts):
    """Catches a window that is shifted, or ids that keep their small type and would overflow in arithmetic."""
    ids = np.random.default_rng(0).integers(0, 2**16, size=100).astype(np.uint16)
    windows = gather(ids, np.array(starts), 9)
    assert windows.dtype == np.int64
    assert windows.tolist() == [ids[start : start + 10].tolist() for start in starts]
