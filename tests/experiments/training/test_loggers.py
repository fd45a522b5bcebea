"""metrics.csv, and when W&B is online."""

import csv
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.run.build import compose_run
from experiments.run.composition import composing
from experiments.run.schema import LoggerConfig
from experiments.training import loggers
from experiments.training.loggers import CsvLogger, StepsDoneCsv, build_loggers


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def log(logger: CsvLogger, step: int, **metrics: float) -> None:
    logger.log_metrics(metrics, step)
    logger.save()


def test_one_row_a_step_with_columns_that_grow(path: Path) -> None:
    """Catches figures of one step that are spread over rows, and old rows lost when a column comes in."""
    logger = CsvLogger(path)
    log(logger, 1, a=1.0)
    log(logger, 2, a=2.0)
    log(logger, 2, b=5.0)
    log(logger, 3, a=3.0)
    log(logger, 4, b=7.5)
    assert rows(path) == [
        {"step": "1", "a": "1.0", "b": ""},
        {"step": "2", "a": "2.0", "b": "5.0"},
        {"step": "3", "a": "3.0", "b": ""},
        {"step": "4", "a": "", "b": "7.5"},
    ]


def test_a_value_logged_twice_stands_once(path: Path) -> None:
    """Catches the row that a checkpoint writes ahead of Lightning, doubled when Lightning follows."""
    logger = CsvLogger(path)
    for _ in range(2):
        log(logger, 1, a=1.0)
    log(logger, 2, a=2.0)
    assert [r["step"] for r in rows(path)] == ["1", "2"]


def test_rows_are_appended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a logger that writes the whole file at each row: the cost of a long run would grow with its square."""
    logger = CsvLogger(path)
    log(logger, 0, a=0.0)
    monkeypatch.setattr(logger, "_rewrite", lambda _: pytest.fail("the file was written anew"))
    for step in range(1, 50):
        log(logger, step, a=step)
    assert len(rows(path)) == 50


def test_a_resumed_file_is_cut_at_the_checkpoint(path: Path) -> None:
    """Catches rows beyond the checkpoint that would stand twice, and a last row cut short by a kill."""
    logger = CsvLogger(path)
    for step in (3, 6, 9, 12):
        log(logger, step, a=step / 3, b=step)
    with path.open("a", encoding="utf-8") as file:
        file.write("1")
    resumed = CsvLogger(path, resume_step=9)
    log(resumed, 12, a=40.0, c=1.0)
    assert [(r["step"], r["a"], r["c"]) for r in rows(path)] == [
        ("3", "1.0", ""),
        ("6", "2.0", ""),
        ("9", "3.0", ""),
        ("12", "40.0", "1.0"),
    ]


def test_rows_count_steps_done_and_carry_tokens(path: Path) -> None:
    """Catches a curve that is off by one step against the checkpoints, and validation without a token axis."""
    logger = StepsDoneCsv(path)
    logger.trainer = SimpleNamespace(global_step=10)
    logger.tokens = 640
    logger.log_metrics({"val/nll": 2.0, "epoch": 0}, 9)
    logger.save()
    assert rows(path) == [{"step": "10", "val/nll": "2.0", "train/tokens": "640"}]


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_wandb_is_offline_without_a_login(no_login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that waits for an account, or one with an account that stays offline."""
    assert not loggers._logged_in()
    (no_login / ".netrc").write_text("machine elsewhere.org login a password b\n", encoding="utf-8")
    assert not loggers._logged_in()
    (no_login / ".netrc").write_text("machine api.wandb.ai login user password made-up\n", encoding="utf-8")
    assert loggers._logged_in()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not loggers._logged_in()
    monkeypatch.delenv("WANDB_MODE")
    (no_login / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    assert loggers._logged_in()


def test_runs_are_filed_by_what_they_are() -> None:
    """Catches names that say nothing, and runs of the faithful recipe in the group of another method."""

    def filed(*overrides: str) -> dict:
        with composing():
            return loggers.filed_under(compose_run(["logger=wandb", *overrides]))

    assert filed("algorithm=df_lm_faithful", "seed=3") == {
        "name": "df_lm_faithful-shakespeare-seed3",
        "group": "df_lm_faithful-shakespeare",
        "job_type": "shakespeare",
        "tags": ["df_lm_faithful", "shakespeare", "tiny_nanogpt"],
    }
    own = ("name=mine", "logger.group=g", "logger.wandb.job_type=j", "logger.wandb.tags=[a]")
    assert filed(*own) == {"name": "mine", "group": "g", "job_type": "j", "tags": ["a"]}
    assert filed("logger.wandb.tags=[]")["tags"] == []


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an import error in the middle of training."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run: Any = SimpleNamespace(logger=LoggerConfig(tensorboard=True))
    with pytest.raises(ValueError, match="pip install tensorboard"):
        build_loggers(run, tmp_path, None)


def test_tensorboard_compares_finished_runs(tmp_path: Path) -> None:
    """Catches a page HPARAMS without the likelihoods that runs are compared by, or with a placeholder for them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = loggers.StepsDoneTensorBoard(save_dir=str(tmp_path), name="tensorboard", version="")
    logger.log_hyperparams({"seed": 0, "algorithm": {"name": "gpt"}})
    loggers.close([logger], {"val/nll": 1.5, "test/nll": 1.75, "test/ppl": 5.75, "likelihood_kind": "exact"})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == {"val/nll": 1.5, "test/nll": 1.75}
    shown = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"algorithm/name" in shown and b"val/nll" in shown and b"test/nll" in shown
