"""Metrics that accumulate over batches (torchmetrics)."""

from algorithms.common.likelihood import NegativeLogLikelihood
from algorithms.common.metrics.text import TextStatistics

__all__ = ["NegativeLogLikelihood", "TextStatistics"]
