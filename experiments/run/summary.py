"""What a run's summary.json and a comparison's comparison.json say of where their figures come from."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from experiments.run.folder import ROOT


def describe_machine() -> dict[str, Any]:
    """Where figures come from: versions, machine and commit."""
    return {"versions": _versions(), "machine": _machine(), "git_commit": _commit()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "lightning", "hydra-core", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _commit() -> str | None:
    """The commit of the code, with `-dirty` after it when files differ from it; None outside a git clone."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            encoding="utf-8",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
