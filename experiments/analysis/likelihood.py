"""Likelihoods of single windows: means with standard errors, and paired differences between two models.

    python -m experiments.analysis.likelihood RUN_A RUN_B

prints how many nats per token RUN_B's likelihoods stand above RUN_A's, over the same windows. W windows.
"""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import number, read_table, table_text, write

FILE = "likelihood_windows.csv"


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
    if not np.array_equal(first.tokens, second.tokens):
        raise ValueError(
            f"the runs were evaluated on different windows ({len(first.tokens)} and {len(second.tokens)}): take the "
            "same dataset, split and block_size for both"
        )
    pairs = itertools.product(first.nats, second.nats)
    return {(a, b): mean_per_token(second.nats[b] - first.nats[a], first.tokens) for a, b in pairs}


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.analysis.likelihood", description="Differences of two runs."
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="run folder with a likelihood_windows.csv")
    for (a, b), (gap, error) in paired_gaps(*map(read_windows, parser.parse_args(arguments).runs)).items():
        print(f"{b} - {a}: {gap:+.4f} ± {error:.4f} nats per token")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
