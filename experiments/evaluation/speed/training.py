"""A training step timed twice: through the whole framework, and in the shortest loop that does the same.

Both arms train one model from the same weights, with the same draws, on the same batches, in turn, so that a drift of
the machine hits both and their losses must agree. B batch, T tokens.
"""

import copy
import math
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.device import now
from algorithms.common.randomness import BatchGenerator, seed_dropout, step_seed
from datasets.data_module import TextDataModule
from experiments.evaluation.speed.costs import Dispatched, dispatched, flops
from experiments.run.schema import CallbacksConfig, RunConfig, TrainingConfig
from experiments.training.loggers import build_loggers
from experiments.training.trainer import build_trainer, training_callbacks

WARM_UP = 4  # steps that are not timed
ARM_SECONDS = 1.5  # of timed steps, about, if training.max_steps are not done before
EXACTLY = (1e-4, 1e-3)  # relative errors of a loss and of a gradient's norm: float32 on a CPU
ROUGHLY = (2e-2, 5e-2)  # half precision; and a GPU, whose sums come in another order each time


class Disagreement(Exception):
    """Two ways to compute the same have given different results: their times must not be compared."""


class Timed(NamedTuple):
    """An arm: seconds of the timed steps, and the loss of the last one."""

    seconds: float
    loss: float


@dataclass
class Subject:
    """A model to be trained, on batches of `data`, in the precision `dtype` that `context` brings about.

    `run` and `training` say how the framework trains it, into the folder `scratch`, without validation.
    """

    model: BaseAlgorithm
    data: TextDataModule
    device: torch.device
    dtype: torch.dtype
    context: Callable[[], AbstractContextManager[Any]]
    run: RunConfig
    training: TrainingConfig
    scratch: Path

    def __post_init__(self) -> None:
        kept: dict[str, Any] = {}
        self.model.on_save_checkpoint(kept)
        self._begin = copy.deepcopy((self.model.state_dict(), kept))

    @property
    def tokens(self) -> int:
        """Tokens predicted in a step."""
        return self.training.batch_size * self.data.block_size

    def begin(self) -> BaseAlgorithm:
        """The model with the weights that it had at first, on its device."""
        weights, kept = self._begin
        self.model.load_state_dict(weights)
        self.model.on_load_checkpoint(copy.deepcopy(kept))
        return self.model.to(self.device).train()

    def batches(self, steps: int) -> Any:
        """The first batches (B, T + 1) of a training, each with its number."""
        return enumerate(islice(self.data.training_batches(0), steps))

    def loss(self, step: int, ids: Tensor) -> Tensor:
        """The loss of a step on ids (B, T + 1), with the framework's draws."""
        seed = self.run.seed
        stand_in: Any = SimpleNamespace(global_step=step, world_size=1)  # all that a loss asks
        self.model.trainer = stand_in
        seed_dropout(step_seed(seed, step, 0), self.device)
        generator = BatchGenerator.of(step_seed(seed, step), self.device)
        with self.context():
            return self.model.loss(ids.to(self.device, non_blocking=True), generator)["loss"]

    def alike(self, found: float, expected: float, *, gradient: bool = False) -> bool:
        """Whether two losses, or norms of a gradient, are the same but for rounding."""
        exact = self.device.type == "cpu" and self.dtype in (torch.float32, torch.float64)
        return math.isclose(found, expected, rel_tol=(EXACTLY if exact else ROUGHLY)[gradient])


class Stopwatch(Callback):
    """Seconds from the end of step WARM_UP to the end of the last step of training, and that one's loss."""

    def __init__(self) -> None:
        self.began = 0.0
        self.timed = Timed(0.0, math.nan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == WARM_UP:
            self.began = now(pl_module.device)
        elif trainer.global_step == trainer.max_steps:
            self.timed = Timed(now(pl_module.device) - self.began, float(outputs["loss"]))


def framework(subject: Subject, steps: int) -> Timed:
    """`steps` steps through Trainer, loggers and callbacks, but for the line of progress."""
    run = replace(
        subject.run,
        callbacks=CallbacksConfig(progress=False),
        logger=replace(subject.run.logger, wandb=None),  # these steps are nobody's curve
    )
    training = replace(subject.training, max_steps=steps, val_every_steps=steps, checkpoint_every_steps=steps)
    watch = Stopwatch()
    trainer = build_trainer(
        run.trainer,
        run_dir=subject.scratch,
        training=training,
        watchers=[watch, *training_callbacks(run, training, subject.scratch, {})],
        loggers=build_loggers(run, subject.scratch, None),
        log_every_steps=run.logger.log_every_steps,
    )
    trainer.limit_val_batches = 0  # and so no checkpoint is written, either
    trainer.fit(subject.begin(), datamodule=subject.data)
    return watch.timed


def bare_loop(subject: Subject, steps: int) -> Timed:
    """The same steps in the shortest loop that does the same to the weights."""
    model, clip = subject.begin(), subject.training.gradient_clip_norm
    configured: Any = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]  # their order rounds the norm
    began, loss = 0.0, torch.tensor(math.nan)
    for step, ids in subject.batches(steps):
        loss = subject.loss(step, ids)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
        if step + 1 == WARM_UP:
            began = now(subject.device)
    return Timed(now(subject.device) - began, loss.item())


def losses_and_gradients(subject: Subject) -> list[tuple[float, float]]:
    """Loss and norm of its gradient at the first steps' batches, all with the first weights."""
    model, found = subject.begin(), []
    for step, ids in subject.batches(model.period):
        model.zero_grad()
        loss = subject.loss(step, ids)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((loss.item(), float(torch.nn.utils.get_total_norm(gradients))))
    model.zero_grad()
    return found


def check_same(subject: Subject, expected: list[tuple[float, float]], what: str) -> None:
    """Raise Disagreement unless losses and gradients are what they were before."""
    for (loss, norm), (other, other_norm) in zip(losses_and_gradients(subject), expected, strict=True):
        if not subject.alike(loss, other):
            raise Disagreement(f"the {what} loss is {loss:.6g}, and {other:.6g} without")
        if not subject.alike(norm, other_norm, gradient=True):
            raise Disagreement(f"the {what} gradient has norm {norm:.6g}, and {other_norm:.6g} without")


def step_flops(subject: Subject) -> float:
    """Floating-point operations of an eager step, forward and backward, the mean over a period of it.

    Counted on the CPU with a single window of the batch: there no kernel hides what it computes from the counter.
    """
    alone = replace(subject, model=copy.deepcopy(subject.model), device=torch.device("cpu"), context=nullcontext)
    alone.begin()

    def compute() -> None:
        for step, ids in alone.batches(alone.model.period):
            alone.loss(step, ids[:1]).backward()

    return subject.training.batch_size * flops(compute) / alone.model.period


def step_dispatches(subject: Subject) -> Dispatched:
    """What a warm step of the bare loop hands to the device, the mean over a period of it."""
    period = subject.model.period
    counts = [dispatched(partial(bare_loop, subject, WARM_UP + n * period), subject.device) for n in (1, 2)]
    pairs = zip(*counts, strict=True)
    return Dispatched(*(None if a is None or b is None else round((b - a) / period) for a, b in pairs))


def arms(subject: Subject, rounds: int) -> dict[str, Any]:
    """Both arms in turn, `rounds` times: medians of their tokens per second and of their ratio, and all rounds.

    Raises Disagreement where the losses after the last step differ.
    """
    period = subject.model.period
    trial = bare_loop(subject, WARM_UP + period)
    timed = min(subject.training.max_steps, math.ceil(ARM_SECONDS * period / trial.seconds))
    steps = WARM_UP + max(1, round(timed / period)) * period  # so many whole periods
    pairs = []
    for _ in range(rounds):
        ours, bare = framework(subject, steps), bare_loop(subject, steps)
        if not subject.alike(ours.loss, bare.loss):
            raise Disagreement(
                f"after {steps} steps the framework's loss is {ours.loss:.6g} and the bare loop's {bare.loss:.6g}"
            )
        tokens = subject.tokens * (steps - WARM_UP)
        pairs.append((tokens / ours.seconds, tokens / bare.seconds))
    ratios = [a / b for a, b in pairs]
    return {
        "tokens_per_second": statistics.median(a for a, _ in pairs),
        "bare_tokens_per_second": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "rounds": pairs,
        "steps": steps - WARM_UP,
    }
