"""Noise levels for training: range, shape and proportion of every kind of row."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diffusion_forcing.process.row_mixture import RowMixture, sample_noise_levels
from experiments.run.build import build

KINDS = ("independent", "schedule", "tail", "clean", "together")
NONE = dict.fromkeys(KINDS, 0.0)


def draw(
    batch: int, tokens: int, *, timesteps: int = 32, seed: int = 0, windows: bool = False, **weights: float
) -> torch.Tensor:
    mixture = RowMixture(**(NONE | weights))
    generator = torch.Generator().manual_seed(seed)
    return sample_noise_levels(
        batch, tokens, timesteps=timesteps, mixture=mixture, generator=generator, windows=windows
    )


@given(
    st.sampled_from(KINDS),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_levels_have_the_right_range_for_every_size(kind, batch, tokens, timesteps, seed, windows):
    """Catches levels outside -1..timesteps-1, at one token or one level too, and draws that ignore the seed."""
    options = {"timesteps": timesteps, "seed": seed, "windows": windows, kind: 1.0}
    levels = draw(batch, tokens, **options)
    assert levels.shape == (batch, tokens)
    assert levels.dtype == torch.int64
    assert levels.min() >= (0 if kind in ("independent", "together") else -1)
    assert levels.max() <= timesteps - 1
    assert torch.equal(levels, draw(batch, tokens, **options))


def test_independent_rows_are_the_plain_recipe():
    """Catches independent rows that are not the original's: uniform over every level."""
    levels = draw(200, 100, timesteps=8, independent=1.0)
    assert (levels.flatten().bincount(minlength=8) / 20000 - 1 / 8).abs().max() < 0.01
    pairs = (levels[:, :-1] * 8 + levels[:, 1:]).flatten().bincount(minlength=64) / (200 * 99)
    assert (pairs - 1 / 64).abs().max() < 0.006


def test_schedule_rows_rise_from_clean_to_noise_at_every_width():
    """Catches ramps that fall, that jump by whim, or that never show one of the sampler's situations."""
    levels = draw(4000, 32, schedule=1.0)
    assert (levels.diff(dim=1) >= 0).all()
    ramp = ((levels >= 0) & (levels < 31)).sum(dim=1)
    assert (ramp <= 1).any() and (ramp > 24).any()  # nearly autoregressive, and nearly all of the window
    assert (levels[:, 0] == -1).any() and (levels == 31).all(dim=1).any()
    middle = levels[:, 16]
    assert ((middle == -1).float().mean() - 0.4).abs() < 0.15
    assert set(middle.tolist()) == set(range(-1, 32))


def test_schedule_rows_are_straight():
    """Catches a ramp whose slope changes on the way: steps between neighbours differ by one at most."""
    for row in draw(500, 64, schedule=1.0):
        steps = row[(row >= 0) & (row < 31)].diff()
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_windows_begin_to_rise_at_their_first_token(tokens, timesteps, seed):
    """Catches a window of clean tokens, or one that is noise at once because its ramp lies elsewhere: the ramp starts
    less than a token before the first one and never falls."""
    levels = draw(20, tokens, timesteps=timesteps, seed=seed, windows=True, schedule=1.0)
    steps = levels.diff(dim=1)
    assert (steps >= 0).all()
    if tokens > 1:
        slope = steps[:, 0] + 1  # at least the ramp's, rounding included
        rising = levels[:, 1] < timesteps - 1
        assert (levels[:, 0] + 1 <= slope)[rising].all()
    if timesteps + 1 >= 2 * tokens:  # at its flattest it gains a level a token
        assert (levels[:, 1:] >= 0).all()


def test_windows_are_ramps_of_every_width():
    """Catches widths that stop at the window's own, which would never leave its last token half hidden, and windows of
    which only the first token matters."""
    levels = draw(4000, 16, timesteps=64, windows=True, schedule=1.0)
    ramp = ((levels >= 0) & (levels < 63)).sum(dim=1)
    assert (ramp <= 1).any() and (ramp == 16).float().mean() > 0.1
    assert levels[:, -1].min() < 40 and (levels[:, 1] == 63).any()
    assert set(levels[:, 0].tolist()) >= set(range(-1, 30))


def test_rows_together_hold_one_level_and_all_levels_come():
    """Catches levels that differ in a row of ordinary diffusion, or that leave some out."""
    levels = draw(8000, 5, timesteps=8, together=1.0)
    assert (levels == levels[:, :1]).all()
    assert (levels[:, 0].bincount(minlength=8) / 8000 - 1 / 8).abs().max() < 0.02


def test_tail_rows_are_clean_then_independent():
    """Catches a clean token after a noisy one, an empty tail, and lengths that are not uniform."""
    levels = draw(8000, 10, tail=1.0)
    noisy = levels >= 0
    assert (noisy.long().diff(dim=1) >= 0).all()
    assert noisy[:, -1].all()
    assert ((noisy.sum(dim=1).bincount(minlength=11)[1:] / 8000) - 0.1).abs().max() < 0.015
    assert (levels[noisy].bincount(minlength=32) / noisy.sum() - 1 / 32).abs().max() < 0.005


def test_kinds_come_in_proportion():
    """Catches weights taken as probabilities without being normalised, or in another order than the fields."""
    levels = draw(8000, 64, independent=1.0, schedule=3.0, tail=2.0, clean=2.0, together=2.0)
    clean = (levels == -1).all(dim=1)
    together = (levels == levels[:, :1]).all(dim=1) & ~clean
    rising = (levels.diff(dim=1) >= 0).all(dim=1) & ~clean & ~together
    independent = (levels >= 0).all(dim=1) & ~rising & ~together
    assert abs(clean.float().mean() - 0.2) < 0.03
    assert abs(together.float().mean() - 0.2) < 0.03
    assert abs(rising.float().mean() - 0.3) < 0.04  # a short tail may pass for a ramp
    assert abs(independent.float().mean() - 0.1) < 0.03


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"tail": -1.0}, "rows.tail is -1"),
        ({"clean": math.nan}, "rows.clean is nan"),
        ({"schedule": math.inf}, "rows.schedule"),
        ({}, "all kinds"),
    ],
)
def test_impossible_mixtures_are_named(weights, words):
    """Catches weights that no draw can follow."""
    with pytest.raises(ValueError, match=words):
        build(RowMixture, NONE | weights, "algorithm.rows")
