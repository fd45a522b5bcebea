"""The GPT's network on noisy inputs; a token's own noisy embedding enters outside the backbone, by Bayes' rule.

With noise independent for each token and causal attention the exact posterior of token l factorises into a prediction
from the noisy past and the Gaussian channel of its own embedding, p(x_l = v | z_<=l) ∝ p(v | z_<l) N(z_l; alpha e_v,
sigma² I) (the output prior of Plaid, arXiv:2305.18619), so the backbone only learns the first factor.
B batch, T tokens, C embedding channels, V vocabulary.
"""

import math
import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.backbone.transformer import init_weights
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.likelihood import channel_logits
from algorithms.diffusion_forcing.models.embeddings import TokenTable
from algorithms.diffusion_forcing.process.fitted_levels import InformationLevels
from algorithms.diffusion_forcing.process.row_mixture import CLEAN, RowMixture, sample_noise_levels

LOG_SNR_RANGE = (-5.0, 6.0)  # of the total SNR: below it nothing is seen of a token, above it all
LOG_SNR_SCALE = 12.0  # for the sinusoids, which are made for whole levels


class NeighbourStates(NamedTuple):
    """What is known beside the past: states (B, N, n_embd), 0 where it is not; where (..., N, 1) bool."""

    states: Tensor
    where: Tensor


class ShiftedDenoiser(nn.Module):
    """A GPT (`model`) that also reads noisy tokens: logits f(z_<l) + channel(z_l) for token l.

    A clean token is read as the GPT reads it. A noisy one is read as the mean of the token embeddings under its own
    channel, plus a projection of the noisy embedding, told its log-SNR. `levels`, if given, is fitted while training.
    `self_conditioning` is the share of training steps in which a noisy token is read as its posterior mean given its
    own past, by an earlier pass (arXiv:2208.04202).
    """

    likelihood_kind = "exact"
    reads_right = 0  # tokens of a window that may be read from right to left
    chains = False  # whether a token can be told the one just drawn before it
    alphas_cumprod: Tensor

    def __init__(
        self,
        model: LanguageModel,
        table: TokenTable,
        time_fusion: str,
        alphas_cumprod: Tensor,
        levels: InformationLevels | None,
        self_conditioning: float = 0.0,
    ) -> None:
        super().__init__()
        n_embd, dim = model.wte.weight.size(1), table.weight.size(1)
        self.model = model
        self.table = table
        self.levels = levels
        self.self_conditioning = self_conditioning
        self.register_buffer("alphas_cumprod", alphas_cumprod.clone())  # (timesteps,)
        self.project_in = nn.Linear(dim, n_embd, bias=False)
        self.conditioning = NoiseConditioning(n_embd, time_fusion)
        init_weights(self.project_in)

    @property
    def config(self) -> BackboneConfig:
        return self.model.backbone.config

    # ---- what the backbone reads ----

    def embed(self, ids: Tensor) -> Tensor:
        """Clean embeddings x0 (B, T, C) of ids (B, T)."""
        return F.embedding(ids, self.table())

    def read_noisy(self, x: Tensor, abar: Tensor, belief: Tensor) -> Tensor:
        """Noisy embeddings x (B, T, C) at abar (B, T) as the backbone's input; `belief` are the logits (B, T, V)
        of what their channel says, or of what it and an earlier pass over their past say."""
        seen = belief.softmax(-1) @ self.model.wte.weight + self.project_in(x)
        log_snr = (abar / (1 - abar)).clamp(min=1e-12).log() + self.log_squared_norm
        low, high = LOG_SNR_RANGE
        return self.conditioning(seen, LOG_SNR_SCALE * (log_snr.clamp(low, high) - low))

    @property
    def log_squared_norm(self) -> float:
        """ln |e|² of an embedding of fixed norm: what makes an SNR of a coordinate one of the token."""
        return 2 * math.log(self.table.scale)

    def next_token_logits(self, h: Tensor) -> Tensor:
        """f: logits (B, T, V) of the token after every position, from the backbone's input h (B, T, n_embd)."""
        return self.model.lm_head(self.model.backbone(self.model.backbone.add_positions(h)))

    # ---- training and evaluation ----

    def losses(
        self,
        process: Diffusion,
        ids: Tensor,
        mixture: RowMixture,
        generator: torch.Generator,
        *,
        squared_error: bool = True,
    ) -> dict[str, Tensor]:
        """The parts of the loss for ids (B, T + 1), noised by rows of `mixture`: `ce`, nats per token of f given a past
        that is noisy or clean; `mse`, the weighted squared error of the posterior mean, if `squared_error` is asked
        for."""
        table = self.table()
        levels = sample_noise_levels(*ids.shape, timesteps=process.timesteps, mixture=mixture, generator=generator)
        x0 = F.embedding(ids, table)
        x = process.q_sample(x0, levels, process.draw_noise(x0.shape, generator))
        prior, channel = self._priors(ids, x, levels, table)
        if self.conditions_itself(generator):
            prior, channel = self._priors(ids, x, levels, table, estimate=prior.detach())
        nats = F.cross_entropy(prior.transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T)
        posterior = prior + channel[:, 1:]
        self._observe(levels[:, 1:], posterior, ids[:, 1:])
        parts = {"ce": nats.mean()}
        if squared_error:
            error = (posterior.softmax(-1) @ table - x0[:, 1:].detach()).square().mean(-1)
            parts["mse"] = (process.compute_loss_weights(levels.clamp(min=0))[:, 1:] * error).mean()
        return parts

    def conditions_itself(self, generator: torch.Generator) -> bool:
        """Whether this training step passes twice; drawn without waiting for the device."""
        return random.Random(~generator.initial_seed()).random() < self.self_conditioning

    def _priors(
        self, ids: Tensor, x: Tensor, levels: Tensor, table: Tensor, estimate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """f (B, T, V) for all tokens but the first, and every token's own channel (B, T + 1, V); `estimate` is f of an
        earlier pass."""
        abar = self.alphas_cumprod[levels.clamp(min=0)]
        channel = channel_logits(x, abar, table)
        belief = channel[:, :-1]
        if estimate is not None:
            belief = torch.cat([belief[:, :1], belief[:, 1:] + estimate[:, :-1]], dim=1)
        noisy = self.read_noisy(x[:, :-1], abar[:, :-1], belief)
        clean = (levels[:, :-1] == CLEAN)[..., None]
        return self.next_token_logits(torch.where(clean, self.model.wte(ids[:, :-1]), noisy)), channel

    @torch.no_grad()
    def _observe(self, levels: Tensor, posterior: Tensor, ids: Tensor) -> None:
        """Count the nats that are open of the noisy tokens ids (B, T) at `levels`, in rows as they are trained on: a
        level is as far from the next as a token comes in a step, by its own noise falling and by its neighbours'."""
        if self.training and self.levels is not None:
            nats = F.cross_entropy(posterior.detach().transpose(1, 2), ids, reduction="none")
            self.levels.observe(levels, nats)

    def nll(self, process: Diffusion, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Exact nats of ids[:, 1:] (B, T) on the autoregressive schedule, where a token's past is clean: the
        I-MMSE relation makes the diffusion integral equal the cross-entropy of f (arXiv:2302.03792)."""
        logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")

    def estimate(self, process: Diffusion, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """Posterior means (B, T, C) of the tokens after the first, of ids (B, T + 1) seen as x at `levels`."""
        table = self.table()
        prior, channel = self._priors(ids, x, levels, table)
        return (prior + channel[:, 1:]).softmax(-1) @ table

    # ---- windows of noisy tokens behind clean ones ----

    def two_streams(self, ids: Tensor, noisy: Tensor, positions: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over clean tokens ids (B, T) and noisy ones at `positions` (N,), as the backbone reads them (B, N,
        n_embd): the hidden states (B, T, n_embd) and (B, N, n_embd) of both.

        A clean token sees clean ones up to itself. A noisy one sees the clean ones before its window, which starts at
        begins (N,), and the noisy ones of its window up to itself, so that a window is what it is while sampling.
        """
        T = ids.size(1)
        backbone = self.model.backbone
        now = torch.arange(T, device=ids.device)
        clean = torch.cat([now <= now[:, None], now.new_zeros(T, len(positions), dtype=torch.bool)], 1)
        inside = (begins == begins[:, None]) & (positions <= positions[:, None])
        mask = torch.cat([clean, torch.cat([now < begins[:, None], inside], 1)])  # (T + N, T + N)
        where = torch.cat([now, positions])
        h = torch.cat([self.model.wte(ids), noisy], dim=1)
        if backbone.wpe is not None:
            h = h + backbone.wpe(where)
        return backbone(h, mask=mask, positions=where).split([T, len(positions)], dim=1)

    def window_priors(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """The two priors of `path_bound.WindowPrior`, each (B, T, V), for ids (B, T + 1)."""
        abar, begins = snr / (1 + snr), begins + 1
        noisy = self.read_noisy(x, abar, channel_logits(x, abar, self.table()))
        positions = torch.arange(1, ids.size(1), device=ids.device)
        # The last token is nobody's past.
        clean, seen = self.two_streams(ids[:, :-1], noisy[:, :-1], positions[:-1], begins[:-1])
        seen = self.refine(seen, positions[:-1], begins[:-1])
        before = torch.cat([clean[:, :1], seen], dim=1)  # (B, T, n_embd)
        past = torch.where((begins == positions)[:, None], clean, before)
        return self.model.lm_head(clean), self.head(past, self.read_right(noisy, positions, begins))

    def refine(self, seen: Tensor, positions: Tensor, begins: Tensor) -> Tensor:
        """States of noisy tokens (B, N, n_embd) after layers that are theirs alone: there are none."""
        return seen

    def read_right(self, noisy: Tensor, positions: Tensor, begins: Tensor) -> NeighbourStates | None:
        """What a token is told of the noisy tokens to its right: nothing."""
        return None

    def left(self, tokens: Tensor, known: Tensor) -> NeighbourStates | None:
        """What a token is told of one just drawn before it: nothing."""
        return None

    def head(self, past: Tensor, right: NeighbourStates | None = None, left: NeighbourStates | None = None) -> Tensor:
        """Logits (B, N, V) of tokens from the states before them, past (B, N, n_embd)."""
        return self.model.lm_head(past)
