"""Sweeps: every job of --multirun is a child process in a folder of its own, and a table of them ends the sweep.

A child sees an ordinary single run: so a crash, a GPU or a DDP launch of one job cannot disturb the others. The sweep's
folder keeps a record of every job, jobs/NUMBER.json, wherever the job's own folder lies.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.analysis.decoding_table import render
from experiments.analysis.files import table_text, write
from experiments.run import interrupts
from experiments.run.devices import jobs_at_once, share_of_devices
from experiments.run.errors import FULL_ERROR_IS_OURS, sentence
from experiments.run.files import read_json, write_json
from experiments.run.folder import ROOT, command, is_begun, remove_unused
from experiments.run.lock import RunLock
from experiments.run.overrides import key_of, quote
from experiments.run.processes import is_first_process

COLUMNS = ("val/nll", "val/nll ±", "test/nll", "test/nll ±", "likelihood", "tokens/s", "minutes", "status")
FOLDER = "SWEEP_FOLDER_SET_BY_MAIN"  # in the environment of a launcher's workers
STOP = "stop"  # a file in the sweep's folder, by which all its workers learn that it is to end
POLL_SECONDS = 0.2
_lock: list[RunLock] = []


@contextmanager
def session() -> Iterator[None]:
    """The time of a sweep in the process that was started for it: a request to stop ends its jobs, each at a point from
    which it can go on, and then the sweep, in its table."""
    try:
        with interrupts.postponed("the jobs that run end at their next step, and with them the sweep", then=_stop):
            yield
    except interrupts.Interrupted as stop:
        folder = os.environ.get(FOLDER)
        if folder is None:
            print(f"interrupted by {stop}: no job has begun", file=sys.stderr)
        else:
            report(Path(folder))
            resuming = command(f"resume={folder}")
            print(f"interrupted by {stop}: {resuming} goes on", file=sys.stderr)
        raise
    finally:
        while _lock:
            _lock.pop().__exit__()
        folder = os.environ.pop(FOLDER, None)
        if folder is not None:
            (Path(folder) / STOP).unlink(missing_ok=True)


class ResultsTable(Callback):
    """Takes the folder of a sweep; in the end collects its jobs into results.csv, results.md and comparison.png, prints
    the table, and fails if one of the jobs failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _lock.append(RunLock(folder).__enter__())
        except (ValueError, OSError) as error:
            print(f"error: {sentence(error, sys.argv[1:])}", file=sys.stderr)
            raise SystemExit(1) from error  # Hydra turns any Exception of a callback into a warning
        os.environ[FOLDER] = str(folder)
        (folder / STOP).unlink(missing_ok=True)  # of a sweep that was killed

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if interrupts.requested():
            return  # the session reports
        rows = report(Path(os.environ[FOLDER]))
        failed = [row["job"] for row in rows if row["status"] != "ok"]
        if failed or not rows:
            which = f"{len(failed)} of {len(rows)} jobs failed: {', '.join(failed)}" if rows else "no job has run"
            print(f"error: {which}", file=sys.stderr)
            raise SystemExit(1)


def run_child(settings: Any, folder: Path) -> float:
    """Run one job of a sweep in a child process, or go on with it; its val/nll, NaN where it failed or was stopped."""
    sweep = Path(os.environ.get(FOLDER) or settings.sweep.dir)
    place = sweep / "jobs" / f"{settings.job.num}.json"
    record = read_json(place)
    if (sweep / STOP).exists():
        remove_unused(folder)  # which Hydra has made
    elif record.get("exit_status") != 0:
        overrides = list(settings.overrides.task)
        goes_on = bool(record) and is_begun(folder)
        if goes_on:
            arguments = [f"resume={quote(str(folder))}"]
        else:
            group = [] if any(key_of(o) == "logger.group" for o in overrides) else [f"logger.group={quote(sweep.name)}"]
            arguments = [*overrides, *group, f"hydra.run.dir={quote(str(folder))}"]
        arguments += [o for o in settings.overrides.hydra if key_of(o) == "hydra.searchpath"]
        slots = jobs_at_once(settings.launcher, os.environ)
        environment = child_environment() | share_of_devices(os.environ, settings.job.num, slots)
        began, before = time.time(), record.get("seconds", 0.0)
        inside = folder.relative_to(sweep) if folder.is_relative_to(sweep) else folder
        record = {"folder": str(inside), "overrides": overrides, "exit_status": None, "seconds": before}
        _keep(place, record)
        ended = goes_on and read_json(folder / "summary.json").get("status") == "finished"  # while the sweep was killed
        status = 0 if ended else _wait_for(arguments, environment, sweep / STOP)
        record |= {"exit_status": status, "seconds": before + time.time() - began}
        _keep(place, record)
    if interrupts.is_listening() and (signum := interrupts.requested()):
        raise interrupts.Interrupted(signum)  # the jobs that are left do not begin
    value = read_json(folder / "summary.json").get("figures", {}).get("val/nll")
    return float("nan") if record.get("exit_status") != 0 or value is None else float(value)


def _keep(place: Path, record: dict[str, Any]) -> None:
    if is_first_process():  # a cluster may run a job in several processes
        write_json(place, record)


def _wait_for(arguments: list[str], environment: dict[str, str], stop: Path) -> int:
    """Exit status of main.py with these arguments, which is told of a request to stop: by a signal, or by the file."""
    program = [sys.executable, str(ROOT / "main.py"), *arguments]
    child = subprocess.Popen(program, env=environment, **interrupts.OWN_GROUP)
    with _ready(), interrupts.forwarded(child):
        is_told = False
        while child.poll() is None:
            time.sleep(POLL_SECONDS)
            if not is_told and not interrupts.requested() and stop.exists():
                child.terminate()
                is_told = True
    return child.returncode


@contextmanager
def _ready() -> Iterator[None]:
    """Requests to stop are taken in a launcher's worker as the main process takes them in session(), but in silence."""
    if interrupts.is_listening():
        yield
    else:
        os.environ[interrupts.SILENT] = "1"
        with suppress(interrupts.Interrupted), interrupts.listening(), interrupts.postponed("", then=_stop):
            yield


def _stop() -> None:
    """Tell the workers of this sweep, some of which may be elsewhere, that it is to end."""
    folder = os.environ.get(FOLDER)
    if folder is not None:
        (Path(folder) / STOP).touch()


def child_environment() -> dict[str, str]:
    """This process's, less what main() has put into it for itself; of requests to stop the parent alone speaks."""
    environment = {name: value for name, value in os.environ.items() if name != FOLDER} | {interrupts.SILENT: "1"}
    if environment.pop(FULL_ERROR_IS_OURS, None):
        del environment["HYDRA_FULL_ERROR"]
    return environment


def report(folder: Path) -> list[dict[str, str]]:
    """Write the table of the jobs so far and their curves, print it, and return its rows."""
    rows = collect(folder)
    if rows:
        header = ["job", "algorithm", "overrides", *COLUMNS]
        lines = [[row[name] for name in header] for row in rows]
        table = render(header, lines)
        write(folder / "results.csv", table_text(header, lines))
        write(folder / "results.md", table)
        _draw_curves(folder, rows)
        print(f"\n{table}\nsweep folder: {folder}", flush=True)
    return rows


def collect(folder: Path) -> list[dict[str, str]]:
    """One row per job of a sweep folder, in order; `overrides` are those that tell the jobs apart."""
    rows: list[dict[str, Any]] = []
    for file in sorted((folder / "jobs").glob("*.json"), key=lambda file: int(file.stem)):
        record = read_json(file)
        job = folder / record["folder"]
        summary = read_json(job / "summary.json")
        figures, training = summary.get("figures", {}), summary.get("training", {})
        rows.append(
            {
                "job": record["folder"],
                "algorithm": summary.get("algorithm", ""),
                "overrides": record["overrides"],
                "val/nll": _number(figures.get("val/nll"), ".4f"),
                "val/nll ±": _number(figures.get("val/nll_error"), ".4f"),
                "test/nll": _number(figures.get("test/nll"), ".4f"),
                "test/nll ±": _number(figures.get("test/nll_error"), ".4f"),
                # exact, or a bound: not to be ranked together, nor with what is of a part of the split
                "likelihood": summary.get("likelihood_kind", "") + ", partial" * bool(summary.get("partial")),
                "tokens/s": _number(training.get("tokens_per_second"), ".0f"),
                "minutes": _number(record["seconds"] / 60, ".1f"),
                "status": _status(record["exit_status"]),
            }
        )
    shared = set.intersection(*(set(r["overrides"]) for r in rows)) if len(rows) > 1 else set()
    return [r | {"overrides": " ".join(o for o in r["overrides"] if o not in shared)} for r in rows]


def _status(exit_status: int | None) -> str:
    """What a job's exit status means; one that was not seen to end has none."""
    if exit_status is None or exit_status in interrupts.EXIT_STATUSES:
        return "interrupted"
    return "ok" if exit_status == 0 else f"failed ({exit_status})"


def _draw_curves(folder: Path, rows: list[dict[str, str]]) -> None:
    """The validation curves of the jobs that trained, over each other."""
    from experiments.analysis import curves  # matplotlib: only where a sweep has ended

    trained = {}
    for row in rows:
        job = folder / row["job"]
        if row["status"] == "ok" and curves.validated(job):
            trained[f"{row['job']}: {row['overrides']}"] = job
    if trained:
        curves.plot_curves(trained, folder / "comparison.png")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
