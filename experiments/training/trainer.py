"""The one place that builds a Lightning Trainer: for training with loggers and callbacks, for evaluation without.

Training runs over one endless epoch, counted in optimiser steps; intervals reach Lightning in micro-batches.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from experiments.run.errors import WHOLE_MODELS
from experiments.run.processes import PATIENCE, Launch, find_launch
from experiments.run.schema import RunConfig, TrainingConfig
from experiments.training import callbacks
from experiments.training.checkpoint_callback import Checkpoints
from experiments.training.checkpoints import AtomicCheckpointIO
from experiments.training.loggers import StepsDone
from experiments.training.trainer_settings import check_arguments


def build_trainer(
    settings: dict[str, Any],
    *,
    run_dir: Path,
    training: TrainingConfig,
    watchers: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    log_every_steps: int = 10,
) -> Trainer:
    """A Trainer for the machine that `settings` (configs/trainer) describe.

    Raises ValueError in one sentence on an unknown argument or a device that is not there.
    """
    settings = check_settings(settings)
    accumulate = training.accumulate_grad_batches
    environment: ClusterEnvironment = (
        LightningEnvironment() if find_launch(os.environ) is None else TorchElasticEnvironment()
    )
    _quieten()
    try:
        trainer = Trainer(
            **{"enable_model_summary": False} | settings | {"strategy": _strategy(settings)},
            default_root_dir=run_dir,
            max_epochs=-1,
            max_steps=training.max_steps,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=training.gradient_clip_norm,
            val_check_interval=training.val_every_steps * accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=log_every_steps,
            callbacks=list(watchers),
            logger=list(loggers) or False,
            plugins=[AtomicCheckpointIO(), environment],
            enable_checkpointing=bool(watchers),
            enable_progress_bar=False,
            use_distributed_sampler=False,  # the data module shares out windows by rank itself
        )
    except Exception as error:  # Lightning raises its own kind, RuntimeError and others for settings that cannot be
        reason = " ".join(str(error).split())
        raise ValueError(f"the trainer cannot be built ({reason}): try trainer=cpu or trainer=auto") from error
    for logger in trainer.loggers:
        if isinstance(logger, StepsDone):
            logger.trainer = trainer
    # Requests to stop are experiments/run/interrupts.py's: Lightning would end between micro-batches, unsaved.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def training_callbacks(run: RunConfig, training: TrainingConfig, run_dir: Path, kept: dict[str, Any]) -> list[Callback]:
    """Everything that watches a training; `kept` goes into each of its checkpoints."""
    every = run.logger.log_every_steps
    watchers: list[Callback] = [callbacks.NanGuard(every), callbacks.OptimizerSettings(), callbacks.Speed(every)]
    watchers.append(callbacks.FrozenGarbage())
    if training.ema_decay is not None:
        watchers.append(callbacks.ExponentialMovingAverage(training.ema_decay))
    if run.callbacks.progress:
        seconds = run.callbacks.line_every_seconds
        watchers.append(callbacks.ProgressLine(max_steps=training.max_steps, line_every_seconds=seconds))
    watchers.append(
        Checkpoints(
            run_dir / "checkpoints",
            every=training.checkpoint_every_steps,
            val_every=training.val_every_steps,
            max_steps=training.max_steps,
            extra=kept,
        )
    )
    return watchers


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with precision and the number of processes settled; ValueError on a wrong argument, on a device that
    is not there, and on processes that are not those of the launcher."""
    strategy = str(settings.get("strategy", "auto"))
    if strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
        raise ValueError(f"trainer.strategy={strategy} {WHOLE_MODELS}")
    check_arguments(settings)
    accelerator = settings.get("accelerator", "auto")
    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not gpus and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU here: use trainer=cpu or trainer=auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=mps, but this is no Apple GPU: use trainer=cpu or trainer=auto")
    settings = _placed(settings, find_launch(os.environ))
    devices = settings.get("devices", 1)
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus > 0)
    if on_gpu and isinstance(devices, int) and devices > max(gpus, 1):
        remedy = "lower it, or say -1 for all"
        if find_launch(os.environ) is not None:
            remedy = "let each process see all GPUs of its node (Slurm: --gpus-per-node, not --gpus-per-task)"
        raise ValueError(f"trainer.devices is {devices}, but torch sees {gpus} GPUs: {remedy}")
    if settings.get("precision") == "auto":
        bf16 = accelerator not in ("cpu", "mps") and gpus > 0 and torch.cuda.is_bf16_supported()
        settings = settings | {"precision": "bf16-mixed" if bf16 else "32-true"}
    return settings


def remarks(settings: dict[str, Any]) -> list[str]:
    """What is worth saying about settings that work, but hardly as meant."""
    number, cores = _count(check_settings(settings).get("devices", 1)), _cores()
    on_cpu = settings.get("accelerator") == "cpu" or not torch.cuda.is_available()
    if on_cpu and number is not None and number > cores:
        return [f"trainer.devices={number} shares {cores} CPU cores among {number} processes: {cores} are faster"]
    return []


def _placed(settings: dict[str, Any], launch: Launch | None) -> dict[str, Any]:
    """`settings` with as many devices and nodes as a launcher has started processes; ValueError where others are asked
    for."""
    devices, nodes = settings.get("devices", 1), settings.get("num_nodes", 1)
    if launch is None:
        if nodes != 1:
            raise ValueError(
                f"trainer.num_nodes is {nodes}, but this process was started alone: start it on every node with "
                "torchrun or srun (docs/clusters.md)"
            )
        return settings
    asked = _count(devices)
    if asked not in (None, 1, launch.local_world_size) or nodes not in (1, launch.nodes):
        raise ValueError(
            f"trainer.devices={devices} on trainer.num_nodes={nodes}, but {launch.launcher} started "
            f"{launch.local_world_size} processes on each of {launch.nodes} nodes: leave both out, or make them agree"
        )
    one_each = launch.local_world_size if asked in (None, 1) else devices
    return settings | {"devices": one_each, "num_nodes": launch.nodes}


def _strategy(settings: dict[str, Any]) -> str | DDPStrategy:
    """DDP where there are several processes. Each keeps its own buffers: they are the same by themselves, and a copy of
    the first one's at every forward would undo what the others have observed."""
    name, number = settings.get("strategy", "auto"), _count(settings.get("devices", 1))
    if number is None:
        number = max(1, torch.cuda.device_count()) if settings.get("accelerator") != "cpu" else 1
    if name == "auto" and number == 1 and settings.get("num_nodes", 1) == 1:
        return name
    unused = name == "ddp_find_unused_parameters_true"
    return DDPStrategy(
        broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused, timeout=PATIENCE
    )


def _count(devices: Any) -> int | None:
    """How many devices `trainer.devices` asks for; None for all that are there."""
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([one for one in devices.split(",") if one.strip()])
    return None if str(devices) in ("-1", "auto") else int(devices)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quieten() -> None:
    """Silence what Lightning says about choices that are ours on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*Checkpoint directory .* exists.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*GPU available but not used.*",
        ".*`broadcast_buffers` is deprecated.*",  # its successor is younger than the oldest torch that will do
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is the same in all processes
        ".*TensorFloat32 tensor cores for float32 matrix multiplication available.*",  # float32 means float32
        ".*Found .* module\\(s\\) in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message=message)
