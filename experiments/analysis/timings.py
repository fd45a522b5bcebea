"""What timings tell apart: settings that write the same texts by as many passes differ in time by chance alone, unless
their times lie clearly apart, as those of a decoder with and without its cache.

From rows and aggregated rows alone.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.analysis.metrics import QUALITY

ALIKE = ("n_samples", "length", "prompt", "judge")  # rows that differ in these are of other texts
TIMED = ("seconds", "tokens_per_second")
APART = 2.0  # standard deviations of a difference of two timings, from which on it is more than noise

Row = dict[str, Any]


def same_texts(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """Whether rows of two settings, one for each seed, are of the same texts and passes, as far as all metrics tell."""
    if any(row["forwards"] is None for row in (*a, *b)):
        return False
    texts = [{row["seed"]: [row["forwards"], *(row[name] for name in QUALITY)] for row in rows} for rows in (a, b)]
    return texts[0] == texts[1]


def apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether timings of one setting lie clearly above those of the other; never known of single ones."""
    if min(len(a), len(b)) < 2:
        return False
    return bool(abs(np.mean(a) - np.mean(b)) > APART * math.hypot(np.std(a, ddof=1), np.std(b, ddof=1)))


def evened(groups: Sequence[Row]) -> list[Row]:
    """Aggregated rows for ranking: those of the same texts that no timing tells apart have one time, their mean.

    Without a spread over seeds nothing tells them apart.
    """
    found = [dict(group) for group in groups]
    for members in _alike(groups):
        for name in TIMED:
            timed = sorted((i for i in members if groups[i][name] is not None), key=lambda i: groups[i][name].mean)
            clusters: list[list[int]] = []
            for index in timed:
                if clusters and not _spread_apart(groups[clusters[-1][0]][name], groups[index][name]):
                    clusters[-1].append(index)
                else:
                    clusters.append([index])
            for cluster in clusters:
                mean = float(np.mean([groups[index][name].mean for index in cluster]))
                for index in cluster:
                    found[index][name] = groups[index][name]._replace(mean=mean)
    return found


def equals(groups: Sequence[Row]) -> list[list[int]]:
    """Which aggregated rows are of the same texts, several at a time."""
    return [members for members in _alike(groups) if len(members) > 1]


def _alike(groups: Sequence[Row]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group["forwards"] is not None:
            spreads = [group[name] for name in ("forwards", *QUALITY)]
            means = [None if spread is None else spread.mean for spread in spreads]
            shared = [group[name] for name in ALIKE]
            found.setdefault(json.dumps([*shared, group["seeds"], *means]), []).append(index)
    return list(found.values())


def _spread_apart(a: Any, b: Any) -> bool:
    return None not in (a.sd, b.sd) and abs(a.mean - b.mean) > APART * math.hypot(a.sd, b.sd)
