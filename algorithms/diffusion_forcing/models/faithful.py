"""The original's network, with a token's own noisy embedding inside the backbone (arXiv:2407.01392).

B batch, T tokens, C embedding channels, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.backbone.transformer import init_weights
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.likelihood import ancestral_bound
from algorithms.diffusion_forcing.models.embeddings import TokenTable, token_logits
from algorithms.diffusion_forcing.process.row_mixture import RowMixture, sample_noise_levels


class FaithfulDenoiser(nn.Module):
    """Noisy embeddings and their levels through a causal backbone, and a linear head back to embedding space.

    Learned positions are part of the clean embedding x0, as in a GPT's own input.
    """

    likelihood_kind = "bound"

    def __init__(self, config: BackboneConfig, table: TokenTable, time_fusion: str) -> None:
        super().__init__()
        dim = table.weight.size(1)
        if dim != config.n_embd and config.style == "nanogpt":
            raise ValueError(
                f"embedding.dim is {dim}: with learned positions (backbone.style=nanogpt) the faithful "
                f"recipe diffuses embeddings of n_embd = {config.n_embd} channels; set dim to null"
            )
        self.table = table
        self.project_in = nn.Identity() if dim == config.n_embd else nn.Linear(dim, config.n_embd, bias=False)
        self.conditioning = NoiseConditioning(config.n_embd, time_fusion)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.n_embd, dim)
        self.project_in.apply(init_weights)
        init_weights(self.head)

    def positions(self, length: int) -> Tensor:
        """What x0 holds beside the tokens at positions 0 .. length - 1: (length, C)."""
        zeros = torch.zeros(1, length, self.table.weight.size(1), device=self.table.weight.device)
        return self.backbone.add_positions(zeros)[0]

    def forward(
        self, x: Tensor, noise_levels: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C), levels (B, T) -> model output (B, T, C); `mask` and `positions` as in the backbone."""
        h = self.conditioning(self.project_in(x), noise_levels.clamp(min=0))
        return self.head(self.backbone(h, mask=mask, positions=positions))

    def embed(self, ids: Tensor) -> Tensor:
        """Clean embeddings x0 (B, T, C) of ids (B, T)."""
        return F.embedding(ids, self.table()) + self.positions(ids.size(1))

    def losses(
        self,
        process: Diffusion,
        ids: Tensor,
        mixture: RowMixture,
        generator: torch.Generator,
        *,
        squared_error: bool = True,
    ) -> dict[str, Tensor]:
        """Both parts of the loss, always, for ids (B, T), noised by rows of `mixture`: `mse`, the weighted squared
        error of the original, and `ce`, nats per token of the true ids around the predicted embedding."""
        levels = sample_noise_levels(*ids.shape, timesteps=process.timesteps, mixture=mixture, generator=generator)
        x0 = self.embed(ids)
        pred_x0, weighted_mse = process(x0, levels, process.draw_noise(x0.shape, generator))
        logits = token_logits(pred_x0 - self.positions(ids.size(1)), self.table())
        return {"mse": weighted_mse.mean(), "ce": F.cross_entropy(logits.flatten(0, 1), ids.flatten())}

    def estimate(self, process: Diffusion, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """Estimated embeddings (B, T, C), without positions, of ids[:, 1:] seen as x (B, T + 1, C) at `levels`."""
        return (process.model_predictions(x, levels)[1] - self.positions(ids.size(1)))[:, 1:]

    def nll(self, process: Diffusion, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Estimate of an upper bound on the nats of ids[:, 1:] (B, T) on the autoregressive schedule: each token goes
        through all levels after its clean prefix (`ancestral_bound`).

        One pass over two streams: clean tokens see clean ones, a noisy token sees its clean past and itself.
        """
        T = ids.size(1)
        noise = process.draw_noise((*ids.shape, self.table.weight.size(1)), generator)
        levels = torch.randint(process.timesteps, ids.shape, generator=generator, device=ids.device)
        x0 = self.embed(ids)
        x = process.q_sample(x0, levels, noise)
        now = torch.arange(T, device=ids.device)
        past, own = now[:, None] > now, now[:, None] == now
        visible = torch.cat([torch.cat([past | own, own & past], 1), torch.cat([past, own], 1)])  # (2T, 2T)
        both_levels = torch.cat([torch.zeros_like(levels), levels], dim=1)
        output = self(torch.cat([x0, x], dim=1), both_levels, mask=visible, positions=now.repeat(2))
        pred_x0 = process.predict_start(x, levels, output[:, T:])
        tokens_only = x - process.alphas_cumprod[levels].sqrt()[..., None] * self.positions(T)
        return ancestral_bound(process, ids, levels, x0, pred_x0, tokens_only, self.table())[:, 1:]
