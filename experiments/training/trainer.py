"""The one place that builds a Lightning Trainer: for training with loggers and callbacks, for evaluation without.

Training runs over one endless epoch, counted in optimiser steps; intervals reach Lightning in micro-batches.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from experiments.run.schema import EvaluationConfig, RunConfig, TrainingConfig
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
    evaluation: EvaluationConfig,
    watchers: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    log_every_steps: int = 10,
) -> Trainer:
    """A Trainer for the machine that `settings` (configs/trainer) describe.

    Raises ValueError in one sentence on an unknown argument or a device that is not there.
    """
    settings = check_settings(settings)
    accumulate = training.accumulate_grad_batches
    limit = evaluation.max_batches if evaluation.max_batches is not None else 1.0
    _quieten()
    try:
        trainer = Trainer(
            **{"enable_model_summary": False} | settings,
            default_root_dir=run_dir,
            max_epochs=-1,
            max_steps=training.max_steps,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=training.gradient_clip_norm,
            val_check_interval=training.val_every_steps * accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            limit_val_batches=limit,
            log_every_n_steps=log_every_steps,
            callbacks=list(watchers),
            logger=list(loggers) or False,
            plugins=[AtomicCheckpointIO()] if settings.get("strategy") != "fsdp" else None,
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
    """`settings` with precision settled; ValueError on a wrong argument or a device that is not there."""
    check_arguments(settings)
    accelerator = settings.get("accelerator", "auto")
    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and not gpus and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=gpu, but torch sees no GPU here: use trainer=cpu or trainer=auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=mps, but this is no Apple GPU: use trainer=cpu or trainer=auto")
    devices = settings.get("devices", 1)
    if accelerator in ("gpu", "cuda") and isinstance(devices, int) and devices > max(gpus, 1):
        raise ValueError(f"trainer.devices is {devices}, but torch sees {gpus} GPUs: lower it, or say -1 for all")
    if settings.get("precision") == "auto":
        bf16 = accelerator not in ("cpu", "mps") and gpus > 0 and torch.cuda.is_bf16_supported()
        settings = settings | {"precision": "bf16-mixed" if bf16 else "32-true"}
    return settings


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
        ".*Found .* module\\(s\\) in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message=message)
