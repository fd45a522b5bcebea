"""Figures of windows, in closed form."""

import math

import pytest
import torch

from algorithms.common.likelihood import bits_per_character, mean_per_token
from experiments.analysis.likelihood import mean_per_token as mean_of_files


def test_mean_is_by_token_not_by_window():
    """Catches a mean of means, which over-weights the last short window, and an error that is not the analysis's."""
    nats, tokens = torch.tensor([16.0, 16.0, 16.0, 16.0, 72.0]), torch.tensor([8, 8, 8, 8, 2])
    mean, error = mean_per_token(nats, tokens)
    assert mean == pytest.approx((32 * 2 + 2 * 36) / 34)
    assert (mean, error) == pytest.approx(mean_of_files(nats.numpy(), tokens.numpy()))
    assert math.isnan(mean_per_token(nats[:1], tokens[:1])[1])


def test_uniform_model_scores_the_logarithm_of_the_vocabulary():
    """Catches a wrong base: ln 65 nats are log2 65 bits."""
    assert bits_per_character(math.log(65), 1.0) == pytest.approx(math.log2(65))
    assert bits_per_character(math.log(65), 4.0) == pytest.approx(math.log2(65) / 4)
