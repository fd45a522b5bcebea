"""The variational bound of Gaussian diffusion over token embeddings, one term a token.

Source: DDPM (arXiv:2006.11239, eq. 5) with the terms in signal-to-noise form of VDM (arXiv:2107.00630, eq. 13) and the
reconstruction of Diffusion-LM (arXiv:2205.14217). B batch, T tokens, C embedding channels, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from algorithms.diffusion_forcing.diffusion import Diffusion


def channel_logits(x: Tensor, abar: Tensor, table: Tensor) -> Tensor:
    """log N(x_l; sqrt(abar_l) e_v, (1 - abar_l) I) up to a constant, from x (B, T, C), abar (B, T): (B, T, V)."""
    abar = abar[..., None]
    return (abar.sqrt() * (x @ table.T) - 0.5 * abar * table.square().sum(-1)) / (1 - abar)


def ancestral_bound(
    process: Diffusion, ids: Tensor, levels: Tensor, x0: Tensor, x0_hat: Tensor, x: Tensor, table: Tensor
) -> Tensor:
    """Unbiased estimate, in nats, of an upper bound on -log p of each token of ids (B, T): (B, T).

    The bound is that of the ancestral sampler with all levels: prior + sum_k (SNR_{k-1} - SNR_k) / 2 · |x0 - x0_hat|²
    + reconstruction at level 0. `levels` (B, T), drawn uniformly, pick one term each, times the number of terms;
    x0, x0_hat and x (B, T, C) are clean, predicted and noisy embeddings; `table` (V, C) holds all of them.
    """
    snr = process.snr
    step = snr[(levels - 1).clamp(min=0)] - snr[levels]  # (B, T), 0 at level 0
    diffusion = 0.5 * step * (x0 - x0_hat).square().sum(-1)
    logits = channel_logits(x, process.alphas_cumprod[levels], table)
    reconstruction = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    term = reconstruction.where(levels == 0, diffusion)
    abar = process.alphas_cumprod[-1]
    per_channel = -abar - (1 - abar).log()  # sigma² - 1 - log sigma²
    prior = 0.5 * (abar * x0.square().sum(-1) + x0.size(-1) * per_channel)
    return process.timesteps * term + prior
