"""Runs from the command line to their end on a simulated device, and the benchmark there. Run by test_devices.py."""

from tests.devices.simulated import Costs  # isort: skip  # before our code

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from experiments import benchmark
from experiments.evaluation.speed import decoding, training
from experiments.evaluation.speed.costs import Dispatched
from experiments.training import trainer as trainers
from tests.conftest import Main


class SimulatedAccelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class DeviceTrainer(Trainer):
    """Lightning's Trainer, on a simulated device whatever it is asked for."""

    kind = "cuda"

    @wraps(Trainer.__init__)
    def __init__(self, **settings: Any) -> None:
        device, accelerator = torch.device(self.kind, 0), SimulatedAccelerator()
        strategy = SingleDeviceStrategy(device, accelerator=accelerator)
        super().__init__(**settings | {"accelerator": "auto", "strategy": strategy, "inference_mode": False})


RUN = [
    "algorithm.backbone.n_embd=16",
    "algorithm.backbone.block_size=20",
    "experiment.training.val_every_steps=4",
    "experiment.training.checkpoint_every_steps=4",
    "experiment.training.ema_decay=0.5",
    "experiment.evaluation.max_batches=1",
    "experiment.evaluation.batch_size=2",
    "experiment.sampling.length=4",
    "hydra.run.dir=run",
]
OF_METHOD = {
    "df_lm": [
        "algorithm.streams.max_window=4",
        "algorithm.diffusion.timesteps=4",
        "algorithm.diffusion.fit_every_steps=2",
    ],
    "diffusion_flow": [
        "algorithm.flow.plateau_patience=2",
        "algorithm.flow.plateau_window=3",
        "algorithm.flow.interval=1",
    ],
}


@pytest.mark.parametrize("method", ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"])
def test_a_whole_run_and_its_resumption(
    method: str, kind: str, costs: Costs, smoke: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches what crashes on a device between the command line and the last task: callbacks, averages of weights, fits
    of levels, checkpoints, and a resumed run whose losses are of two devices."""
    monkeypatch.setattr(DeviceTrainer, "kind", kind)
    monkeypatch.setattr(trainers, "Trainer", DeviceTrainer)
    arguments = [f"algorithm={method}", *RUN, *OF_METHOD.get(method, [])]
    if kind == "cuda":
        arguments.append("trainer.precision=bf16-mixed")
    first = smoke(*arguments, "experiment.tasks=[training]", "experiment.training.max_steps=4")
    assert first.status == 0, first.err
    tasks = "experiment.tasks=[training,validation,test,likelihood,sampling]"
    second = smoke(*arguments, tasks, "experiment.training.max_steps=8", "resume=run")
    assert second.status == 0, second.err
    summary = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished" and summary["training"]["steps"] == 8
    assert all(np.isfinite(value) for value in summary["figures"].values())
    assert sum(costs.kernels.values()) > 1000  # it did run there


@pytest.mark.parametrize("method", ["gpt", "df_lm", "diffusion_flow"])
def test_a_benchmark_runs(method: str, kind: str, costs: Costs, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches arms whose model stays where the other has left it, batches on the CPU, and counts that need a CPU."""
    monkeypatch.setattr(DeviceTrainer, "kind", kind)
    monkeypatch.setattr(trainers, "Trainer", DeviceTrainer)

    def uncounted(compute: Callable[[], Any], device: torch.device) -> Dispatched:
        compute()
        return Dispatched()

    for part in (training, decoding):
        monkeypatch.setattr(part, "dispatched", uncounted)
    monkeypatch.setattr(benchmark, "measured_peak", lambda *_: 1e12)
    for name, value in {"get_device_name": "NVIDIA H200", "max_memory_allocated": 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    sizes = ["experiment.rounds=1", "experiment.texts=[1,2]", "experiment.sampling.length=8", "hydra.run.dir=run"]
    precision = ["trainer.precision=bf16-mixed"] if kind == "cuda" else []
    chosen = ["experiment=benchmark", "debug=smoke", f"experiment.methods=[{method}]", "experiment.decoders=[]"]
    outcome = main(*chosen, *sizes, *precision)
    assert outcome.status == 0, outcome.err
    found = json.loads(Path("run/benchmark.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in found["rows"]] == ["measured"] * 3
    assert found["sheet_flops"] == (989.4e12 if kind == "cuda" else None)
    assert {row["memory_gib"] for row in found["rows"]} == {1.0 if kind == "cuda" else None}
    assert costs.total("kernels") > 1000  # it did run there
