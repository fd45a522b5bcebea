"""The learning-rate schedule and the decay groups."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.optim import OptimizerConfig, decay_groups, warmup_cosine


@given(st.integers(0, 50), st.integers(51, 400), st.floats(0, 1))
def test_schedule_rises_then_falls_to_its_floor(warmup, total, floor):
    """Catches a jump between warm-up and cosine, a value above 1, or a floor that is missed."""
    values = [warmup_cosine(s, warmup_steps=warmup, total_steps=total, min_ratio=floor) for s in range(total + 5)]
    assert all(a < b for a, b in pairwise(values[: warmup + 1]))
    assert values[warmup] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(values[warmup:]))
    assert values[total] == pytest.approx(floor) and values[-1] == floor


def test_every_parameter_is_in_one_group():
    """Catches a tied weight counted twice, and gains or biases that decay."""
    model = LanguageModel(BackboneConfig(1, 1, 8, 4, style="nanogpt", bias=True), 5)
    decayed, free = (group["params"] for group in decay_groups(model, 0.1))
    assert sum(p.numel() for p in decayed + free) == sum(p.numel() for p in model.parameters())
    assert all(p.dim() >= 2 for p in decayed) and all(p.dim() < 2 for p in free)


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"min_lr_ratio": 1.5}, {"warmup_steps": -1}, {"beta2": 1.0}])
def test_bad_settings_are_named(change):
    """Catches a value out of range that would train to nothing."""
    with pytest.raises(ValueError, match=next(iter(change))):
        OptimizerConfig(**change)
