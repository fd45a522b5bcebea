"""Metrics that accumulate, in closed form."""

import math

import pytest
import torch

from algorithms.common.likelihood import NegativeLogLikelihood, bits_per_character
from algorithms.common.metrics.text import TextStatistics, text_statistics


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


def test_text_statistics_are_means_over_texts_of_all_processes():
    """Catches a mean of the processes' means, texts joined into one, and single precision."""
    texts, others = ["abab", "", "aa_"], ["the king's men"]
    metrics = [TextStatistics(), TextStatistics()]
    for text in texts:
        metrics[0].update([text])
    metrics[1].update(others)
    metrics[0].merge_state(metrics[1])
    each = [text_statistics(text) for text in texts + others]
    expected = {name: math.fsum(one[name] for one in each) / 4 for name in each[0]}
    assert metrics[0].compute() == pytest.approx(expected, rel=1e-15)


def test_statistics_of_no_text_are_none():
    """Catches zeros for what was not measured, and a metric that keeps what it was reset from."""
    metric = TextStatistics()
    metric.update(["abab"])
    metric.reset()
    metric.update([])
    assert metric.compute() == dict.fromkeys(text_statistics(""))
