"""The house style of pictures: canvas, colours, axes, curves with labels at their ends; and the scheduling matrix.

What other modules draw, they draw on these. Without pyplot (always Agg), so that no window system is involved.
n points of a curve, rows = sampling steps, horizon = positions.
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's palette: told apart by colour-blind readers and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 13,  # readable when a README shows the 1350-pixel picture 800 pixels wide
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": "#333333",
    "text.parse_math": False,  # a dollar in a label is a dollar
}


class Curve(NamedTuple):
    """A line of n points in its colour, and the text at its end."""

    x: np.ndarray
    y: np.ndarray
    text: str
    colour: str
    raw: np.ndarray | None = None  # (n,) what y smooths, drawn faintly behind it
    mark: int | None = None  # index of a point to mark
    dashes: str = "-"


@contextmanager
def plot(
    out: Path,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (9, 5),
    sharex: bool = False,
    sharey: bool = False,
    dpi: int = 150,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A styled plot of `size` inches and its axes, row by row, written to `out` when the block ends.

    The format is that of the suffix of `out`. Nothing is written where the block raises.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=size, dpi=dpi, layout="constrained")
        axes = canvas.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
        yield canvas, list(axes.flat)
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(out)


def grid(ax: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Faint lines behind what is drawn."""
    ax.grid(axis=axis, color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)


def plain_numbers(axis: Axis) -> None:
    """Label an axis with numbers written out, in groups of three digits: never as powers or offsets."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def logarithmic(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """Make an axis, whose `set_scale` is given with it, one of powers with plain numbers."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())
    plain_numbers(axis)


def steps_below(ax: Axes) -> None:
    """Make the x axis one of training steps."""
    ax.set_xlabel("training steps")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    plain_numbers(ax.xaxis)


def tokens_below(ax: Axes) -> None:
    """Make the x axis one of training tokens."""
    ax.set_xlabel("training tokens seen")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def tokens_above(ax: Axes, per_step: float | None) -> None:
    """Add an axis of training tokens on top of one of steps; nothing where `per_step` was not logged."""
    if per_step:
        tokens_below(ax.secondary_xaxis("top", functions=(lambda at: at * per_step, lambda seen: seen / per_step)))


def draw_curves(ax: Axes, curves: Sequence[Curve], from_zero: bool = False) -> None:
    """Draw curves with their texts at their ends, at a height that shows them well, or from 0 on.

    For a plot of rows of one height, which has room for the texts from the sum of their label_height on.
    """
    for curve in curves:
        if curve.raw is not None:
            ax.plot(curve.x, curve.raw, color=curve.colour, alpha=0.25, linewidth=1)
        marker = "o" if len(curve.y) == 1 else None  # a line of one point would be invisible
        ax.plot(curve.x, curve.y, curve.dashes, color=curve.colour, linewidth=2, marker=marker)
        if curve.mark is not None:
            x, y = curve.x[curve.mark], curve.y[curve.mark]
            ax.plot(x, y, "o", color=curve.colour, markersize=9, markerfacecolor="white")
    grid(ax)
    ax.margins(x=0.02)
    _limit_height(ax, curves)
    if from_zero:
        ax.set_ylim(bottom=0)
    _label_ends(ax, curves)


def label_height(text: str) -> float:
    """Inches of a row of the plot for the text at the end of a curve, by its number of lines."""
    return 0.25 + 0.2 * len(text.splitlines())


def wrapped(text: str, width: int, indent: str = "") -> str:
    """The text in lines of at most `width` characters, those behind the first indented; no word is broken."""
    return "\n".join(textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False)) or text


def plot_map(matrix: np.ndarray, out: Path, *, top: int, x_label: str, y_label: str, value_label: str) -> None:
    """Draw a matrix (rows, columns) of whole numbers from 0 to `top` as a grid of colours, the first row on top.

    Raises ValueError for a matrix that is not two-dimensional, is empty, or holds a number outside that range.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"a map has the shape (rows, columns), not {matrix.shape}.")
    if matrix.min() < 0 or matrix.max() > top:
        raise ValueError(f"the map holds numbers from {matrix.min()} to {matrix.max()}: they must lie in 0 to {top}.")
    rows, columns = matrix.shape
    with plot(out) as (canvas, (ax,)):
        image = ax.imshow(matrix, cmap="YlGnBu", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        if max(rows, columns) <= 64:  # lines between cells, as long as they are wider than their lines
            ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
            ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
            ax.grid(which="minor", color="white", linewidth=0.8)
            ax.tick_params(which="minor", length=0)
        ax.spines[:].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        bar = canvas.colorbar(image, ax=ax, pad=0.02, ticks=MaxNLocator(8, integer=True))
        bar.set_label(value_label)
        bar.outline.set_visible(False)


def plot_log_curve(x: np.ndarray, out: Path, *, y: np.ndarray, x_label: str, y_label: str, low: float = 0.0) -> None:
    """Draw points at x (N,), on a logarithmic axis from `low` on, and heights y (N,) from 0 to 1.

    Raises ValueError for points that are fewer than two, or not positive.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or x.min() <= 0:
        raise ValueError(f"a curve needs two or more positive points, not arrays of shapes {x.shape} and {y.shape}.")
    shown = x >= low
    with plot(out) as (_, (ax,)):
        ax.plot(x[shown], y[shown], color=COLOURS[0], marker="o", markersize=4)
        ax.set_xscale("log")
        ax.set_ylim(0, 1.02)
        grid(ax)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)


# How an artifact of a method says that it is drawn.
ARTIFACTS: dict[str, Callable[..., None]] = {"map": plot_map, "log_curve": plot_log_curve}


def _limit_height(ax: Axes, curves: Sequence[Curve]) -> None:
    """Fit the height to the curves after their first 2 %: a fresh model's loss would flatten the rest."""
    end = max(curve.x[-1] for curve in curves)
    values = np.concatenate([curve.y[curve.x >= 0.02 * end] for curve in curves])
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    ax.set_ylim(low - margin, high + margin)


def _label_ends(ax: Axes, curves: Sequence[Curve]) -> None:
    """Write each text right of the axes, at the height of its curve's end, apart from its neighbours."""
    rows = ax.get_gridspec()
    row_height = rows.figure.get_figheight() / rows.nrows
    low, high = ax.get_ylim()
    ordered = sorted(curves, key=lambda curve: curve.y[-1])
    heights = [min(max((curve.y[-1] - low) / (high - low), 0.0), 1.0) for curve in ordered]
    needed = [label_height(curve.text) / row_height for curve in ordered]
    gaps = [(below + above) / 2 for below, above in pairwise(needed)]
    for i, gap in enumerate(gaps):
        heights[i + 1] = max(heights[i + 1], heights[i] + gap)
    heights[-1] = min(heights[-1], 1.0)
    for i in reversed(range(len(gaps))):
        heights[i] = min(heights[i], heights[i + 1] - gaps[i])
    for height, curve in zip(heights, ordered, strict=True):
        at = (1.02, height)
        ax.text(*at, curve.text, c=curve.colour, transform=ax.transAxes, va="center", fontsize=11.5, linespacing=1.2)
