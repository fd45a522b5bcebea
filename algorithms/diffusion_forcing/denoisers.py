"""The two networks of Diffusion Forcing LM, each a `denoiser(x, noise_levels) -> (B, T, C)` for the process.

`FaithfulDenoiser`: the original's, with a token's own noisy embedding inside the trunk. `ShiftedDenoiser`: the
GPT's network on noisy inputs; the own noisy embedding enters outside the trunk, by Bayes' rule.
B batch, T tokens, C embedding channels, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone import BackboneConfig, Transformer
from algorithms.common.backbone.noise_conditioning import NoiseConditioning
from algorithms.common.backbone.transformer import init_weights
from algorithms.common.generation import RowRandom, sample_tokens
from algorithms.diffusion_forcing.decoder import MatrixDecoderConfig
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.embeddings import TokenTable, token_logits
from algorithms.diffusion_forcing.likelihood import ancestral_bound, channel_logits


class FaithfulDenoiser(nn.Module):
    """Noisy embeddings and their levels through a causal trunk, and a linear head back to embedding space.

    Learned positions are part of the clean embedding x0, as in a GPT's own input.
    """

    likelihood_kind = "bound"

    def __init__(self, config: BackboneConfig, table: TokenTable, time_fusion: str) -> None:
        super().__init__()
        dim = table.weight.size(1)
        if dim != config.n_embd and config.style == "nanogpt":
            raise ValueError(
                f"algorithm.embedding.dim is {dim}: with learned positions (backbone.style=nanogpt) the faithful "
                f"recipe diffuses embeddings of n_embd = {config.n_embd} channels; set dim to null"
            )
        self.table = table
        self.project_in = nn.Identity() if dim == config.n_embd else nn.Linear(dim, config.n_embd, bias=False)
        self.conditioning = NoiseConditioning(config.n_embd, time_fusion)
        self.trunk = Transformer(config)
        self.head = nn.Linear(config.n_embd, dim)
        self.project_in.apply(init_weights)
        init_weights(self.head)

    def positions(self, length: int) -> Tensor:
        """What x0 holds beside the tokens at positions 0 .. length - 1: (length, C)."""
        zeros = torch.zeros(1, length, self.table.weight.size(1), device=self.table.weight.device)
        return self.trunk.add_positions(zeros)[0]

    def forward(
        self, x: Tensor, noise_levels: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C), levels (B, T) -> model output (B, T, C); `mask` and `positions` as in the trunk."""
        h = self.conditioning(self.project_in(x), noise_levels.clamp(min=0))
        return self.head(self.trunk(h, mask=mask, positions=positions))

    def embed(self, ids: Tensor) -> Tensor:
        """Clean embeddings x0 (B, T, C) of ids (B, T)."""
        return F.embedding(ids, self.table()) + self.positions(ids.size(1))

    def for_sampling(self, decoder: MatrixDecoderConfig, random: RowRandom) -> nn.Module:
        """The denoiser that `decoder` steps with."""
        return self

    def losses(self, process: Diffusion, ids: Tensor, levels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The two parts of the loss for ids (B, T), levels (B, T), noise (B, T, C): `mse`, the weighted squared
        error of the original, and `ce`, nats per token of the true ids around the predicted embedding."""
        pred_x0, weighted_mse = process(self.embed(ids), levels, noise)
        logits = token_logits(pred_x0 - self.positions(ids.size(1)), self.table())
        return {"mse": weighted_mse.mean(), "ce": F.cross_entropy(logits.flatten(0, 1), ids.flatten())}

    def nll(self, process: Diffusion, ids: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Estimate of an upper bound on the nats of ids[:, 1:] (B, T) on the autoregressive schedule: each token goes
        through all levels after its clean prefix (`ancestral_bound`).

        One pass over two streams: clean tokens see clean ones, a noisy token sees its clean past and itself.
        """
        T = ids.size(1)
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


class ShiftedDenoiser(nn.Module):
    """Posterior mean of each embedding: softmax(f(z_<l) + channel(z_l)) @ table.

    With noise independent for each token and causal attention the exact posterior of token l factorises into a
    prediction from the noisy past and the Gaussian channel of its own embedding,
    p(x_l = v | z_<=l) ∝ p(v | z_<l) N(z_l; alpha e_v, sigma² I), so the trunk only learns the first factor.
    """

    likelihood_kind = "exact"
    alphas_cumprod: Tensor

    def __init__(self, config: BackboneConfig, table: TokenTable, time_fusion: str, alphas_cumprod: Tensor) -> None:
        super().__init__()
        vocabulary_size, dim = table.weight.shape
        self.table = table
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)  # (timesteps,)
        self.project_in = nn.Linear(dim, config.n_embd, bias=False)
        self.conditioning = NoiseConditioning(config.n_embd, time_fusion)
        self.trunk = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, vocabulary_size, bias=False)
        init_weights(self.project_in)
        init_weights(self.lm_head)

    def next_token_logits(self, x: Tensor, noise_levels: Tensor) -> Tensor:
        """f: at every position the logits (B, T, V) of the token after it, from x (B, T, C) at its levels."""
        h = self.conditioning(self.project_in(x), noise_levels.clamp(min=0))
        return self.lm_head(self.trunk(self.trunk.add_positions(h)))

    def channel_logits(self, x: Tensor, noise_levels: Tensor, table: Tensor) -> Tensor:
        """What the noisy embedding x (B, T, C) itself says of its token: log-likelihoods (B, T, V)."""
        return channel_logits(x, self.alphas_cumprod[noise_levels.clamp(min=0)], table)

    def posterior_logits(self, x: Tensor, noise_levels: Tensor, table: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(x_l = v | z_<=l) up to a constant: (B, T, V); the first position of a window has no past.

        `temperature` sharpens the prediction from the past, not the channel.
        """
        channel = self.channel_logits(x, noise_levels, table)
        prior = torch.zeros_like(channel[:, :1])  # (B, 1, V)
        if x.size(1) > 1:
            prior = torch.cat([prior, self.next_token_logits(x[:, :-1], noise_levels[:, :-1]) / temperature], dim=1)
        return prior + channel

    def forward(self, x: Tensor, noise_levels: Tensor) -> Tensor:
        """x (B, T, C), levels (B, T) -> posterior mean of the clean embeddings (B, T, C)."""
        table = self.table()
        return self.posterior_logits(x, noise_levels, table).softmax(-1) @ table

    def positions(self, length: int) -> Tensor:
        """x0 holds nothing beside the tokens: zeros (length, C). The trunk adds positions to its own input."""
        return self.alphas_cumprod.new_zeros(length, self.table.weight.size(1))

    def embed(self, ids: Tensor) -> Tensor:
        """Clean embeddings x0 (B, T, C) of ids (B, T)."""
        return F.embedding(ids, self.table())

    def for_sampling(self, decoder: MatrixDecoderConfig, random: RowRandom) -> nn.Module:
        """The denoiser that `decoder` steps with: the posterior mean, or a token drawn from the posterior."""
        return TokenDraw(self, random, decoder.temperature) if decoder.token_draw == "sample" else self

    def losses(self, process: Diffusion, ids: Tensor, levels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """As in FaithfulDenoiser; `ce` is the next-token cross-entropy of f given the noisy past (B, T - 1)."""
        table = self.table()
        x0 = F.embedding(ids, table)
        x = process.q_sample(x0, levels, noise)
        prior = self.next_token_logits(x[:, :-1], levels[:, :-1])  # (B, T - 1, V)
        posterior = prior + self.channel_logits(x, levels, table)[:, 1:]
        error = (posterior.softmax(-1) @ table - x0[:, 1:].detach()).square().mean(-1)
        weight = process.compute_loss_weights(levels.clamp(min=0))[:, 1:]
        ce = F.cross_entropy(prior.flatten(0, 1), ids[:, 1:].flatten())
        return {"mse": (weight * error).mean(), "ce": ce}

    def nll(self, process: Diffusion, ids: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Exact nats of ids[:, 1:] (B, T) on the autoregressive schedule, where a token's past is clean: the
        I-MMSE relation makes the diffusion integral equal the cross-entropy of f (arXiv:2302.03792)."""
        x = F.embedding(ids[:, :-1], self.table())
        logits = self.next_token_logits(x, torch.full_like(ids[:, :-1], -1))
        return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


class TokenDraw(nn.Module):
    """Denoiser that answers with the embedding of one token drawn from the posterior of a ShiftedDenoiser.

    A reverse step towards a drawn token is an exact draw of q(z_next | z) = sum_v p(v | z) q(z_next | z, e_v), for a
    step of any size; towards the mean it is one only in the limit of small steps.
    """

    def __init__(self, denoiser: ShiftedDenoiser, random: RowRandom, temperature: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.random = random
        self.temperature = temperature

    def forward(self, x: Tensor, noise_levels: Tensor) -> Tensor:
        table = self.denoiser.table()
        logits = self.denoiser.posterior_logits(x, noise_levels, table, self.temperature)  # (B, T, V)
        return F.embedding(sample_tokens(logits, self.random.uniform(x.size(1))), table)
