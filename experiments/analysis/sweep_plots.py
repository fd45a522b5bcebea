"""Plots of a decoding sweep: cost against text, cost against parallelism, the fastest, differences from a baseline.

From aggregated rows alone. A setting without a metric is left out of the plot that needs it, never drawn at 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.analysis import decoding_table as table
from experiments.analysis import paired, plots, timings
from experiments.analysis.metrics import BY_KEY, OVERVIEW, shown_in

Row = table.Row
Families = dict[str, tuple[str, str]]  # what shares a look -> colour and marker
MARKERS = "osD^v"  # one set of colours each
LOGARITHMIC_FROM = 8  # ratio of the largest to the smallest value
BARS = 15
NAMED = 16  # settings of a front
DIFFERENCES_SHOWN = 40
GREY = "#888888"
FOREST = shown_in(OVERVIEW)
TEXT = tuple(name for name in FOREST if BY_KEY[name].floor)


class _Dot(NamedTuple):
    group: Row
    name: str
    family: str
    number: int | None  # of a setting on the front, from the left


def plot_settings(groups: Sequence[Row], names: Sequence[str], fronts: Sequence[list[str]], out: Path) -> list[Path]:
    """Draw one class of aggregated rows, called by `names`, into the folder `out`; the files written."""
    own = [group for group in groups if group["method"] not in table.MODELLESS]
    text = [name for name in TEXT if any(_there(group, name) for group in own)]
    front = "judge" if "judge_nll" in text else "distinct-2"
    planes = {
        "speed_quality.png": ("seconds", text, front),
        "speed_tokens_per_forward.png": ("tokens_per_second", ["tokens_per_forward"], "speed"),
    }
    written = []
    for file, (x, ys, front) in planes.items():
        dots = _dots(groups, names, [front in on for on in fronts], x, ys)
        if dots:
            real = [group for group in groups if group["setting"] == table.HELD_OUT]
            _plot_plane(dots, _families(groups), x, ys, real, front, out / file)
            written.append(out / file)
    if _fastest(groups):
        plot_fastest(groups, names, out / "fastest.png")
        written.append(out / "fastest.png")
    return written


def plot_fastest(groups: Sequence[Row], names: Sequence[str], out: Path) -> None:
    """Draw bars of the BARS fastest settings, in tokens per second, each beside what its text is like."""
    shown = _fastest(groups)[:BARS]
    families = _families(groups)
    real = [group for group in groups if group["setting"] == table.HELD_OUT]
    with plots.plot(out, size=(9, 1.4 + 0.36 * len(shown))) as (_, (ax,)):
        for place, index in enumerate(shown):
            speed = groups[index]["tokens_per_second"]
            colour, _ = families[_family(groups[index], groups)]
            bar: dict[str, Any] = {"height": 0.7, "color": colour, "alpha": 0.8, "error_kw": {"ecolor": "#333333"}}
            ax.barh(place, speed.mean, xerr=speed.sd, **bar)
            ax.annotate(
                f"  {speed.mean:,.0f}   {_described(groups[index])}",
                (speed.mean + (speed.sd or 0), place),
                va="center",
                fontsize=9,
            )
        ax.set_yticks(range(len(shown)), [plots.wrapped(names[index], 38) for index in shown], fontsize=9)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.margins(x=0.5)
        ax.set_xlim(left=0)
        ax.set_xlabel("tokens per second, mean and standard deviation over seeds")
        plots.plain_numbers(ax.xaxis)
        title = "The fastest settings" + (f" of {len(_fastest(groups))}" if len(_fastest(groups)) > BARS else "")
        beside = f"\nheld-out text: {_described(real[0])}" if real and _described(real[0]) else ""
        ax.set_title(title + beside, loc="left", fontsize=11)


def plot_differences(comparisons: Mapping[str, dict[str, Any]], baseline: str, out: Path) -> list[Path]:
    """Draw paired differences from a baseline with their intervals (name of a setting -> what paired.compare says),
    filled where the interval leaves 0 out, into the folder `out`; the files written."""
    gaps = {
        setting: {name: compared["figures"][name]["difference"] for name in FOREST}
        for setting, compared in comparisons.items()
    }
    panels = [name for name in FOREST if any(gap[name] for gap in gaps.values())]
    ordered = [setting for setting, gap in gaps.items() if any(gap.values())]
    ordered.sort(key=lambda setting: (gaps[setting]["seconds"] or {"mean": math.inf})["mean"])
    shown = ordered[:DIFFERENCES_SHOWN]
    if not shown:
        return []
    file = out / "differences.png"
    size = (4.5 + 2.5 * len(panels), 2 + 0.34 * len(shown))
    with plots.plot(file, columns=len(panels), size=size, sharey=True) as (canvas, axes):
        for ax, name in zip(axes, panels, strict=True):
            ax.axvline(0, color=GREY, linewidth=1)
            for place, setting in enumerate(shown):
                _draw_difference(ax, place, gaps[setting][name])
            ax.set_xlabel(BY_KEY[name].on_axis, fontsize=10)
            plots.grid(ax, axis="y")
            ax.tick_params(axis="x", labelsize=9)
            ax.margins(x=0.12)
            ax.xaxis.set_major_locator(MaxNLocator(4))
        axes[0].set_yticks(range(len(shown)), [plots.wrapped(name, 52) for name in shown], fontsize=9)
        axes[0].set_ylim(len(shown) - 0.4, -0.6)
        left_out = f"; the {len(shown)} fastest of {len(ordered)}" if len(shown) < len(ordered) else ""
        title = f"Setting minus {baseline}, paired by seed{left_out}\n"
        title += f"bar: {paired.LEVEL:.0%} interval, from {table.SPREAD_FROM} seeds on; filled where it leaves 0 out"
        canvas.suptitle(title, x=0.01, ha="left", fontsize=11)
    return [file]


def _draw_difference(ax: Axes, place: int, difference: dict[str, Any] | None) -> None:
    if difference is None:
        return
    low, high = difference["low"], difference["high"]
    certain = low is not None and not low <= 0 <= high
    if low is not None:
        ax.plot([low, high], [place, place], color=plots.COLOURS[0], linewidth=2)
    face = plots.COLOURS[0] if certain else "white"
    ax.plot(difference["mean"], place, "o", color=plots.COLOURS[0], markerfacecolor=face, markersize=6)


def _plot_plane(
    dots: list[_Dot], families: Families, x: str, ys: Sequence[str], real: Sequence[Row], front: str, out: Path
) -> None:
    """One metric above another over the same cost; what is on the front is numbered and named at the side."""
    size = (10, 5 if len(ys) == 1 else 7.5)
    with plots.plot(out, rows=len(ys), size=size, sharex=True) as (canvas, axes):
        for ax, y in zip(axes, ys, strict=True):
            there = [dot for dot in dots if _there(dot.group, y)]
            for dot in there:
                _draw_dot(ax, dot, families[dot.family], dot.group[x], dot.group[y])
            for group in real:
                if _there(group, y):
                    ax.axhline(group[y].mean, color=GREY, linestyle=(0, (4, 3)), linewidth=1.3, zorder=1)
            ax.set_ylabel(BY_KEY[y].on_axis)
            plots.grid(ax)
            _scale(ax.yaxis, ax.set_yscale, [dot.group[y].mean for dot in there] if y == "tokens_per_forward" else [])
        _scale(axes[-1].xaxis, axes[-1].set_xscale, [dot.group[x].mean for dot in dots])
        axes[-1].set_xlabel(BY_KEY[x].on_axis)
        _key(canvas, dots, families, front, line=any(_there(group, y) for group in real for y in ys))


def _draw_dot(ax: Axes, dot: _Dot, look: tuple[str, str], at: table.Spread, height: table.Spread) -> None:
    style: dict[str, Any] = {"color": look[0], "marker": look[1], "linestyle": "none"}
    if dot.number is None:
        ax.plot(at.mean, height.mean, **style, markersize=6.5, alpha=0.55, zorder=2)
        return
    bars: dict[str, Any] = {"ecolor": look[0], "elinewidth": 1.2, "alpha": 0.6, "zorder": 2}
    ax.errorbar(at.mean, height.mean, xerr=at.sd, yerr=height.sd, fmt="none", **bars)
    ax.plot(at.mean, height.mean, **style, markersize=14, markeredgecolor="white", zorder=3)
    number: dict[str, Any] = {"color": "white", "fontsize": 8.5, "fontweight": "bold", "ha": "center", "va": "center"}
    ax.annotate(str(dot.number), (at.mean, height.mean), **number, zorder=4)


def _key(canvas: Figure, dots: Sequence[_Dot], families: Families, front: str, line: bool) -> None:
    """At the right: which marker is which decoder or method, and the settings on the front by number."""
    handles, labels = [], []
    for family, (colour, marker) in families.items():
        if family in {dot.family for dot in dots}:
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7))
            labels.append(family)
    if line:
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1.3))
        labels.append(table.HELD_OUT)
    numbered = sorted((dot for dot in dots if dot.number is not None), key=lambda dot: dot.number or 0)
    if numbered:
        labels.append(f"\nOn the front ({front}):")
        labels += [plots.wrapped(f"{dot.number}  {dot.name}", 36, "    ") for dot in numbered[:NAMED]]
    if len(numbered) > NAMED:
        labels.append(f"and {len(numbered) - NAMED} more: see pareto.md")
    handles += [Line2D([], [], linestyle="none")] * (len(labels) - len(handles))
    canvas.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9.5, handletextpad=0.4)


def _dots(groups: Sequence[Row], names: Sequence[str], front: Sequence[bool], x: str, ys: Sequence[str]) -> list[_Dot]:
    """What has a cost and one of the metrics; numbered from the left where it is on the front."""
    there = [i for i, group in enumerate(groups) if _there(group, x) and any(_there(group, y) for y in ys)]
    there.sort(key=lambda index: groups[index][x].mean)
    numbers = {index: number for number, index in enumerate([i for i in there if front[i]], 1)}
    return [_Dot(groups[i], names[i], _family(groups[i], groups), numbers.get(i)) for i in there]


def _families(groups: Sequence[Row]) -> Families:
    """In order of appearance."""
    found = dict.fromkeys(_family(group, groups) for group in groups if group["method"] not in table.MODELLESS)
    count = len(plots.COLOURS)
    return {name: (plots.COLOURS[i % count], MARKERS[i // count % len(MARKERS)]) for i, name in enumerate(found)}


def _family(group: Row, groups: Sequence[Row]) -> str:
    """What shares a colour: the method, or of a single method the decoder."""
    methods = {other["method"] for other in groups} - set(table.MODELLESS)
    return group["method"] if len(methods) > 1 else group["setting"].split(" ")[0]


def _fastest(groups: Sequence[Row]) -> list[int]:
    timed = [index for index, group in enumerate(groups) if _there(group, "tokens_per_second")]
    evened = timings.evened(groups)
    return sorted(timed, key=lambda index: -evened[index]["tokens_per_second"].mean)


def _described(group: Row) -> str:
    """What a setting's text is like, in numbers."""
    return ", ".join(f"{BY_KEY[name].label} {group[name].mean:.2f}" for name in TEXT if _there(group, name))


def _there(group: Row, name: str) -> bool:
    return group[name] is not None and math.isfinite(group[name].mean)


def _scale(axis: Any, set_scale: Callable[[str], None], values: Sequence[float]) -> None:
    """A logarithmic axis where the values range far, labelled with plain numbers."""
    if values and min(values) > 0 and max(values) >= LOGARITHMIC_FROM * min(values):
        plots.logarithmic(axis, set_scale)
