"""Metrics that accumulate over batches (torchmetrics)."""

from algorithms.common.metrics.likelihood import NegativeLogLikelihood

__all__ = ["NegativeLogLikelihood"]
