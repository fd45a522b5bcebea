"""What may be said to Lightning's Trainer on the command line, checked before any work.

An argument is a field here and does what Lightning says, or it is refused with the key that decides it instead.
"""

import re
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count
from experiments.run.build import build

DECIDED = {  # by other keys of the config
    "accumulate_grad_batches": "experiment.training.accumulate_grad_batches",
    "callbacks": "callbacks",
    "check_val_every_n_epoch": "experiment.training.val_every_steps",
    "default_root_dir": "hydra.run.dir",
    "enable_checkpointing": "experiment.training.checkpoint_every_steps",
    "enable_progress_bar": "callbacks.progress",
    "fast_dev_run": "debug=smoke",
    "gradient_clip_val": "experiment.training.gradient_clip_norm",
    "limit_test_batches": "experiment.evaluation.max_batches",
    "limit_train_batches": "experiment.training.max_steps",
    "limit_val_batches": "experiment.evaluation.max_batches",
    "log_every_n_steps": "logger.log_every_steps",
    "logger": "logger",
    "max_epochs": "experiment.training.max_steps",
    "max_steps": "experiment.training.max_steps",
    "min_epochs": "experiment.training.max_steps",
    "min_steps": "experiment.training.max_steps",
    "overfit_batches": "experiment.training.overfit_batches",
    "val_check_interval": "experiment.training.val_every_steps",
}
WITHOUT_USE = {  # and why
    "barebones": "it leaves out checkpoints and figures, and experiment=benchmark measures speed",
    "gradient_clip_algorithm": "gradients are clipped by their norm, experiment.training.gradient_clip_norm",
    "limit_predict_batches": "texts are written by the task sampling, experiment.sampling.n_samples of them",
    "model_registry": "checkpoints stay in the run folder",
    "num_sanity_val_steps": "experiment.training.val_every_steps says when the first validation is",
    "plugins": "it takes objects of Python, and trainer.precision and trainer.strategy take names",
    "reload_dataloaders_every_n_epochs": "training is one endless epoch",
    "sync_batchnorm": "no network here has batch normalisation",
    "use_distributed_sampler": "the processes of a run share out the windows themselves",
}
DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")


@dataclass(frozen=True, config=STRICT)
class TrainerArguments:
    """The arguments of lightning.Trainer that a run takes, under Lightning's names and with its meanings."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Any = 1  # how many, -1 or auto for all, or indices, as a list or as text "0,1"
    num_nodes: Count = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    precision: Literal[
        "auto",
        "32-true",
        "bf16-mixed",
        "bf16-true",
        "16-mixed",
        "16-true",
        "64-true",
        "32",
        "bf16",
        "16",
        "64",
        32,
        16,
        64,
    ] = "auto"
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    deterministic: Literal[True, False, "warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    inference_mode: bool = True
    enable_model_summary: bool = False
    enable_autolog_hparams: bool = True
    max_time: str | None = None  # DD:HH:MM:SS

    def __post_init__(self) -> None:
        if self.max_time is not None and not DURATION.fullmatch(self.max_time):
            raise ValueError(f"max_time is '{self.max_time}': write DAYS:HOURS:MINUTES:SECONDS, as in 00:12:00:00")
        machine = _machine(self.accelerator)
        if machine == "cpu" and str(self.precision) in ("16", "16-mixed"):
            raise ValueError(f"precision is {self.precision}, which a CPU does not mix: take bf16-mixed or 32-true")
        if machine == "mps" and str(self.precision) in ("64", "64-true"):
            raise ValueError(f"precision is {self.precision}, which Apple's GPUs do not have: take 32-true")
        self._check_devices(machine)

    def _check_devices(self, machine: str) -> None:
        """ValueError unless the devices can be counted and are there."""
        given = self.devices
        if isinstance(given, list) or "," in str(given):
            indices = [str(one).strip() for one in (given if isinstance(given, list) else given.strip(",").split(","))]
            if machine != "gpu":
                raise ValueError(f"devices is {given!r}, and only GPUs have indices: say how many, trainer.devices=1")
            there = [str(index) for index in range(torch.cuda.device_count())]
            if not indices or len(set(indices)) < len(indices) or not set(indices) <= set(there):
                raise ValueError(f"devices is {given!r}: give different ones of the GPUs here, {', '.join(there)}")
            return
        if given != "auto" and not re.fullmatch(r"-1|0*[1-9]\d*", str(given)):
            raise ValueError(f"devices is {given!r}: give how many, -1 for all GPUs, or a list of their indices")
        if machine == "cpu" and str(given) == "-1":
            raise ValueError("devices is -1, all GPUs, and this is a CPU: say how many processes, trainer.devices=1")
        if machine == "mps" and given not in (1, -1, "1", "-1", "auto"):
            raise ValueError(f"devices is {given!r}, and an Apple machine has one GPU: say trainer.devices=1")


def _machine(accelerator: str) -> str:
    """What an accelerator comes down to here: cpu, gpu or mps."""
    if accelerator in ("cpu", "mps"):
        return accelerator
    apple = torch.backends.mps.is_available()
    return "gpu" if torch.cuda.is_available() else "mps" if apple else "cpu" if accelerator == "auto" else "gpu"


def check_arguments(settings: dict[str, Any]) -> None:
    """Raise ValueError in one sentence, with the full key, on an argument that a run does not take, a value that
    Lightning does not know, or a device that is not there."""
    for key in settings:
        if key in DECIDED:
            raise ValueError(f"trainer.{key} is decided by {DECIDED[key]}: set that instead")
        if key in WITHOUT_USE:
            raise ValueError(f"trainer.{key} has no use here, as {WITHOUT_USE[key]}: leave it out")
    build(TrainerArguments, settings, "trainer")
