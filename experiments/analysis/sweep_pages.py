"""Markdown of a decoding sweep: Pareto fronts and top lists (pareto.md), differences from a baseline (differences.md).

From aggregated rows alone; every list shows cost, likelihood and diversity side by side, above real text's own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.analysis import paired, pareto, timings
from experiments.analysis.metrics import BY_KEY, DIFFERENCES, LISTS, shown_in

Row = table.Row
REFERENCE = "distinct-2 minus repeat ratio"
WARNING = (
    f"{REFERENCE.capitalize()} is the quality of tiny-diffusion's own tables. Random characters win it, as they repeat "
    "nothing: it stands here only to be held against those tables."
)
SAME = (
    "These write the same texts with as many forwards. None is ranked above another by its time, unless the times are "
    f"more than {timings.APART:g} standard deviations apart."
)
TOP = 5


def pareto_page(groups: Sequence[Row], names: Sequence[str]) -> str:
    """Fronts and lists of the TOP settings of one class of aggregated rows; `names` tells what to call them."""
    shared = groups[0]
    prompt = f" after {shared['prompt']!r}" if shared["prompt"] else ""
    parts = [
        "# Fronts and lists\n",
        f"{shared['n_samples']} × {shared['length']} tokens{prompt} for each seed; mean ± standard deviation from "
        f"{table.SPREAD_FROM} seeds on. A front ranks nobody: each of its settings is best for some exchange rate of "
        "its two metrics. Nor does a list: what is fast, or likely under a judge, may be a loop, which the other "
        "columns show beside those of real text.\n",
    ]
    fronts = pareto.fronts(groups)
    for name, front in pareto.FRONTS.items():
        chosen = [index for index, on in enumerate(fronts) if name in on]
        if chosen:
            parts += [f"## Front: {front.title}\n", _list(groups, names, _fastest_first(groups, chosen))]
    scored = [group | {REFERENCE: _reference_quality(group)} for group in groups]
    points = [_speed_and_reference(group) for group in timings.evened(scored)]
    chosen = [index for index, on in enumerate(pareto.undominated(points)) if on]
    if chosen:
        parts += [f"## Front: tokens per second against {REFERENCE}\n", f"{WARNING}\n"]
        parts.append(_list(scored, names, _fastest_first(groups, chosen), {REFERENCE: REFERENCE}))
    for title, value in _orders(groups).items():
        evened = enumerate(timings.evened(groups))
        values = {i: value(group) for i, group in evened if group["method"] not in table.MODELLESS}
        ordered = sorted((value, i) for i, value in values.items() if value is not None and math.isfinite(value))
        if ordered:
            parts += [f"## {title}\n", _list(groups, names, [i for _, i in ordered[:TOP]])]
    if equals := timings.equals(groups):
        shown = [f"- {', '.join(names[index] for index in members)}\n" for members in equals]
        parts += ["## The same texts\n", f"{SAME}\n", "".join(shown)]
    return "\n".join(parts)


def differences_page(comparisons: Mapping[str, dict[str, Any]], baseline: str) -> str:
    """What paired.compare says of each setting (its name -> baseline A, setting B): differences, claims, seeds won."""
    columns = [BY_KEY[name] for name in shown_in(DIFFERENCES)]
    shown_gaps, wins = [], []
    for name, compared in comparisons.items():
        gaps = [_gap(compared["figures"][metric.key]["difference"]) for metric in columns]
        claims = [text for text in compared["claims"].values() if text is not None and text[:2] in ("A ", "B ")]
        shown_gaps.append([name, str(len(compared["wins"]["seeds"])), *gaps, "; ".join(claims)])
        won = compared["wins"]["won"]
        wins.append([name, str(won["B"]), str(won["A"]), str(won["tie"])])
    better = "; ".join(f"{name} {direction}" for name, direction in paired.POINTS.items())
    about = (
        f"A is {baseline} (of the same weights where they have it), B the setting of the row. B - A is paired by seed, "
        f"with the {paired.LEVEL:.0%} interval of a percentile bootstrap ({paired.RESAMPLES:,} resamples) from "
        f"{table.SPREAD_FROM} seeds on: too narrow for few seeds (of three it is their range). Among many rows, some "
        "claims hold by chance."
    )
    shown = table.render(*_without_blank(["B", "seeds", *(metric.heading for metric in columns), "claims"], shown_gaps))
    won = table.render(["B", "seeds won by B", "by A", "ties"], wins)
    return (
        f"# Differences from {baseline}\n\n{about}\n\n{shown}\n## Seeds won\n\n"
        f"At each seed a point for every metric that is better: {better}. Who has more points wins the seed.\n\n{won}"
    )


def _orders(groups: Sequence[Row]) -> dict[str, Callable[[Row], float | None]]:
    """Title of each list -> what it is sorted by, rising."""
    real = next((group["distinct_2"] for group in groups if group["setting"] == table.HELD_OUT), None)

    def mean(name: str, sign: int) -> Callable[[Row], float | None]:
        return lambda group: None if group[name] is None else sign * group[name].mean

    def distance(group: Row) -> float | None:
        own = group["distinct_2"]
        return None if own is None or real is None else abs(own.mean - real.mean)

    return {
        "Fastest": mean("tokens_per_second", -1),
        "Most tokens per forward": mean("tokens_per_forward", -1),
        "Lowest value of the judge": mean("judge_nll", 1),
        f"Nearest to {table.HELD_OUT} in distinct-2": distance,
    }


def _reference_quality(group: Row) -> table.Spread | None:
    distinct, repeats = group["distinct_2"], group["repeat_ratio"]
    if distinct is None or repeats is None:
        return None
    return table.Spread(distinct.mean - repeats.mean, None, min(distinct.seeds, repeats.seeds))


def _speed_and_reference(group: Row) -> tuple[float, float] | None:
    speed, quality = group["tokens_per_second"], group[REFERENCE]
    return None if speed is None or quality is None else (speed.mean, quality.mean)


def _fastest_first(groups: Sequence[Row], chosen: Sequence[int]) -> list[int]:
    evened = timings.evened(groups)
    speeds = {index: evened[index]["tokens_per_second"] for index in chosen}
    return sorted(chosen, key=lambda index: -speeds[index].mean if speeds[index] else math.inf)


def _list(groups: Sequence[Row], names: Sequence[str], chosen: Sequence[int], more: Mapping[str, str] = {}) -> str:
    """A table of some settings, and below them of real text."""
    columns = {name: BY_KEY[name].heading for name in shown_in(LISTS)} | {**more}
    real = [index for index, group in enumerate(groups) if group["method"] == table.REAL]
    lines = [
        [names[index], str(len(groups[index]["seeds"])), *(table.brief(groups[index][metric]) for metric in columns)]
        for index in (*chosen, *real)
    ]
    return table.render(*_without_blank(["setting", "seeds", *columns.values()], lines))


def _without_blank(header: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without the columns in which nothing was measured."""
    keep = [index for index in range(len(header)) if any(line[index] for line in lines)]
    return [header[index] for index in keep], [[line[index] for index in keep] for line in lines]


def _gap(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    mean = round(difference["mean"], 12)  # what cancels out leaves a rest of rounding
    low, high = difference["low"], difference["high"]
    return f"{mean:+.3g}" + ("" if low is None else f" ({low:+.3g} to {high:+.3g})")
