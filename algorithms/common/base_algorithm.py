"""What all four methods share: the training, validation and test steps, logging, and the optimiser.

A method supplies `loss`, `nll` and `generate`; batches are ids (B, T + 1), in which each of the last T tokens
is to be predicted. B batch, T tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from algorithms.common.backbone import BackboneConfig
from algorithms.common.generation import Generation
from algorithms.common.likelihood import Likelihood, NegativeLogLikelihood, bits_per_character
from algorithms.common.optim import OptimizerConfig, make_adamw, warmup_cosine

EVALUATION_SEED = 1234  # every evaluation draws the same noise, so that checkpoints and methods are paired


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one training micro-step: a resumed run draws what the uninterrupted one would have drawn."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the global generator of `device`, from which dropout draws. torch.manual_seed would seed those of every
    device, at more than a millisecond a call."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


class BaseAlgorithm(LightningModule, ABC):
    """A language model trained by one method.

    `total_steps` is the number of optimiser steps of the schedule; `seed` fixes every draw made in training.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    likelihood_kind: str = "exact"
    loss_unit: str = "nats per token"
    trace_scale: ClassVar[str] = "states"  # a trace's levels: 1 masked, 0.5 a draft, 0 decided; "noise": noise levels
    sees_right: ClassVar[bool] = False  # generate takes a `suffix` (B, S), known text after what is generated

    def __init__(self, config: Any, *, vocabulary_size: int, total_steps: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.total_steps = total_steps
        self.seed = seed
        self.evaluation_split = "val"  # the prefix under which validation figures are logged
        self.characters_per_token: dict[str, float] = {}
        self.encode: Callable[[str], Sequence[int]] | None = None  # the tokenizer's, for decoders that take text
        self.evaluation_nll = NegativeLogLikelihood()
        torch.manual_seed(seed)  # every method starts from the same backbone

    @property
    def backbone(self) -> BackboneConfig:
        return self.config.backbone

    @abstractmethod
    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Training loss of ids (B, T + 1): "loss", to be minimised, beside its named parts in nats per token."""

    @abstractmethod
    def nll(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Nats of each predicted token: (B, T); `likelihood_kind` says whether exact or an upper bound."""

    @abstractmethod
    def generate(
        self,
        prompt: Tensor,
        *,
        length: int,
        seeds: Sequence[int],
        decoder: Any = None,
        trace: bool = False,
    ) -> Generation:
        """Continue prompt (B, P) by `length` tokens; row i depends on its prompt and seeds[i] only."""

    def likelihoods(self) -> dict[str, Likelihood]:
        """Every likelihood of the trained weights, by name, for the task `likelihood`."""
        return {"nll": Likelihood(self.likelihood_kind, self.nll)}

    def check_generation(self, length: int, *, prompt_length: int = 1) -> None:
        """Raise ValueError if the configured decoder cannot generate `length` tokens so prompted: asked before
        training."""

    def artifacts(self) -> dict[str, np.ndarray]:
        """Arrays worth a picture in the run folder, by name."""
        return {}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        seed = step_seed(self.seed, batch_idx, self.global_rank)
        seed_dropout(seed, batch.device)
        parts = self.loss(batch, torch.Generator(batch.device).manual_seed(seed))
        every = self.trainer.log_every_n_steps * self.trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0:  # values go to the logger only then: no cost on the other steps
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return parts["loss"]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        generator = torch.Generator(batch.device).manual_seed(step_seed(EVALUATION_SEED, batch_idx, self.global_rank))
        self.evaluation_nll.update(self.nll(batch, generator))

    def on_validation_epoch_end(self) -> None:
        nll = float(self.evaluation_nll.compute())
        self.evaluation_nll.reset()
        split = self.evaluation_split
        bpc = bits_per_character(nll, self.characters_per_token.get(split, 1.0))
        figures = {"nll": nll, "bpc": bpc, "ppl": math.exp(min(nll, 700.0))}
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()}, sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def configure_optimizers(self) -> dict[str, Any]:
        config: OptimizerConfig = self.config.optimizer
        optimizer = make_adamw(self, config)

        def ratio(step: int) -> float:
            return warmup_cosine(
                step,
                warmup_steps=config.warmup_steps,
                total_steps=self.total_steps,
                min_ratio=config.min_lr_ratio,
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
