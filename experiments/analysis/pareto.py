"""Pareto fronts of a decoding sweep: settings that no other setting beats in two metrics at once.

From aggregated rows alone, as decoding_table.aggregate makes them. A front ranks nobody: each of its settings is best
for some exchange rate of the two metrics.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.analysis import timings
from experiments.analysis.metrics import BY_KEY


class Front(NamedTuple):
    """What is held against each other, and how a page is headed that lists what nothing else beats in both."""

    title: str
    axes: tuple[str, str]  # metrics, each in its better direction: more of what is best near to real text


FRONTS = {
    "speed": Front("tokens per second against tokens per forward", ("tokens_per_second", "tokens_per_forward")),
    "judge": Front("seconds against the judge's nats per character (lower is likelier)", ("seconds", "judge_nll")),
    "distinct-2": Front(  # in the place of the judge where there is none
        "seconds against distinct-2, as there is no judge (random characters win it)", ("seconds", "distinct_2")
    ),
}


def fronts(groups: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For every aggregated row the fronts that it is on: speed, and judge or distinct-2.

    A row without one of the two metrics, as that of real text, is on no front and keeps no other from it, nor does one
    whose texts are the same and whose time differs by chance alone.
    """
    groups = timings.evened(groups)
    found: list[list[str]] = [[] for _ in groups]
    for members in classes(groups):
        judged = groups[members[0]]["judge"] is not None
        for name in ("speed", "judge" if judged else "distinct-2"):
            points = [_point(groups[index], FRONTS[name].axes) for index in members]
            for index, on_front in zip(members, undominated(points), strict=True):
                found[index] += [name] * on_front
    return found


def classes(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Indices of the rows that may be held against each other, as they are alike in timings.ALIKE; in order of
    appearance."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(json.dumps([row[name] for name in timings.ALIKE]), []).append(index)
    return list(found.values())


def undominated(points: Sequence[Sequence[float] | None]) -> list[bool]:
    """Whether no other point is at least as large in every coordinate and larger in one; None is no point."""

    def beats(p: Sequence[float], q: Sequence[float]) -> bool:
        return all(a >= b for a, b in zip(p, q, strict=True)) and any(a > b for a, b in zip(p, q, strict=True))

    there = [point for point in points if point is not None]
    return [point is not None and not any(beats(other, point) for other in there) for point in points]


def _point(group: dict[str, Any], axes: Sequence[str]) -> list[float] | None:
    """The row's means, turned so that more is better; None if one is missing."""
    spreads = [group[name] for name in axes]
    if any(spread is None or not math.isfinite(spread.mean) for spread in spreads):
        return None
    return [BY_KEY[name].sign * spread.mean for name, spread in zip(axes, spreads, strict=True)]
