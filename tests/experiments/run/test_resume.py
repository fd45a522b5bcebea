"""A run killed at any moment and resumed is, bit for bit, the run that was never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.run.equal_runs import checkpoint, curve, figures, unequal
from tests.experiments.run.kill_driver import KILLS
from tests.experiments.run.random_kills import OVERRIDES

ROOT = Path(__file__).parents[3]
OTHERS = {
    "df_lm": "interrupted",
    "masked_diffusion": "in_sampling",
    "diffusion_flow": "interrupted",
    "block_diffusion": "in_sampling",
}
OTHERS |= {"gpt+adamw": "between_checkpoints"}
CASES = [*(("gpt", kill) for kill in KILLS), *OTHERS.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """All runs of this file, made by one process that forks."""
    folder = tmp_path_factory.mktemp("kills")
    command = [sys.executable, "-m", "tests.experiments.run.kill_driver", "runs"]
    command += [",".join(f"{method}:{kill}" for method, kill in CASES), *OVERRIDES, f"dataset.path={corpus}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    wrong = {k: v for k, v in statuses.items() if v not in ((-9, 143) if k.endswith("killed") else (0,))}
    assert not wrong, f"{wrong}\n{done.stdout}\n{done.stderr}"
    return folder / "runs"


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_checkpoints_are_equal_bit_for_bit(runs: Path, method: str, kill: str) -> None:
    """Catches any state that resume forgets: weights, average, optimiser, schedule, loops, best value, tokens."""
    for name in ("best.ckpt", "last.ckpt"):
        whole, resumed = (checkpoint(runs / run, name) for run in (method, f"{method}-{kill}"))
        assert len(whole) > 50 and unequal(whole, resumed) == []


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_curves_are_equal(runs: Path, method: str, kill: str) -> None:
    """Catches a row of the curve that is lost or stands twice, above all where validation and checkpoint meet."""
    whole = curve(runs / method)
    assert [row["step"] for row in whole] == ["3", "6", "8", "9", "12", "15", "16", "18", "21", "24"]
    assert curve(runs / f"{method}-{kill}") == whole


@pytest.mark.parametrize(("method", "kill"), CASES)
def test_figures_and_samples_are_equal(runs: Path, method: str, kill: str) -> None:
    """Catches a resumed run that tests, or samples from, other weights."""
    whole = figures(runs / method)
    assert "/figures/test/nll" in whole and "/samples/texts/0" in whole
    assert unequal(whole, figures(runs / f"{method}-{kill}")) == []
