"""The GPT's network on noisy inputs; a token's own noisy embedding enters outside the backbone, by Bayes' rule.

With noise independent for each token and causal attention the exact posterior of token l factorises into a prediction
from the noisy past and the Gaussian channel of its own embedding, p(x_l = v | z_<=l) ∝ p(v | z_<l) N(z_l; alpha e_v,
sigma² I) (the output prior of Plaid, arXiv:2305.18619), so the backbone only learns the first factor.
B batch, T tokens, N noisy ones, C embedding channels, V vocabulary.
"""

import math
import random
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import LanguageModel
from algorithms.common.backbone.layers import init_weights
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.device import full_precision
from algorithms.common.likelihood import Likelihood
from algorithms.common.randomness import Source
from algorithms.diffusion_forcing.bounds import path_bound
from algorithms.diffusion_forcing.models.base import Denoiser, NeighbourStates
from algorithms.diffusion_forcing.models.embeddings import TokenTable
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits
from algorithms.diffusion_forcing.process.row_mixture import CLEAN

LOG_SNR_RANGE = (-5.0, 6.0)  # of the total SNR: below it nothing is seen of a token, above it all
LOG_SNR_SCALE = 12.0  # for the sinusoids, which are made for whole levels
PATHS = (2, 4, 8)  # tokens in flight of the bounds stated


class ShiftedDenoiser(Denoiser):
    """A GPT (`model`) that also reads noisy tokens: logits f(z_<l) + channel(z_l) for token l.

    A clean token is read as the GPT reads it. A noisy one is read as the mean of the token embeddings under its own
    channel, plus a projection of the noisy embedding, told its log-SNR. `self_conditioning` is the share of training
    steps in which a noisy token is read as its posterior mean given its own past, by an earlier pass
    (arXiv:2208.04202).
    """

    def __init__(self, config: Any, vocabulary_size: int) -> None:
        super().__init__(config)
        n_embd = config.backbone.n_embd
        self.model = LanguageModel(config.backbone, vocabulary_size)  # first: as a GPT of this seed starts
        self.table = TokenTable(vocabulary_size, config.embedding.dim or n_embd, config.embedding)
        self.block_size = config.backbone.block_size
        self.self_conditioning = config.self_conditioning
        self.project_in = nn.Linear(self.table.dim, n_embd, bias=False)
        self.conditioning = NoiseConditioning(n_embd, config.time_fusion)
        init_weights(self.project_in)

    # ---- what the backbone reads ----

    def read_noisy(self, x: Tensor, abar: Tensor, belief: Tensor) -> Tensor:
        """Noisy embeddings x (B, T, C) at abar (B, T) as the backbone's input; `belief` are the logits (B, T, V)
        of what their channel says, or of what it and an earlier pass over their past say."""
        seen = belief.softmax(-1) @ self.model.wte.weight + self.project_in(x)
        log_squared_norm = 2 * math.log(self.table.scale)  # makes an SNR of a coordinate one of the token
        log_snr = (abar / (1 - abar)).clamp(min=1e-12).log() + log_squared_norm
        low, high = LOG_SNR_RANGE
        return self.conditioning(seen, LOG_SNR_SCALE * (log_snr.clamp(low, high) - low))

    # ---- training and evaluation ----

    def losses(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`ce` is of f given a past that is noisy or clean, `mse` of the posterior mean."""
        table = self.table()
        levels = self.draw_levels(process, ids, generator)
        x0 = F.embedding(ids, table)
        x = process.q_sample(x0, levels, process.draw_noise(x0.shape, generator))
        abar = process.alphas_cumprod[levels.clamp(min=0)]
        channel = channel_logits(x, abar, table)
        prior = self._prior(ids, x, levels, abar, channel)
        if self.conditions_itself(generator):
            prior = self._prior(ids, x, levels, abar, channel, estimate=prior.detach())
        nats = F.cross_entropy(full_precision(prior).transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T)
        posterior = prior + channel[:, 1:]
        process.observe(levels[:, 1:], posterior, ids[:, 1:])
        parts = {"ce": nats.mean()}
        if self.squared_error:
            error = (posterior.softmax(-1) @ table - x0[:, 1:].detach()).square().mean(-1)
            parts["mse"] = (process.compute_loss_weights(levels.clamp(min=0))[:, 1:] * error).mean()
        return parts

    def conditions_itself(self, generator: torch.Generator) -> bool:
        """Whether this training step passes twice; drawn without waiting for the device."""
        return random.Random(~generator.initial_seed()).random() < self.self_conditioning

    def _prior(
        self, ids: Tensor, x: Tensor, levels: Tensor, abar: Tensor, channel: Tensor, estimate: Tensor | None = None
    ) -> Tensor:
        """f (B, T, V) for all tokens but the first, from every token's own channel (B, T + 1, V); `estimate` is f of an
        earlier pass."""
        belief = channel[:, :-1]
        if estimate is not None:
            belief = torch.cat([belief[:, :1], belief[:, 1:] + estimate[:, :-1]], dim=1)
        noisy = self.read_noisy(x[:, :-1], abar[:, :-1], belief)
        clean = (levels[:, :-1] == CLEAN)[..., None]
        h = torch.where(clean, self.model.wte(ids[:, :-1]), noisy)  # (B, T, n_embd)
        return self.model.lm_head(self.model.backbone(self.model.backbone.add_positions(h)))

    def nll(self, process: GaussianProcess, ids: Tensor, generator: Source) -> Tensor:
        """Exact, where a token's past is clean: the I-MMSE relation makes the diffusion integral equal the
        cross-entropy of f (arXiv:2302.03792)."""
        logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")

    def estimate(self, process: GaussianProcess, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """Posterior means."""
        table, abar = self.table(), process.alphas_cumprod[levels.clamp(min=0)]
        channel = channel_logits(x, abar, table)
        prior = self._prior(ids, x, levels, abar, channel)
        return (prior + channel[:, 1:]).softmax(-1) @ table

    def likelihoods(self, process: GaussianProcess) -> dict[str, Likelihood]:
        """The exact one, and the bounds of pyramids with several tokens in flight."""

        def bound(in_flight: int, ids: Tensor, generator: Source) -> Tensor:
            table, squared_norm = self.table(), self.table.scale**2
            return path_bound(process, self.window_priors, ids, table, squared_norm, in_flight, generator)

        paths = [in_flight for in_flight in PATHS if in_flight < self.block_size]
        return super().likelihoods(process) | {f"pyramid_{n}": Likelihood("bound", partial(bound, n)) for n in paths}

    # ---- windows of noisy tokens behind clean ones ----

    def window_priors(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """The two priors of `bounds.WindowPrior`, each (B, T, V), for ids (B, T + 1)."""
        abar, begins = snr / (1 + snr), begins + 1
        noisy = self.read_noisy(x, abar, channel_logits(x, abar, self.table()))
        positions = torch.arange(1, ids.size(1), device=ids.device)
        # The last token is nobody's past.
        inner = positions[:-1], begins[:-1]
        clean, seen = self.model.backbone.two_streams(self.model.wte(ids[:, :-1]), noisy[:, :-1], *inner)
        before = torch.cat([clean[:, :1], self.refine(seen, *inner)], dim=1)  # (B, T, n_embd)
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
