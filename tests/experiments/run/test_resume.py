"""A run killed at any moment and resumed is, bit for bit, the run that was never stopped."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.experiments.run.kill_driver import KILLS

ROOT = Path(__file__).parents[3]
MAY_DIFFER = ("/callbacks/Speed/seconds", "/overrides/")  # time, and the word resume=
OVERRIDES = [
    "debug=smoke",
    "dataset=text_file",
    "algorithm.backbone.n_embd=16",
    "algorithm.backbone.block_size=32",
    "algorithm.backbone.dropout=0.1",
    "experiment.training.max_steps=24",
    "experiment.training.val_every_steps=8",
    "experiment.training.checkpoint_every_steps=3",
    "experiment.training.accumulate_grad_batches=2",
    "experiment.training.ema_decay=0.9",
    "experiment.tasks=[training,test]",
    "logger.log_every_steps=3",
]
CASES = [*(("gpt", kill) for kill in KILLS), *((m, "between_checkpoints") for m in ("df_lm", "diffusion_flow"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """All runs of this file, made by one process that forks."""
    folder = tmp_path_factory.mktemp("kills")
    command = [sys.executable, str(ROOT / "tests" / "experiments" / "run" / "kill_driver.py"), "runs"]
    command += [",".join(f"{method}:{kill}" for method, kill in CASES), *OVERRIDES, f"dataset.path={corpus}"]

    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    wrong = {k: v for k, v in statuses.items() if v != (-9 if k.endswith("killed") else 0)}
    assert not wrong, f"{wrong}\n{done.stdout}\n{done.stderr}"
    return folder / "runs"


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested containers by their path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}/{key}").items()}
    return {name: value}


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [
            {k: v for k, v in row.items() if k not in ("train/tokens_per_second", "train/seconds")}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_checkpoints_are_equal_bit_for_bit(runs: Path, method: str, kill: str) -> None:
    """Catches any state that resume forgets: weights, average, optimiser, schedule, loops, best value, tokens."""
    for name in ("best.ckpt", "last.ckpt"):
        whole, resumed = (
            flat(torch.load(runs / run / "checkpoints" / name, weights_only=True))
            for run in (method, f"{method}-{kill}")
        )
        kept = {k for k in whole.keys() | resumed.keys() if not k.startswith(MAY_DIFFER)}
        assert len(kept) > 50
        for key in kept:
            a, b = whole[key], resumed[key]
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_curves_are_equal(runs: Path, method: str, kill: str) -> None:
    """Catches a row of the curve that is lost or stands twice, above all where validation and checkpoint meet."""
    whole = curve(runs / method)
    assert [row["step"] for row in whole] == ["3", "6", "8", "9", "12", "15", "16", "18", "21", "24"]
    assert curve(runs / f"{method}-{kill}") == whole


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_figures_are_equal(runs: Path, method: str, kill: str) -> None:
    """Catches a resumed run that tests other weights."""
    figures = [
        json.loads((runs / run / "summary.json").read_text(encoding="utf-8"))["figures"]
        for run in (method, f"{method}-{kill}")
    ]
    assert figures[0] == figures[1] and "test/nll" in figures[0]
