"""Sweeps: every job of --multirun is a child process in a folder of its own, and a table of them ends the sweep.

A child sees an ordinary single run: so a crash, a GPU or a DDP launch of one job cannot disturb the others.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.analysis.decoding_table import render
from experiments.analysis.files import table_text, write
from experiments.run.devices import jobs_at_once, share_of_devices
from experiments.run.files import read_json, write_json
from experiments.run.folder import ROOT, is_first_process
from experiments.run.overrides import key_of, quote

COLUMNS = ("val/nll", "val/nll ±", "test/nll", "test/nll ±", "likelihood", "tokens/s", "minutes", "status")


def run_child(settings: Any, folder: Path) -> float:
    """Run one job of a sweep in a child process; its val/nll, NaN where it failed. A job that was queued again goes
    on where it was."""
    overrides = list(settings.overrides.task)
    if (folder / "checkpoints" / "last.ckpt").is_file():
        overrides.append(f"resume={quote(str(folder))}")
    if not any(key_of(o) == "logger.group" for o in overrides):
        overrides.append(f"logger.group={quote(folder.parent.name)}")
    overrides.append(f"hydra.run.dir={quote(str(folder))}")
    overrides += [o for o in settings.overrides.hydra if key_of(o) == "hydra.searchpath"]
    began = time.time()
    slots = jobs_at_once(settings.launcher, os.environ)
    environment = child_environment() | share_of_devices(os.environ, settings.job.num, slots)
    child = subprocess.run([sys.executable, str(ROOT / "main.py"), *overrides], env=environment)
    record = {"exit_status": child.returncode, "seconds": time.time() - began}
    if is_first_process():  # a cluster may run a job in several processes
        write_json(folder / "job.json", record)
    value = read_json(folder / "summary.json").get("figures", {}).get("val/nll")
    return float("nan") if child.returncode or value is None else float(value)


def child_environment() -> dict[str, str]:
    """This process's, without what main() has put into it for itself."""
    environment = dict(os.environ)
    if environment.pop("HYDRA_FULL_ERROR_SET_BY_MAIN", None):
        del environment["HYDRA_FULL_ERROR"]
    return environment


class ResultsTable(Callback):
    """Collects the jobs of a sweep into results.csv, results.md and comparison.png, prints the table, and fails if one
    of the jobs failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = collect(folder)
        if not rows:
            return
        header = ["job", "algorithm", "overrides", *COLUMNS]
        lines = [[row[name] for name in header] for row in rows]
        table = render(header, lines)
        write(folder / "results.csv", table_text(header, lines))
        write(folder / "results.md", table)
        _draw_curves(folder, rows)
        print(f"\n{table}\nsweep folder: {folder}")
        failed = [row["job"] for row in rows if row["status"] != "ok"]
        if failed:
            print(f"error: {len(failed)} of {len(rows)} jobs failed: {', '.join(failed)}", file=sys.stderr)
            raise SystemExit(1)  # Hydra turns any Exception of a callback into a warning


def collect(folder: Path) -> list[dict[str, str]]:
    """One row per job of a sweep folder, in order; `overrides` are those that tell the jobs apart."""
    rows: list[dict[str, Any]] = []
    for job in sorted((p.parent for p in folder.glob("*/job.json")), key=lambda p: (len(p.name), p.name)):
        record, summary = read_json(job / "job.json"), read_json(job / "summary.json")
        stored = job / ".hydra" / "overrides.yaml"
        overrides = yaml.safe_load(stored.read_text(encoding="utf-8")) if stored.is_file() else []
        figures, training = summary.get("figures", {}), summary.get("training", {})
        rows.append(
            {
                "job": job.name,
                "algorithm": summary.get("algorithm", ""),
                "overrides": [o for o in overrides if key_of(o) != "logger.group"],
                "val/nll": _number(figures.get("val/nll"), ".4f"),
                "val/nll ±": _number(figures.get("val/nll_error"), ".4f"),
                "test/nll": _number(figures.get("test/nll"), ".4f"),
                "test/nll ±": _number(figures.get("test/nll_error"), ".4f"),
                # exact, or a bound: not to be ranked together, nor with what is of a part of the split
                "likelihood": summary.get("likelihood_kind", "") + ", partial" * bool(summary.get("partial")),
                "tokens/s": _number(training.get("tokens_per_second"), ".0f"),
                "minutes": _number(record["seconds"] / 60, ".1f"),
                "status": "ok" if record["exit_status"] == 0 else f"failed ({record['exit_status']})",
            }
        )
    shared = set.intersection(*(set(r["overrides"]) for r in rows)) if len(rows) > 1 else set()
    return [r | {"overrides": " ".join(o for o in r["overrides"] if o not in shared)} for r in rows]


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
