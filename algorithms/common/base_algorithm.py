"""What all methods share: the training and validation steps, logging, and the optimiser.

A method supplies `draw`, `loss_of` and `nll`, and decoders for its `generate`; batches are ids (B, T + 1), in which
each of the last T tokens is to be predicted. B batch, T tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor

from algorithms.common.artifact import Artifact
from algorithms.common.decoder import Decoder, Generation, Request
from algorithms.common.likelihood import Likelihood, WindowNats, bits_per_character
from algorithms.common.optim import OptimizerConfig, make_optimizer, warmup_cosine
from algorithms.common.randomness import BatchGenerator, RowRandom, Source, seed_dropout, step_seed

LossOf = Callable[[Tensor, Any], dict[str, Tensor]]  # ids and draws -> the loss and its parts


class BaseAlgorithm(LightningModule, ABC):
    """A language model trained by one method.

    `total_steps` is the number of optimiser steps of the schedule; `seed` fixes every draw made in training.
    """

    name: ClassVar[str]
    description: ClassVar[str]  # what the network learns, in a line for reports
    config_class: ClassVar[type]
    trace_scale: ClassVar[str] = "states"  # a trace's levels: 1 masked, 0.5 a draft, 0 decided; "noise": noise levels
    is_autoregressive: ClassVar[bool] = False  # a text's exact likelihood is one pass: such a model can be a judge
    shape_keys: ClassVar[tuple[str, ...]] = tuple(  # of the config: what decides the shapes of the weights
        f"backbone.{key}" for key in ("style", "n_layer", "n_head", "n_embd", "block_size", "bias")
    )
    likelihood_kind: str = "exact"
    loss_unit: str = "nats per token"

    def __init__(self, config: Any, *, vocabulary_size: int, total_steps: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.total_steps = total_steps
        self.seed = seed
        self._loss_of: LossOf | None = None  # asked in place of `loss_of`: the same, compiled
        self._logged: list[Tensor] = []  # parts of the loss in the micro-batches of a step that gets logged
        torch.manual_seed(seed)  # every method starts from the same backbone

    @property
    def block_size(self) -> int:
        """Tokens of context."""
        return self.config.backbone.block_size

    @property
    def step(self) -> int:
        """Optimiser steps done; 0 outside of a training."""
        return 0 if self._trainer is None else self._trainer.global_step

    @property
    def period(self) -> int:
        """Steps after which the work of a step repeats."""
        return 1

    @abstractmethod
    def draw(self, ids: Tensor, generator: torch.Generator) -> Any:
        """All that chance decides in a training step on ids (B, T + 1): what `loss_of` is given."""

    @abstractmethod
    def loss_of(self, ids: Tensor, draws: Any) -> dict[str, Tensor]:
        """Training loss of ids (B, T + 1) and its draws: "loss", to be minimised, beside its named parts in nats per
        token. A pure function of weights and arguments, which compiles as one graph."""

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The same with draws from `generator`."""
        return (self._loss_of or self.loss_of)(ids, self.draw(ids, generator))

    def ask(self, loss_of: LossOf | None) -> None:
        """`loss` asks `loss_of`, the method's own compiled, until this is None; copies of the module do not."""
        self._loss_of = loss_of

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_loss_of": None}  # what is compiled is bound to this module's weights

    @abstractmethod
    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        """Nats of each predicted token: (B, T); `likelihood_kind` says whether exact or an upper bound."""

    def generate(self, request: Request, decoder: Decoder | None = None) -> Generation:
        """Decide the texts of `request`, by `decoder` or the configured one; raises as its `check` does."""
        return (decoder or self.config.decoder).generate(self, request)

    def likelihoods(self) -> dict[str, Likelihood]:
        """Every likelihood of the trained weights, by name, for the task `likelihood`."""
        return {"nll": Likelihood(self.likelihood_kind, self.nll)}

    def artifacts(self) -> Sequence[Artifact]:
        """Arrays worth a picture in the run folder, each with how it is drawn."""
        return ()

    @property
    def evaluated_split(self) -> str:
        """The split whose batches the Trainer evaluates now."""
        return self.trainer.val_dataloaders.split  # type: ignore[union-attr]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        rank, world_size = self.global_rank, self.trainer.world_size
        seed_dropout(step_seed(self.seed, batch_idx, rank), batch.device)
        seed = step_seed(self.seed, batch_idx)
        parts = self.loss(batch, BatchGenerator.of(seed, batch.device, rank=rank, world_size=world_size))
        self._log_parts(parts, batch_idx)
        return parts["loss"]

    def _log_parts(self, parts: dict[str, Tensor], batch_idx: int) -> None:
        """Log the mean over micro-batches and processes, on the steps that are logged: no cost on the others."""
        accumulate = self.trainer.accumulate_grad_batches
        step, micro = divmod(batch_idx, accumulate)
        if (step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        device = parts["loss"].device
        self._logged.append(torch.stack([value.detach().to(device, torch.float32) for value in parts.values()]))
        if micro == accumulate - 1:
            means = self.over_processes(torch.stack(self._logged).mean(0))
            self._logged = []
            self.log_dict({f"train/{name}": value for name, value in zip(parts, means, strict=True)})

    def over_processes(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes of a training; outside of one, itself. All of them have to ask."""
        if self._trainer is None or self.trainer.world_size == 1:
            return value
        return self.trainer.strategy.reduce(value.detach().float(), reduce_op="mean")

    def on_validation_epoch_start(self) -> None:
        loader: Any = self.trainer.val_dataloaders
        self.window_nats = WindowNats(torch.from_numpy(loader.lengths), self.device)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        numbers = self.trainer.val_dataloaders.numbers[batch_idx]  # type: ignore[union-attr]
        windows = torch.from_numpy(numbers).to(batch.device)
        if len(batch):
            self.window_nats.update(windows, self.nll(batch, RowRandom.of_windows(numbers, batch.device)))
        else:  # more processes than windows leave some without
            self.window_nats.update(windows, batch)

    def on_validation_epoch_end(self) -> None:
        loader: Any = self.trainer.val_dataloaders
        nll, error = self.window_nats.compute()
        bits = bits_per_character(nll, loader.characters_per_token)
        figures = {"nll": nll, "nll_error": error, "bpc": bits, "ppl": math.exp(min(nll, 700.0))}
        self.log_dict({f"{loader.split}/{name}": value for name, value in figures.items()})

    def configure_optimizers(self) -> dict[str, Any]:
        config: OptimizerConfig = self.config.optimizer
        optimizer = make_optimizer(self, config)

        def ratio(step: int) -> float:
            return warmup_cosine(
                step,
                warmup_steps=config.warmup_steps,
                total_steps=self.total_steps,
                min_ratio=config.min_lr_ratio,
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
