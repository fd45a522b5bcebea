"""Two settings, A and B, on the same weights and seeds: paired differences with intervals, and wins seed by seed.

From the rows of a decoding sweep alone. Costs and texts are told apart, and no metric is an overall score. n seeds.
Sampling seeds get bootstrap intervals, and training seeds, of which there are few, Student's.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.analysis import decoding_table as table
from experiments.analysis import metrics, timings
from experiments.analysis.metrics import BY_KEY, HIGHER, NEAREST, shown_in

POINTS = {name: BY_KEY[name].better for name in shown_in(metrics.POINTS)}  # metric -> which text is better by it
CLAIMS = {name: metric for name, metric in BY_KEY.items() if metric.claim}
LEVEL = 0.95
RESAMPLES = 10_000
NO_DIFFERENCE = "no difference seen"
SAME_TEXTS = f"{NO_DIFFERENCE}: the texts are the same, and their timings not clearly apart"
TOO_FEW = f"open: an interval needs {table.SPREAD_FROM} seeds"


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of n differences at LEVEL; None with fewer than three.

    Too narrow for few seeds: of three it is their range.
    """
    d = np.asarray(differences, dtype=np.float64)  # (n,)
    if len(d) < table.SPREAD_FROM:
        return None
    drawn = np.random.default_rng(0).integers(len(d), size=(RESAMPLES, len(d)))
    low, high = np.quantile(d[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # A mean lies within its range but for rounding, which would make an interval of a constant.
    return float(np.clip(low, d.min(), d.max())), float(np.clip(high, d.min(), d.max()))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval at LEVEL of the mean that n training seeds are drawn around; None with fewer than three."""
    if len(values) < table.SPREAD_FROM:
        return None
    from scipy.stats import sem, t  # which take a second to import

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def across_trainings(
    a: Mapping[int | None, float], b: Mapping[int | None, float], *, paired: bool = True
) -> tuple[float, tuple[float, float] | None]:
    """Mean of B less mean of A, each a value by training seed, with the interval of this difference.

    Of the same seeds the difference is `paired`, as a seed decides in which order the text is seen; else, or where
    these are no seeds but numbers, it is Welch's.
    """
    mean = float(np.mean([*b.values()]) - np.mean([*a.values()]))
    if paired and a.keys() == b.keys():
        return mean, t_interval([b[seed] - a[seed] for seed in a])
    if min(len(a), len(b)) < table.SPREAD_FROM:
        return mean, None
    if len({*a.values()}) == len({*b.values()}) == 1:
        return mean, (mean, mean)
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():  # of values that are alike
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = ttest_ind([*b.values()], [*a.values()], equal_var=False).confidence_interval(LEVEL)
    return mean, (float(low), float(high))


def compare(a: Sequence[table.Row], b: Sequence[table.Row], real: Sequence[table.Row] = ()) -> dict[str, Any]:
    """What ab.json holds of the rows of two settings, one per seed, and of real text's.

    Metrics with means, deviations and the paired difference B - A; claims about cost; wins. What is missing is None.
    """
    compared: dict[str, Any] = {}
    for name in BY_KEY:
        means = {key: _spread(rows, name) for key, rows in (("a", a), ("b", b), ("real_text", real))}
        compared[name] = means | {"difference": difference(a, b, name)}
    targets = {name: (compared[name]["real_text"] or {"mean": None})["mean"] for name in POINTS}
    seeds = [_wins(one, other, targets) for one, other in _pairs(a, b)]
    winners = [seed["winner"] for seed in seeds]
    return {
        "a": {name: a[0][name] for name in ("setting", "options", "decoder")},
        "b": {name: b[0][name] for name in ("setting", "options", "decoder")},
        "figures": compared,
        "claims": {
            name: SAME_TEXTS if _chance(a, b, name) else claim(name, compared[name]["difference"]) for name in CLAIMS
        },
        "wins": {
            "better": POINTS,
            "seeds": seeds,
            "won": {"A": winners.count("A"), "B": winners.count("B"), "tie": winners.count("tie")},
        },
    }


def claim(name: str, difference: dict[str, Any] | None) -> str | None:
    """What a paired difference B - A of cost allows to say; None where the metric is missing."""
    if difference is None:
        return None
    low, high = difference["low"], difference["high"]
    if low is None:
        return TOO_FEW
    if low <= 0 <= high:
        return NO_DIFFERENCE
    metric = CLAIMS[name]
    return f"{'B' if (low > 0) == (metric.better == HIGHER) else 'A'} {metric.claim}"


def _chance(a: Sequence[table.Row], b: Sequence[table.Row], name: str) -> bool:
    """Whether A and B differ in a timing of the same texts, and not clearly."""
    times = [[row[name] for row in rows if row[name] is not None] for rows in (a, b)]
    return name in timings.TIMED and all(times) and timings.same_texts(a, b) and not timings.apart(*times)


def point(direction: str, a: float | None, b: float | None, target: float | None) -> str | None:
    """A, B or tie for one metric; None, and no point, where it or the real text that it is held against is missing."""
    if a is None or b is None or (direction == NEAREST and target is None):
        return None
    if direction == NEAREST:
        assert target is not None
        a, b = abs(a - target), abs(b - target)
    if a == b:
        return "tie"
    return "A" if (a > b) == (direction == HIGHER) else "B"


def markdown(compared: dict[str, Any]) -> str:
    """ab.md: both settings, the table of metrics, the claims, and the wins with what counts as better."""
    lines = []
    for name, metric in compared["figures"].items():
        means = [table.brief(metric[key] and table.Spread(**metric[key])) for key in ("a", "b", "real_text")]
        if not any(means):
            continue
        difference = metric["difference"] or {"mean": None, "low": None}
        gap = "" if difference["mean"] is None else f"{difference['mean']:+.4g}"
        interval = "" if difference["low"] is None else f"{difference['low']:+.4g} to {difference['high']:+.4g}"
        lines.append([name, *means, gap, interval])
    head = [f"A: {compared['a']['setting']}", f"B: {compared['b']['setting']}"]
    values = table.render(["metric", "A", "B", table.HELD_OUT, "B - A", f"{LEVEL:.0%} interval"], lines)
    about = (
        f"Intervals: percentile bootstrap of the differences paired by seed, {RESAMPLES:,} resamples; too narrow for "
        f"few seeds (of three it is their range), blank below {table.SPREAD_FROM}."
    )
    claims = [f"{name}: {text}" for name, text in compared["claims"].items() if text is not None]
    wins = compared["wins"]
    seeds = [
        [str(s["seed"]), str(s["A"]), str(s["B"]), s["winner"], *(s["points"][name] or "" for name in wins["better"])]
        for s in wins["seeds"]
    ]
    won = table.render(["seed", "A", "B", "winner", *wins["better"]], seeds)
    better = "Better: " + "; ".join(f"{name} {direction}" for name, direction in wins["better"].items()) + "."
    tally = "Seeds won by points: " + ", ".join(f"{name} {count}" for name, count in wins["won"].items()) + "."
    return (
        "\n\n".join(["  \n".join(head), values.rstrip(), about, "  \n".join(claims), won.rstrip(), tally, better])
        + "\n"
    )


def _spread(rows: Sequence[table.Row], name: str) -> dict[str, Any] | None:
    found = table.spread([row[name] for row in rows if row[name] is not None])
    return None if found is None else found._asdict()


def _pairs(a: Sequence[table.Row], b: Sequence[table.Row]) -> list[tuple[table.Row, table.Row]]:
    """Rows of A and B of one seed, and of one training."""
    by_seed = {(row[table.TRAINING_SEED], row["seed"]): row for row in b}
    seeds = [(row[table.TRAINING_SEED], row["seed"]) for row in a]
    return [(row, by_seed[seed]) for row, seed in zip(a, seeds, strict=True) if seed in by_seed]


def difference(a: Sequence[table.Row], b: Sequence[table.Row], name: str) -> dict[str, Any] | None:
    """Mean of B - A over the seeds at which both have the metric, with its interval."""
    found = [two[name] - one[name] for one, two in _pairs(a, b) if None not in (one[name], two[name])]
    if not found:
        return None
    low, high = bootstrap_interval(found) or (None, None)
    return {"mean": float(np.mean(found)), "low": low, "high": high, "seeds": len(found)}


def _wins(a: table.Row, b: table.Row, targets: dict[str, float | None]) -> dict[str, Any]:
    """Points of one seed, and who has more of them."""
    points = {name: point(direction, a[name], b[name], targets[name]) for name, direction in POINTS.items()}
    count = {side: list(points.values()).count(side) for side in ("A", "B")}
    winner = "tie" if count["A"] == count["B"] else max(count, key=lambda side: count[side])
    return {"seed": a["seed"], **count, "winner": winner, "points": points}
