"""Sweeps: jobs as child processes, one failing, and their table."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.run import sweep
from tests.conftest import Main

FIRST_JOB = SimpleNamespace(  # what Hydra tells of it
    overrides=SimpleNamespace(task=["seed=1"], hydra=[]), launcher={}, job=SimpleNamespace(num=0)
)


def write_job(sweep_folder: Path, number: int, overrides: list[str], status: int | None, figures: dict) -> None:
    job = sweep_folder / "jobs" / f"{number}.json"
    job.parent.mkdir(exist_ok=True)
    place = sweep_folder.parent / f"elsewhere-{number}"
    place.mkdir()
    record = {"folder": str(place), "overrides": overrides, "exit_status": status, "seconds": 90}
    job.write_text(json.dumps(record), encoding="utf-8")
    if figures:
        summary = {
            "algorithm": "df_lm_faithful",
            "figures": figures,
            "likelihood_kind": "bound",
            "partial": {"val": "2 of 3"},
        }
        summary |= {"training": {"tokens_per_second": 1234.5}}
        (place / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def test_table_of_jobs(tmp_path: Path) -> None:
    """Catches jobs elsewhere or out of order, a failed one left out, columns of constants, and a bound that stands
    among exact likelihoods as if it were one."""
    tmp_path = tmp_path / "sweep"
    tmp_path.mkdir()
    figures = {"val/nll": 1.5, "val/nll_error": 0.025, "test/nll": 1.75}
    for number in (0, 2, 10):
        write_job(tmp_path, number, ["algorithm=gpt", f"seed={number}"], 0, figures)
    write_job(tmp_path, 3, ["algorithm=gpt", "seed=3"], 1, {})
    write_job(tmp_path, 4, ["algorithm=gpt", "seed=4"], 130, {})
    write_job(tmp_path, 5, ["algorithm=gpt", "seed=5"], None, {})
    rows = sweep.collect(tmp_path)
    assert [Path(row["job"]).name for row in rows] == [f"elsewhere-{number}" for number in (0, 2, 3, 4, 5, 10)]
    assert rows[0] == {
        "job": str(tmp_path.parent / "elsewhere-0"),
        "algorithm": "df_lm_faithful",
        "overrides": "seed=0",
        "val/nll": "1.5000",
        "val/nll ±": "0.0250",
        "test/nll": "1.7500",
        "test/nll ±": "",
        "likelihood": "bound, partial",
        "tokens/s": "1234",
        "minutes": "1.5",
        "status": "ok",
    }
    assert (rows[2]["val/nll"], rows[2]["status"]) == ("", "failed (1)")
    assert rows[3]["status"] == rows[4]["status"] == "interrupted"


def test_a_sweep_survives_a_failed_job(smoke: Main) -> None:
    """Catches a bad job that stops the sweep or is hidden by it, and jobs that share a folder or lack a group."""
    outcome = smoke("--multirun", "experiment.tasks=[training]", "experiment.training.max_steps=0,1")
    assert outcome.status == 1
    assert "error: experiment.training.max_steps is 0" in outcome.err and "1 of 2 jobs failed: 0" in outcome.err
    folder = next(Path("multirun").glob("*/*"))
    assert (folder / "1" / "checkpoints" / "last.ckpt").is_file() and (folder / "results.md").is_file()
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed (1)", "ok"]
    assert float(rows[1]["val/nll"]) > 0 and rows[1]["overrides"] == "experiment.training.max_steps=1"
    assert f"group: {folder.name}" in (folder / "1" / ".hydra" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("status", "figures", "expected"), [(0, {"val/nll": 1.5}, 1.5), (1, {"val/nll": 1.5}, None)])
def test_what_a_sweeper_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, figures: dict, expected: float | None
) -> None:
    """Catches an optimiser of hyperparameters that is fed the figure of a failed job, or none."""
    (tmp_path / "summary.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    monkeypatch.setattr(sweep, "_wait_for", lambda *a: status)
    monkeypatch.setenv(sweep.FOLDER, str(tmp_path))
    value = sweep.run_child(FIRST_JOB, tmp_path)
    assert value == expected or (expected is None and value != value)


def test_a_job_that_ended_while_the_sweep_was_killed_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a finished job, which may have nothing to go on from, that is resumed and counts as failed."""
    write_job(tmp_path, 0, ["seed=1"], None, {})
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[seed=1]", encoding="utf-8")
    summary = {"status": "finished", "figures": {"val/nll": 1.5}}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    monkeypatch.setenv(sweep.FOLDER, str(tmp_path))
    monkeypatch.setattr(sweep, "_wait_for", lambda *a: pytest.fail("was started again"))
    assert sweep.run_child(FIRST_JOB, tmp_path) == 1.5
    assert json.loads((tmp_path / "jobs" / "0.json").read_text(encoding="utf-8"))["exit_status"] == 0
