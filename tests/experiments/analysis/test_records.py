"""Records of a run as they lie on disk: sparse columns, resumed and broken files."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import records

CSV = "epoch,step,train/loss,train/tokens,val/nll\n0,9,3.0,80,\n0,9,,,2.5\n0,19,2.0,160,\n0,19,,,inf\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_missing_value_is_nan(tmp_path: Path) -> None:
    """Catches empty cells read as 0, which would draw a loss of 0 at every step without validation."""
    metrics = records.read_metrics(write(tmp_path, CSV))
    np.testing.assert_array_equal(metrics["val/nll"], [np.nan, 2.5, np.nan, np.inf])
    np.testing.assert_array_equal(records.read_metrics(tmp_path)["train/loss"], [3.0, np.nan, 2.0, np.nan])


def test_series_keeps_the_later_row_of_a_step_and_sorts(tmp_path: Path) -> None:
    """Catches a resumed run's curve that jumps back: repeated steps count once, by their last value."""
    path = write(tmp_path, "step,val/nll\n10,3\n20,2\n30,1.5\n20,2.2\n25,1.9\n40,\n")
    steps, values = records.series(records.read_metrics(path), "val/nll")
    np.testing.assert_array_equal(steps, [10, 20, 25, 30])
    np.testing.assert_array_equal(values, [3, 2.2, 1.9, 1.5])


def test_series_of_an_unknown_metric_is_empty(tmp_path: Path) -> None:
    """Catches a KeyError for a run that never validated."""
    steps, values = records.series(records.read_metrics(write(tmp_path, CSV)), "val/bpc")
    assert len(steps) == len(values) == 0


@pytest.mark.parametrize(
    ("rows", "expected"), [("10,80\n20,160\n", 8.0), ("10,80\n20,\n", 8.0), ("0,0\n", None), ("10,\n", None)]
)
def test_tokens_per_step(tmp_path: Path, rows: str, expected: float | None) -> None:
    """Catches a division by step 0, and tokens of one row divided by the step of another."""
    metrics = records.read_metrics(write(tmp_path, "step,train/tokens\n" + rows))
    assert records.tokens_per_step(metrics) == expected


def test_a_last_row_cut_short_is_read(tmp_path: Path) -> None:
    """Catches a run that was killed while writing and could not be drawn any more."""
    metrics = records.read_metrics(write(tmp_path, "step,train/loss,val/nll\n1,2.0,\n2,1.0"))
    np.testing.assert_array_equal(metrics["val/nll"], [np.nan, np.nan])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no rows yet"),
        ("step,val/nll\n", "no rows yet"),
        ("epoch,val/nll\n1,2\n", "no column 'step'"),
        ("step,val/nll\n1,good\n", "column 'val/nll' holds 'good'"),
    ],
)
def test_a_bad_metrics_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Catches a bare KeyError or IndexError for a file that is empty or not ours."""
    with pytest.raises(ValueError, match=sentence) as caught:
        records.read_metrics(write(tmp_path, text))
    assert "metrics.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Catches a message that names the folder the user gave and not the file that is missing in it."""
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv does not exist; give a run folder"):
        records.read_metrics(tmp_path)


def test_summary_and_its_texts(tmp_path: Path) -> None:
    """Catches a kind looked up in the wrong folder, or an error where a run has no summary yet."""
    path = write(tmp_path, CSV)
    assert records.summary_text(path, "likelihood_kind") is None
    (tmp_path / "summary.json").write_text(
        json.dumps({"likelihood_kind": "bound", "val": {"nll": 1.5}}), encoding="utf-8"
    )
    assert records.summary_text(path, "likelihood_kind") == "bound"
    assert records.summary_text(tmp_path, "likelihood_kind") == "bound"
    assert records.summary_text(tmp_path, "val") is None  # not a text


@pytest.mark.parametrize(("text", "sentence"), [("{", "not valid JSON"), ("[1]", "holds a list")])
def test_a_bad_summary_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Catches a traceback of the JSON reader, or a list that fails later where a key is looked up."""
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        records.summary_text(tmp_path, "likelihood_kind")
