"""Likelihoods of single windows: means with standard errors, and paired differences between two models.

    python -m experiments.analysis.likelihood RUN_A RUN_B

prints how many nats per token RUN_B's likelihoods stand above RUN_A's, over the same windows. W windows.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tokens", *windows.nats])
        for index, tokens in enumerate(windows.tokens):
            writer.writerow([int(tokens), *(repr(float(values[index])) for values in windows.nats.values())])


def read_windows(path: Path) -> Windows:
    """The windows of a file, or of the one in a run folder. Raises FileNotFoundError, or ValueError without rows."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: run the task likelihood first")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "tokens" not in rows[0]:
        raise ValueError(f"{path} holds no windows: run the task likelihood again")
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
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
    return {
        (a, b): mean_per_token(second.nats[b] - first.nats[a], first.tokens) for a in first.nats for b in second.nats
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m experiments.analysis.likelihood RUN_A RUN_B", file=sys.stderr)
        return 2
    try:
        gaps = paired_gaps(*(read_windows(Path(argument)) for argument in arguments))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for (a, b), (gap, error) in gaps.items():
        print(f"{b} - {a}: {gap:+.4f} ± {error:.4f} nats per token")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
