"""The original's network, with a token's own noisy embedding inside the backbone (arXiv:2407.01392).

B batch, T tokens, C embedding channels, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import Backbone
from algorithms.common.backbone.layers import init_weights
from algorithms.common.backbone.masks import two_stream_mask
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.device import full_precision
from algorithms.common.randomness import Source, integers
from algorithms.diffusion_forcing.bounds import ancestral_bound
from algorithms.diffusion_forcing.models.base import Denoiser, Draws, Losses, over_rows
from algorithms.diffusion_forcing.models.embeddings import TokenTable, token_logits
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess


class FaithfulDenoiser(Denoiser):
    """Noisy embeddings and their levels through a causal backbone, and a linear head back to embedding space.

    Learned positions are part of the clean embedding x0, as in a GPT's own input.
    """

    likelihood_kind = "bound"
    predicts_tokens = False

    def __init__(self, config: Any, vocabulary_size: int) -> None:
        super().__init__(config)
        n_embd = config.backbone.n_embd
        dim = config.embedding.dim or n_embd
        if dim != n_embd and config.backbone.style == "nanogpt":
            raise ValueError(
                f"embedding.dim is {dim}: with learned positions (backbone.style=nanogpt) the faithful "
                f"recipe diffuses embeddings of n_embd = {n_embd} channels; set dim to null"
            )
        self.table = TokenTable(vocabulary_size, dim, config.embedding)
        self.project_in = nn.Identity() if dim == n_embd else nn.Linear(dim, n_embd, bias=False)
        self.conditioning = NoiseConditioning(n_embd, config.time_fusion)
        self.block_size = config.backbone.block_size + 1  # it sees a token's own noisy value, too
        self.backbone = Backbone(replace(config.backbone, block_size=self.block_size))
        self.head = nn.Linear(n_embd, dim)
        self.project_in.apply(init_weights)
        init_weights(self.head)

    def positions(self, length: int) -> Tensor:
        """What x0 holds beside the tokens at positions 0 .. length - 1: (length, C)."""
        zeros = torch.zeros(1, length, self.table.dim, device=self.table.weight.device)
        return self.backbone.add_positions(zeros)[0]

    def forward(
        self, x: Tensor, noise_levels: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C), levels (B, T) -> model output (B, T, C); `mask` and `positions` as in the backbone."""
        h = self.conditioning(self.project_in(x), noise_levels.clamp(min=0))
        return self.head(self.backbone(h, mask=mask, positions=positions))

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids) + self.positions(ids.size(1))

    def losses(self, process: GaussianProcess, ids: Tensor, draws: Draws) -> Losses:
        """Both parts, always: `mse` is the original's, `ce` the nats of the true ids around the predicted embedding."""
        table, positions = self.table(), self.positions(ids.size(1))

        def nats(predicted: Tensor, tokens: Tensor) -> Tensor:
            return F.cross_entropy(full_precision(token_logits(predicted, table)), tokens, reduction="none")

        x0 = F.embedding(ids, table) + positions
        pred_x0, weighted_mse = process.weighted_error(self, x0, draws.levels, draws.noise)
        ce = over_rows(nats, len(table), (pred_x0 - positions).flatten(0, 1), ids.flatten())
        return Losses({"mse": weighted_mse.mean(), "ce": ce.mean()})

    def estimate(self, process: GaussianProcess, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        pred_x0 = process.predictions(self, x, levels)[1]
        return (pred_x0 - self.positions(ids.size(1)))[:, 1:]

    def nll(self, process: GaussianProcess, ids: Tensor, generator: Source) -> Tensor:
        """Estimate of an upper bound on the nats of ids[:, 1:] (B, T): each token goes through all levels after its
        clean prefix (`ancestral_bound`). One pass over two streams, in which every window is a single token."""
        T = ids.size(1)
        noise = process.draw_noise((*ids.shape, self.table.dim), generator)
        levels = integers(generator, process.timesteps, *ids.shape)
        x0 = self.embed(ids)
        x = process.q_sample(x0, levels, noise)
        now = torch.arange(T, device=ids.device)
        both_levels = torch.cat([torch.zeros_like(levels), levels], dim=1)
        visible = two_stream_mask(T, now, now)  # (2T, 2T)
        output = self(torch.cat([x0, x], dim=1), both_levels, mask=visible, positions=now.repeat(2))
        pred_x0 = process.predict_start(x, levels, output[:, T:])
        tokens_only = x - process.alphas_cumprod[levels].sqrt()[..., None] * self.positions(T)
        return ancestral_bound(process, ids, levels, x0, pred_x0, tokens_only, self.table())[:, 1:]
