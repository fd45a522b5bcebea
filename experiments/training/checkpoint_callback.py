"""When checkpoints are written, so that a resumed run is the run that was never stopped.

Steps are optimiser steps.
"""

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from experiments.run import interrupts
from experiments.run.folder import link_latest
from experiments.run.interrupts import Interrupted
from experiments.training.callbacks import MONITOR, check_finite
from experiments.training.loggers import CsvLogger


class Checkpoints(Checkpoint):
    """Keeps best.ckpt (lowest val/nll) and last.ckpt (newest), and validates once more after the last step.

    A checkpoint is written only between optimiser steps, and where a validation is due only after it: so a resumed run
    neither repeats nor misses one. A request to stop is answered there, too, by one more checkpoint. `extra` goes into
    each file beside Lightning's own contents.
    """

    def __init__(self, folder: Path, *, every: int, val_every: int, max_steps: int, extra: dict[str, Any]) -> None:
        self.folder = folder
        self.every = every
        self.val_every = val_every
        self.max_steps = max_steps
        self.extra = extra
        self.best = math.inf
        self.best_error: float | None = None  # of `best`, over windows
        self.best_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_error": self.best_error, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.best_error = state_dict.get("best_error")  # checkpoints of former versions have none

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.extra | {"processes": trainer.world_size})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step >= self.max_steps:
            trainer.should_stop = True  # makes Lightning validate here, whatever the interval
        elif step % self.val_every:
            asked = self._interrupt(trainer)
            if asked or step % self.every == 0:
                self._save(trainer, pl_module, self.folder / "last.ckpt")
            if asked:
                raise asked

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[MONITOR])
        best, last = self.folder / "best.ckpt", self.folder / "last.ckpt"
        if value < self.best or self.best_step == 0:
            self.best = value if math.isfinite(value) else math.inf
            error = float(trainer.callback_metrics.get(f"{MONITOR}_error", math.nan))
            self.best_error = error if math.isfinite(error) else None
            self.best_step = trainer.global_step
            self._save(trainer, pl_module, best)  # before last.ckpt, whose state names it
            if trainer.is_global_zero:
                _link(best, last)
        else:
            self._save(trainer, pl_module, last)
        if (asked := self._interrupt(trainer)) is not None:
            raise asked

    def _interrupt(self, trainer: Trainer) -> Interrupted | None:
        """What to raise if the run was asked to stop: it is saved between two steps, after a validation that is due.

        Several processes must agree on the step, which takes a message, so that they do where something is logged."""
        signum = interrupts.requested()
        if trainer.world_size > 1:
            if not trainer.validating and trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return None
            if trainer.strategy.reduce_boolean_decision(signum is not None, all=False):
                signum = signum or signal.SIGTERM
        return None if signum is None else Interrupted(signum)

    def _save(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        check_finite(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, CsvLogger):  # Lightning logs this step after the hooks: a kill between would lose it
                logger.log_metrics(_scalars(trainer), trainer.global_step)
                logger.save()
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            link_latest(self.folder.parent)  # the run has weights now


def _scalars(trainer: Trainer) -> dict[str, float]:
    """What the module logged in this very step, if this is a step to log."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if trainer.validating or trainer.global_step % every:
        return {}
    return {k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith("train/")}


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` in one move; files are only ever replaced, so sharing is safe."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # file systems without hard links
        shutil.copyfile(source, temporary)
    temporary.replace(target)
