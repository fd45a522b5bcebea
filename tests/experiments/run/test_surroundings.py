"""A terminal that cannot show everything, a user without a name or a home, a file system without links."""

import getpass
import io
import os
import sys
from pathlib import Path

import pytest

from experiments.run import surroundings
from experiments.run.folder import LATEST, link_latest, newest_with_weights, pointed
from experiments.run.texts import as_written


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"? 1.5 ? 0.1"), ("cp1252", b"? 1.5 \xb1 0.1")])
def test_a_terminal_shows_what_it_can(encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that ends at a sample, or at the bar of its progress, because the terminal lacks a character."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    surroundings.settle_in()
    print("█ 1.5 ± 0.1", end="", flush=True)
    assert stream.buffer.getvalue() == shown


def test_a_user_without_name_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a container whose user the system does not know: torch.compile, W&B and Matplotlib end in tracebacks."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(surroundings.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(surroundings.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "mine")
    surroundings.settle_in()
    assert os.environ["USER"].startswith("user-") and os.environ["HOME"] == str(tmp_path)
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path) and os.environ["XDG_CACHE_HOME"] == "mine"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with weights, below a working folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/d/1-a")
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("[]", encoding="utf-8")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    return folder


def test_latest_run_without_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a machine without symbolic links, on which load=latest-run and resume=latest-run find nothing."""

    def refused(self: Path, target: object) -> None:
        raise OSError("links are not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    link_latest(run)
    assert LATEST.is_file() and LATEST.read_text(encoding="utf-8") == f"{run}\n"
    assert pointed(LATEST) == run and pointed(Path("latest-run/checkpoints/last.ckpt")).is_file()
    assert as_written(["load=latest-run", "resume=latest-run"]) == [f"load='{run}'", f"resume='{run}'"]
    link_latest(run)  # over itself


def test_load_auto_is_the_newest_run_with_weights(run: Path) -> None:
    """Catches load=auto that takes a run without weights, or an older one."""
    assert as_written(["load=auto"]) == [f"load='{run}'"]
    job = Path("multirun/d/2-b/0")
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text("[]", encoding="utf-8")
    assert newest_with_weights() == run
    (job / "checkpoints").mkdir()
    (job / "checkpoints" / "best.ckpt").write_bytes(b"")
    os.utime(run / "checkpoints" / "last.ckpt", (1, 1))
    assert newest_with_weights() == job
    (job / "checkpoints" / "best.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="load=auto: no run below outputs/ or multirun/ has weights"):
        as_written(["load=auto"])
