"""Training curves: one run with the parts of its loss, and runs over each other against tokens and time.

    python -m experiments.analysis.curves RUN [RUN ...] --out FOLDER

From metrics.csv and summary.json alone; what a run did not log is left out, never drawn at 0. n points of a curve.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.analysis import plots, records
from experiments.analysis.command_line import in_one_sentence

NATS = "nats per token"
KIND_NAMES = {"exact": " (exact)", "bound": " (upper bound)"}
NAME_WIDTH, NOTE_WIDTH = 36, 48  # characters of a line: longer ones would leave the curves no room
SMOOTHING = 40  # a curve of fewer points is shown as it is
TRAINING = "train/"  # begins the columns of a training, of which all are parts of its loss but these:
NO_PARTS = ("loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_second", "mfu")
LOSS = TRAINING + "loss"
# How a part's last word is written out, and its unit where that is not nats: the word as it is where it is not listed.
# PART_weight is a setting and no measurement, PART_active is 0 where a part is not computed.
TERMS = {"ce": ("cross-entropy", ""), "mse": ("weighted squared error",) * 2, "masked": ("masked cross-entropy", "")}
WEIGHT, ACTIVE = "weight", "active"
PART_COLOURS = tuple(plots.COLOURS[place] for place in (0, 3, 4, 2, 6))
UNITS_OF_TIME = ((2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


class _Run(NamedTuple):
    """Validation of one run: steps, NLL, tokens seen and seconds trained, all (n,); None for what was not logged."""

    name: str  # in short lines
    steps: np.ndarray
    nll: np.ndarray
    tokens: np.ndarray | None
    seconds: np.ndarray | None
    derived: bool  # seconds from tokens per second
    kind: str | None
    colour: str


def plot_training(run: Path, out: Path) -> None:
    """Draw one run (folder or metrics.csv) over its steps: batch loss, validation, and the parts of the loss.

    A panel for each unit. A diverged run is drawn up to where it diverged, a part as far as it was computed.
    Raises ValueError where the run logged nothing finite to draw, and whatever records.read_metrics raises.
    """
    metrics = records.read_metrics(run)
    panels = _panels(Path(run), metrics)
    if not panels:
        raise ValueError(f"{run} holds no finite 'train/loss' or 'val/nll'; there is no curve to draw.")
    with plots.plot(out, rows=len(panels), size=(9, 2.2 + 2.8 * len(panels)), sharex=True) as (_, axes):
        for ax, (unit, curves) in zip(axes, panels.items(), strict=True):
            plots.draw_curves(ax, curves, from_zero=unit == WEIGHT)
            ax.set_ylabel(unit)
        plots.steps_below(axes[-1])
        plots.tokens_above(axes[0], records.tokens_per_step(metrics))


def plot_curves(runs: dict[str, Path], out: Path, colours: Sequence[str] = plots.COLOURS) -> None:
    """Draw val/nll of several runs (name -> run folder or metrics.csv) against tokens seen and seconds trained, one
    after the other in `colours`.

    Against steps in the place of tokens if a run did not log these; without the panel of time if none logged any.
    Exact likelihoods are solid, upper bounds dashed: they are not to be ranked against each other.
    Raises ValueError for no runs and for a run without a finite val/nll.
    """
    if not runs:
        raise ValueError("plot_curves got no runs; give at least one name and its run folder.")
    read = [_read(name, path, colours[i % len(colours)]) for i, (name, path) in enumerate(runs.items())]
    timed = [run for run in read if run.seconds is not None]
    rows = 2 if timed else 1
    height = max(4.6, sum(plots.label_height(f"{run.name}\nbest") for run in read))
    with plots.plot(out, rows=rows, size=(9, height * rows)) as (_, axes):
        _draw_over_tokens(axes[0], read)
        if timed:
            _draw_over_time(axes[1], read, timed)


def validated(run: Path) -> bool:
    """Whether a run folder has a curve for plot_curves: it logged a finite val/nll."""
    return (run / "metrics.csv").is_file() and len(_finite(records.read_metrics(run), "val/nll")[0]) > 0


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


def seconds_at(metrics: records.Metrics, steps: np.ndarray) -> tuple[np.ndarray | None, bool]:
    """Seconds trained (n,) at the given steps (n,), validation not counted, and whether they had to be derived.

    train/seconds, or else the sum of tokens over tokens per second; between two logged steps on the line between
    them, NaN behind the last. None where neither was logged.
    """
    at, seconds = records.series(metrics, "train/seconds")
    derived = not len(at)
    if derived:
        at, speed = records.series(metrics, "train/tokens_per_second")
        per_step = records.tokens_per_step(metrics)
        if not len(at) or per_step is None:
            return None, True
        seconds = np.cumsum(np.diff(at, prepend=0) * per_step / speed)
    return np.interp(steps, np.append(0, at), np.append(0, seconds), right=np.nan), derived


def _read(name: str, path: Path, colour: str) -> _Run:
    metrics = records.read_metrics(path)
    steps, nll = _finite(metrics, "val/nll")
    if not len(steps):
        raise ValueError(f"run '{name}' ({path}) holds no finite 'val/nll'; leave it out of the comparison.")
    per_step = records.tokens_per_step(metrics)
    seconds, derived = seconds_at(metrics, steps)
    if seconds is not None and not np.isfinite(seconds).any():
        seconds = None
    tokens = None if per_step is None else steps * per_step
    kind = records.summary_text(Path(path), "likelihood_kind")
    return _Run(plots.wrapped(name, NAME_WIDTH), steps, nll, tokens, seconds, derived, kind, colour)


def _draw_over_tokens(ax: Axes, runs: Sequence[_Run]) -> None:
    by_tokens = all(run.tokens is not None for run in runs)
    curves = []
    for run in runs:
        x = run.tokens if by_tokens and run.tokens is not None else run.steps
        curves.append(_of_run(run, x, f"best {run.nll.min():.3f}{KIND_NAMES.get(run.kind or '', '')}"))
    plots.draw_curves(ax, curves)
    ax.set_ylabel(f"validation NLL ({NATS})")
    below = plots.tokens_below if by_tokens else plots.steps_below
    below(ax)


def _draw_over_time(ax: Axes, runs: Sequence[_Run], timed: Sequence[_Run]) -> None:
    longest = max(float(np.nanmax(run.seconds)) for run in timed if run.seconds is not None)
    _, unit, word = next(row for row in UNITS_OF_TIME if longest >= row[0])
    curves = []
    for run in timed:
        assert run.seconds is not None
        x = run.seconds / unit
        curves.append(_of_run(run, x, f"{x[np.isfinite(x)][-1]:.3g} {word}" + (" *" if run.derived else "")))
    plots.draw_curves(ax, curves)
    ax.set_ylabel(f"validation NLL ({NATS})")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    plots.plain_numbers(ax.xaxis)
    notes = [f"training time ({word}, validation not counted)"]
    if any(run.derived for run in timed):
        notes.append("* summed up from tokens per second, as the run did not log its seconds")
    if without := [run.name for run in runs if run.seconds is None]:
        notes.append(f"no times were logged by {', '.join(without)}")
    ax.set_xlabel("\n".join(plots.wrapped(note, NOTE_WIDTH) for note in notes))


def _of_run(run: _Run, x: np.ndarray, text: str) -> plots.Curve:
    """Its validation as far as x (n,) is known."""
    known = np.isfinite(x)
    dashes = "--" if run.kind == "bound" else "-"
    return plots.Curve(x[known], run.nll[known], f"{run.name}\n{text}", run.colour, dashes=dashes)


def _panels(run: Path, metrics: records.Metrics) -> dict[str, list[plots.Curve]]:
    """Unit -> its curves: the training loss and its parts, single batches faint behind their mean, and validation."""
    panels: dict[str, list[plots.Curve]] = {}
    for column, (name, unit, colour) in _losses(run, metrics).items():
        steps, values = _finite(metrics, column)
        if len(steps):
            as_is = unit == WEIGHT  # nothing to smooth
            shown = values if as_is else smoothed(values)
            text = name if as_is or len(values) < SMOOTHING else f"{name}, smoothed"
            curve = plots.Curve(steps, shown, f"{text}\nat the end {shown[-1]:.3f}", colour, raw=values)
            panels.setdefault(unit, []).append(curve)
    steps, nll = _finite(metrics, "val/nll")
    if len(steps):
        best = int(np.argmin(nll))
        kind = KIND_NAMES.get(records.summary_text(run, "likelihood_kind") or "", "")
        errors = dict(zip(*(series.tolist() for series in records.series(metrics, "val/nll_error")), strict=True))
        known = f" ± {errors[steps[best]]:.3f}" if steps[best] in errors else ""
        text = f"validation NLL{kind}\nbest {nll[best]:.3f}{known} at step {steps[best]:,.0f}"
        panels.setdefault(NATS, []).append(plots.Curve(steps, nll, text, plots.COLOURS[1], mark=best))
    return panels


def _finite(metrics: records.Metrics, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (n,) up to where a run diverged; of a part that ends, those from while it was computed."""
    steps, values = records.series(metrics, name)
    at, active = records.series(metrics, f"{name}_{ACTIVE}")
    keep = np.isfinite(values) & ~np.isin(steps, at[active == 0])  # its last value is logged on after its end
    return steps[keep], values[keep]


def _losses(run: Path, metrics: records.Metrics) -> dict[str, tuple[str, str, str]]:
    """Column -> name, unit, colour of the training loss and its parts; a part that is all of the loss is drawn once, as
    such."""
    unit = records.summary_text(run, "loss_unit") or NATS
    first = unit.split(" + ")[0]
    nats = first if first.startswith("nats") else NATS
    _, loss = records.series(metrics, LOSS)
    parts = {}
    for column, colour in zip(_parts(metrics), itertools.cycle(PART_COLOURS), strict=False):
        name, own_unit = _described(column.removeprefix(TRAINING))
        parts[column] = (name, own_unit or nats, colour)
    for column, (name, own_unit, colour) in parts.items():
        if np.array_equal(records.series(metrics, column)[1], loss):
            return parts | {column: (f"training loss:\n{name}", own_unit, colour)}
    return {LOSS: ("training loss", unit, plots.COLOURS[5 if parts else 0])} | parts


def _parts(metrics: records.Metrics) -> list[str]:
    """Columns of the parts of a loss, and of their weights."""
    own = [name for name in metrics if name.startswith(TRAINING) and name.removeprefix(TRAINING) not in NO_PARTS]
    return [name for name in own if not name.endswith(f"_{ACTIVE}")]


def _described(part: str) -> tuple[str, str]:
    """What a part is called, and its unit; blank for nats."""
    if part.endswith(f"_{WEIGHT}"):
        return f"weight of the {_described(part.removesuffix(f'_{WEIGHT}'))[0]}", WEIGHT
    before, _, last = part.rpartition("_")
    name, unit = TERMS.get(last, (f"{last} loss",) * 2)
    return f"{before.replace('_', ' ')} {name}".strip(), unit


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by what tells them apart: algorithm, else folder name, else path."""
    for name in (lambda run: records.summary_text(run, "algorithm") or run.name, lambda run: run.resolve().name, str):
        named = {name(run): run for run in runs}
        if len(named) == len(runs):
            return named
    raise ValueError("a run is given twice; name each once")


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m experiments.analysis.curves", description="Draw training curves.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder with a metrics.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the pictures go")
    given = parser.parse_args(arguments)
    runs = names_of(given.runs)
    pictures = [given.out / f"training_{name.replace('/', '_')}.png" for name in runs]
    for run, picture in zip(runs.values(), pictures, strict=True):
        plot_training(run, picture)
    plot_curves(runs, given.out / "curves.png")
    print(*pictures, given.out / "curves.png", sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
