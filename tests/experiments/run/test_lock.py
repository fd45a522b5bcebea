"""A run folder is one process's at a time."""

import json
import os
import time
from pathlib import Path

import pytest

from experiments.run import lock
from experiments.run.lock import LOCK, RunLock, started


def write_lock(folder: Path, **changed: object) -> None:
    own = {"host": lock.socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
    (folder / LOCK).write_text(
        json.dumps(own | {"token": "theirs", "heartbeat": time.time()} | changed), encoding="utf-8"
    )


def test_a_lock_holds_and_goes(tmp_path: Path) -> None:
    """Catches two processes in one folder, and a file that is left behind."""
    with RunLock(tmp_path):
        with pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on "), RunLock(tmp_path):
            pass
        assert {"host", "pid", "heartbeat"} <= json.loads((tmp_path / LOCK).read_text(encoding="utf-8")).keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", [{"pid": 2**22 + 1}, {"started": "another time"}])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, changed: dict) -> None:
    """Catches a lock that outlives a kill, and a later process of the same number that is taken for the first."""
    write_lock(tmp_path, **changed)
    with RunLock(tmp_path) as taken:
        assert taken.note is not None and "is gone" in taken.note
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_cut_short_is_taken_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a fresh lock that is removed for the broken one that lay there before."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    (tmp_path / LOCK).write_text('{"host": "a', encoding="utf-8")
    os.utime(tmp_path / LOCK, (0, 0))
    broken = RunLock(tmp_path)._read()
    assert broken is not None and "token" not in broken
    with RunLock(tmp_path):
        assert not RunLock(tmp_path)._remove(broken)
        assert (tmp_path / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ahead", [-1000.0, 1000.0])
def test_the_lock_of_another_machine_is_stale_without_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Catches a job that a cluster moved to another machine and that can never go on, whatever that machine's clock."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.05)
    write_lock(tmp_path, host="elsewhere", heartbeat=time.time() + ahead)
    with RunLock(tmp_path) as taken:
        assert taken.note is not None and "on elsewhere" in taken.note


def test_the_lock_of_another_machine_holds_while_it_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run on another machine that is taken for dead since its process number means nothing here, or since
    its clock is slow."""
    write_lock(tmp_path, host="elsewhere", heartbeat=0.0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: write_lock(tmp_path, host="elsewhere", heartbeat=10.0))
    with pytest.raises(ValueError, match="in use by process"), RunLock(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["host"] == "elsewhere"


def test_a_lock_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a time that stands still, by which a long run would be taken for dead."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.001)
    with RunLock(tmp_path):
        first = json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["heartbeat"]
        while json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["heartbeat"] == first:
            time.sleep(0.001)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_was_taken_over_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two processes that write into one folder after one of them had stood still."""
    left: list[int] = []

    def leave(status: int) -> None:
        left.append(status)
        raise SystemExit  # ends the thread that beats

    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(lock.os, "_exit", leave)
    with RunLock(tmp_path):
        write_lock(tmp_path)
        while not left:
            time.sleep(0.001)
    assert left == [1] and json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["token"] == "theirs"
