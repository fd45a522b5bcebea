"""Pareto fronts of a decoding sweep: settings that no other setting beats in two figures at once.

From aggregated rows alone, as decoding_table.aggregate makes them. A front ranks nobody: each of its settings is best
for some exchange rate of the two figures.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

Axes = dict[str, int]  # figure -> 1 where more is better, -1 where less is

SPEED: Axes = {"tokens_per_second": 1, "tokens_per_forward": 1}
JUDGE: Axes = {"seconds": -1, "judge_nll": -1}
DISTINCT: Axes = {"seconds": -1, "distinct_2": 1}  # in the place of JUDGE where there is none
ALIKE = ("n_samples", "length", "prompt", "judge")  # rows that differ in these share no front


def fronts(groups: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For every aggregated row the fronts that it is on: speed, and judge or distinct-2.

    A row without one of the two figures, as that of real text, is on no front and keeps no other from it.
    """
    found: list[list[str]] = [[] for _ in groups]
    for members in classes(groups):
        judged = groups[members[0]]["judge"] is not None
        for name, axes in (("speed", SPEED), ("judge", JUDGE) if judged else ("distinct-2", DISTINCT)):
            for index, on_front in zip(members, front([groups[index] for index in members], axes), strict=True):
                found[index] += [name] * on_front
    return found


def classes(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Indices of the rows that may be held against each other, as they are alike in ALIKE; in order of appearance."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(json.dumps([row[name] for name in ALIKE]), []).append(index)
    return list(found.values())


def front(groups: Sequence[dict[str, Any]], axes: Axes) -> list[bool]:
    """Whether each aggregated row, all of one class, is on the front of two figures."""
    return undominated([_point(group, axes) for group in groups])


def undominated(points: Sequence[Sequence[float] | None]) -> list[bool]:
    """Whether no other point is at least as large in every coordinate and larger in one; None is no point."""

    def beats(p: Sequence[float], q: Sequence[float]) -> bool:
        return all(a >= b for a, b in zip(p, q, strict=True)) and any(a > b for a, b in zip(p, q, strict=True))

    there = [point for point in points if point is not None]
    return [point is not None and not any(beats(other, point) for other in there) for point in points]


def _point(group: dict[str, Any], axes: Axes) -> list[float] | None:
    """The row's means, turned so that more is better; None if one is missing."""
    spreads = [group[name] for name in axes]
    if any(spread is None or not math.isfinite(spread.mean) for spread in spreads):
        return None
    return [sign * spread.mean for spread, sign in zip(spreads, axes.values(), strict=True)]
