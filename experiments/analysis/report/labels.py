"""Names beside points of a plot, each where it covers least: of curves, of other names, and of what is outside.

V vertices of drawn lines, in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

DIRECTIONS = [(np.cos(angle), np.sin(angle)) for angle in np.radians([45, 135, -45, -135, 90, -90, 0, 180])]
DISTANCES = (7, 17, 28, 40)  # points
NEAR = 17  # from this distance on a thin line leads from the point to its name
WIDTH, HEIGHT = 0.58, 1.25  # of a character, in its size


class Label(NamedTuple):
    """A name for the point (x, y), in the units of the axes."""

    text: str
    x: float
    y: float
    colour: str


def place(ax: Axes, labels: Sequence[Label], size: float) -> None:
    """Write the labels, once all else is drawn, one after the other."""
    ax.figure.draw_without_rendering()  # settles the limits and the layout
    point = ax.figure.dpi / 72
    paths = [line.get_transform().transform_path(line.get_path()).interpolated(12).vertices for line in ax.lines]
    drawn = np.concatenate([*paths, ax.transData.transform([(label.x, label.y) for label in labels])])  # (V, 2)
    inside = np.array([[ax.bbox.x0, ax.bbox.y0], [ax.bbox.x1, ax.bbox.y1]])
    taken: list[np.ndarray] = []
    for label in labels:
        half = np.array([WIDTH * len(label.text), HEIGHT]) * size * point / 2
        at = ax.transData.transform((label.x, label.y))
        ranked: list[tuple[float, int, np.ndarray, np.ndarray, float]] = []
        for distance in DISTANCES:
            for across, up in DIRECTIONS:
                reach = np.array([across, up]) * distance * point
                centre = at + reach + np.sign(np.round([across, up], 3)) * half
                box = np.array([centre - half, centre + half])
                ranked.append((_cost(box, taken, drawn, inside) + distance / 10, len(ranked), centre, box, distance))
        _, _, centre, box, away = min(ranked)
        taken.append(box)
        ax.annotate(
            label.text,
            (label.x, label.y),
            tuple((centre - at) / point),
            textcoords="offset points",
            color=label.colour,
            fontsize=size,
            horizontalalignment="center",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6} if away >= NEAR else None,
            zorder=6,
            in_layout=False,
        )


def _cost(box: np.ndarray, taken: Sequence[np.ndarray], drawn: np.ndarray, inside: np.ndarray) -> float:
    """What a name in `box` would hide: shares of it under other names or outside count most."""
    area = float(np.prod(box[1] - box[0]))
    over = sum(_common(box, other) for other in taken) / area
    outside = 1 - _common(box, inside) / area
    covered = ((drawn > box[0]) & (drawn < box[1])).all(axis=1).sum()
    return 100 * over + 200 * outside + min(float(covered), 20.0)


def _common(a: np.ndarray, b: np.ndarray) -> float:
    """Area that two boxes share."""
    return float(np.prod(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None)))
