"""main.log: what was shown, once, and nothing of a run that never began."""

import sys
from pathlib import Path

import pytest

from experiments.run import transcript
from tests.conftest import Main


def test_main_log_holds_what_the_terminal_showed(smoke: Main) -> None:
    """Catches lines that are lost, doubled by Hydra's logging, or missing from what a resumed run adds."""
    first = smoke("hydra.run.dir=run", "experiment.tasks=[training,sampling]")
    log = Path("run/main.log").read_text(encoding="utf-8")
    assert (first.status, first.err) == (0, "") and log == first.out
    again = smoke("resume=run")
    assert again.status == 0
    added = Path("run/main.log").read_text(encoding="utf-8").removeprefix(log)
    assert added.splitlines() == [*again.err.splitlines(), *again.out.splitlines()]


def test_an_error_stands_in_the_log_of_a_run_that_began(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a log that ends before the sentence that says what went wrong."""
    from experiments.language_modeling import LanguageModeling

    def fail(self: object) -> None:
        raise ValueError("the task failed: mend it")

    monkeypatch.setattr(LanguageModeling, "test", fail)
    outcome = smoke("hydra.run.dir=run", "experiment.tasks=[training,test]")
    assert outcome.status == 1
    assert Path("run/main.log").read_text(encoding="utf-8").endswith("--- test\nerror: the task failed: mend it\n")


def test_lines_drawn_over_each_other_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a log that holds every state of the line of progress, or stops at a line without an end."""

    @transcript.recorded
    def main() -> int:
        print("before")
        print("\r\033[Kstep 1", end="")
        print("\r\033[Kstep 2", end="")
        transcript.write_to(tmp_path / "main.log")
        print("\r\033[Kval/nll 1.5")
        print("a warning", file=sys.stderr)
        print("no end", end="")
        return 3

    assert main() == 3
    shown = capsys.readouterr()
    assert "step 1\r\033[Kstep 2" in shown.out and shown.err == "a warning\n"
    assert (tmp_path / "main.log").read_text(encoding="utf-8") == "before\nval/nll 1.5\na warning\nno end\n"


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    """Catches a log in the folder of a start that failed."""
    assert transcript.recorded(lambda: print("x") or 0)() == 0
    assert list(tmp_path.iterdir()) == []
