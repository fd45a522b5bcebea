"""The plots of the report: single trainings, quality against diversity, time and forwards, training curves, traces.

Each draws one file of the folder plots/ and says what it shows, or gives None where nothing was measured.
S states, L positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from experiments.analysis import decoding_table as table
from experiments.analysis import plots as style
from experiments.analysis.animation import html_fragment, write_gif
from experiments.analysis.curves import plot_curves, validated
from experiments.analysis.metrics import BY_KEY
from experiments.analysis.report import naming, tables
from experiments.analysis.report.comparison import REAL, Comparison, Estimate
from experiments.analysis.report.document import Animation, Picture
from experiments.analysis.report.labels import Label, place

FOLDER = "plots"
HALF, WIDE = (5.4, 5.0), 6.6  # inches
SMALL = 10  # of the font
STATES = ("#FFFFD9", "#E69F00", "#081D58")  # decided, draft, masked; the ends are those of the noise levels
CONTROLS = "control: must not win"
CURVES, MOVIE = "training_curves.png", "animation.gif"


def against(comparison: Comparison, metric: str, file: str, caption: str) -> Picture | None:
    """The judge over another metric, a curve of temperatures per method, with real text and controls."""
    known = {m.label: comparison.measured(m.frontier, m.label, metric, "judge_nll") for m in comparison.methods}
    if not any(known.values()):
        return None
    with _axes(comparison, file, HALF) as ax:
        names: list[Label] = []
        for label, points in known.items():
            _points(ax, comparison, label, [found for _, found in points], line="-")
            for setting, (x, y) in points:
                temperature = comparison.temperature((label, setting))
                shown = "" if temperature is None else f"{temperature:g}"
                names.append(Label(shown, x.mean, y.mean, naming.colour(comparison, label)))
        every = [found for points in known.values() for _, found in points]
        names += _landmarks(ax, comparison, metric, every)
        ax.set_xlabel(BY_KEY[metric].on_axis)
        ax.set_ylabel(BY_KEY["judge_nll"].on_axis)
        _finish(ax, list(known), names)
    alt = f"Judge, in nats per character, against {BY_KEY[metric].on_axis}: a curve over temperature for each method"
    return Picture(file, alt, caption)


def quality_against(comparison: Comparison, cost: str, file: str, caption: str) -> Picture | None:
    """The judge over a cost, on a logarithmic axis, a point for each setting that differs in speed."""
    known = {m.label: comparison.measured(m.speed, m.label, cost, "judge_nll") for m in comparison.methods}
    if not any(known.values()):
        return None
    with _axes(comparison, file, HALF) as ax:
        names: list[Label] = []
        for label, points in known.items():
            _points(ax, comparison, label, [found for _, found in points], line="")
            colour = naming.colour(comparison, label)
            numbers = comparison.numbers
            names += [Label(str(numbers[label, setting]), x.mean, y.mean, colour) for setting, (x, y) in points]
        real = comparison.estimate(REAL, "judge_nll")
        if real is not None:
            ax.axhline(real.mean, color=naming.REAL_COLOUR, linewidth=1, linestyle=":", label=table.REAL)
        style.logarithmic(ax.xaxis, ax.set_xscale)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(BY_KEY[cost].on_axis)
        ax.set_ylabel(BY_KEY["judge_nll"].on_axis)
        _finish(ax, list(known), names)
    alt = f"Judge, in nats per character, against {BY_KEY[cost].on_axis}, a point for each setting"
    return Picture(file, alt, caption)


def training_seeds(comparison: Comparison) -> Picture | None:
    """Every training's likelihood as a point beside the mean of its method: how much the seed of training decides."""
    shown = [each for kind in tables.kinds(comparison) for each in comparison.likelihoods if each.kind == kind]
    if not any(len(each.by_seed) > 1 for each in shown):
        return None
    with _axes(comparison, "training_seeds.png", (WIDE, 1.3 + 0.35 * len(shown))) as ax:
        for row, each in enumerate(shown):
            colour = naming.colour(comparison, each.method)
            if each.interval is not None:
                ax.plot([end - each.nats for end in each.interval], [row, row], color=colour, linewidth=1.6)
            points = [value - each.nats for value in each.by_seed.values()]
            ax.plot(points, [row] * len(points), naming.marker(comparison, each.method), color=colour, alpha=0.7)
        ax.axvline(0, color=naming.REAL_COLOUR, linewidth=0.7, linestyle=":")
        names = [f"{each.method}, {each.name} ({each.kind})  {naming.over_seeds(each)[0]}" for each in shown]
        ax.set_yticks(range(len(shown)), names)
        ax.tick_params(labelsize=SMALL)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("nats per token from the mean", fontsize=SMALL + 1, loc="right")  # the axes are narrow
    alt = "The likelihood of each training as a point beside the mean of its method, a row for each likelihood"
    caption = (
        "A point for each training, a line for the 95 % interval of the mean over training seeds. Every row is drawn "
        "around its own mean, which stands beside it: it shows how much training seeds differ, and ranks nothing."
    )
    return Picture("training_seeds.png", alt, caption)


def tokens_per_forward(comparison: Comparison, file: str, caption: str) -> Picture | None:
    """A bar of tokens per forward for each setting that differs in speed."""
    bars = [
        (method.label, label, found[0])
        for method in comparison.methods
        for label, found in comparison.measured(method.speed, method.label, "tokens_per_forward")
    ]
    if not bars:
        return None
    with _axes(comparison, file, (WIDE, 1.3 + 0.3 * len(bars))) as ax:
        labelled: set[str] = set()
        for row, (method, _, found) in enumerate(bars):
            named: dict[str, Any] = {} if method in labelled else {"label": method}
            labelled.add(method)
            colour = naming.colour(comparison, method)
            ax.barh(row, found.mean, color=colour, height=0.7, xerr=_errors([found]), **named)
            ax.text(found.mean, row, f"  {found.mean:.2f}", verticalalignment="center", fontsize=SMALL)
        numbers = comparison.numbers
        ax.set_yticks(range(len(bars)), [f"{_short(label)}  {numbers[method, label]}" for method, label, _ in bars])
        ax.tick_params(labelsize=SMALL)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("tokens decided per forward", fontsize=SMALL + 1)
        ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=SMALL + 1)
    shown = "; ".join(f"{naming.sampler((m, label))}: {found.mean:.2f}" for m, label, found in bars)
    return Picture(file, f"Tokens per forward. {shown}", caption)


def levels(comparison: Comparison, label: str, file: str) -> Picture | None:
    """The levels of a method's trace, states downwards and positions across."""
    record = comparison.traces.get(label)
    if record is None:
        return None
    S, L = record.levels.shape
    with _axes(comparison, file, HALF) as ax:
        ax.grid(visible=False)
        if record.scale == "states":
            states = np.round(record.levels * 2)  # (S, L): 0 decided, 1 draft, 2 masked
            ax.imshow(states, cmap=ListedColormap(STATES), vmin=0, vmax=2, aspect="auto", interpolation="nearest")
            names = ("decided", "draft", "masked")
            there = [state for state in range(3) if (states == state).any()]
            handles = [Patch(facecolor=STATES[state], edgecolor="#888888", label=names[state]) for state in there]
            ax.figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL + 1)
        else:
            image = ax.imshow(record.levels, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", pad=0.02, aspect=40)
            bar.set_label("noise level, 0 = clean")
            bar.outline.set_visible(False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set_xlabel("position in the text")
        ax.set_ylabel("state (downwards)")
        ax.set_title(label, color=naming.colour(comparison, label), fontsize=13, fontweight="bold", loc="left")
    cost = "" if not record.tokens_per_forward else f", {record.tokens_per_forward:.2f} tokens per forward"
    written = int((~record.given).sum())
    seed = "".join(f" ({each})" for each in [naming.of_first(comparison, label)] if each)
    caption = f"{label}{seed} with {record.decoder}: {record.forwards[-1]} forward passes for {written} tokens{cost}."
    return Picture(file, f"Levels of {label} while it writes, {S} states downwards, {L} positions across", caption)


def training_curves(comparison: Comparison) -> Picture | None:
    """Validation NLL of every method that has a record of it; None where none has."""
    folders = {m.label: m.first.folder for m in comparison.methods if m.first.folder is not None}
    logged = {label: folder for label, folder in folders.items() if validated(folder)}
    if not logged:
        return None
    colours = [naming.colour(comparison, label) for label in logged]
    plot_curves(logged, comparison.folder / FOLDER / CURVES, colours)
    alt = f"Validation NLL against tokens seen and time trained, a curve for each of {naming.listed(list(logged))}"
    caption = "Validation NLL against training tokens (above) and training time (below)"
    return Picture(CURVES, alt, f"{caption}{_first_alone(comparison)}.")


def animation(comparison: Comparison) -> Animation | None:
    """The traces of all methods on one clock; None without traces."""
    traces = [comparison.traces[m.label] for m in comparison.methods if m.label in comparison.traces]
    if not traces:
        return None
    fps = comparison.about.get("fps", 12)
    write_gif(traces, comparison.folder / FOLDER / MOVIE, fps=fps)
    names = naming.listed([trace.method for trace in traces])
    caption = f"One text of each method as it is written{_first_alone(comparison)}; the clock counts forwards of the "
    caption += "network."
    picture = Picture(MOVIE, f"Animation of {names} writing a text each", caption)
    return Animation(html_fragment(traces, fps=fps), picture)


def _first_alone(comparison: Comparison) -> str:
    return ", by the first training seed of each alone" if comparison.several else ""


@contextmanager
def _axes(comparison: Comparison, file: str, size: tuple[float, float]) -> Iterator[Axes]:
    """A plot of one panel, written when the block ends."""
    with style.plot(comparison.folder / FOLDER / file, size=size, dpi=180) as (_, (ax,)):
        style.grid(ax)
        yield ax


def _points(ax: Axes, comparison: Comparison, label: str, points: Sequence[Sequence[Estimate]], line: str) -> None:
    """Points of two metrics with their intervals over seeds, joined by a `line` or none."""
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    ax.errorbar(
        *([each.mean for each in axis] for axis in (xs, ys)),
        xerr=_errors(xs),
        yerr=_errors(ys),
        color=naming.colour(comparison, label),
        marker=naming.marker(comparison, label),
        linestyle=line,
        linewidth=1.6,
        elinewidth=1,
        markersize=6,
        label=label,
    )


def _landmarks(ax: Axes, comparison: Comparison, metric: str, every: Sequence[Sequence[Estimate]]) -> list[Label]:
    """Real text as a star with lines through it, and every control as a cross; the names of the crosses.

    A control that is far from `every` point of the methods stands at the edge, with its values in its name.
    """
    x, y = (comparison.estimate(REAL, name) for name in (metric, "judge_nll"))
    if x and y:
        ax.axvline(x.mean, color=naming.REAL_COLOUR, linewidth=0.7, linestyle=":")
        ax.axhline(y.mean, color=naming.REAL_COLOUR, linewidth=0.7, linestyle=":")
        star: dict[str, Any] = {"color": naming.REAL_COLOUR, "marker": "*", "markersize": 15, "linestyle": ""}
        ax.errorbar(x.mean, y.mean, xerr=_errors([x]), yerr=_errors([y]), **star, label=table.REAL)
        every = [*every, (x, y)]
    edges = [_around([pair[axis] for pair in every]) for axis in (0, 1)]
    names: list[Label] = []
    for key in comparison.controls:
        x, y = (comparison.estimate(key, name) for name in (metric, "judge_nll"))
        if x and y:
            named: dict[str, Any] = {} if names else {"label": CONTROLS}
            cross: dict[str, Any] = {"markersize": 9, "markeredgewidth": 2.5, "zorder": 5}
            at_x, at_y = (float(np.clip(value.mean, *edge)) for value, edge in zip((x, y), edges, strict=True))
            ax.plot(at_x, at_y, "x", color=naming.CONTROL_COLOUR, **cross, **named)
            temperature = comparison.temperature(key)
            name = key[1] if key[0] in table.MODELLESS else f"{key[0]} at {temperature:g}" if temperature else key[0]
            if (at_x, at_y) != (x.mean, y.mean):
                name += f" (at {x.mean:.2f}, {y.mean:.2f})"
            names.append(Label(name, at_x, at_y, naming.CONTROL_COLOUR))
    return names


def _around(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """The range of the means, with half as much on either side."""
    means = [each.mean for each in estimates]
    room = (max(means) - min(means)) / 2
    return min(means) - room, max(means) + room


def _finish(ax: Axes, methods: Sequence[str], names: Sequence[Label]) -> None:
    """The legend, methods first, and then the names of points, for which there must be room."""
    ax.margins(0.08)
    handles, labels = ax.get_legend_handles_labels()
    order = [*methods, table.REAL, CONTROLS]
    entries = sorted(zip(labels, handles, strict=True), key=lambda entry: order.index(entry[0]))
    ax.figure.legend(
        [handle for _, handle in entries],
        [label for label, _ in entries],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=SMALL + 1,
    )
    place(ax, [name for name in names if name.text], SMALL)


def _short(setting: str) -> str:
    """The label of a setting at temperature 1, which all settings of a plot have."""
    return " ".join(word for word in setting.split() if not word.startswith("temperature="))


def _errors(estimates: Sequence[Estimate]) -> np.ndarray | None:
    """Distances (2, n) from the means down and up to the ends of their intervals; None where no estimate has one."""
    if not any(each.interval for each in estimates):
        return None
    ends = [each.interval or (each.mean, each.mean) for each in estimates]
    means = np.array([each.mean for each in estimates])
    low, high = np.array(ends).T
    return np.maximum(np.array([means - low, high - means]), 0.0)
