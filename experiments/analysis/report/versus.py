"""Two methods against each other: likelihoods of one name and kind, and texts made with as many forwards, paired.

Only like is held against like, so that a report of a single change, such as a flow, answers whether it helps.
"""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from experiments.analysis import blind_review, paired
from experiments.analysis import decoding_table as table
from experiments.analysis.likelihood import BOUND
from experiments.analysis.metrics import BY_KEY, QUALITY, SPEED, shown_in
from experiments.analysis.report import naming, tables
from experiments.analysis.report.comparison import REAL, Comparison, Setting
from experiments.analysis.report.document import Block, Cell, Code, Table, note, say

TOO_FEW = f"open: an interval needs {table.SPREAD_FROM} training seeds"
TEXT = tuple(name for name in shown_in(SPEED) if name in QUALITY)


class Held(NamedTuple):
    """One thing held against the same of the other method; `ahead` is who has the lower likelihood or is nearer to real
    text, blank where no difference is seen and None where nothing can be said."""

    what: str
    values: tuple[str, str]
    difference: str
    interval: str
    ahead: str | None
    verdict: str


def section(comparison: Comparison) -> Iterator[Block]:
    """What the pair of the comparison differs in."""
    a, b = comparison.pair or ("", "")
    how = "paired by sampling seed"
    if comparison.several:
        how = "paired by training seed where both have the same ones, unpaired (Welch's) otherwise"
    yield say(
        f"{b} minus {a}, like against like: likelihoods of one name and kind over the same windows, and texts of "
        f"settings that took as many forwards, {how}. A text is better the nearer it is to real text; "
        "a lower value alone is no quality."
    )
    held = [*likelihoods(comparison), *texts(comparison)]
    if held:
        header = ["compared", "what it says", a, b, f"{b} - {a}"]
        rows = [
            [*map(Cell, (each.what, each.verdict, *each.values)), Cell(each.difference, each.interval)] for each in held
        ]
        yield Table(header, rows, labels=2)
        small = f"its {paired.LEVEL:.0%} bootstrap interval over seeds"
        beside = f"Small beside a difference of texts stands {small}; it counts where that leaves out 0. "
        if comparison.several:
            small = f"its {paired.LEVEL:.0%} interval over training seeds (Student's t)"
            beside = f"Small beside a difference stands {small}; no difference counts whose interval holds 0. "
        yield note(
            f"± is the standard error over windows; a gap counts from {tables.SURE:g} on. {beside}"
            "Of two bounds the lower does not prove the better model. Among many rows some differences come by chance."
        )
    else:
        yield note("Nothing was measured of both that may be held against each other.")
    if (comparison.folder / blind_review.PAGE).is_file():
        yield say(
            "Whether a reader prefers one is asked by a blind review: give ",
            *(
                Code(blind_review.PAGE),
                " (or ",
                Code(blind_review.SHEET),
                ") to readers, and nothing else of this folder; ",
            ),
            *("score what they fill in by ", Code(_score(comparison)), "."),
        )


def finding(comparison: Comparison) -> str:
    """The same in a few sentences; blank where there is no pair, or nothing of it."""
    if comparison.pair is None:
        return ""
    said = [f"{each.what}: {each.verdict} ({each.difference})" for each in likelihoods(comparison) if each.verdict]
    found = texts(comparison)
    for name in TEXT:
        of_metric = [
            each.ahead for each in found if each.what.startswith(BY_KEY[name].label) and each.ahead is not None
        ]
        if of_metric:
            counts = {who: of_metric.count(who) for who in comparison.pair} | {
                "no difference seen": of_metric.count("")
            }
            shown = naming.listed([f"{what} at {count}" for what, count in counts.items() if count])
            said.append(
                f"{BY_KEY[name].label}, of {len(of_metric)} pairs of as many forwards nearer to real text: {shown}"
            )
    return "; ".join(said) + "." if said else ""


def likelihoods(comparison: Comparison) -> list[Held]:
    """Those that both have under one name and kind."""
    a, b = comparison.pair or ("", "")
    found = []
    for first in comparison.likelihoods:
        for second in comparison.likelihoods:
            alike = (first.name, first.kind, first.split) == (second.name, second.kind, second.split)
            if (first.method, second.method) != (a, b) or not alike:
                continue
            gap = tables.gap(comparison, first, second)
            if gap is None:
                continue
            ahead = None if not gap.known else "" if not gap.settled else b if gap.mean < 0 else a
            bound = "'s bound" * (first.kind == BOUND)
            verdict = TOO_FEW if gap.several and gap.interval is None else ""
            if ahead is not None:
                verdict = f"{ahead}{bound} is lower" if ahead else paired.NO_DIFFERENCE
            values = (naming.nats(first), naming.nats(second))
            difference = f"{gap.mean:+.4f} {gap.over_windows}".rstrip()
            found.append(Held(f"{first.name} ({first.kind})", values, difference, gap.over_seeds, ahead, verdict))
    return found


def texts(comparison: Comparison) -> list[Held]:
    """Metrics of texts at every number of forwards that a setting of each took."""
    a, b = comparison.pair or ("", "")
    found = []
    for name in TEXT:
        for forwards, settings in _at_equal_forwards(comparison, a, b):
            held = _texts(comparison, name, forwards, settings)
            found += [] if held is None else [held]
    return found


def _texts(comparison: Comparison, name: str, forwards: float, settings: tuple[Setting, Setting]) -> Held | None:
    metric, estimates = BY_KEY[name], [comparison.estimate(setting, name) for setting in settings]
    found = _difference(comparison, name, settings)
    if found is None or None in estimates:
        return None
    means = [estimate.mean for estimate in estimates if estimate]
    (mean, interval), real = found, comparison.estimate(REAL, name)
    ahead, verdict, shown = None, TOO_FEW if comparison.several else paired.TOO_FEW, ""
    if interval is not None:
        low, high = interval
        ahead, verdict, shown = "", paired.NO_DIFFERENCE, f"{low:+{metric.form}} to {high:+{metric.form}}"
        if not low <= 0 <= high and real is not None:
            distances = [abs(mean - real.mean) for mean in means]
            ahead = settings[distances[1] < distances[0]][0]
            verdict = f"{ahead} is nearer to real text ({real.mean:{metric.form}})"
        elif not low <= 0 <= high:
            ahead, verdict = None, f"{settings[mean < 0][0]} is lower; there is no real text beside it"
    values = (format(means[0], metric.form), format(means[1], metric.form))
    what = f"{metric.label}, {forwards:,.0f} forwards"
    return Held(what, values, f"{mean:+{metric.form}}", shown, ahead, verdict)


def _difference(
    comparison: Comparison, name: str, settings: tuple[Setting, Setting]
) -> tuple[float, tuple[float, float] | None] | None:
    """How far the second setting's metric stands above the first's, with its interval: over training seeds where there
    are several, else paired by sampling seed."""
    a, b = (comparison.rows_of(setting) for setting in settings)
    if comparison.several:
        trained = [table.by_training_seed(rows, name) for rows in (a, b)]
        alike = comparison.shares_seeds(*(method for method, _ in settings))
        return paired.across_trainings(*trained, paired=alike) if all(trained) else None
    found = paired.difference(a, b, name)
    if found is None:
        return None
    return found["mean"], None if found["low"] is None else (found["low"], found["high"])


def _at_equal_forwards(comparison: Comparison, a: str, b: str) -> list[tuple[float, tuple[Setting, Setting]]]:
    """Numbers of forwards, falling, with the first setting of either that took as many."""
    speed = {method.label: method.speed for method in comparison.methods}
    took: list[dict[float, Setting]] = [{}, {}]
    for found, method in zip(took, (a, b), strict=True):
        for label, (estimate,) in comparison.measured(speed[method], method, "forwards"):
            found.setdefault(estimate.mean, (method, label))
    return [(count, (took[0][count], took[1][count])) for count in sorted({*took[0]} & {*took[1]}, reverse=True)]


def _score(comparison: Comparison) -> str:
    key = shlex.quote(str(comparison.folder / blind_review.KEY))
    return f"python -m experiments.analysis.blind_review score FILLED_SHEET {key}"
