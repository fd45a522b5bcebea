"""CUDA and MPS, simulated: checks, budgets and whole runs, in a process of their own: torch knows one such backend."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_every_method_runs_on_simulated_devices() -> None:
    """Catches what only a GPU would object to, on machines without one."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"]
    command += [str(folder / name) for name in ("checks.py", "budgets.py", "whole_runs.py")]
    done = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
