"""Pictures of runs for people: training curve, comparison of runs, scheduling matrix.

Files in, pictures out. Drawn without pyplot (always Agg), so that no window system is involved.
n points of a curve, rows = sampling steps, horizon = positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from . import records

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
}
SMOOTHING = 40  # a curve of fewer points is shown as it is
NATS = "nats per token"
LABEL_GAP = 0.13  # of the height of a figure's axes: two lines of text
KIND_NAMES = {"exact": " (exact)", "bound": " (upper bound)"}


class _Label(NamedTuple):
    y: float
    text: str
    colour: str


class _Curve(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    raw: np.ndarray | None  # what y smooths, drawn faintly behind it
    mark: int | None  # index of a point to mark
    text: str
    colour: str


def plot_training_curve(metrics_csv: Path, out: Path) -> None:
    """Draws train/loss (raw and smoothed) and val/nll against steps and tokens seen.

    Both in one panel where the loss is in nats per token, else the loss in a panel of its own unit.
    Raises ValueError where the file holds neither metric, and whatever records.read_metrics raises.
    """
    metrics = records.read_metrics(metrics_csv)
    train_x, train_y = _finite(*records.series(metrics, "train/loss"))
    val_x, val_y = _finite(*records.series(metrics, "val/nll"))
    if not len(train_x) and not len(val_x):
        raise ValueError(f"{metrics_csv} holds no finite 'train/loss' or 'val/nll'; there is no curve to draw.")
    panels: dict[str, list[_Curve]] = {}
    if len(train_x):
        smooth = smoothed(train_y)
        name = "training loss, smoothed" if len(train_y) >= SMOOTHING else "training loss"
        text = f"{name}\nat the end {smooth[-1]:.3f}"
        unit = records.summary_text(Path(metrics_csv), "loss_unit") or NATS
        panels.setdefault(unit, []).append(_Curve(train_x, smooth, train_y, None, text, COLOURS[0]))
    if len(val_x):
        best = int(np.argmin(val_y))
        kind = KIND_NAMES.get(records.summary_text(Path(metrics_csv), "likelihood_kind") or "", "")
        text = f"validation NLL{kind}\nbest {val_y[best]:.3f} at step {val_x[best]:,.0f}"
        panels.setdefault(NATS, []).append(_Curve(val_x, val_y, None, best, text, COLOURS[1]))
    with _figure(out, panels=len(panels)) as (_, axes):
        for ax, (unit, curves) in zip(axes, panels.items(), strict=True):
            _draw_panel(ax, unit, curves, gap=LABEL_GAP * len(panels))
            if ax is not axes[-1]:
                ax.set_xlabel("")
        _tokens_on_top(axes[0], records.tokens_per_step(metrics))


def _draw_panel(ax: Axes, unit: str, curves: list[_Curve], gap: float) -> None:
    for curve in curves:
        if curve.raw is not None:
            ax.plot(curve.x, curve.raw, color=curve.colour, alpha=0.25, linewidth=1)
        ax.plot(curve.x, curve.y, color=curve.colour, linewidth=2, marker=_marker(curve.y))
        if curve.mark is not None:
            x, y = curve.x[curve.mark], curve.y[curve.mark]
            ax.plot(x, y, "o", color=curve.colour, markersize=9, markerfacecolor="white")
    _limit_height(ax, [(curve.x, curve.y) for curve in curves])
    _axes_of_steps(ax)
    ax.set_ylabel(unit)
    _label_ends(ax, [_Label(curve.y[-1], curve.text, curve.colour) for curve in curves], gap)


def plot_comparison(runs: dict[str, Path], out: Path) -> None:
    """Draws val/nll of several runs (name -> run folder or metrics.csv) over tokens seen.

    Over steps instead, if a run did not log its tokens. Solid lines are exact likelihoods, dashed ones upper
    bounds: the two kinds are not to be ranked against each other.
    Raises ValueError for no runs and for a run without a finite val/nll.
    """
    if not runs:
        raise ValueError("plot_comparison got no runs; give at least one name and its run folder.")
    metrics = {name: records.read_metrics(path) for name, path in runs.items()}
    tokens = {name: records.tokens_per_step(columns) for name, columns in metrics.items()}
    by_tokens = all(tokens.values())
    curves = []
    labels = []
    with _figure(out) as (_, (ax,)):
        for index, (name, path) in enumerate(runs.items()):
            steps, values = _finite(*records.series(metrics[name], "val/nll"))
            if not len(steps):
                raise ValueError(f"run '{name}' ({path}) holds no finite 'val/nll'; leave it out of the comparison.")
            x = steps * tokens[name] if by_tokens else steps
            kind = records.summary_text(Path(path), "likelihood_kind")
            colour = COLOURS[index % len(COLOURS)]
            dashes = "--" if kind == "bound" else "-"
            ax.plot(x, values, dashes, color=colour, linewidth=2, marker=_marker(values))
            curves.append((x, values))
            labels.append(
                _Label(values[-1], f"{name}\nbest {values.min():.3f}{KIND_NAMES.get(kind or '', '')}", colour)
            )
        _limit_height(ax, curves)
        _axes_of_steps(ax)
        ax.set_ylabel("validation NLL (nats per token)")
        if by_tokens:
            ax.set_xlabel("training tokens seen")
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        _label_ends(ax, labels)


def plot_scheduling_matrix(matrix: np.ndarray, out: Path, sampling_timesteps: int) -> None:
    """Draws a scheduling matrix (rows, horizon) of levels 0..sampling_timesteps, near positions on the left.

    Raises ValueError for a matrix that is not two-dimensional, is empty, or holds a level outside that range.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"a scheduling matrix has the shape (rows, horizon), not {matrix.shape}.")
    if matrix.min() < 0 or matrix.max() > sampling_timesteps:
        raise ValueError(
            f"the scheduling matrix holds levels {matrix.min()} to {matrix.max()}; "
            f"with sampling_timesteps={sampling_timesteps} they must lie in 0 to {sampling_timesteps}."
        )
    rows, horizon = matrix.shape
    with _figure(out) as (figure, (ax,)):
        image = ax.imshow(
            matrix, cmap="YlGnBu", vmin=0, vmax=sampling_timesteps, aspect="auto", interpolation="nearest"
        )
        if max(rows, horizon) <= 64:  # lines between cells, as long as they are wider than their lines
            ax.set_xticks(np.arange(horizon + 1) - 0.5, minor=True)
            ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
            ax.grid(which="minor", color="white", linewidth=0.8)
            ax.tick_params(which="minor", length=0)
        ax.spines[:].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        ax.set_xlabel("position in the horizon (left: near, right: far)")
        ax.set_ylabel("sampling step (downwards)")
        bar = figure.colorbar(image, ax=ax, pad=0.02, ticks=MaxNLocator(8, integer=True))
        bar.set_label("noise level, 0 = clean")
        bar.outline.set_visible(False)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Moving mean (n,) over about a twentieth of the curve, centred but at its end.

    At the start, where a loss falls steeply, the window shrinks on both sides, so that nothing lags; at the
    end it only loses the side that is missing, so that the last value is a mean, too.
    """
    count = len(values)
    index = np.arange(count)
    back = np.minimum(index, count // SMOOTHING)
    ahead = np.minimum(back, count - 1 - index)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[index + ahead + 1] - sums[index - back]) / (ahead + back + 1)


@contextmanager
def _figure(out: Path, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A styled figure of panels above each other, written to `out` (format by its suffix) when the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
        axes = figure.subplots(panels, squeeze=False, sharex=True)[:, 0]
        yield figure, list(axes)
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.isfinite(y)  # a diverged run is drawn up to where it diverged
    return x[keep], y[keep]


def _marker(values: np.ndarray) -> str | None:
    return "o" if len(values) == 1 else None  # a line of one point would be invisible


def _limit_height(ax: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Fits the height to the curves after their first 2 %: a fresh model's loss would flatten the rest."""
    end = max(x[-1] for x, _ in curves if len(x))
    shown = [y[x >= 0.02 * end] for x, y in curves]
    values = np.concatenate(shown)
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    ax.set_ylim(low - margin, high + margin)


def _axes_of_steps(ax: Axes) -> None:
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel("training steps")
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _tokens_on_top(ax: Axes, tokens: float | None) -> None:
    if not tokens:
        return
    top = ax.secondary_xaxis("top", functions=(lambda steps: steps * tokens, lambda seen: seen / tokens))
    top.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    top.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.set_xlabel("training tokens seen")


def _label_ends(ax: Axes, labels: Sequence[_Label], gap: float = LABEL_GAP) -> None:
    """Writes each label right of the axes, at the height of its curve's end, apart from its neighbours."""
    low, high = ax.get_ylim()
    wanted = sorted(((label.y - low) / (high - low), label) for label in labels)
    heights = [min(max(height, 0.0), 1.0) for height, _ in wanted]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for height, (_, label) in zip(heights, wanted, strict=True):
        ax.text(
            1.02,
            height,
            label.text,
            color=label.colour,
            transform=ax.transAxes,
            verticalalignment="center",
            fontsize=11.5,
            linespacing=1.2,
        )
