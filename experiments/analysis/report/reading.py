"""Reads the folder of a comparison; what is missing stays out, what is damaged is refused in a sentence."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from experiments.analysis import decoding_table as table
from experiments.analysis.files import number, read_json, read_records, read_table
from experiments.analysis.likelihood import Windows, mean_windows, read_windows, window_error
from experiments.analysis.report.comparison import Comparison, Likelihood, Method, Setting, Training
from experiments.analysis.trace import read_trace

SCHEMA = 1
FILE = "comparison.json"
AGAIN = "run the comparison again"
LIKELIHOOD_COLUMNS = (
    *("method", "split", "likelihood", "kind", "nats_per_token"),
    *("standard_error", "bits_per_character", "windows", "tokens", table.TRAINING_SEED),
)
KINDS = {  # of what comparison.json and its methods may hold, or leave out
    **dict.fromkeys(
        ("title", "dataset", "split", "command", "git_commit", "folder", "default", "description", "part"), str
    ),
    **dict.fromkeys(("seed", "steps", "parameters"), int),
    **dict.fromkeys(("sampling", "machine", "versions", "training", "review"), dict),
    **dict.fromkeys(("methods", "trainings", "judges", "controls", "frontier", "speed"), list),
}

T = TypeVar("T")
Seeds = dict[str, list[int | None]]  # training seeds by method


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
    seeds = {method.label: [one.seed for one in method.trainings] for method in methods}
    rows = tuple(row for row in table.read_rows(folder / "results.csv") if _is_of(row, seeds))
    return Comparison(
        folder=folder,
        about=about,
        methods=methods,
        controls=tuple(_setting(entry, path) for entry in _entries(about, "controls", path)),
        judges=tuple(_entries(about, "judges", path)),
        likelihoods=tuple(_likelihoods(folder / "likelihood.csv", seeds)),
        windows=_windows(folder / "likelihoods", methods),
        rows=rows,
        groups=_groups(rows, folder / "results.csv"),
        samples=_samples(folder / "samples.jsonl", seeds),
        flags=_flags(folder / "flags.json"),
        traces=_each(folder / "traces", ".json", methods, read_trace),
    )


def _method(entry: dict[str, Any], folder: Path, path: Path) -> Method:
    _check(entry, path)
    label = _typed(entry, "label", str, path)
    trainings = _entries(entry, "trainings", path) or [entry]  # older files have the one
    return Method(
        label=label,
        algorithm=_typed(entry, "algorithm", str, path),
        description=entry.get("description") or entry["algorithm"],  # older files have none
        trainings=tuple(_training(one, label, folder, path) for one in trainings),
        trained_here=bool(entry.get("trained_here")),
        parameters=entry.get("parameters"),
        default=entry.get("default"),
        frontier=tuple(entry.get("frontier") or ()),
        speed=tuple(entry.get("speed") or ()),
    )


def _training(entry: dict[str, Any], label: str, folder: Path, path: Path) -> Training:
    _check(entry, path)
    where = folder / entry["folder"] if entry.get("folder") else None
    return Training(
        seed=entry.get("seed"),
        name=entry.get("name") or label,
        folder=where if where is not None and where.is_dir() else None,
        command=entry.get("command"),
        cost=entry.get("training") or {},
        numbered=bool(entry.get("numbered")),
    )


def _likelihoods(path: Path, seeds: Seeds) -> Iterator[Likelihood]:
    """Each with its values by training seed, in the order of the file."""
    if not path.is_file():
        return
    header, rows = read_table(path)
    if tuple(header) not in (LIKELIHOOD_COLUMNS, LIKELIHOOD_COLUMNS[:-1]):  # older files are of one training
        raise ValueError(f"{path} has other columns than a comparison writes: {AGAIN}.")
    found: dict[tuple[str, ...], dict[int | None, list[float]]] = {}
    for row in rows:
        values = [number(row[name], name, path) for name in LIKELIHOOD_COLUMNS[4:7]]  # an error of NaN: of one window
        if not math.isfinite(values[0]) or not row["kind"]:
            raise ValueError(f"{path} holds a likelihood without its value or its kind: {AGAIN}.")
        seed = int(row[table.TRAINING_SEED]) if row.get(table.TRAINING_SEED) else None
        if _is_of({"method": row["method"], table.TRAINING_SEED: seed}, seeds):
            found.setdefault(tuple(row[name] for name in LIKELIHOOD_COLUMNS[:4]), {})[seed] = values
    for (method, split, name, kind), by_seed in found.items():
        nats, errors, bits = zip(*by_seed.values(), strict=True)
        error, mean_bits = (value if math.isfinite(value) else None for value in (window_error(errors), fmean(bits)))
        values_by_seed = dict(zip(by_seed, nats, strict=True))
        yield Likelihood(method, split, name, kind, fmean(nats), error, mean_bits, values_by_seed)


def _is_of(row: dict[str, Any], seeds: Seeds) -> bool:
    """Whether a row is of a training that the comparison has; rows that do not tell theirs are of the only one."""
    own, seed = seeds.get(row["method"]), row.get(table.TRAINING_SEED)
    return own is None or own == [None] or seed in own or (seed is None and len(own) == 1)


def _is_of_first(record: dict[str, Any], seeds: Seeds) -> bool:
    """Whether a record of the comparison is of its method's first training."""
    own = seeds.get(record["method"])
    return own is None or len(own) == 1 or record.get(table.TRAINING_SEED) == own[0]


def _windows(folder: Path, methods: tuple[Method, ...]) -> dict[str, Windows]:
    """Of each method of which all trainings have them, their mean."""
    found = {}
    for method in methods:
        files = [folder / f"{one.name}.csv" for one in method.trainings]
        if all(file.is_file() for file in files):
            found[method.label] = mean_windows([read_windows(file) for file in files])
    return found


def _groups(rows: tuple[table.Row, ...], path: Path) -> dict[Setting, table.Row]:
    weights: dict[tuple[str, str, int | None], set[str | None]] = {}
    for row in rows:
        weights.setdefault((row["method"], row["setting"], row[table.TRAINING_SEED]), set()).add(row["weights"])
    found: dict[Setting, table.Row] = {}
    for group in table.aggregate(rows):
        setting = (group["method"], group["setting"])
        if setting in found or any(len(weights[*setting, seed]) > 1 for seed in group["training_seeds"]):
            raise ValueError(
                f"{path} measured '{setting[1]}' of '{setting[0]}' in more than one way (weights, length, prompt or "
                "judges differ): a report shows one; make each comparison in a folder of its own."
            )
        found[setting] = group
    return found


def _samples(path: Path, seeds: Seeds) -> dict[Setting, dict[int, dict[str, Any]]]:
    """Records of samples.jsonl that are of first trainings; a last line that a kill cut short is none."""
    found: dict[Setting, dict[int, dict[str, Any]]] = {}
    for record in read_records(path):
        try:
            if not _is_of(record, seeds) or not _is_of_first(record, seeds):
                continue
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
