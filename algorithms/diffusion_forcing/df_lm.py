"""Diffusion Forcing LM: diffusion in embedding space with an independent noise level for each token.

Source: Chen et al. 2024 (arXiv:2407.01392), moved to text. `parameterisation=faithful` is the original's recipe,
`shifted` the next-token network on noisy inputs. B batch, T tokens, C embedding channels, V vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import EVALUATION_SEED, BaseAlgorithm
from algorithms.common.generation import Generation, RowRandom, Trace, check_prompt
from algorithms.common.optim import OptimizerConfig
from algorithms.diffusion_forcing.decoder import MatrixDecoderConfig
from algorithms.diffusion_forcing.denoisers import FaithfulDenoiser, ShiftedDenoiser
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.embeddings import EmbeddingConfig, TokenTable, round_to_tokens
from algorithms.diffusion_forcing.guidance import guidance_from_loss, keyword_loss
from algorithms.diffusion_forcing.noise_levels import RowMixture, sample_noise_levels
from algorithms.diffusion_forcing.sampling import horizon_of, sample
from algorithms.diffusion_forcing.scheduling import scheduling_matrix

PARAMETERISATIONS = ("shifted", "faithful")
LEVEL_BINS = 4  # bins of noise levels in the diagnostics


def level_bins(timesteps: int) -> list[tuple[int, int]]:
    """Half-open ranges of noise levels, LEVEL_BINS of them or one a level."""
    edges = np.linspace(0, timesteps, min(LEVEL_BINS, timesteps) + 1).astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process and its loss weights, as in the original; checked by Diffusion itself."""

    timesteps: int = 32
    beta_schedule: str = "cosine"
    objective: str = "pred_noise"
    use_fused_snr: bool = True
    snr_clip: float = 5.0
    cum_snr_decay: float = 0.95
    clip_noise: float = 5.0
    log_snr_shift: float = 0.0


@dataclass(frozen=True)
class DFLMConfig:
    """Settings of `algorithm=df_lm`; the loss is mse_weight · weighted MSE + ce_weight · token cross-entropy."""

    backbone: BackboneConfig
    name: str = "df_lm"
    parameterisation: str = "shifted"
    time_fusion: str = "add"
    mse_weight: float = 0.0
    ce_weight: float = 1.0
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    rows: RowMixture = field(default_factory=RowMixture)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: MatrixDecoderConfig = field(default_factory=MatrixDecoderConfig)

    def __post_init__(self) -> None:
        if self.parameterisation not in PARAMETERISATIONS:
            raise ValueError(
                f"algorithm.parameterisation is '{self.parameterisation}': choose one of {', '.join(PARAMETERISATIONS)}"
            )
        if self.parameterisation == "shifted" and self.diffusion.objective != "pred_x0":
            raise ValueError(
                f"algorithm.diffusion.objective is '{self.diffusion.objective}': parameterisation=shifted predicts "
                "the clean embedding; set it to pred_x0"
            )
        if min(self.mse_weight, self.ce_weight) < 0 or self.mse_weight + self.ce_weight == 0:
            raise ValueError(
                f"algorithm.mse_weight ({self.mse_weight}) and ce_weight ({self.ce_weight}) cannot be negative, "
                "and one of them must be above 0"
            )
        if self.decoder.token_draw == "sample" and self.parameterisation == "faithful":
            raise ValueError(
                "algorithm.decoder.token_draw=sample needs token probabilities: "
                "set token_draw=mean, or parameterisation=shifted"
            )


class DFLM(BaseAlgorithm):
    """A causal denoiser of token embeddings.

    Its windows hold block_size + 1 tokens: those that a GPT of the same context sees and predicts.
    """

    name = "df_lm"
    trace_scale = "noise"
    config_class = DFLMConfig
    config: DFLMConfig

    def __init__(self, config: DFLMConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.window = config.backbone.block_size + 1
        dim = config.embedding.dim or config.backbone.n_embd
        table = TokenTable(vocabulary_size, dim, config.embedding)
        denoiser: FaithfulDenoiser | ShiftedDenoiser
        if config.parameterisation == "shifted":
            abar = self.make_process(nn.Identity()).alphas_cumprod
            denoiser = ShiftedDenoiser(config.backbone, table, config.time_fusion, abar)
        else:
            longer = replace(config.backbone, block_size=self.window)
            denoiser = FaithfulDenoiser(longer, table, config.time_fusion)
        self.likelihood_kind = denoiser.likelihood_kind
        if config.mse_weight > 0:
            self.loss_unit = "weighted squared error" + (" + nats" if config.ce_weight > 0 else "")
        self.process = self.make_process(denoiser)

    @property
    def denoiser(self) -> FaithfulDenoiser | ShiftedDenoiser:
        """The network, which the process owns."""
        return cast(FaithfulDenoiser | ShiftedDenoiser, self.process.denoiser)

    @property
    def table(self) -> TokenTable:
        return self.denoiser.table

    def make_process(self, denoiser: nn.Module, decoder: MatrixDecoderConfig | None = None) -> Diffusion:
        """The Gaussian process around `denoiser`, sampling as `decoder` says."""
        decoder = decoder or self.config.decoder
        return Diffusion(
            denoiser,
            **asdict(self.config.diffusion),
            sampling_timesteps=decoder.sampling_timesteps,
            ddim_eta=decoder.ddim_eta,
            stabilization_level=decoder.stabilization_level,
        )

    def draw_noise(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Clamped Gaussian noise for the embeddings of ids (B, T): (B, T, C)."""
        shape = (*ids.shape, self.table.weight.size(1))
        clip = self.config.diffusion.clip_noise
        return torch.randn(shape, generator=generator, device=ids.device).clamp(-clip, clip)

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        levels = sample_noise_levels(
            *ids.shape,
            timesteps=self.config.diffusion.timesteps,
            mixture=self.config.rows,
            generator=generator,
        )  # (B, T + 1)
        parts = self.denoiser.losses(self.process, ids, levels, self.draw_noise(ids, generator))
        loss = self.config.mse_weight * parts["mse"] + self.config.ce_weight * parts["ce"]
        norm = self.table().detach().norm(dim=-1).mean()
        return {"loss": loss, **parts, "embedding_norm": norm}

    def nll(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        return self.denoiser.nll(self.process, ids, self.draw_noise(ids, generator), generator)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 0 and self.evaluation_split == "val":
            self.log_levels(batch)

    def log_levels(self, ids: Tensor) -> None:
        """Log rounding accuracy and squared error of x0_hat by noise level, at independent levels, for ids (B, T).

        A diagnosis from the first process's batch alone: other processes may have none.
        """
        generator = torch.Generator(ids.device).manual_seed(EVALUATION_SEED)
        timesteps = self.config.diffusion.timesteps
        levels = torch.randint(timesteps, ids.shape, generator=generator, device=ids.device)
        table, x0 = self.table(), self.denoiser.embed(ids)
        x = self.process.q_sample(x0, levels, self.draw_noise(ids, generator))
        pred_x0 = self.process.model_predictions(x, levels)[1]
        error = (pred_x0 - x0).square().mean(-1)  # (B, T)
        correct = round_to_tokens(pred_x0 - self.denoiser.positions(ids.size(1)), table) == ids
        for low, high in level_bins(timesteps):
            inside = (levels >= low) & (levels < high)
            if inside.any():
                name = f"{low:02d}-{high - 1:02d}"
                self.log(f"levels/mse_{name}", error[inside].mean(), rank_zero_only=True)
                self.log(f"levels/rounding_accuracy_{name}", correct[inside].float().mean(), rank_zero_only=True)

    def matrix(self, decoder: MatrixDecoderConfig, horizon: int) -> Tensor:
        """The scheduling matrix (rows, horizon) of `decoder`."""
        return scheduling_matrix(decoder.schedule, horizon, decoder.sampling_timesteps, decoder.uncertainty_scale)

    def guidance(self, decoder: MatrixDecoderConfig, table: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The score that pulls samples towards the decoder's keyword, if it has one."""
        if decoder.keyword is None:
            return None
        if self.encode is None:
            raise ValueError("algorithm.decoder.keyword needs a tokenizer: set `encode` on the algorithm")
        keyword = [int(token) for token in self.encode(decoder.keyword)]
        return guidance_from_loss(keyword_loss(table, keyword), decoder.guidance_scale)

    def check_generation(self, length: int, *, prompt_length: int = 1) -> None:
        try:
            horizon_of(length, self.config.decoder.chunk_size, self.window)
            self.guidance(self.config.decoder, self.table())
        except ValueError as error:
            raise ValueError(f"algorithm.decoder: {error}") from error

    def artifacts(self) -> dict[str, np.ndarray]:
        horizon = self.config.decoder.chunk_size or self.window
        return {"scheduling_matrix": self.matrix(self.config.decoder, horizon).numpy()}

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        *,
        length: int,
        seeds: Sequence[int],
        decoder: MatrixDecoderConfig | None = None,
        trace: bool = False,
    ) -> Generation:
        check_prompt(prompt, seeds, length)
        decoder = decoder or self.config.decoder
        began = time.perf_counter()
        random = RowRandom(seeds)
        table = self.table()
        denoiser = self.denoiser.for_sampling(decoder, random)
        process = self.make_process(denoiser, decoder).to(prompt.device)
        ids = torch.cat([prompt, prompt.new_zeros(len(seeds), length)], dim=1)  # (B, L)
        given = torch.arange(ids.size(1), device=ids.device).expand_as(ids) < prompt.size(1)
        states: list[tuple[Tensor, Tensor, Tensor]] = []

        def record(x: Tensor, levels: Tensor, forwards: int) -> None:
            tokens = torch.where(given, ids, round_to_tokens(x, table, decoder.rounding))
            states.append((tokens, levels / decoder.sampling_timesteps, torch.tensor(forwards)))

        sampled = sample(
            process,
            F.embedding(ids, table),
            given,
            matrix=partial(self.matrix, decoder),
            noise=random,
            block_size=self.window,
            chunk_size=decoder.chunk_size,
            guidance_fn=self.guidance(decoder, table),
            window_offset=lambda start, width: self.denoiser.positions(width),
            on_row=record if trace else None,
        )
        ids = torch.where(given, ids, round_to_tokens(sampled.x, table, decoder.rounding))
        recorded = Trace(*(torch.stack(part) for part in zip(*states, strict=True))) if trace else None
        seconds = time.perf_counter() - began
        return Generation(ids, sampled.forwards, sampled.forwards, seconds, length * len(seeds), recorded)
