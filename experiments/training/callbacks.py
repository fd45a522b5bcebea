"""What accompanies a training run: the guard against NaN, speed, averaged weights, and the line of progress.

Steps are optimiser steps. Nothing here waits for the device on a step where nothing is logged.
"""

import gc
import math
import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from experiments.run.console import print_rank_zero
from experiments.training.loggers import StepsDone

MONITOR = "val/nll"


def check_finite(trainer: Trainer, pl_module: LightningModule) -> None:
    """Raise ValueError if a weight is NaN or infinite: such a state must not replace a good checkpoint."""
    parameters = [p.detach() for p in pl_module.parameters() if p.is_floating_point()]
    finite = torch.stack(torch._foreach_norm(parameters)).isfinite().all()
    if trainer.strategy.reduce_boolean_decision(not bool(finite), all=False):
        raise diverged(trainer, trainer.global_step)


def diverged(trainer: Trainer, step: int) -> ValueError:
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    return ValueError(
        f"training diverged: the loss or a weight is not finite at step {step} with learning rate {lr:.2g}; try a "
        "lower algorithm.optimizer.lr, more algorithm.optimizer.warmup_steps or a lower "
        "experiment.training.gradient_clip_norm (the last good checkpoint is kept)"
    )


class NanGuard(Callback):
    """Stops with a sentence once a loss is not finite. Losses are looked at together, every `every` steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"])
        accumulate = trainer.accumulate_grad_batches
        if (batch_idx + 1) % (self.every * accumulate) and trainer.global_step < trainer.max_steps:
            return
        finite = torch.stack(self._losses).isfinite()
        count = len(self._losses)
        self._losses = []
        if trainer.strategy.reduce_boolean_decision(not bool(finite.all()), all=False):
            bad = (~finite).nonzero()
            first = int(bad[0]) if len(bad) else count - 1
            raise diverged(trainer, (batch_idx - count + 1 + first) // accumulate + 1)


class Speed(Callback):
    """Logs learning rate, tokens seen, time spent, tokens per second and the norm of the gradient before clipping."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.tokens = 0  # over all devices
        self.seconds = 0.0  # of training, validation not counted
        self._grad_norm: Tensor | None = None
        self._lr = 0.0
        self._began = 0.0
        self._tokens_then = 0

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()
        self._pass_tokens(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self._lr = optimizer.param_groups[0]["lr"]  # that of this step: the schedule moves on before the next hook
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._grad_norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += batch.size(0) * (batch.size(1) - 1) * trainer.world_size
        if (batch_idx + 1) % (self.every * trainer.accumulate_grad_batches):
            return
        figures = {
            "train/lr": self._lr,
            "train/grad_norm": float(self._grad_norm) if self._grad_norm is not None else float("nan"),
        }
        elapsed = time.perf_counter() - self._began  # after float(): the device has caught up
        if self.tokens > self._tokens_then:
            figures["train/tokens_per_second"] = (self.tokens - self._tokens_then) / elapsed
        self._pause()
        self._restart()
        figures["train/seconds"] = self.seconds
        self._pass_tokens(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(figures, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def _pass_tokens(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, StepsDone):
                logger.tokens = self.tokens

    def _pause(self) -> None:
        self.seconds += time.perf_counter() - self._began
        self._began = time.perf_counter()

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._tokens_then = self.tokens


class OptimizerSettings(Callback):
    """A restored optimiser has the settings it was saved with: the learning rate and the weight decay become those of
    the configuration, and the schedule what it would be at this step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        fresh: Any = pl_module.configure_optimizers()
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        before = groups[0]["lr"]
        for group, new, share in zip(groups, fresh["optimizer"].param_groups, scheduler.lr_lambdas, strict=True):
            lr = new["initial_lr"] * share(scheduler.last_epoch)
            group |= {"weight_decay": new["weight_decay"], "initial_lr": new["initial_lr"], "lr": lr}
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        scheduler._last_lr = [group["lr"] for group in groups]
        if (now := groups[0]["lr"]) != before:
            print_rank_zero(f"the learning rate goes from {before:.3g} to {now:.3g} at step {trainer.global_step}")


class FrozenGarbage(Callback):
    """What was there before training is looked at again when it ends: a full collection of its 440,000 objects would
    hold up a step for a tenth of a second, and that of every other process with it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.freeze()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.unfreeze()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        gc.unfreeze()


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay, all tensors in one call; buffers follow the model."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # it was made before the module came there


class Pace:
    """Notices, once, that training has become slow: below a share of its best rate in several spans of time in a row,
    which no pause, compilation or checkpoint is."""

    span = 10.0  # seconds of training
    spans = 3
    share = 0.4  # of the best rate; threads that wait politely keep half beside one busy process on two cores

    def __init__(self) -> None:
        self.best = 0.0  # tokens per second of a span
        self.slow = 0  # spans in a row
        self._tokens = 0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> float | None:
        """The rate, where with these it has been low for long enough to be told."""
        self._tokens += tokens
        self._seconds += seconds
        if self._seconds < self.span:
            return None
        rate = self._tokens / self._seconds
        self._tokens, self._seconds = 0, 0.0
        self.best = max(self.best, rate)
        if self.slow < self.spans:
            self.slow = self.slow + 1 if rate < self.share * self.best else 0
            return rate if self.slow == self.spans else None
        return None


class ProgressLine(Callback):
    """One line: step, loss, tokens per second, time left. Redrawn on a terminal; elsewhere a line every few seconds.
    One more, once, where the machine becomes busy with other things."""

    def __init__(self, *, max_steps: int, line_every_seconds: float) -> None:
        self.max_steps = max_steps
        self.terminal = sys.stdout.isatty()
        self.interval = 0.2 if self.terminal else line_every_seconds
        self._shown = 0.0
        self._mark = (0.0, 0, 0)  # time, tokens and step at the start of this measurement
        self._tokens = 0
        self._rate = 0.0
        self._seconds_per_step = 0.0
        self._pace = Pace()
        self._last = 0.0  # time of the last batch, or of the validation behind it
        self._first = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = self._last = time.perf_counter()
        self._mark = (self._shown, self._tokens, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        tokens = batch.size(0) * (batch.size(1) - 1) * trainer.world_size
        self._tokens += tokens
        now = time.perf_counter()
        if self._first:  # the step that is compiled tells nothing of those behind it
            self._first, self._shown, self._last = False, now, now
            self._mark = (now, self._tokens, trainer.global_step)
            return
        slow = self._pace.add(tokens, now - self._last)
        self._last = now
        if slow is not None:
            self._write(trainer, busy(slow, self._pace.best, pl_module.device), end="\n")
        if now - self._shown >= self.interval:
            loss = float(outputs["loss"])  # waits for the device, so that the rate below is true
            now = time.perf_counter()
            self._measure(now, trainer.global_step)
            self._show(trainer, loss)
            self._shown = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._measure(time.perf_counter(), trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[MONITOR])
        error = float(trainer.callback_metrics.get(f"{MONITOR}_error", math.nan))
        text = f"{MONITOR} {value:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")
        self._write(trainer, f"step {trainer.global_step}/{self.max_steps}  {text}", end="\n")
        self._last = time.perf_counter()
        self._mark = (self._last, self._tokens, trainer.global_step)

    def _measure(self, now: float, step: int) -> None:
        then, tokens, step_then = self._mark
        if step > step_then:
            self._rate = (self._tokens - tokens) / (now - then)
            self._seconds_per_step = (now - then) / (step - step_then)

    def _show(self, trainer: Trainer, loss: float) -> None:
        step = trainer.global_step
        left = int(self._seconds_per_step * (self.max_steps - step))
        filled = round(20 * step / self.max_steps)
        bar = f"|{'█' * filled}{' ' * (20 - filled)}|  " if self.terminal else ""
        text = f"step {step}/{self.max_steps}  {bar}loss {loss:.3f}  {self._rate:,.0f} tokens/s  "
        self._write(trainer, f"{text}{left // 60}:{left % 60:02d} left", end="" if self.terminal else "\n")

    def _write(self, trainer: Trainer, text: str, end: str) -> None:
        if trainer.is_global_zero:
            start = "\r\033[K" if self.terminal else ""
            print(f"{start}{text}", end=end, flush=True)


def busy(rate: float, best: float, device: torch.device) -> str:
    """What a user is told of a machine that has become busy, and may do. The threads of a run stay as many: with others
    sums round in another way, and a resumed run would not be the one that was never stopped."""
    said = f"the machine is busy: {rate:,.0f} tokens/s, where there were {best:,.0f}"
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return said
    return f"{said}; OMP_NUM_THREADS=1 beside resume= suffers less from others, and rounds in another way"
