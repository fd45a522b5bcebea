"""Scheduling matrices: reference values, and what every proper schedule must hold."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diffusion_forcing.decoding.scheduling_matrix import MODES, scheduling_matrix, widest_flight

PROPER = [mode for mode in MODES if mode != "trapezoid_original"]
scales = st.floats(0, 4) | st.sampled_from([0.0, 0.5, 1.0, 2.0])


@pytest.mark.parametrize("case", range(96))
def test_matrices_match_the_original(golden, case):
    """Catches any difference in height, rounding of the delay or order of the columns."""
    meta = golden.cases[f"matrix/{case}"]
    mode = {"trapezoid": "trapezoid_original"}.get(meta["mode"], meta["mode"])
    matrix = scheduling_matrix(mode, meta["horizon"], meta["sampling_timesteps"], meta["uncertainty_scale"])
    assert torch.equal(matrix, golden.raw(f"matrix/{case}"))


@given(st.sampled_from(PROPER), st.integers(1, 40), st.integers(1, 20), scales)
def test_proper_schedules_walk_from_noise_to_clean(mode, horizon, steps, scale):
    """Catches columns that rise, skip a level, start below noise or end above clean."""
    matrix = scheduling_matrix(mode, horizon, steps, scale)
    assert matrix.dtype == torch.int64
    assert matrix.shape[1] == horizon
    assert (matrix[0] == steps).all()
    assert (matrix[-1] == 0).all()
    assert (matrix[-2] > 0).any()  # no row is wasted
    assert set(matrix.diff(dim=0).unique().tolist()) <= {0, -1}


@given(st.integers(1, 40), st.integers(1, 20), scales)
def test_orders_of_the_modes(horizon, steps, scale):
    """Catches modes that are mixed up: who is ahead of whom is what tells them apart."""
    pyramid = scheduling_matrix("pyramid", horizon, steps, scale)
    assert (pyramid.diff(dim=1) >= 0).all()
    for m in range(len(pyramid)):
        assert pyramid[m].tolist() == [min(max(steps + int(t * scale) - m, 0), steps) for t in range(horizon)]
    trapezoid = scheduling_matrix("trapezoid", horizon, steps, scale)
    assert torch.equal(trapezoid, trapezoid.flip(1))
    assert (trapezoid[:, : (horizon + 1) // 2].diff(dim=1) >= 0).all()
    together = scheduling_matrix("full_sequence", horizon, steps, scale)
    assert torch.equal(together, torch.arange(steps, -1, -1)[:, None].expand(-1, horizon))
    one_by_one = scheduling_matrix("autoregressive", horizon, steps, scale)
    assert torch.equal(one_by_one, scheduling_matrix("pyramid", horizon, steps, steps))
    assert (((one_by_one > 0) & (one_by_one < steps)).sum(dim=1) <= 1).all()


@given(st.integers(1, 20), st.integers(1, 10), scales)
def test_the_original_trapezoid_by_loop(horizon, steps, scale):
    """Catches a vectorised trapezoid_original that leaves the original's assignments, faults included."""
    height = steps + int((horizon + 1) // 2 * scale)
    loop = torch.zeros(height, horizon, dtype=torch.long)
    for m in range(height):
        for t in range((horizon + 1) // 2):
            loop[m, t] = loop[m, -t] = steps + int(t * scale) - m
    assert torch.equal(scheduling_matrix("trapezoid_original", horizon, steps, scale), loop.clamp(0, steps))


@given(st.sampled_from(MODES), st.integers(1, 20), st.integers(1, 10), scales)
def test_the_widest_flight_by_loop(mode, horizon, steps, scale):
    """Catches finished tokens counted as in flight, an end that is off by one, and a matrix that moves nothing."""
    matrix = scheduling_matrix(mode, horizon, steps, scale).tolist()
    widest = 0
    for now, then in pairwise(matrix):
        moving = [position for position in range(horizon) if now[position] != then[position]]
        if moving:
            unfinished = [position for position in range(horizon) if now[position] > 0]
            widest = max(widest, moving[-1] - unfinished[0] + 1)
    assert widest_flight(torch.tensor(matrix)) == widest


def test_widths_of_known_schedules():
    """Catches a width of positions that wait, or of those that move only: one by one it is 1, together all, at a delay
    of a half two for every level, and a trapezoid's ends hold the middle between them."""
    for mode, scale, width in [
        ("autoregressive", 1.0, 1),
        ("full_sequence", 1.0, 12),
        ("pyramid", 4.0, 1),
        ("pyramid", 2.0, 2),
        ("pyramid", 1.0, 4),
        ("pyramid", 0.5, 8),
        ("trapezoid", 1.0, 12),
    ]:
        assert widest_flight(scheduling_matrix(mode, 12, 4, scale)) == width


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "pyramide"}, "did you mean pyramid"),
        ({"horizon": 0}, "horizon"),
        ({"sampling_timesteps": 0}, "sampling_timesteps"),
        ({"uncertainty_scale": -1.0}, "uncertainty_scale"),
        ({"uncertainty_scale": math.nan}, "uncertainty_scale"),
        ({"uncertainty_scale": math.inf}, "uncertainty_scale"),
    ],
)
def test_impossible_schedules_are_named(change, words):
    """Catches silent nonsense, such as a negative delay that skips the noise."""
    settings = {"mode": "pyramid", "horizon": 4, "sampling_timesteps": 4, "uncertainty_scale": 1.0}
    with pytest.raises(ValueError, match=words):
        scheduling_matrix(**(settings | change))
