"""Metrics that accumulate over batches (torchmetrics)."""

from algorithms.common.metrics.likelihood import NegativeLogLikelihood
from algorithms.common.metrics.text import TextStatistics

__all__ = ["NegativeLogLikelihood", "TextStatistics"]
