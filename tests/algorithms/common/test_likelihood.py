"""Metrics that accumulate, in closed form."""

import math

import pytest
import torch

from algorithms.common.likelihood import NegativeLogLikelihood, bits_per_character


def test_mean_is_by_token_not_by_batch():
    """Catches a mean of batch means, which over-weights the last short batch."""
    metric = NegativeLogLikelihood()
    metric.update(torch.full((4, 8), 2.0))
    metric.update(torch.full((1, 2), 36.0))
    assert float(metric.compute()) == pytest.approx((32 * 2 + 2 * 36) / 34)


def test_uniform_model_scores_the_logarithm_of_the_vocabulary():
    """Catches a wrong base: ln 65 nats are log2 65 bits."""
    assert bits_per_character(math.log(65), 1.0) == pytest.approx(math.log2(65))
    assert bits_per_character(math.log(65), 4.0) == pytest.approx(math.log2(65) / 4)
