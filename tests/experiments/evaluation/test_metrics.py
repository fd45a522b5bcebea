"""The registry of metrics against the functions that it names."""

import dataclasses
from inspect import signature
from pkgutil import resolve_name

import pytest

from experiments.analysis import decoding_table as table
from experiments.analysis import metrics as registry
from experiments.analysis.metrics import BY_KEY, COST, METRICS, QUALITY, Metric
from experiments.evaluation import metrics
from experiments.evaluation.metrics import measure

INPUTS = {"text", "texts", "sample", "judged", "features"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_an_entry_is_complete(metric: Metric) -> None:
    """Catches a function that is not there or takes something else, a direction that nobody knows, and a key twice."""
    assert BY_KEY[metric.key] is metric and len(BY_KEY) == len(METRICS)
    assert metric.label and metric.meaning and format(1.0, metric.form)
    assert metric.better in (registry.LOWER, registry.HIGHER, registry.NEAREST)
    assert bool(metric.compute) == bool(metric.of) == bool(metric.floor) and {*metric.of} <= INPUTS
    if metric.compute:
        parameters = [*signature(resolve_name(metric.compute)).parameters.values()]
        required = [each.name for each in parameters if each.default is each.empty]
        assert len(metric.of) + len(metric.options) >= len(required) and {*metric.options} <= {
            p.name for p in parameters
        }


def test_every_metric_has_its_column_and_its_group() -> None:
    """Catches a metric that is computed and then dropped, or a column that nothing fills."""
    assert tuple(table.COLUMNS[-len(METRICS) :]) == tuple(BY_KEY) and {*COST, *QUALITY} == BY_KEY.keys()
    assert measure({}).keys() == {*QUALITY} and set(measure({}).values()) == {None}


def test_a_new_metric_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second list of metrics that an entry would have to be added to."""
    new = dataclasses.replace(BY_KEY["distinct_2"], key="distinct_9", options={"n": 9})
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, new))
    assert measure({"text": ["a" * 10, "abcdefghij"]})["distinct_9"] == (1 / 2 + 1) / 2
