"""Likelihoods of single windows: means with standard errors, and paired differences between two models.

    python -m experiments.analysis.likelihood RUN_A RUN_B

prints how many nats per token RUN_B's likelihoods stand above RUN_A's, over the same windows, each with its kind. W
windows.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import number, read_json, read_table, table_text, write

FILE = "likelihood_windows.csv"
EXACT, BOUND = "exact", "bound"


@dataclass(frozen=True)
class Windows:
    """Predicted tokens (W,) of every window, and its nats (W,) under each likelihood."""

    tokens: np.ndarray
    nats: dict[str, np.ndarray]


def mean_per_token(nats: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Nats per token of all windows, and the standard error of it over windows (NaN for a single one).

    A ratio of sums, as windows may differ in length (the last one of a split does).
    """
    mean = nats.sum() / tokens.sum()
    count = len(nats)
    if count < 2:
        return float(mean), float("nan")
    residual = nats - mean * tokens
    return float(mean), float(np.sqrt((residual**2).sum() * count / (count - 1)) / tokens.sum())


def write_windows(path: Path, windows: Windows) -> None:
    columns = [windows.tokens.astype(int), *(values.astype(float) for values in windows.nats.values())]
    write(path, table_text(["tokens", *windows.nats], zip(*(column.tolist() for column in columns), strict=True)))


def figures_over_trainings(name: str, nats: Sequence[float], errors: Sequence[float]) -> dict[str, float]:
    """What summary.json holds of one likelihood of several trainings of a method: their mean, `_error`, the standard
    error over windows that one of them has, and, of several, `_seed_sd`, their standard deviation."""
    found = {name: float(np.mean(nats)), f"{name}_error": window_error(errors)}
    return found | ({f"{name}_seed_sd": float(np.std(nats, ddof=1))} if len(nats) > 1 else {})


def window_error(errors: Sequence[float]) -> float:
    """Of one training among several: the quadratic mean of their standard errors over windows."""
    return errors[0] if len(errors) == 1 else float(np.sqrt(np.mean(np.square(errors))))


def mean_windows(trainings: Sequence[Windows]) -> Windows:
    """Nats of each window, the mean over several trainings of one method. Raises ValueError unless all are of the same
    windows."""
    first = trainings[0]
    for other in trainings[1:]:
        _check_same(first, other)
    return Windows(first.tokens, {name: np.mean([one.nats[name] for one in trainings], axis=0) for name in first.nats})


def read_windows(path: Path) -> Windows:
    """The windows of a file, or of the one in a run folder. Raises FileNotFoundError, or ValueError without rows."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: run the task likelihood first")
    header, rows = read_table(path)
    if not rows or "tokens" not in header:
        raise ValueError(f"{path} holds no windows: run the task likelihood again")
    columns = {name: np.array([number(row[name], name, path) for row in rows]) for name in header}
    return Windows(columns.pop("tokens"), columns)


def paired_gaps(first: Windows, second: Windows) -> dict[tuple[str, str], tuple[float, float]]:
    """For each likelihood of either: how far the second stands above the first, nats per token, with standard error.

    Raises ValueError unless both are of the same windows.
    """
    _check_same(first, second)
    pairs = itertools.product(first.nats, second.nats)
    return {(a, b): mean_per_token(second.nats[b] - first.nats[a], first.tokens) for a, b in pairs}


def _check_same(first: Windows, second: Windows) -> None:
    if not np.array_equal(first.tokens, second.tokens):
        raise ValueError(
            f"the runs were evaluated on different windows ({len(first.tokens)} and {len(second.tokens)}): take the "
            "same dataset, split and block_size for both"
        )


@dataclass(frozen=True)
class Recorded:
    """What a run recorded of its likelihoods: windows, kinds by name, and of which data, blank where it is not told."""

    path: Path
    windows: Windows
    kinds: dict[str, str]
    split: str
    dataset: str

    def named(self, likelihood: str) -> str:
        """A likelihood with its kind."""
        return f"{likelihood} ({self.kinds.get(likelihood, 'of unknown kind')})"


def read_recorded(path: Path) -> Recorded:
    """The record of a run folder, or of a method's file in a comparison's likelihoods/; raises as read_windows."""
    windows = read_windows(path)
    method = None if path.is_dir() else path.stem.partition("_seed=")[0]  # behind it a training seed
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "likelihoods" else path.parent
    table, summary = folder / "likelihood.csv", folder / "summary.json"
    rows = read_table(table)[1] if table.is_file() else []
    own = [row for row in rows if row.get("method", method) == method or path.name == FILE]
    known = read_json(summary, dict, "run the task likelihood again") if summary.is_file() else {}
    return Recorded(
        path,
        windows,
        {row["likelihood"]: row["kind"] for row in own},
        next((row["split"] for row in own), ""),
        known.get("dataset_fingerprint") or "",
    )


def compared(first: Recorded, second: Recorded) -> list[str]:
    """A line for each pair of likelihoods of one name, and of those whose names the other run lacks.

    Raises ValueError where the runs were evaluated on different data.
    """
    for what in ("split", "dataset"):
        own, other = getattr(first, what), getattr(second, what)
        if own and other and own != other:
            raise ValueError(
                f"the runs were evaluated on another {what} each ({own} and {other}): take the same for both"
            )
    lines = []
    for (a, b), (gap, error) in paired_gaps(first.windows, second.windows).items():
        if a != b and a in second.windows.nats and b in first.windows.nats:
            continue
        reading = _reading(first.kinds.get(a), second.kinds.get(b))
        lines.append(f"B {second.named(b)} - A {first.named(a)}: {gap:+.4f} ± {error:.4f} nats per token{reading}")
    return lines


def _reading(a: str | None, b: str | None) -> str:
    """What a difference B - A of likelihoods of these kinds does not say."""
    if a == b:
        return "; of two bounds the lower one does not prove the better model" if a == BOUND else ""
    if (a, b) == (EXACT, BOUND):
        return "; a bound minus an exact value: the true gap may lie far below"
    if (a, b) == (BOUND, EXACT):
        return "; an exact value minus a bound: the true gap may lie far above"
    return "; of different kinds, which cannot be ranked"


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.analysis.likelihood", description="Differences of two runs."
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help=f"run folder with a {FILE}, or such a file")
    a, b = map(read_recorded, parser.parse_args(arguments).runs)
    print(f"A: {a.path}", f"B: {b.path}", *compared(a, b), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
