"""Reads the folder of a comparison; what is missing stays out, what is damaged is refused in a sentence."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from experiments.analysis import decoding_table as table
from experiments.analysis.files import number, read_json, read_records, read_table
from experiments.analysis.likelihood import read_windows
from experiments.analysis.report.comparison import Comparison, Likelihood, Method, Setting
from experiments.analysis.trace import read_trace

SCHEMA = 1
FILE = "comparison.json"
AGAIN = "run the comparison again"
LIKELIHOOD_COLUMNS = (
    *("method", "split", "likelihood", "kind", "nats_per_token"),
    *("standard_error", "bits_per_character", "windows", "tokens"),
)
KINDS = {  # of what comparison.json and its methods may hold, or leave out
    **dict.fromkeys(
        ("title", "dataset", "split", "command", "git_commit", "folder", "default", "description", "part"), str
    ),
    **dict.fromkeys(("seed", "steps", "parameters"), int),
    **dict.fromkeys(("sampling", "machine", "versions", "training", "review"), dict),
    **dict.fromkeys(("methods", "judges", "controls", "frontier", "speed"), list),
}

T = TypeVar("T")


def read_comparison(folder: Path) -> Comparison:
    """Reads a folder that experiment=comparison wrote.

    Raises FileNotFoundError where it is none, and ValueError, in a sentence that names the file, for another schema
    and for whatever is damaged.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {FILE}: give the run folder of an experiment=comparison.")
    about = read_json(path, dict, AGAIN)
    if about.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has the schema {about.get('schema')!r} and this report reads {SCHEMA}: take the version of the "
            f"code that wrote it, or {AGAIN}."
        )
    _check(about, path)
    methods = tuple(_method(entry, folder, path) for entry in _entries(about, "methods", path))
    if not methods or len({method.label for method in methods}) < len(methods):
        raise ValueError(f"{path} must name at least one method, and each once: {AGAIN}.")
    rows = tuple(table.read_rows(folder / "results.csv"))
    return Comparison(
        folder=folder,
        about=about,
        methods=methods,
        controls=tuple(_setting(entry, path) for entry in _entries(about, "controls", path)),
        judges=tuple(_entries(about, "judges", path)),
        likelihoods=tuple(_likelihoods(folder / "likelihood.csv")),
        windows=_each(folder / "likelihoods", ".csv", methods, read_windows),
        rows=rows,
        groups=_groups(rows, folder / "results.csv"),
        samples=_samples(folder / "samples.jsonl"),
        flags=_flags(folder / "flags.json"),
        traces=_each(folder / "traces", ".json", methods, read_trace),
    )


def _method(entry: dict[str, Any], folder: Path, path: Path) -> Method:
    _check(entry, path)
    where = folder / entry["folder"] if entry.get("folder") else None
    return Method(
        label=_typed(entry, "label", str, path),
        algorithm=_typed(entry, "algorithm", str, path),
        description=entry.get("description") or entry["algorithm"],  # older files have none
        folder=where if where is not None and where.is_dir() else None,
        trained_here=bool(entry.get("trained_here")),
        command=entry.get("command"),
        parameters=entry.get("parameters"),
        training=entry.get("training") or {},
        default=entry.get("default"),
        frontier=tuple(entry.get("frontier") or ()),
        speed=tuple(entry.get("speed") or ()),
    )


def _likelihoods(path: Path) -> Iterator[Likelihood]:
    if not path.is_file():
        return
    header, rows = read_table(path)
    if tuple(header) != LIKELIHOOD_COLUMNS:
        raise ValueError(f"{path} has other columns than a comparison writes: {AGAIN}.")
    for row in rows:
        read = {name: number(row[name], name, path) for name in LIKELIHOOD_COLUMNS[4:]}
        numbers = {name: value if math.isfinite(value) else None for name, value in read.items()}  # NaN: of one window
        nats, kind = numbers["nats_per_token"], row["kind"]
        if nats is None or not kind:
            raise ValueError(f"{path} holds a likelihood without its value or its kind: {AGAIN}.")
        counts = [None if count is None else int(count) for count in (numbers["windows"], numbers["tokens"])]
        error, bits = numbers["standard_error"], numbers["bits_per_character"]
        yield Likelihood(row["method"], row["split"], row["likelihood"], kind, nats, error, bits, *counts)


def _groups(rows: tuple[table.Row, ...], path: Path) -> dict[Setting, table.Row]:
    found: dict[Setting, table.Row] = {}
    for group in table.aggregate(rows):
        setting = (group["method"], group["setting"])
        if setting in found:
            raise ValueError(
                f"{path} measured '{setting[1]}' of '{setting[0]}' in more than one way (weights, length, prompt or "
                "judges differ): a report shows one; make each comparison in a folder of its own."
            )
        found[setting] = group
    return found


def _samples(path: Path) -> dict[Setting, dict[int, dict[str, Any]]]:
    """Records of samples.jsonl; a last line that a kill cut short is none."""
    found: dict[Setting, dict[int, dict[str, Any]]] = {}
    for record in read_records(path):
        try:
            found.setdefault((record["method"], record["setting"]), {})[record["seed"]] = {
                "prompt": str(record["prompt"]),
                "origins": [int(origin) for origin in record["origins"]],
                "texts": [str(text) for text in record["texts"]],
            }
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path} holds a line that is no record of samples: move the file away.") from None
    return found


def _flags(path: Path) -> dict[Setting, tuple[str, ...]]:
    if not path.is_file():
        return {}
    return {_setting(entry, path): tuple(_typed(entry, "flags", list, path)) for entry in read_json(path, list, AGAIN)}


def _each(folder: Path, suffix: str, methods: tuple[Method, ...], read: Callable[[Path], T]) -> dict[str, T]:
    """What `read` makes of the file of each method that has one."""
    files = {method.label: folder / f"{method.label}{suffix}" for method in methods}
    return {label: read(file) for label, file in files.items() if file.is_file()}


def _check(entry: dict[str, Any], path: Path) -> None:
    """Raise ValueError where something that is there is of another kind than what a comparison writes."""
    for name, kind in KINDS.items():
        if entry.get(name) is not None:
            _typed(entry, name, kind, path)


def _entries(about: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    found = about.get(name) or []
    if not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{path} is damaged ('{name}' is no list of entries): {AGAIN}.")
    return found


def _typed(entry: Any, name: str, kind: type[T], path: Path) -> T:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{path} is damaged (no proper '{name}'): {AGAIN}.")
    return value


def _setting(entry: Any, path: Path) -> Setting:
    return _typed(entry, "method", str, path), _typed(entry, "setting", str, path)
