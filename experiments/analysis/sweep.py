"""A decoding sweep, or several pooled, from their files alone: means, differences from a baseline, fronts, plots.

    python -m experiments.analysis.sweep RUN [RUN ...] [--out FOLDER] [--baseline SETTING]

Rows that differ in number or length of texts, prompt or judge are never held against each other: where there are
several such classes, each gets a folder of its own. What was not measured is blank.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.analysis import decoding_table as table
from experiments.analysis import paired, pareto, sweep_pages, sweep_plots
from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import table_text, write
from experiments.analysis.metrics import BY_KEY, QUALITY

Row = table.Row


class Comparison(NamedTuple):
    """A setting held against the baseline: aggregated rows, and what paired.compare says with the baseline as A."""

    group: Row
    baseline: Row
    compared: dict[str, Any]


def analyse(folders: Sequence[Path], out: Path, baseline: str | None = None) -> list[Path]:
    """Write tables and plots of the sweeps in `folders` below `out`; the files written.

    `baseline` names a setting, or "METHOD: SETTING". Raises FileNotFoundError for a folder without results.csv, and
    ValueError for one of another schema, rows that contradict each other, and a baseline that is not there.
    """
    rows = pool(folders)
    classes = [[rows[index] for index in members] for members in pareto.classes(rows)]
    classes = [members for members in classes if any(map(_generated, members))]
    if not classes:
        raise ValueError(f"{', '.join(map(str, folders))}: no row of a decoder is there yet; let the sweep go on first")
    if baseline is not None and not any(_is(baseline, row) for row in rows):
        settings = dict.fromkeys(row["setting"] for row in rows if _generated(row))
        raise ValueError(f"no setting is called '{baseline}': choose among {', '.join(settings)}")
    written: list[Path] = []
    for folder, members in zip(_folders(classes, out), classes, strict=True):
        groups = table.aggregate(members)
        comparisons = [] if baseline is None else compare_all(members, groups, baseline)
        written += _write(folder, groups, comparisons, baseline)
    return written


def pool(folders: Sequence[Path]) -> list[Row]:
    """Rows of all folders. One that several hold counts once, as first timed; what has no model has no weights."""
    found: dict[str, Row] = {}
    repeated = 0
    for folder in folders:
        path = Path(folder) / "results.csv"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: give the run folder of a decoding sweep or of a comparison")
        for read in table.read_rows(path):
            row = read if _generated(read) else read | {"weights": None}
            known = found.setdefault(table.identity(row), row)
            if known is row:
                continue
            both = [name for name in QUALITY if known[name] is not None and row[name] is not None]  # versions differ
            if json.dumps([known[name] for name in both]) != json.dumps([row[name] for name in both]):
                raise ValueError(
                    f"{path}: '{row['setting']}' at seed {row['seed']} has other values than elsewhere with the same "
                    "weights and seed, as of another corpus, machine or version: analyse the runs apart"
                )
            repeated += 1
    if repeated:
        _say(f"{repeated} rows are there more than once, with the same texts: each counts once, as first timed")
    return list(found.values())


def names_of(groups: Sequence[Row]) -> list[str]:
    """What to call each aggregated row of a class: its setting, and as much more as tells it from the others."""
    weights: dict[str, set[str]] = {}
    for group in filter(_generated, groups):
        weights.setdefault(group["method"], set()).add(group["weights"])
    names = []
    for group in groups:
        method = f"{group['method']}: " if _generated(group) and len(weights) > 1 else ""
        several = len(weights.get(group["method"], ())) > 1
        names.append(f"{method}{group['setting']}" + (f" [{group['weights']}]" if several else ""))
    decoders = [group["decoder"] or {} for group in groups]
    found = []
    for name, own in zip(names, decoders, strict=True):
        alike = [decoder for decoder, other in zip(decoders, names, strict=True) if other == name]
        told = [f"{key}={value}" for key, value in own.items() if any(other.get(key) != value for other in alike)]
        found.append(" ".join([name, *told]))
    return found


def compare_all(rows: Sequence[Row], groups: Sequence[Row], baseline: str) -> list[Comparison]:
    """Every other setting of a class against the baseline: that of its own weights if there is one, else the only one.

    Raises ValueError where several could be meant. Settings that share no seed with it are left out, in a class
    without it all are.
    """
    found = []
    for group in filter(_generated, groups):
        named = [other for other in groups if _is(baseline, other)]
        bases = [other for other in named if other["weights"] == group["weights"]] or named
        if len(bases) > 1:
            meant = " or ".join(f"'{base['method']}: {base['setting']}' of {base['weights']}" for base in bases)
            raise ValueError(f"baseline '{baseline}' could be {meant}: say METHOD: SETTING, or analyse the runs apart")
        if bases and bases[0] is not group:
            real = [row for row in rows if row["setting"] == table.HELD_OUT]
            sides = [[row for row in rows if _belongs(row, side)] for side in (bases[0], group)]
            compared = paired.compare(sides[0], sides[1], real)
            if compared["wins"]["seeds"]:
                found.append(Comparison(group, bases[0], compared))
            else:
                _say(f"{group['method']}: {group['setting']} shares no seed with the baseline: no difference is paired")
    return found


def _write(out: Path, groups: list[Row], comparisons: list[Comparison], baseline: str | None) -> list[Path]:
    """The files of one class."""
    names = names_of(groups)
    fronts = pareto.fronts(groups)
    written = [out / "aggregated.csv", out / "pareto.md"]
    write(written[0], table_text(*_aggregated(groups, fronts)))
    write(written[1], sweep_pages.pareto_page(groups, names))
    written += sweep_plots.plot_settings(groups, names, fronts, out)
    if baseline is not None and not comparisons:
        _say(f"{out}: nothing stands beside the baseline '{baseline}', so there are no differences")
    if not comparisons or baseline is None:
        return written
    files = [out / name for name in ("differences.csv", "wins.csv", "differences.md")]
    write(files[0], table_text(*_differences(comparisons)))
    write(files[1], table_text(*_wins(comparisons)))
    by_name = {names[groups.index(comparison.group)]: comparison.compared for comparison in comparisons}
    write(files[2], sweep_pages.differences_page(by_name, baseline))
    return [*written, *files, *sweep_plots.plot_differences(by_name, baseline, out)]


def _aggregated(groups: Sequence[Row], fronts: Sequence[list[str]]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of aggregated.csv: mean, standard deviation and number of seeds of every metric."""
    header = [*table.GROUP, "seeds", "fronts"]
    header += [f"{name}{part}" for name in BY_KEY for part in ("", "_sd", "_n")]
    lines = []
    for group, on in zip(groups, fronts, strict=True):
        decoder = None if group["decoder"] is None else json.dumps(group["decoder"], ensure_ascii=False)
        own = [decoder if name == "decoder" else group[name] for name in table.GROUP]
        values = [value for name in BY_KEY for value in (group[name] or (None, None, None))]
        lines.append([*own, " ".join(map(str, group["seeds"])), ", ".join(on), *values])
    return header, lines


WHICH = ["method", "setting", "weights", "baseline_method", "baseline"]


def _which(comparison: Comparison) -> list[Any]:
    return [*(comparison.group[name] for name in WHICH[:3]), *(comparison.baseline[name] for name in WHICH[:2])]


def _differences(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of differences.csv: a setting's metric minus the baseline's, over the seeds that both have."""
    lines = []
    for comparison in comparisons:
        for name, metric in comparison.compared["figures"].items():
            if (gap := metric["difference"]) is not None:
                lines.append([*_which(comparison), name, gap["seeds"], gap["mean"], gap["low"], gap["high"]])
    return [*WHICH, "figure", "seeds", "difference", "low", "high"], lines


def _wins(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of wins.csv: points of a setting and of the baseline at each seed, and who has which."""
    sides = {"A": "baseline", "B": "setting", "tie": "tie", None: None}
    lines = []
    for comparison in comparisons:
        for seed in comparison.compared["wins"]["seeds"]:
            points = [sides[seed["points"][name]] for name in paired.POINTS]
            lines.append([*_which(comparison), seed["seed"], seed["B"], seed["A"], sides[seed["winner"]], *points])
    return [*WHICH, "seed", "points_setting", "points_baseline", "winner", *paired.POINTS], lines


def _folders(classes: Sequence[Sequence[Row]], out: Path) -> list[Path]:
    """Where each class goes: `out` itself where there is one, else below it by amount of text."""
    if len(classes) == 1:
        return [out]
    names = [f"{members[0]['n_samples']}x{members[0]['length']}" for members in classes]
    before = [names[:index].count(name) for index, name in enumerate(names)]
    return [out / (name if not count else f"{name}-{count + 1}") for name, count in zip(names, before, strict=True)]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _generated(row: Row) -> bool:
    return row["method"] not in table.MODELLESS


def _is(setting: str, row: Row) -> bool:
    return _generated(row) and setting in (row["setting"], f"{row['method']}: {row['setting']}")


def _belongs(row: Row, group: Row) -> bool:
    return table.identity(row, table.GROUP) == table.identity(group, table.GROUP)


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m experiments.analysis.sweep", description="Analyse decoding sweeps.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder with a results.csv")
    parser.add_argument("--out", type=Path, help="folder to write to (default: analysis in the first run folder)")
    parser.add_argument("--baseline", metavar="SETTING", help="a setting, or 'METHOD: SETTING', to compare with")
    given = parser.parse_args(arguments)
    print(*analyse(given.runs, given.out or given.runs[0] / "analysis", given.baseline), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
