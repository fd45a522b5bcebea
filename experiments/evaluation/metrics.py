"""Computes the metrics of texts, each by the function that experiments/analysis/metrics.py names."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from experiments.analysis.metrics import METRICS, Metric


def measure(inputs: Mapping[str, Any]) -> dict[str, float | None]:
    """Every metric of texts from inputs by name, of which `text` are all texts; None where an input is."""
    return {metric.key: _value(metric, inputs) for metric in METRICS if metric.of}


def _value(metric: Metric, inputs: Mapping[str, Any]) -> float | None:
    given = [inputs.get(name) for name in metric.of]
    if any(each is None for each in given):
        return None
    compute = resolve_name(metric.compute)
    if metric.of == ("text",):
        each = [compute(text, **metric.options) for text in inputs["text"]]
        return sum(each) / len(each) if each else None
    return compute(*given, **metric.options)
