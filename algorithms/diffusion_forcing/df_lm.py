"""Diffusion Forcing LM: diffusion in embedding space with an independent noise level for each token.

Source: Chen et al. 2024 (arXiv:2407.01392), moved to text. `parameterisation=faithful` is the original's recipe,
`shifted` the next-token network on noisy inputs, `two_stream` that network on clean texts and noisy windows at once.
B batch, T tokens, C embedding channels, V vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import LanguageModel
from algorithms.common.base_algorithm import EVALUATION_SEED, BaseAlgorithm
from algorithms.common.generation import Generation, RowRandom, Trace, check_prompt
from algorithms.common.likelihood import Likelihood
from algorithms.diffusion_forcing.config import INFORMATION, DFLMConfig
from algorithms.diffusion_forcing.decoding.guidance import guidance_from_loss, keyword_loss
from algorithms.diffusion_forcing.decoding.posterior import Context, Posterior, WholeWindow
from algorithms.diffusion_forcing.decoding.sampling import sample
from algorithms.diffusion_forcing.decoding.scheduling_matrix import scheduling_matrix
from algorithms.diffusion_forcing.decoding.settings import AnyDecoder, MatrixDecoderConfig, SpeculativeConfig
from algorithms.diffusion_forcing.decoding.speculative import speculate
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.models import FaithfulDenoiser, ShiftedDenoiser, TwoStreamDenoiser
from algorithms.diffusion_forcing.models.embeddings import TokenTable, round_to_tokens
from algorithms.diffusion_forcing.path_bound import path_excess
from algorithms.diffusion_forcing.process.fitted_levels import InformationLevels

Denoiser = FaithfulDenoiser | ShiftedDenoiser
PATHS = (2, 4, 8)  # tokens in flight of the bounds stated
CLEAN_SNR = 100.0  # total SNR at which a token is as good as clean: 1e-8 nats are open
LEVEL_BINS = 4  # bins of noise levels in the diagnostics


def level_bins(timesteps: int) -> list[tuple[int, int]]:
    """Half-open ranges of noise levels, LEVEL_BINS of them or one a level."""
    edges = np.linspace(0, timesteps, min(LEVEL_BINS, timesteps) + 1).astype(int)
    return [(int(low), int(high)) for low, high in pairwise(edges)]


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
        self.levels: InformationLevels | None = None
        if config.diffusion.beta_schedule == INFORMATION:
            self.levels = InformationLevels(config.diffusion.timesteps, vocabulary_size)
        self.process = self.make_process(self._make_denoiser(config))
        self.likelihood_kind = self.denoiser.likelihood_kind
        if config.mse_weight > 0:
            self.loss_unit = "weighted squared error" + (" + nats" if config.ce_weight > 0 else "")

    def _make_denoiser(self, config: DFLMConfig) -> Denoiser:
        dim = config.embedding.dim or config.backbone.n_embd
        if config.parameterisation == "faithful":
            longer = replace(config.backbone, block_size=self.window)
            return FaithfulDenoiser(longer, TokenTable(self.vocabulary_size, dim, config.embedding), config.time_fusion)
        model = LanguageModel(
            config.backbone, self.vocabulary_size
        )  # first: a GPT of this seed starts from its weights
        table = TokenTable(self.vocabulary_size, dim, config.embedding)
        abar = self.make_process(nn.Identity()).alphas_cumprod
        if config.parameterisation == "shifted":
            return ShiftedDenoiser(model, table, config.time_fusion, abar, self.levels, config.self_conditioning)
        return TwoStreamDenoiser(
            model, table, config.time_fusion, abar, self.levels, config.self_conditioning, config.streams
        )

    @property
    def denoiser(self) -> Denoiser:
        """The network, which the process owns."""
        return cast(Denoiser, self.process.denoiser)

    @property
    def table(self) -> TokenTable:
        return self.denoiser.table

    def make_process(self, denoiser: nn.Module, decoder: MatrixDecoderConfig | None = None) -> Diffusion:
        """The Gaussian process around `denoiser`, sampling as `decoder` says."""
        decoder = decoder or MatrixDecoderConfig(sampling_timesteps=self.config.diffusion.timesteps)
        options = asdict(self.config.diffusion)
        options.pop("fit_every_steps")
        if self.levels is not None:
            options["beta_schedule"] = self._fitted_betas()
        return Diffusion(
            denoiser,
            **options,
            sampling_timesteps=decoder.sampling_timesteps,
            level_power=decoder.level_power,
            ddim_eta=decoder.ddim_eta,
            stabilization_level=decoder.stabilization_level,
        )

    def _fitted_betas(self) -> Tensor:
        assert self.levels is not None
        return self.levels.betas(self.config.embedding.dim or self.config.backbone.n_embd)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        every = self.config.diffusion.fit_every_steps * self.trainer.accumulate_grad_batches
        if self.levels is not None and batch_idx > 0 and batch_idx % every == 0:
            reduce = self.trainer.strategy.reduce
            self.levels.fit(*(reduce(sums.clone(), reduce_op="sum") for sums in (self.levels.nats, self.levels.count)))
            self.process.set_betas(self._fitted_betas())
            cast(ShiftedDenoiser, self.denoiser).alphas_cumprod.copy_(self.process.alphas_cumprod)

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        squared_error = self.config.mse_weight > 0
        parts = self.denoiser.losses(self.process, ids, self.config.rows, generator, squared_error=squared_error)
        loss = self.config.ce_weight * parts["ce"]
        if squared_error:
            loss = loss + self.config.mse_weight * parts["mse"]
        norm = self.table().detach().norm(dim=-1).mean()
        return {"loss": loss, **parts, "embedding_norm": norm}

    def nll(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        return self.denoiser.nll(self.process, ids, generator)

    def likelihoods(self) -> dict[str, Likelihood]:
        """The exact one, and the bounds of pyramids with several tokens in flight."""
        found = super().likelihoods()
        if not isinstance(self.denoiser, FaithfulDenoiser):
            for in_flight in PATHS:
                if in_flight < self.backbone.block_size:
                    found[f"pyramid_{in_flight}"] = Likelihood("bound", partial(self.path_bound, in_flight))
        return found

    def path_bound(self, in_flight: int, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Nats (B, T) of ids[:, 1:] on a pyramid with `in_flight` tokens in flight, an upper bound in the mean over a
        text: the exact nats and an estimate of the excess. A token is at the levels of training, and passes between
        them.
        """
        denoiser = cast(ShiftedDenoiser, self.denoiser)
        snr = self.process.snr.double()
        finer = len(snr) // 4
        finer += -(len(snr) + finer) % in_flight  # so that the tokens in flight share all cells equally
        top = torch.linspace(1, 0, finer + 1, device=snr.device)[:-1].double()
        clean = CLEAN_SNR / denoiser.table.scale**2
        edges = torch.cat([snr[0] + top * (clean - snr[0]).clamp(min=0), snr, snr.new_zeros(1)])
        path = path_excess(
            denoiser.window_priors, ids, denoiser.table(), edges=edges, in_flight=in_flight, generator=generator
        )
        return path.autoregressive + path.excess

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
        x = self.process.q_sample(x0, levels, self.process.draw_noise(x0.shape, generator))
        estimate = self.denoiser.estimate(self.process, ids, x, levels)  # (B, T, C)
        ids, levels = ids[:, 1:], levels[:, 1:]
        error = (estimate - F.embedding(ids, table)).square().mean(-1)  # (B, T)
        correct = round_to_tokens(estimate, table) == ids
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

    @property
    def sees_right(self) -> bool:
        """Whether a suffix within reach of the window makes a difference to what is written before it."""
        reads = not isinstance(self.denoiser, FaithfulDenoiser) and self.denoiser.reads_right > 0
        return reads and not isinstance(self.config.decoder, SpeculativeConfig)

    def sampling_process(self, decoder: MatrixDecoderConfig) -> tuple[Diffusion, Context]:
        """The process that samples as `decoder` says, around the context that is its denoiser; for one call."""
        process = self.make_process(nn.Identity(), decoder).to(self.device)
        context: Context
        if isinstance(self.denoiser, FaithfulDenoiser):
            context = WholeWindow(self.denoiser, self.window, self.denoiser.positions)
        else:
            context = Posterior(self.denoiser, process, decoder)
        process.denoiser = context
        return process, context

    def check_generation(self, length: int, *, prompt_length: int = 1) -> None:
        decoder = self.config.decoder
        try:
            if isinstance(decoder, SpeculativeConfig):
                return decoder.check(self.backbone.block_size)
            horizon = length if decoder.chunk_size is None else min(decoder.chunk_size, length)
            self.sampling_process(decoder)[1].check(self.matrix(decoder, horizon))
            self.guidance(decoder, self.table())
        except ValueError as error:
            raise ValueError(f"algorithm.decoder: {error}") from error

    def artifacts(self) -> dict[str, np.ndarray]:
        found, decoder = {}, self.config.decoder
        if isinstance(decoder, MatrixDecoderConfig):
            horizon = min(decoder.chunk_size or self.window, self.window)
            found["scheduling_matrix"] = self.matrix(decoder, horizon).numpy()
        if self.levels is not None:
            found["noise_levels"] = self.levels.snr.cpu().numpy()
        return found

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        *,
        length: int,
        seeds: Sequence[int],
        decoder: AnyDecoder | None = None,
        trace: bool = False,
        suffix: Tensor | None = None,
    ) -> Generation:
        check_prompt(prompt, seeds, length)
        decoder = decoder or self.config.decoder
        self.config.check_decoder(decoder)
        if isinstance(decoder, SpeculativeConfig):
            if suffix is not None:
                raise ValueError("algorithm/decoder=speculative writes from left to right: take no suffix, or pyramid")
            decoder.check(self.backbone.block_size)
            denoiser = cast(ShiftedDenoiser, self.denoiser)
            return speculate(denoiser, prompt, length=length, seeds=seeds, config=decoder, trace=trace)
        tail = prompt[:, :0] if suffix is None else suffix
        ids = torch.cat([prompt, prompt.new_zeros(len(seeds), length), tail], dim=1)  # (B, L)
        given = torch.ones_like(ids, dtype=torch.bool)
        given[:, prompt.size(1) : prompt.size(1) + length] = False
        return self.infill(ids, given, seeds=seeds, decoder=decoder, trace=trace)

    @torch.no_grad()
    def infill(
        self,
        ids: Tensor,
        given: Tensor,
        *,
        seeds: Sequence[int],
        decoder: MatrixDecoderConfig,
        trace: bool = False,
    ) -> Generation:
        """Decide the tokens of ids (B, L) that are not `given` (B, L); the first must be. Given ones behind others are
        taken into account once they are in the window, by a network that reads it from right to left, too."""
        began = time.perf_counter()
        random = RowRandom(seeds)
        table = self.table()
        process, context = self.sampling_process(decoder)
        states: list[tuple[Tensor, Tensor, Tensor]] = []

        def record(x: Tensor, levels: Tensor, forwards: int) -> None:
            tokens = torch.where(given, ids, round_to_tokens(x, table, decoder.rounding))
            states.append((tokens, levels / decoder.sampling_timesteps, torch.tensor(forwards)))

        sampled = sample(
            process,
            F.embedding(ids, table),
            given,
            matrix=partial(self.matrix, decoder),
            source=random,
            chunk_size=decoder.chunk_size,
            draws_tokens=decoder.token_draw != "mean",
            guidance_fn=self.guidance(decoder, table),
            on_row=record if trace else None,
        )
        decided = int((~given).sum())
        ids = torch.where(given, ids, round_to_tokens(sampled.x, table, decoder.rounding))
        recorded = Trace(*(torch.stack(part) for part in zip(*states, strict=True))) if trace else None
        seconds = time.perf_counter() - began
        return Generation(
            ids,
            sampled.steps,
            context.forwards,
            seconds,
            decided,
            recorded,
            token_forwards=context.token_forwards,
        )
