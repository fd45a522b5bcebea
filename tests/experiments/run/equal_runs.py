"""Whether two runs are the same bit for bit, as far as they are no matter of time."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

MAY_DIFFER = ("/callbacks/Speed/seconds", "/overrides/", "/config/dataset/cache_dir")  # time, and places
TIMES = ("train/tokens_per_second", "train/seconds", "seconds", "tokens_per_second")


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested containers by their path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}/{key}").items()}
    return {name: value}


def unequal(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Paths at which two flat dictionaries differ, in a tensor's bits or in any other value."""
    missing = object()
    pairs = {key: (a.get(key, missing), b.get(key, missing)) for key in a.keys() | b.keys()}
    same = {k for k, (x, y) in pairs.items() if (torch.equal(x, y) if _tensors(x, y) else x is y or bool(x == y))}
    return sorted(pairs.keys() - same)


def _tensors(*values: Any) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values)


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    """Weights, average, optimiser, schedule, loops and all else of a checkpoint."""
    content = flat(torch.load(folder / "checkpoints" / name, weights_only=True))
    return {key: value for key, value in content.items() if not key.startswith(MAY_DIFFER)}


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def figures(folder: Path) -> dict[str, Any]:
    """What the summary states, and the samples."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    samples = json.loads((folder / "samples" / "samples.json").read_text(encoding="utf-8"))
    steps = {key: summary["training"][key] for key in ("steps", "best_step", "tokens")}
    texts = {key: samples[key] for key in ("ids", "texts", "seeds", "steps", "forwards")}
    return flat({"status": summary["status"], "figures": summary["figures"], "training": steps, "samples": texts})


def differences(whole: Path, resumed: Path) -> list[str]:
    """Where a resumed run is another one than the run that was never stopped."""
    found = [
        f"{name}{key}"
        for name in ("best.ckpt", "last.ckpt")
        for key in unequal(checkpoint(whole, name), checkpoint(resumed, name))
    ]
    found += [f"metrics.csv row {i}" for i in unequal(*(flat(curve(folder)) for folder in (whole, resumed)))]
    return found + [f"summary {key}" for key in unequal(figures(whole), figures(resumed))]
