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
    """A likelihood in nats per token, in one line: a bound stands behind ≤. Of one training the standard error over
    windows stands behind it, of several the interval over them."""
    mean, seeds = over_seeds(likelihood, digits)
    if len(likelihood.by_seed) > 1:
        return f"{mean} ({seeds})"
    return mean if likelihood.error is None else f"{mean} ± {likelihood.error:.{digits}f}"


def over_seeds(likelihood: Likelihood, digits: int = 4) -> tuple[str, str]:
    """The mean of a likelihood over trainings, and its interval; of two their values, of one nothing."""
    mean = f"{'≤ ' * likelihood.is_bound}{likelihood.nats:.{digits}f}"
    if likelihood.interval is not None:
        return mean, " to ".join(f"{end:.{digits}f}" for end in likelihood.interval)
    values = likelihood.by_seed.values()
    return mean, listed([f"{value:.{digits}f}" for value in values]) if len(values) > 1 else ""


def of_first(comparison: Comparison, label: str) -> str:
    """Which of several trainings of a method is shown, where one stands for all; blank where it is the only one."""
    method = next(method for method in comparison.methods if method.label == label)
    return method.first.called if len(method.trainings) > 1 else ""


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
