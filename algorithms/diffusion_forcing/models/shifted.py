"""The GPT's network on noisy inputs; a token's own noisy embedding enters outside the backbone, by Bayes' rule.

With noise independent for each token and causal attention the exact posterior of token l factorises into a prediction
from the noisy past and the Gaussian channel of its own embedding, p(x_l = v | z_<=l) ∝ p(v | z_<l) N(z_l; alpha e_v,
sigma² I) (the output prior of Plaid, arXiv:2305.18619), so the backbone only learns the first factor.
B batch, T tokens, N noisy ones, C embedding channels, V vocabulary.
"""

import math
import random
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import LanguageModel
from algorithms.common.backbone.layers import init_weights
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.device import full_precision
from algorithms.common.head import token_nats
from algorithms.common.likelihood import Likelihood
from algorithms.common.randomness import Source
from algorithms.diffusion_forcing.bounds import path_bound
from algorithms.diffusion_forcing.models.base import Denoiser, Draws, Losses, NeighbourStates, Windows, over_rows
from algorithms.diffusion_forcing.models.embeddings import TokenTable
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits
from algorithms.diffusion_forcing.process.row_mixture import CLEAN

LOG_SNR_RANGE = (-5.0, 6.0)  # of the total SNR: below it nothing is seen of a token, above it all
LOG_SNR_SCALE = 12.0  # for the sinusoids, which are made for whole levels
PATHS = (2, 4, 8)  # tokens in flight of the bounds stated


class Known(NamedTuple):
    """What is known of tokens ids (B, N): states before them (B, N, n_embd), and their own x (B, N, C) at levels and
    abar (B, N)."""

    states: Tensor
    x: Tensor
    abar: Tensor
    levels: Tensor
    ids: Tensor


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
        return self._told(self._expected(belief), x, abar)

    def _expected(self, belief: Tensor) -> Tensor:
        """The mean of the token embeddings (..., n_embd) under logits (..., V)."""
        return belief.softmax(-1) @ self.model.wte.weight

    def _told(self, seen: Tensor, x: Tensor, abar: Tensor) -> Tensor:
        """What is `seen` of tokens (B, T, n_embd), told their noisy embeddings x (B, T, C) and levels."""
        log_squared_norm = 2 * math.log(self.table.scale)  # makes an SNR of a coordinate one of the token
        log_snr = (abar / (1 - abar)).clamp(min=1e-12).log() + log_squared_norm
        low, high = LOG_SNR_RANGE
        return self.conditioning(seen + self.project_in(x), LOG_SNR_SCALE * (log_snr.clamp(low, high) - low))

    def read_channel(self, x: Tensor, abar: Tensor, table: Tensor, past: Tensor | None = None) -> Tensor:
        """`read_noisy` of what their channel says, and with the states before them (B, T, n_embd) of what an earlier
        pass says, too: without holding all logits where these are many."""
        states = () if past is None else (past.flatten(0, 1),)

        def seen(x: Tensor, abar: Tensor, *past: Tensor) -> Tensor:
            belief = channel_logits(x, abar, table)
            return self._expected(belief + self.model.lm_head(past[0]).detach() if past else belief)

        rows = over_rows(seen, len(table), x.flatten(0, 1), abar.flatten(), *states)
        return self._told(rows.view(*x.shape[:2], -1), x, abar)

    # ---- training and evaluation ----

    def draw(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> Any:
        return super().draw(process, ids, generator)._replace(again=self.conditions_itself(generator))

    def losses(self, process: GaussianProcess, ids: Tensor, draws: Draws) -> Losses:
        """`ce` is of f given a past that is noisy or clean, `mse` of the posterior mean."""
        table, levels = self.table(), draws.levels
        x0 = F.embedding(ids, table)
        x = process.q_sample(x0, levels, draws.noise)
        abar = process.alphas_cumprod[levels.clamp(min=0)]
        past = None
        if draws.again:
            with torch.no_grad():
                past = self._past(ids, x, levels, abar, table)
        states = self._past(ids, x, levels, abar, table, past)  # (B, T, n_embd)
        parts = {"ce": token_nats(states, self.model.lm_head.weight, ids[:, 1:]).mean()}
        known = Known(states, x[:, 1:], abar[:, 1:], levels[:, 1:], ids[:, 1:])
        weights = process.compute_loss_weights(levels.clamp(min=0))[:, 1:] if self.squared_error else None
        return self.with_posterior(process, parts, known, weights, table)

    def with_posterior(
        self, process: GaussianProcess, parts: dict[str, Tensor], known: Known, weights: Tensor | None, table: Tensor
    ) -> Losses:
        """The parts of the loss, the squared error of posterior means times weights (B, N) among them, where the loss
        weighs it, and the nats of tokens under their posteriors, where the process asks for them."""
        if weights is None and not process.observes:
            return Losses(parts)
        if weights is None:
            known = Known(*(one.detach() for one in known))  # who counts operations looks for the way back

        def costs(states: Tensor, x: Tensor, abar: Tensor, ids: Tensor) -> Tensor:
            logits = full_precision(self.model.lm_head(states)) + channel_logits(x, abar, table)  # (R, V)
            nats = F.cross_entropy(logits.detach(), ids, reduction="none")
            if weights is None:
                return nats[:, None]
            target = F.embedding(ids, table).detach()
            return torch.stack([nats, (logits.softmax(-1) @ table - target).square().mean(-1)], dim=-1)

        states, x, abar, levels, ids = known
        with torch.no_grad() if weights is None else nullcontext():
            rows = over_rows(costs, len(table), *(one.flatten(0, 1) for one in (states, x, abar, ids)))
        nats, *errors = rows.view(*ids.shape, -1).unbind(-1)
        if weights is not None:
            parts["mse"] = (weights * errors[0]).mean()
        return Losses(parts, (levels, nats.detach()) if process.observes else None)

    def conditions_itself(self, generator: torch.Generator) -> bool:
        """Whether this training step passes twice; drawn without waiting for the device."""
        return random.Random(~generator.initial_seed()).random() < self.self_conditioning

    def _past(
        self, ids: Tensor, x: Tensor, levels: Tensor, abar: Tensor, table: Tensor, past: Tensor | None = None
    ) -> Tensor:
        """The states (B, T, n_embd) before all tokens but the first; `past` are those of an earlier pass, from which
        tokens are estimated."""
        before, noisy_abar = x[:, :-1], abar[:, :-1]
        if past is not None:
            past = F.pad(past[:, :-1], (0, 0, 1, 0))  # of the first token nothing is estimated: logits of 0
        noisy = self.read_channel(before, noisy_abar, table, past)
        clean = (levels[:, :-1] == CLEAN)[..., None]
        h = torch.where(clean, self.model.wte(ids[:, :-1]), noisy)  # (B, T, n_embd)
        return self.model.backbone(self.model.backbone.add_positions(h))

    def nll(self, process: GaussianProcess, ids: Tensor, generator: Source) -> Tensor:
        """Exact, where a token's past is clean: the I-MMSE relation makes the diffusion integral equal the
        cross-entropy of f (arXiv:2302.03792)."""

        def nats(states: Tensor, tokens: Tensor) -> Tensor:
            return F.cross_entropy(full_precision(self.model.lm_head(states)), tokens, reduction="none")

        states, tokens = self.model.hidden(ids[:, :-1]), ids[:, 1:]
        return over_rows(nats, len(self.model.lm_head.weight), states.flatten(0, 1), tokens.flatten()).view(
            tokens.shape
        )

    def estimate(self, process: GaussianProcess, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """Posterior means."""
        table, abar = self.table(), process.alphas_cumprod[levels.clamp(min=0)]
        prior = self.model.lm_head(self._past(ids, x, levels, abar, table))
        return (prior + channel_logits(x[:, 1:], abar[:, 1:], table)).softmax(-1) @ table

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
        noisy = self.read_channel(x, abar, self.table())
        positions = torch.arange(1, ids.size(1), device=ids.device)
        # The last token is nobody's past.
        inner = Windows(positions[:-1], begins[:-1])
        clean, seen = self.model.backbone.two_streams(
            self.model.wte(ids[:, :-1]), noisy[:, :-1], inner.positions, inner.begins
        )
        before = torch.cat([clean[:, :1], self.refine(seen, inner)], dim=1)  # (B, T, n_embd)
        past = torch.where((begins == positions)[:, None], clean, before)
        return self.model.lm_head(clean), self.head(past, self.read_right(noisy, Windows(positions, begins)))

    def refine(self, seen: Tensor, windows: Windows | None = None) -> Tensor:
        """States of noisy tokens (B, N, n_embd), all of one window unless told, after layers that are theirs alone:
        there are none."""
        return seen

    def read_right(self, noisy: Tensor, windows: Windows | None = None) -> NeighbourStates | None:
        """What a token is told of the noisy tokens to its right, in one window unless told: nothing."""
        return None

    def left(self, tokens: Tensor, known: Tensor) -> NeighbourStates | None:
        """What a token is told of one just drawn before it: nothing."""
        return None

    def head(self, past: Tensor, right: NeighbourStates | None = None, left: NeighbourStates | None = None) -> Tensor:
        """Logits (B, N, V) of tokens from the states before them, past (B, N, n_embd)."""
        return self.model.lm_head(past)
