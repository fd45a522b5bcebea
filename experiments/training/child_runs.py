"""Trains what a comparison lacks: every run is a process with a folder of its own, begun once, resumed if stopped.

A child is an ordinary run, so its command line, kept in `ChildRun.command`, does the same by hand.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from experiments.run import interrupts
from experiments.run.devices import share_of_devices
from experiments.run.files import read_json
from experiments.run.folder import ROOT, is_begun, stored_overrides
from experiments.run.overrides import key_of, quote
from experiments.run.processes import alone
from experiments.run.sweep import POLL_SECONDS, child_environment

TAIL_BYTES = 4000


@dataclass(frozen=True)
class ChildRun:
    """A training run: what it is called, where it writes, and its overrides."""

    label: str
    folder: Path
    overrides: list[str]
    group: str  # under which its curves are logged

    @property
    def command(self) -> str:
        """What does the same by hand, in a folder of that run's own."""
        return shlex.join(["python", "main.py", *self.overrides])

    @property
    def finished(self) -> bool:
        return read_json(self.folder / "summary.json").get("status") == "finished"

    def check(self) -> None:
        """Raise ValueError if the folder holds a run that was begun with other settings: it would be taken for this."""
        if not is_begun(self.folder):
            return
        begun, asked = (  # loggers only look, and theirs has the name of the comparison's folder, which may change
            {override for override in overrides if key_of(override).partition(".")[0] != "logger"}
            for overrides in (stored_overrides(self.folder), self._own)
        )
        if begun != asked:
            raise ValueError(
                f"{self.folder} was begun with other settings ({', '.join(sorted(begun ^ asked))}): start a new "
                "comparison, or remove that folder"
            )

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def arguments(self) -> list[str]:
        """The command line of the process: from the start, or to go on with what was begun."""
        if is_begun(self.folder):
            return [f"resume={quote(str(self.folder))}"]
        return [*self._own, f"hydra.run.dir={quote(str(self.folder))}"]

    @property
    def _own(self) -> list[str]:
        return [*self.overrides, f"logger.group={quote(self.group)}"]


def train(children: Sequence[ChildRun], *, workers: int, report: Callable[[str], None], every: float) -> None:
    """Run those that are not finished, `workers` at a time with a share of the cores and GPUs each; a line for each
    `every` so many seconds. Raises ValueError naming the first that fails, once the others were stopped; a request to
    stop goes on to those that run, and is answered when they have ended."""
    waiting = [child for child in children if not child.finished]
    running: list[tuple[ChildRun, subprocess.Popen]] = []
    slots: dict[str, int] = {}  # of those that run: each has its own share of the GPUs
    said = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(interrupts.postponed("the trainings end at their next step"))
        stack.callback(_stop, running)
        while running or (waiting and not interrupts.requested()):
            while waiting and len(running) < workers and not interrupts.requested():
                child = waiting.pop(0)
                slot = min({*range(workers)} - {*slots.values()})
                slots[child.label] = slot
                running.append((child, _start(child, slot, workers)))
                stack.enter_context(interrupts.forwarded(running[-1][1]))
            time.sleep(POLL_SECONDS)
            for child, process in list(running):
                if process.poll() is None:
                    continue
                running.remove((child, process))
                del slots[child.label]
                if interrupts.requested():
                    continue
                if process.returncode or not child.finished:
                    reason = last_line(child.log).removeprefix("error: ")
                    raise ValueError(f"the training of '{child.label}' failed ({reason}): see {child.log}")
                summary = read_json(child.folder / "summary.json")
                figures = summary["figures"]
                error = figures.get("test/nll_error")  # a single window has none
                known = "" if error is None else f" ± {error:.4f}"
                report(f"{child.label}: test/nll {figures['test/nll']:.4f}{known}")
            if time.monotonic() - said >= every and not interrupts.requested():
                said = time.monotonic()
                for child, _ in running:
                    report(f"{child.label}: {last_line(child.log)}")


def _stop(running: Sequence[tuple[ChildRun, subprocess.Popen]]) -> None:
    for _, process in running:
        process.terminate()
    for _, process in running:
        process.wait()


def last_line(log: Path) -> str:
    """The last line that a child has printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")


def _start(child: ChildRun, slot: int, workers: int) -> subprocess.Popen:
    arguments = child.arguments()
    child.log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    encoding = {"PYTHONIOENCODING": "utf-8"}  # of the log
    environment = {"OMP_NUM_THREADS": threads} | alone(child_environment()) | encoding
    environment |= share_of_devices(environment, slot, workers)
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    with child.log.open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, **interrupts.OWN_GROUP)
