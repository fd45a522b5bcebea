"""Reads the records a run leaves in its folder: metrics.csv (one row per logging call) and summary.json.

Columns of metrics.csv are sparse, as training and validation log at different times: missing is NaN, never 0.
N rows of the file.
"""

from pathlib import Path

import numpy as np

from experiments.analysis.files import number, read_json, read_table

Metrics = dict[str, np.ndarray]


def read_metrics(path: Path) -> Metrics:
    """Columns of a metrics.csv, or of the one in a run folder: name -> (N,) float64, NaN where missing.

    Raises FileNotFoundError without the file, ValueError for one without rows or without a column `step`,
    or with a value that is no number.
    """
    path = Path(path)
    path = path / "metrics.csv" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give a run folder that holds metrics.csv, or that file itself."
        )
    names, rows = read_table(path)
    if not rows:
        raise ValueError(f"{path} has no rows yet; let the run log at least once.")
    if "step" not in names:
        raise ValueError(f"{path} has no column 'step'; give the metrics.csv of one of this project's runs.")
    return {name: np.array([number(row[name], name, path) for row in rows]) for name in names}


def series(metrics: Metrics, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric where it was logged, both (n,), by rising step.

    Of two rows of one step the later wins: a resumed run repeats steps. An unknown name gives two empty
    arrays: a run that never validated has no such column.
    """
    steps = metrics["step"]
    values = metrics.get(name, np.full(len(steps), np.nan))
    logged = ~np.isnan(values) & ~np.isnan(steps)
    latest = dict(zip(steps[logged].tolist(), values[logged].tolist(), strict=True))
    order = sorted(latest)
    return np.array(order), np.array([latest[step] for step in order])


def tokens_per_step(metrics: Metrics) -> float | None:
    """Training tokens of one step, a constant of a run; None where `train/tokens` was not logged.

    Validation rows carry no token count: hence a factor for all rows, not a lookup.
    """
    steps, tokens = series(metrics, "train/tokens")
    return float(tokens[-1] / steps[-1]) if len(steps) and steps[-1] > 0 else None


def summary_text(path: Path, key: str) -> str | None:
    """What the run's summary says under `key`, such as likelihood_kind or loss_unit; None where it says nothing.

    Raises ValueError where it is not a JSON object.
    """
    file = (path if path.is_dir() else path.parent) / "summary.json"
    value = read_json(file, dict, "run the task that writes it again").get(key) if file.is_file() else None
    return value if isinstance(value, str) else None
