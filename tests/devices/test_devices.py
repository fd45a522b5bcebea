"""CUDA and MPS, simulated: the checks of checks.py, in a process of their own, as torch knows only one such backend."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_every_method_runs_on_simulated_devices() -> None:
    """Catches what only a GPU would object to, on machines without one."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", str(folder / "checks.py")]
    done = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
