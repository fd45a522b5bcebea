"""Names, formats and colours that the whole report shares: one colour per method."""

from collections.abc import Sequence

from experiments.analysis import decoding_table as table
from experiments.analysis import plots
from experiments.analysis.metrics import Metric
from experiments.analysis.report.comparison import Comparison, Estimate, Likelihood, Setting

REAL_COLOUR, CONTROL_COLOUR = plots.COLOURS[-1], "#777777"
MARKERS = "osD^vP"


def colour(comparison: Comparison, label: str) -> str:
    """The colour that a method has in every plot and table."""
    place = _place(comparison, label)
    if place is None:
        return REAL_COLOUR if label == table.REAL else CONTROL_COLOUR
    return plots.COLOURS[place % (len(plots.COLOURS) - 1)]


def marker(comparison: Comparison, label: str) -> str:
    return MARKERS[(_place(comparison, label) or 0) % len(MARKERS)]


def estimated(estimate: Estimate | None, metric: Metric) -> tuple[str, str]:
    """An estimate as text and its interval as another; blank where there is none, or no more than the mean."""
    if estimate is None:
        return "", ""
    mean = format(estimate.mean, metric.form)
    ends = [] if estimate.interval is None else [format(value, metric.form) for value in estimate.interval]
    return mean, "" if set(ends) == {mean} else " to ".join(ends)


def nats(likelihood: Likelihood, digits: int = 4) -> str:
    """A likelihood in nats per token: a bound stands behind ≤."""
    error = "" if likelihood.error is None else f" ± {likelihood.error:.{digits}f}"
    return f"{'≤ ' * likelihood.is_bound}{likelihood.nats:.{digits}f}{error}"


def sampler(setting: Setting) -> str:
    """Who wrote a text, in one line: controls without a model and real text go by their own names."""
    method, label = setting
    return label if method in table.MODELLESS else f"{method}, {label}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _place(comparison: Comparison, label: str) -> int | None:
    """The number of a method; None for what is none."""
    return next((place for place, method in enumerate(comparison.methods) if method.label == label), None)
