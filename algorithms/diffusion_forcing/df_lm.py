"""Diffusion Forcing LM: diffusion in embedding space with an independent noise level for each token.

Source: Chen et al. 2024 (arXiv:2407.01392), moved to text. `parameterisation=faithful` is the original's recipe,
`shifted` the next-token network on noisy inputs, `two_stream` that network on clean texts and noisy windows at once.
Here a noise process, a network and decoders are put together; each knows the others by their methods alone.
B batch, T tokens, C embedding channels, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.artifact import Artifact
from algorithms.common.intermittent import Intermittent
from algorithms.common.likelihood import Likelihood
from algorithms.common.randomness import RowRandom, Source, integers
from algorithms.common.speculation import DRAFTS, check_drafts
from algorithms.diffusion_forcing.config import DFLMConfig
from algorithms.diffusion_forcing.decoding.drafting import NoiseDrafter
from algorithms.diffusion_forcing.models import DENOISERS, ShiftedDenoiser
from algorithms.diffusion_forcing.models.embeddings import round_to_tokens
from algorithms.diffusion_forcing.process import make_process

OBSERVED = ("observed_levels", "observed_nats")
LEVEL_BINS = 4  # bins of noise levels in the diagnostics


def level_bins(timesteps: int) -> list[tuple[int, int]]:
    """Half-open ranges of noise levels, LEVEL_BINS of them or one a level."""
    edges = np.linspace(0, timesteps, min(LEVEL_BINS, timesteps) + 1).astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]


class DFLM(Intermittent):
    """A denoiser of token embeddings.

    Its windows hold block_size + 1 tokens: those that a GPT of the same context sees and predicts.
    """

    name = "df_lm"
    description = "Diffusion Forcing: the next token, given a past in which every token has its own noise level"
    trace_scale = "noise"
    config_class = DFLMConfig
    config: DFLMConfig

    def __init__(self, config: DFLMConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.denoiser = DENOISERS[config.parameterisation](config, vocabulary_size)
        settings = asdict(config.diffusion)
        settings.pop("fit_every_steps")
        self.process = make_process(vocabulary_size=vocabulary_size, squared_norm=self.denoiser.table.dim, **settings)
        self.likelihood_kind = self.denoiser.likelihood_kind
        if config.mse_weight > 0:
            self.loss_unit = "weighted squared error" + (" + nats" if config.ce_weight > 0 else "")

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        every = self.config.diffusion.fit_every_steps * self.trainer.accumulate_grad_batches
        if batch_idx > 0 and batch_idx % every == 0:
            self.process.fit()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """As for any method; what is observed of the levels is that of all processes, in each of them."""
        if self.global_rank > 0:
            self.process.forget()  # the first process carries it on
        loss = super().training_step(batch, batch_idx)
        if self.trainer.world_size > 1:
            self.process.gather(partial(self.trainer.strategy.reduce, reduce_op="sum"))
        return loss

    @property
    def period(self) -> int:
        return self.denoiser.interval

    def intermittent_parts(self) -> dict[str, float]:
        weights = self.denoiser.weights
        return {name: weights[name] for name in self.denoiser.of_noise}

    def intermittent_parameters(self) -> Iterable[nn.Parameter]:
        return self.denoiser.noise_parameters()

    def draw(self, ids: Tensor, generator: torch.Generator) -> Any:
        """What the denoiser draws, None on a step on clean texts alone."""
        if self.step % self.denoiser.interval > 0:
            return None
        return self.denoiser.draw(self.process, ids, generator)

    def loss_of(self, ids: Tensor, draws: Any) -> dict[str, Tensor]:
        """Beside the loss and its parts what the process asks for, under the names OBSERVED."""
        parts, observed = self.denoiser.losses(self.process, ids, draws)
        weights = self.denoiser.weights
        loss = reduce(torch.add, (weights[name] * value for name, value in parts.items() if name in weights))
        return {"loss": loss, **parts, **dict(zip(OBSERVED, observed or (), strict=False))}

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What is observed goes to the process here: that is no part of a compiled graph."""
        parts = super().loss(ids, generator)
        if OBSERVED[0] in parts:
            self.process.observe(*(parts.pop(name) for name in OBSERVED))
        return parts

    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        return self.denoiser.nll(self.process, ids, generator)

    def likelihoods(self) -> dict[str, Likelihood]:
        return self.denoiser.likelihoods(self.process)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 0 and self.evaluated_split == "val" and self.global_rank == 0:
            self.log_levels(batch)

    def log_levels(self, ids: Tensor) -> None:
        """Log the norm of embeddings, and by noise level rounding accuracy and squared error of x0_hat, at independent
        levels, for ids (B, T).

        A diagnosis from the first process's first batch alone.
        """
        generator = RowRandom.of_windows(range(len(ids)), ids.device)
        process, denoiser = self.process, self.denoiser
        levels = integers(generator, process.timesteps, *ids.shape)
        table, x0 = denoiser.table(), denoiser.embed(ids)
        x = process.q_sample(x0, levels, process.draw_noise(x0.shape, generator))
        estimate = denoiser.estimate(process, ids, x, levels)  # (B, T, C)
        ids, levels = ids[:, 1:], levels[:, 1:]
        error = (estimate - F.embedding(ids, table)).square().mean(-1)  # (B, T)
        correct = round_to_tokens(estimate, table) == ids
        self.log("levels/embedding_norm", table.norm(dim=-1).mean(), rank_zero_only=True)
        for low, high in level_bins(process.timesteps):
            inside = (levels >= low) & (levels < high)
            if inside.any():
                name = f"{low:02d}-{high - 1:02d}"
                self.log(f"levels/mse_{name}", error[inside].mean(), rank_zero_only=True)
                self.log(f"levels/rounding_accuracy_{name}", correct[inside].float().mean(), rank_zero_only=True)

    def drafter(self, drafts: int | None) -> NoiseDrafter:
        """The drafter of so many tokens, by default as many as `speculative` says; ValueError where it cannot be."""
        denoiser = self.denoiser
        if not isinstance(denoiser, ShiftedDenoiser):
            raise ValueError(
                "name is 'speculative', which verifies next tokens, and this network predicts none: take "
                "algorithm/decoder=pyramid, or train with algorithm.parameterisation=two_stream"
            )
        most = self.block_size - 1
        check_drafts(drafts, most, f"a context of {self.block_size} has room for", "algorithm.backbone.block_size")
        return NoiseDrafter(denoiser, self.process, drafts or min(DRAFTS, most))

    def artifacts(self) -> list[Artifact]:
        """What the decoder and the process have to show."""
        return [*self.config.decoder.artifacts(self.block_size + 1), *self.process.artifacts()]
