"""Draws shared by the decoders: filters, and the distribution of a token draw."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import filter_logits, sample_tokens

logit_rows = st.lists(st.floats(-20, 20), min_size=2, max_size=12)


@given(logit_rows, st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_cumulative_distribution(logits, u):
    """Catches off-by-one ids and ids of probability 0: the id's CDF interval holds the uniform."""
    row = torch.tensor(logits, dtype=torch.float64)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), row.softmax(-1).cumsum(-1)])
    token = int(sample_tokens(row, torch.tensor(u, dtype=torch.float64)))
    target = u * float(cdf[-1])
    assert float(cdf[token]) <= target < float(cdf[token + 1])


def test_draws_follow_the_distribution():
    """Catches a biased sampler, and the truncated tail of float32 Gumbel noise: a tail of 1e-5 keeps its share."""
    probabilities = torch.tensor([0.6, 0.39, 0.00999, 0.00001], dtype=torch.float64)
    n = 2_000_000
    uniform = RowRandom([0]).uniform(n)[0]
    ids = sample_tokens(probabilities.log().expand(n, -1), uniform)
    counts = np.bincount(ids.numpy(), minlength=4)
    expected = probabilities.numpy() * n
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@given(logit_rows, st.integers(1, 12))
def test_top_k_keeps_the_k_largest(logits, k):
    """Catches a filter that drops the largest or keeps too many (ties aside)."""
    row = torch.tensor(logits, dtype=torch.float64)
    kept = filter_logits(row, top_k=k) > -torch.inf
    assert kept[row.argmax()]
    assert kept.sum() >= min(k, len(logits))
    if len(set(logits)) == len(logits):
        assert kept.sum() == min(k, len(logits))


@given(logit_rows, st.floats(0.01, 1.0))
@settings(max_examples=200)
def test_top_p_keeps_the_smallest_sufficient_set(logits, p):
    """Catches a nucleus that stops one token early or late."""
    row = torch.tensor(logits, dtype=torch.float64)
    kept = filter_logits(row, top_p=p) > -torch.inf
    mass = row.softmax(-1)
    assert kept[row.argmax()]
    assert mass[kept].sum() >= p - 1e-9
    assert mass[kept].sum() - mass[kept].min() < p + 1e-9


def test_temperature_zero_is_greedy():
    """Catches a division by zero, or a draw where none is wanted."""
    assert int(sample_tokens(torch.tensor([0.0, 3.0, 1.0]), torch.tensor(0.99), temperature=0.0)) == 1
