"""The figures of experiment=benchmark: its files, its tables and its plots, from rows alone.

    python -m experiments.analysis.benchmark RUN

prints the tables of a run's benchmark.json and draws its plots anew, also of a run that was interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.analysis import plots
from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import read_json, table_text, write

FILE = "benchmark.json"
TRAINING, DECODING = "training_speed", "decoding_speed"
MODES = ("eager", "compiled", "graphs")
MEASURED, FAILED, LEFT_OUT = "measured", "failed", "left out"
MARKERS = "osD^v"
FORMS = (",.0f", ".0%")  # of tokens per second and of shares


@dataclass(frozen=True)
class Row:
    """A cell of the benchmark: what was timed, and what was found. None is what is not known of a device or a task.

    `batch` windows or texts of `length` tokens. Operations, kernels and waits are of a training step, or of a position
    of the texts; `mfu` is the share of the peak that a step's floating-point operations need through the framework,
    `bare_...` those figures of the bare loop, `ratio` the framework's speed over its, pair by pair.
    """

    task: str
    method: str
    backbone: str
    batch: int
    length: int
    mode: str | None = None
    decoder: str | None = None
    status: str = MEASURED
    tokens_per_second: float | None = None
    bare_tokens_per_second: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    flops: float | None = None
    mfu: float | None = None
    bare_mfu: float | None = None
    memory_gib: float | None = None
    compile_seconds: float | None = None
    tokens_per_forward: float | None = None
    equal_tokens: float | None = None
    operations: int | None = None
    kernels: int | None = None
    waits: int | None = None
    steps: int | None = None
    rounds: Sequence[Any] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        """What is called the same in figures, tables and lines."""
        what = self.mode if self.task == TRAINING else f"{self.decoder}/{self.batch}"
        return f"{self.method}/{self.backbone}/{what}"

    def of_higher_peak(self, share: float) -> "Row":
        """The row where the peak has turned out to be higher, and what was taken for it to be `share` of it."""
        if self.mfu is None or self.bare_mfu is None:
            return self
        return replace(self, mfu=share * self.mfu, bare_mfu=share * self.bare_mfu)

    @property
    def line(self) -> str:
        """The row in a line."""
        if self.status != MEASURED:
            return f"{self.name}: {self.status}: {self.reason}"
        shown = [f"{self.tokens_per_second:,.0f} tokens/s"]
        if self.ratio is not None:
            shown.append(f"{self.ratio:.3f} of the bare loop's ({self.ratio_low:.3f} to {self.ratio_high:.3f})")
        if self.mfu is not None:
            shown.append(f"{self.mfu:.1%} of the peak")
        if self.tokens_per_forward is not None:
            shown.append(f"{self.tokens_per_forward:.2f} tokens a forward")
        unit = "a step" if self.task == TRAINING else "a token"
        counts = {"operations": self.operations, "kernels": self.kernels, "waits": self.waits}
        shown += [f"{count:,} {what} {unit}" for what, count in counts.items() if count is not None]
        if self.memory_gib is not None:
            shown.append(f"{self.memory_gib:.2f} GiB")
        return f"{self.name}: {', '.join(shown)}"

    @property
    def figures(self) -> dict[str, float]:
        """What goes into the summary of the run."""
        found = {"tokens_per_second": self.tokens_per_second, "ratio": self.ratio, "mfu": self.mfu}
        return {f"benchmark/{self.name}/{key}": value for key, value in found.items() if value is not None}


def write_rows(folder: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """benchmark.json with `about`, what was measured on, and benchmark.csv: the same without single rounds."""
    content = about | {"rows": [asdict(row) for row in rows]}
    write(folder / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    names = [field.name for field in fields(Row) if field.name != "rounds"]
    lines = [[getattr(row, name) for name in names] for row in rows]
    write(folder / "benchmark.csv", table_text(names, lines))


def read_rows(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """What write_rows has written. Raises FileNotFoundError or ValueError in a sentence."""
    path, remedy = folder / FILE, "run experiment=benchmark again"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: give the folder of a run of experiment=benchmark")
    about: dict[str, Any] = read_json(path, dict, remedy)
    try:
        return about, [Row(**row) for row in about.pop("rows")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or of another version ({error}): {remedy}.") from error


def tables(about: dict[str, Any], rows: Sequence[Row]) -> str:
    """A table of training and one of decoding, as text, with what could not be measured below."""
    parts = [_peak(about)]
    counted = ["operations"] if all(row.kernels is None for row in rows) else ["kernels", "waits"]
    training = [row for row in rows if row.task == TRAINING and row.status == MEASURED]
    if training:
        header = ["method", "backbone", "mode", "tokens/s", "bare loop", "ratio", "MFU", "GiB", *counted]
        parts.append(_table(f"training, {' and '.join(counted)} a step", header, map(_training_cells, training)))
    decoding = [row for row in rows if row.task == DECODING and row.status == MEASURED]
    if decoding:
        header = ["method", "decoder", "texts", "tokens/s", "tokens/forward", "GiB", *counted]
        title = (
            f"decoding on {decoding[0].backbone}, texts of {decoding[0].length} tokens, {' and '.join(counted)} a token"
        )
        parts.append(_table(title, header, map(_decoding_cells, decoding)))
    parts += [row.line for row in rows if row.status == FAILED]
    left_out: dict[str | None, list[str]] = {}
    for row in rows:
        if row.status == LEFT_OUT:
            left_out.setdefault(row.reason, []).append(row.name)
    return "\n".join([*parts, *(f"{LEFT_OUT}, as {reason}: {', '.join(names)}" for reason, names in left_out.items())])


def draw(folder: Path, about: dict[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Draw plots/benchmark_training.png and plots/benchmark_decoding.png, as far as there are rows; the files."""
    measured = [row for row in rows if row.status == MEASURED]
    drawn = []
    for task, plot in ((TRAINING, plot_training), (DECODING, plot_decoding)):
        own = [row for row in measured if row.task == task]
        if own:
            drawn.append(folder / "plots" / f"benchmark_{task.removesuffix('_speed')}.png")
            plot(own, _peak(about), drawn[-1])
    return drawn


def plot_training(rows: Sequence[Row], title: str, out: Path) -> None:
    """Draw bars of tokens per second and of MFU by backbone, method and mode; a stroke is the bare loop's."""
    groups = list(dict.fromkeys((row.backbone, row.method) for row in rows))
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    height = 0.8 / len(modes)
    with plots.plot(out, columns=2, size=(12, 1.8 + 0.3 * len(groups) * len(modes)), sharey=True) as (canvas, axes):
        for row in rows:
            place = groups.index((row.backbone, row.method)) + (modes.index(row.mode or "") + 0.5) * height - 0.4
            pairs = ((row.tokens_per_second, row.bare_tokens_per_second), (row.mfu, row.bare_mfu))
            for ax, (ours, bare), form in zip(axes, pairs, FORMS, strict=True):
                if ours is not None and bare is not None:
                    ax.barh(place, ours, height=0.85 * height, color=plots.COLOURS[MODES.index(row.mode or "")])
                    ax.plot([bare, bare], [place - 0.4 * height, place + 0.4 * height], color="black", linewidth=2)
                    ax.annotate(f"  {ours:{form}}", (max(ours, bare), place), va="center", fontsize=9)
        axes[0].set_yticks(range(len(groups)), [f"{method}, {backbone}" for backbone, method in groups], fontsize=11)
        axes[0].set_ylim(len(groups) - 0.5, -0.5)
        for ax, label, form in zip(axes, ("training tokens per second", "MFU: share of the peak"), FORMS, strict=True):
            ax.set_xlabel(label)
            ax.margins(x=0.15)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.xaxis.set_major_formatter(lambda value, _, form=form: format(value, form))
            plots.grid(ax, axis="x")
        legend: list[Any] = [Patch(color=plots.COLOURS[MODES.index(mode)], label=mode) for mode in modes]
        legend.append(Line2D([], [], color="black", linewidth=2, label="the bare loop"))
        canvas.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False)
        canvas.suptitle(title, x=0.01, ha="left", fontsize=11)


def plot_decoding(rows: Sequence[Row], title: str, out: Path) -> None:
    """Draw tokens per second of each decoder against the number of texts that are written at once."""
    settings = list(dict.fromkeys((row.method, row.decoder) for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    curves = [[row for row in rows if (row.method, row.decoder) == setting] for setting in settings]
    room = sum(plots.label_height(_label(curve[0])) for curve in curves)
    with plots.plot(out, size=(10, max(5, room + 1.5))) as (canvas, (ax,)):
        plots.logarithmic(ax.xaxis, ax.set_xscale)
        plots.logarithmic(ax.yaxis, ax.set_yscale)
        for curve in curves:
            method = methods.index(curve[0].method)
            nth = [one for one in settings if one[0] == curve[0].method].index((curve[0].method, curve[0].decoder))
            ax.plot(
                [row.batch for row in curve],
                [row.tokens_per_second or 0.0 for row in curve],
                color=plots.COLOURS[method % len(plots.COLOURS)],
                marker=MARKERS[nth % len(MARKERS)],
                linewidth=2,
                label=_label(curve[0]),
            )
        ax.minorticks_off()
        ax.set_xticks(sorted({row.batch for row in rows}))
        ax.set_xlabel("texts at once")
        ax.set_ylabel("tokens per second, over all texts")
        plots.grid(ax)
        _legend(ax)
        canvas.suptitle(f"{title}; {rows[0].backbone}, {rows[0].length} tokens a text", x=0.01, ha="left", fontsize=11)


def _legend(ax: Axes) -> None:
    """Right of the axes, the fastest on top."""
    lines = sorted(ax.get_lines(), key=lambda line: -float(line.get_ydata()[-1]))
    ax.legend(handles=lines, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=11)


def _label(row: Row) -> str:
    return f"{row.method}\n{row.decoder}"


def _peak(about: dict[str, Any]) -> str:
    sheet = f"; {about['sheet_flops'] / 1e12:,.0f} by its data sheet" if about["sheet_flops"] else ""
    return (
        f"{about['device']}: peak {about['peak_flops'] / 1e12:,.3g} TFLOP/s in {about['dtype']}, a matrix product "
        f"measured in this run{sheet}"
    )


def _counts(row: Row) -> list[str]:
    counts = [row.operations] if row.kernels is None else [row.kernels, row.waits]
    return ["" if count is None else f"{count:,}" for count in counts]


def _training_cells(row: Row) -> list[str]:
    return [
        *(row.method, row.backbone, row.mode or ""),
        *(f"{row.tokens_per_second:,.0f}", f"{row.bare_tokens_per_second:,.0f}", f"{row.ratio:.3f}"),
        "" if row.mfu is None else f"{row.mfu:.1%}",
        "" if row.memory_gib is None else f"{row.memory_gib:.2f}",
        *_counts(row),
    ]


def _decoding_cells(row: Row) -> list[str]:
    return [
        *(row.method, row.decoder or "", str(row.batch)),
        *(f"{row.tokens_per_second:,.0f}", f"{row.tokens_per_forward:.2f}"),
        "" if row.memory_gib is None else f"{row.memory_gib:.2f}",
        *_counts(row),
    ]


def _table(title: str, header: Sequence[str], lines: Any) -> str:
    """A table as text; columns that are blank all the way down are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = [column for column in zip(header, *lines, strict=True) if any(column[1:])]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        words = index < 2 or column[0] == "mode"
        table.add_column(column[0], justify="left" if words else "right", no_wrap=True)
    for cells in list(zip(*columns, strict=True))[1:]:
        table.add_row(*cells)
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m experiments.analysis.benchmark", description="Tables and plots.")
    parser.add_argument("run", type=Path, metavar="RUN", help=f"run folder with a {FILE}")
    folder = parser.parse_args(arguments).run
    about, rows = read_rows(folder)
    print(tables(about, rows))
    for path in draw(folder, about, rows):
        print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
