"""Being asked to stop: what is saved, what is said, and how it ends."""

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datasets import prepare
from experiments import language_modeling
from experiments.run import interrupts
from experiments.training.callbacks import NanGuard
from tests.conftest import Main

LONG = ("experiment.training.max_steps=9", "experiment.training.val_every_steps=100", "hydra.run.dir='a run=1'")


def ask(signum: int) -> None:
    os.kill(os.getpid(), signum)


def asking(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, signum: int, when: int = 1) -> None:
    """Ask this process to stop where a function is called for the given time, before it does its work."""
    real: Callable = getattr(owner, name)
    calls = []

    def call(*arguments, **named):
        calls.append(1)
        if len(calls) == when:
            ask(signum)
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


def status(folder: str = "a run=1") -> str:
    return json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))["status"]


def goes_on(main: Main, err: str) -> bool:
    """Whether the command line that was printed is one that finishes the run."""
    said = err.strip().splitlines()[-1]
    assert said.startswith("interrupted by ") and said.endswith(" goes on")
    words = shlex.split(said.partition(": ")[2].removesuffix(" goes on"))
    return main(*words[2:]).status == 0 and status() == "finished"


@pytest.mark.parametrize(("signum", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_training_is_saved_at_the_step(smoke: Main, main: Main, monkeypatch, signum: int, exit_status: int) -> None:
    """Catches Ctrl-C that loses the steps since the last checkpoint, or hides how to go on, and a path that a shell or
    Hydra takes apart."""
    asking(monkeypatch, NanGuard, "on_train_batch_end", signum, when=5)
    outcome = smoke(*LONG)
    assert outcome.status == exit_status and status() == "interrupted"
    assert torch.load("a run=1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert goes_on(main, outcome.err)
    steps = Path("a run=1/metrics.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in steps[1:]] == [str(step) for step in range(1, 10)]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(prepare, "check_not_empty"), (language_modeling, "write_samples")],
    ids=["preparing", "sampling"],
)
def test_other_work_ends_at_once(
    smoke: Main, main: Main, tmp_path: Path, monkeypatch, owner: object, name: str
) -> None:
    """Catches a hint that leads nowhere: before there is a checkpoint, or behind it."""
    asking(monkeypatch, owner, name, signal.SIGINT)
    outcome = smoke(
        "hydra.run.dir='a run=1'", "experiment.tasks=[training,sampling]", f"dataset.cache_dir={tmp_path}/c"
    )
    assert outcome.status == 130 and status() == "interrupted"
    assert goes_on(main, outcome.err)


def test_the_first_request_counts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a scheduler that says it twice, in two ways, and by that keeps a run from being saved; and a second
    Ctrl-C that has to wait."""
    left = []
    monkeypatch.setattr(interrupts.os, "_exit", left.append)
    for signums in ((signal.SIGTERM, signal.SIGINT, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)):
        with (
            pytest.raises(interrupts.Interrupted, match="SIGTERM" if signums[0] == signal.SIGTERM else "Ctrl-C"),
            interrupts.listening(),
            interrupts.postponed("later"),
        ):
            for signum in signums:
                assert left == []
                ask(signum)
    assert left == [130] and "SIGTERM: later; Ctrl-C again leaves at once" in capfd.readouterr().err


def test_handlers_are_put_back() -> None:
    """Catches a program that uses this one and can no longer be stopped."""
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.listening():
        assert interrupts.is_listening()
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before and not interrupts.is_listening()


def test_a_sweep_ends_in_its_table_and_goes_on(smoke: Main, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a stopped sweep that shows no table, runs its other jobs, or can only be begun anew; its jobs are not
    run for real here: the second is stopped at first."""
    from experiments.run import sweep

    started: list[list[str]] = []

    def wait_for(arguments: list[str], *rest: object) -> int:
        started.append(arguments)
        if len(started) == 2:
            ask(signal.SIGINT)
            return 130
        return 0

    monkeypatch.setattr(sweep, "_wait_for", wait_for)
    outcome = smoke("--multirun", "seed=1,2,3", "hydra.sweep.dir='a sweep'", "hydra.sweep.subdir='s/${seed}'")
    assert outcome.status == 130 and len(started) == 2
    assert "s/1" in outcome.out and "interrupted" in outcome.out and "s/3" not in outcome.out
    words = shlex.split(outcome.err.strip().splitlines()[-1].partition(": ")[2].removesuffix(" goes on"))
    outcome = main(*words[2:])
    assert outcome.status == 0 and len(started) == 4
    assert [next(o for o in arguments if o.startswith("seed=")) for arguments in started[2:]] == ["seed=2", "seed=3"]
    assert outcome.out.count("| ok") == 3


def test_a_sweep_whose_jobs_all_fail_is_an_error(smoke: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a sweep that ends well, and without a table, where its folders lie elsewhere."""
    from experiments.run import sweep

    monkeypatch.setattr(sweep, "_wait_for", lambda *arguments: 1)
    outcome = smoke("--multirun", "seed=1,2", f"hydra.sweep.subdir='{tmp_path}/elsewhere/${{seed}}'")
    assert outcome.status == 1 and outcome.out.count("failed (1)") == 2 and "2 of 2 jobs failed" in outcome.err
