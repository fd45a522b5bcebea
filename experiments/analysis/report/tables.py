"""The tables of the report. What was not measured is a blank cell; every likelihood stands beside its kind."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.analysis import decoding_table as table
from experiments.analysis.likelihood import EXACT, paired_gaps
from experiments.analysis.metrics import BY_KEY, CONTROLS, METRICS, SPEED, Metric
from experiments.analysis.paired import across_trainings
from experiments.analysis.report import naming
from experiments.analysis.report.comparison import Comparison, Likelihood, Setting
from experiments.analysis.report.document import ALARM, Cell, Table

NO_FLAG = "no metric flags it"
NOT_CHECKED = "not checked"
SURE = 2.0  # standard errors over windows from which on a gap is called one


def baseline(comparison: Comparison) -> Likelihood | None:
    """The likelihood that all gaps are stated against: the first exact one."""
    return next((each for each in comparison.likelihoods if each.kind == EXACT), None)


def reference(comparison: Comparison, likelihood: Likelihood) -> Likelihood | None:
    """What the gap of a likelihood is stated against: the baseline, or without one the first method's of the same name
    and kind."""
    alike = [each for each in comparison.likelihoods if (each.name, each.kind) == (likelihood.name, likelihood.kind)]
    first = comparison.methods[0].label
    return baseline(comparison) or next((each for each in alike if each.method == first), None)


class Gap(NamedTuple):
    """How far one likelihood stands above another, nats per token, means over training seeds: the standard `error` over
    windows, NaN for a single one; over the training seeds an `interval`, None where one is missing; whether there are
    `several` trainings of one, for which an interval is needed."""

    mean: float
    error: float
    interval: tuple[float, float] | None
    several: bool

    @property
    def known(self) -> bool:
        """Whether there is what it takes to tell it from none."""
        return not math.isnan(self.error) and (self.interval is not None or not self.several)

    @property
    def settled(self) -> bool:
        """Whether it is more than what other windows would change, and what other training seeds would."""
        low, high = self.interval or (self.mean, self.mean)
        return self.known and abs(self.mean) > SURE * self.error and not low <= 0 <= high

    @property
    def over_windows(self) -> str:
        return "" if math.isnan(self.error) else f"± {self.error:.4f}"

    @property
    def over_seeds(self) -> str:
        return "" if self.interval is None else "{:+.4f} to {:+.4f}".format(*self.interval)


def gap(comparison: Comparison, first: Likelihood, second: Likelihood) -> Gap | None:
    """How far `second` stands above `first`, paired over windows, and over training seeds where both have the same.

    None where the single windows of one are missing.
    """
    windows = [comparison.windows.get(each.method) for each in (first, second)]
    if windows[0] is None or windows[1] is None:
        return None
    found = paired_gaps(windows[0], windows[1]).get((first.name, second.name))
    if found is None:
        return None
    several = max(len(first.by_seed), len(second.by_seed)) > 1
    paired = comparison.shares_seeds(first.method, second.method)
    interval = across_trainings(first.by_seed, second.by_seed, paired=paired)[1] if several else None
    return Gap(*found, interval, several)


def kinds(comparison: Comparison) -> list[str]:
    """Kinds of likelihood in the order in which they are shown: exact, exact in some sense, bounds."""
    found = list(dict.fromkeys(each.kind for each in comparison.likelihoods))
    return sorted(found, key=lambda kind: (not kind.startswith(EXACT), kind != EXACT))


def likelihoods(comparison: Comparison) -> Table:
    """Every likelihood, a group of rows for each kind, beside what the method cost to train. With several trainings the
    values are means over them, with intervals over training seeds; errors over windows stand apart."""
    base, several = baseline(comparison), comparison.several
    against = f"gap to {base.method if base else comparison.methods[0].label}"
    header = ["method", "likelihood", "kind"]
    header += ["training seeds", "nats/token, mean", "± over windows, one training"] if several else ["nats/token"]
    header += ["bits/char", against, *["± over windows, gap", "settled"] * several, "parameters", "training"]
    methods = {method.label: method for method in comparison.methods}
    rows: list[tuple[str, list[Cell]]] = []
    for kind in kinds(comparison):
        for each in comparison.likelihoods:
            if each.kind != kind:
                continue
            method = methods.get(each.method)
            bits = "" if each.bits is None else f"{'≤ ' * each.is_bound}{each.bits:.3f}"
            cells = [_method(comparison, each.method), Cell(each.name), Cell(kind)]
            if several:
                error = "" if each.error is None else f"± {each.error:.4f}"
                cells += [Cell(str(len(each.by_seed))), Cell(*naming.over_seeds(each)), Cell(error)]
            else:
                cells.append(Cell(naming.nats(each)))
            cells += [Cell(bits), *_gap(comparison, each)]
            size = f"{method.parameters:,}" if method and method.parameters is not None else ""
            rows.append((kind, [*cells, Cell(size), Cell(duration(method.seconds if method else None))]))
    return _grouped(header, rows, labels=3)


def speed(comparison: Comparison) -> Table:
    """Cost and quality of the settings that differ in speed, with intervals over seeds."""
    shown = measured(comparison, SPEED)
    rows = []
    for key, number in comparison.numbers.items():
        own = [_method(comparison, key[0]), Cell(str(number)), Cell(key[1])]
        rows.append((key[0], [*own, *_cells(comparison, key, shown)]))
    header = ["method", "no.", "setting", *(metric.title for metric in shown)]
    return _grouped(header, rows, labels=3)


def flags(comparison: Comparison, settings: Sequence[Setting], *, alarm: bool) -> Table:
    """Those settings that were measured: their metrics, and which metrics flag them; `alarm` where none does."""
    shown = measured(comparison, CONTROLS)
    rows: list[list[Cell]] = []
    for key in settings:
        if key not in comparison.groups:
            continue
        found = comparison.flags.get(key)
        if found is None:
            verdict = Cell(NOT_CHECKED)
        elif not found:
            verdict = Cell(NO_FLAG, tone=ALARM if alarm else "")
        else:
            verdict = Cell(", ".join(BY_KEY[name].label if name in BY_KEY else name for name in found))
        who = Cell(naming.sampler(key), colour=naming.colour(comparison, key[0]))
        rows.append([who, verdict, *_cells(comparison, key, shown)])
    return Table(["sampler", "flagged by", *(metric.title for metric in shown)], rows, labels=2)


def everything(comparison: Comparison) -> Table:
    """All metrics of all settings, mean ± standard deviation over seeds."""
    groups = comparison.groups
    shown = measured(comparison)
    order = [*(method.label for method in comparison.methods), *table.MODELLESS]
    rows = []
    for method, label in sorted(groups, key=lambda key: order.index(key[0]) if key[0] in order else -1):
        group = groups[method, label]
        cells = [_spread(group[metric.key], metric.form) for metric in shown]
        trained = "" if method in table.MODELLESS else str(len(group["training_seeds"]))
        own = [_method(comparison, method), Cell(label), *[Cell(trained)] * comparison.several]
        rows.append((method, [*own, Cell(str(len(group["seeds"]))), *cells]))
    seeds = ["training seeds", "sampling seeds"] if comparison.several else ["seeds"]
    header = ["method", "setting", *seeds, *(metric.title for metric in shown)]
    return _grouped(header, rows, labels=2)


def glossary(comparison: Comparison) -> Table:
    """What each metric of the tables says."""
    rows = [[Cell(each.label), Cell(each.unit), Cell(each.meaning)] for each in measured(comparison)]
    return Table(["metric", "unit", "what it says"], rows, labels=3)


def measured(comparison: Comparison, place: str | None = None) -> list[Metric]:
    """Metrics that a setting has; of those that are shown at `place`, if one is given."""
    shown = [metric for metric in METRICS if place is None or place in metric.shown]
    return [metric for metric in shown if any(group[metric.key] is not None for group in comparison.groups.values())]


def duration(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _grouped(header: Sequence[str], rows: Sequence[tuple[str, list[Cell]]], labels: int) -> Table:
    """A table of rows that each belong to a group."""
    starts = [place for place in range(1, len(rows)) if rows[place][0] != rows[place - 1][0]]
    return Table(header, [cells for _, cells in rows], labels, frozenset(starts))


def _cells(comparison: Comparison, key: Setting, metrics: Sequence[Metric]) -> list[Cell]:
    return [Cell(*naming.estimated(comparison.estimate(key, metric.key), metric)) for metric in metrics]


def _spread(found: table.Spread | None, form: str) -> Cell:
    if found is None:
        return Cell("")
    return Cell(format(found.mean, form), f"± {found.sd:{form}}" if found.sd else "")


def _gap(comparison: Comparison, likelihood: Likelihood) -> list[Cell]:
    """The gap of a likelihood; with several trainings also its error over windows, and whether it is settled."""
    base = reference(comparison, likelihood)
    found = None if base is None or likelihood == base else gap(comparison, base, likelihood)
    if base is None or found is None:
        return [Cell("")] * (3 if comparison.several else 1)
    sign = "≤ " * (likelihood.is_bound and not base.is_bound)
    if not comparison.several:
        return [Cell(f"{sign}{found.mean:+.4f} {found.over_windows}".rstrip())]
    verdict = "" if likelihood.kind != base.kind else "yes" if found.settled else "no" if found.known else "open"
    return [Cell(f"{sign}{found.mean:+.4f}", found.over_seeds), Cell(found.over_windows), Cell(verdict)]


def _method(comparison: Comparison, label: str) -> Cell:
    return Cell(label, colour=naming.colour(comparison, label))
