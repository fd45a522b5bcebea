"""The forward process: stratified shares, masks, and the weights that make the bound."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.masked_diffusion.masking import counted_masks, independent_masks, stratified_shares


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=50)
def test_every_cell_of_the_unit_interval_gets_one_share(count: int, rows: int, seed: int) -> None:
    """Catches shares that are not stratified, and a share of 0, whose weight 1/p would be infinite."""
    shares = stratified_shares(count, generator(seed), rows=rows)
    assert shares.shape == (rows, count)
    assert (shares > 0).all() and (shares <= 1).all()
    cells = ((1 - shares) * count).floor().long().clamp(max=count - 1)
    assert torch.equal(cells.sort(-1).values, torch.arange(count).expand(rows, -1))


def test_independent_masks_have_the_probability_and_weight_of_their_share() -> None:
    """Catches masks drawn with 1 - p, and a weight that is not 1/p."""
    shares = torch.tensor([0.1, 0.5, 1.0])
    masked, weight = independent_masks(shares, 40_000, generator())
    torch.testing.assert_close(masked.float().mean(1), shares, rtol=0, atol=0.01)
    torch.testing.assert_close(weight, 1 / shares)


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=50)
def test_counted_masks_hide_exactly_their_number(length: int, seed: int) -> None:
    """Catches a count that is off by one at either end, and a weight that does not go with the count."""
    shares = stratified_shares(length, generator(seed))[0].flip(0)  # rising: every count from 1 to T
    masked, weight = counted_masks(shares, length, generator(seed))
    assert masked.sum(1).tolist() == list(range(1, length + 1))
    torch.testing.assert_close(weight, length / masked.sum(1).float())


def test_counted_masks_are_uniform_over_positions() -> None:
    """Catches a permutation that favours early positions."""
    masked, _ = counted_masks(torch.full((20_000,), 0.3), 10, generator())
    torch.testing.assert_close(masked.float().mean(0), torch.full((10,), 0.3), rtol=0, atol=0.02)


@pytest.mark.parametrize("draw", [independent_masks, counted_masks])
def test_a_uniform_model_scores_ln_v_in_expectation(draw) -> None:
    """Catches weights under which the bound of a model with constant cross-entropy ln V is not T ln V."""
    T, V = 8, 5
    shares = stratified_shares(200_000, generator())[0]
    masked, weight = draw(shares, T, generator(1))
    bound = (masked.sum(1) * weight * math.log(V)).mean()
    assert bound / T == pytest.approx(math.log(V), rel=0.02)
