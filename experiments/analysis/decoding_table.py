"""Rows of a decoding sweep: their schema, results.csv read back, means over seeds, and the table for people.

A row is one setting of a method's decoder at one seed, or as much real text, or what a sampler without a model wrote.
`seed` is that of sampling, and `training_seed` tells the trainings of one method in a comparison. What was not
measured is blank and None, never 0. Its metrics are those of metrics.py.
"""

import csv
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.analysis.files import table_text
from experiments.analysis.metrics import BY_KEY, TABLE, shown_in
from experiments.analysis.pareto import fronts

Row = dict[str, Any]

REAL = "real text"  # in the place of a method, with one of the next two as setting
HELD_OUT, TRAINING_TEXT = "held-out text", "training text"
CONTROL = "control"  # in the place of a method: samplers without a model, which no metric should take for language
SPREAD_FROM = 3  # seeds from which on a standard deviation is given
GROUP = ("method", "setting", "decoder", "n_samples", "length", "prompt", "weights", "judge")  # alike in an average
IDENTITY = (*GROUP, "seed")  # no two rows are alike in these
OWN = ("method", "setting", "options", "decoder", "seed", "n_samples", "length", "prompt", "weights", "judge")
TRAINING_SEED = "training_seed"  # which weights: blank of a single model, of real text and of controls
COLUMNS = (*OWN, TRAINING_SEED, *BY_KEY)
MODELLESS = (CONTROL, REAL)
JSON_COLUMNS = ("options", "decoder")
WHOLE = ("seed", TRAINING_SEED, "n_samples", "length", *(name for name, metric in BY_KEY.items() if metric.whole))


class Spread(NamedTuple):
    """Mean over the seeds that have the metric, and the sample standard deviation where they are enough: training seeds
    where there are several, else sampling seeds."""

    mean: float
    sd: float | None
    seeds: int


def identity(row: Row, names: Sequence[str] = IDENTITY) -> str:
    """What tells a row from all others, as a key. An option of null says no more than one that is not there, as in rows
    that were made before decoders had it."""
    return json.dumps([_without_null(row[name]) for name in names], sort_keys=True)


def _without_null(value: Any) -> Any:
    return {key: own for key, own in value.items() if own is not None} if isinstance(value, dict) else value


def read_rows(path: Path) -> list[Row]:
    """Rows of a results.csv; a last one that was cut short by a kill is left out. No file: no rows.

    A metric that the file has no column for was not measured. Columns of other versions stay as they are, as text at
    the end of each row, and are named on the error output. Raises ValueError where the file has not the columns that
    say what a row is of, or a value that is no number.
    """
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8")  # line ends as they are: a prompt may hold any
    header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    if lines and (len(lines[-1]) != len(header) or not text.endswith("\n")):
        lines.pop()
    if not {*OWN} <= {*header} or any(len(line) != len(header) for line in lines):
        of = "another version of this schema" if {"setting", "seed"} <= {*header} else "something else"
        raise ValueError(
            f"{path} has other columns than those of a decoding sweep, it is of {of}: move it away, or choose another "
            "hydra.run.dir"
        )
    if unknown := [name for name in header if name not in COLUMNS]:
        left = ", ".join(unknown)
        print(f"{path} has columns that are not known here, which are left alone: {left}", file=sys.stderr)
    missing = dict.fromkeys(COLUMNS)
    return [missing | {key: _value(key, cell, path) for key, cell in zip(header, row, strict=True)} for row in lines]


def write_rows(rows: Sequence[Row], columns: Sequence[str] = COLUMNS, *, header: bool = False) -> str:
    """Rows as lines of a results.csv, below their header if asked for."""
    written = table_text(columns, ([_cell(name, row.get(name)) for name in columns] for row in rows))
    return written if header else written.partition("\n")[2]


def aggregate(rows: Sequence[Row]) -> list[Row]:
    """One row per setting, in order of appearance, controls and then real text last: what its rows share, `seeds` of
    sampling, `training_seeds`, and a Spread or None for every metric. Rows of other weights, lengths, prompts or judges
    are never averaged together, but for weights that are told apart by their training seed."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        one_model = row[TRAINING_SEED] is None
        alike = GROUP if one_model else [name for name in GROUP if name != "weights"]
        groups.setdefault(identity(row, alike), []).append(row)
    found = []
    for members in groups.values():
        shared = {name: members[0][name] for name in (*GROUP, "options")}
        seeds = {f"{each}s": list(dict.fromkeys(row[each] for row in members)) for each in ("seed", TRAINING_SEED)}
        found.append(shared | seeds | {name: spread(over_seeds(members, name)) for name in BY_KEY})
    return sorted(found, key=lambda group: MODELLESS.index(group["method"]) if group["method"] in MODELLESS else -1)


def by_training_seed(rows: Sequence[Row], metric: str) -> dict[int | None, float]:
    """Training seed -> mean of a metric over the sampling seeds that have it."""
    found: dict[int | None, list[float]] = {}
    for row in rows:
        if row[metric] is not None:
            found.setdefault(row[TRAINING_SEED], []).append(row[metric])
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def over_seeds(rows: Sequence[Row], metric: str) -> list[float]:
    """The values of a setting that its mean and its interval are of: one for each training seed where there are
    several, else one for each sampling seed."""
    if len({row[TRAINING_SEED] for row in rows}) > 1:
        return list(by_training_seed(rows, metric).values())
    return [row[metric] for row in rows if row[metric] is not None]


def summary_means(groups: Sequence[Row]) -> dict[str, float]:
    """`method/setting/metric` -> mean, of the metrics that the table shows: as summary.json and W&B name them."""
    return {
        f"{group['method']}/{group['setting']}/{name}": group[name].mean
        for group in groups
        for name in shown_in(TABLE)
        if group[name] is not None
    }


def markdown_table(groups: Sequence[Row]) -> str:
    """Aggregated rows as a table of Markdown: mean ± standard deviation over training seeds where there are several,
    else over sampling seeds, blank where nothing was measured; last the Pareto fronts that a row is on."""
    several = len({group["method"] for group in groups} - {*MODELLESS}) > 1
    shown = [BY_KEY[name] for name in shown_in(TABLE)]
    trained = any(len(group["training_seeds"]) > 1 for group in groups)
    header = [*["method"] * several, "setting", *["training seeds"] * trained, "seeds"]
    header += [*(metric.heading for metric in shown), "front"]
    lines = []
    for group, on in zip(groups, fronts(groups), strict=True):
        cells = [_shown(group[metric.key], metric.form) for metric in shown]
        own = [*[group["method"]] * several, group["setting"]]
        own += ["" if group["method"] in MODELLESS else str(len(group["training_seeds"]))] * trained
        lines.append([*own, str(len(group["seeds"])), *cells, ", ".join(on)])
    return render(header, lines)


def render(header: list[str], lines: Sequence[list[str]]) -> str:
    """A table of Markdown with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, *lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def spread(values: Sequence[float]) -> Spread | None:
    """Of the values of several seeds; None without one."""
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) >= SPREAD_FROM else None
    return Spread(statistics.fmean(values), sd, len(values))


def brief(found: Spread | None) -> str:
    """Four digits of the mean ± two of the deviation; blank without a value."""
    if found is None:
        return ""
    sd = "" if found.sd is None else f" ± {float(format(found.sd, '.2g')):g}"  # 500, not 5e+02
    return f"{found.mean:.4g}{sd}"


def _shown(found: Spread | None, form: str) -> str:
    if found is None:
        return ""
    return format(found.mean, form) + ("" if found.sd is None else f" ± {found.sd:{form}}")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if name in JSON_COLUMNS else str(value)


def _value(name: str, cell: str, path: Path) -> Any:
    if name in ("method", "setting", "prompt"):
        return cell
    if not cell:
        return None
    if name in ("weights", "judge") or name not in COLUMNS:
        return cell
    try:
        return json.loads(cell) if name in JSON_COLUMNS else int(cell) if name in WHOLE else float(cell)
    except ValueError:
        raise ValueError(f"{path}: column '{name}' holds '{cell}', which cannot be read: move the file away") from None
