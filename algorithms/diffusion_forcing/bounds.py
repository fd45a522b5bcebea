"""Upper bounds on -log p of a text: of the ancestral sampler, and of a path on which several tokens move at once.

Sources: DDPM (arXiv:2006.11239, eq. 5) with the terms in signal-to-noise form of VDM (arXiv:2107.00630, eq. 13) and the
reconstruction of Diffusion-LM (arXiv:2205.14217). Of a path of per-token SNRs, -log p(x) <= sum_l integral
1/2 E|e_l - e_hat_l(z)|² dSNR_l; pointwise I-MMSE (arXiv:2302.03792) makes it the cross-entropy where every token is
denoised alone. Staggered levels: Diffusion Forcing (arXiv:2407.01392).
B batch, T tokens, C embedding channels, V vocabulary; SNRs are those of a coordinate.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.device import float64_device, full_precision
from algorithms.common.randomness import Source, normal, uniform
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits

CLEAN_SNR = 100.0  # total SNR at which a token is as good as clean: 1e-8 nats are open


def ancestral_bound(
    process: GaussianProcess, ids: Tensor, levels: Tensor, x0: Tensor, x0_hat: Tensor, x: Tensor, table: Tensor
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
    reconstruction = F.cross_entropy(full_precision(logits).transpose(1, 2), ids, reduction="none")
    term = reconstruction.where(levels == 0, diffusion)
    abar = process.alphas_cumprod[-1]
    per_channel = -abar - (1 - abar).log()  # sigma² - 1 - log sigma²
    prior = 0.5 * (abar * x0.square().sum(-1) + x0.size(-1) * per_channel)
    return process.timesteps * term + prior


class WindowPrior(Protocol):
    """A network's next-token logits without the token's own noisy value."""

    def __call__(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of ids[:, 1:], twice (B, T, V): from the clean past alone, and from what the token's window shows.

        A window, the positions of one value in `begins` (T,), shows the clean tokens before it and its other noisy
        tokens, x (B, T, C) = sqrt(abar) e + sqrt(1 - abar) noise with snr (B, T) = abar / (1 - abar). `begins` holds
        the first position of each position's window, in the numbering of ids[:, 1:]; ids is (B, T + 1).
        """


class PathExcess(NamedTuple):
    """Nats of each token of ids[:, 1:], (B, T): one after the other, and what the path adds to its bound."""

    autoregressive: Tensor
    excess: Tensor


def path_bound(
    process: GaussianProcess,
    prior: WindowPrior,
    ids: Tensor,
    table: Tensor,
    squared_norm: float,
    in_flight: int,
    generator: Source,
) -> Tensor:
    """Nats (B, T) of ids[:, 1:] on a pyramid with `in_flight` tokens in flight, an upper bound in the mean over a text:
    the exact nats and an estimate of the excess. A token is at the levels of training, and passes between them.

    `squared_norm` is that of the embeddings, `table` (V, C).
    """
    snr = process.snr.to(float64_device(process.snr.device)).double()
    finer = len(snr) // 4
    finer += -(len(snr) + finer) % in_flight  # so that the tokens in flight share all cells equally
    top = torch.linspace(1, 0, finer + 1, device=snr.device)[:-1].double()
    clean = CLEAN_SNR / squared_norm
    edges = torch.cat([snr[0] + top * (clean - snr[0]).clamp(min=0), snr, snr.new_zeros(1)])
    path = path_excess(prior, ids, table, edges=edges, in_flight=in_flight, generator=generator)
    return path.autoregressive + path.excess


def path_excess(
    prior: WindowPrior,
    ids: Tensor,
    table: Tensor,
    *,
    edges: Tensor,
    in_flight: int,
    generator: Source,
) -> PathExcess:
    """Cross-entropy given the clean past, and an unbiased estimate of what a path with `in_flight` tokens adds to it.

    The sum of the two bounds -log p of ids[:, 1:] (B, T) given ids[:, :1]; only its mean over a text is a bound, for
    a path moves nats between neighbours. `edges` (N + 1,) are SNRs, descending from nearly clean to 0. Tokens follow
    each other N / in_flight of the N cells apart, so that one of each window is in every such stretch. Takes N passes
    of the prior. `table` (V, C) holds the embeddings.

    The same noise is denoised with both logits, and only the difference is estimated: the integral with the clean
    past is known. Left out are the reconstruction at edges[0], 1e-8 to 1e-6 nats where 65 orthogonal embeddings have
    snr · |e|² >= 80 (more where they are closer), and the term of the prior at edges[-1], snr · |e|² / 2 nats: 0 at 0.
    Raises ValueError for edges that in_flight tokens cannot share equally.
    """
    cells = len(edges) - 1
    if in_flight < 1 or cells < 1 or cells % in_flight:
        raise ValueError(f"edges must bound a multiple of in_flight = {in_flight} cells, got {cells}")
    (rows, length), device, dtype = ids[:, 1:].shape, ids.device, table.dtype
    edges = edges.to(table)
    widths = edges[:-1] - edges[1:]
    clean = table[ids[:, 1:]]  # (B, T, C)
    excess = clean.new_zeros(rows, length)
    for begins, cell in staggered_passes(length, cells, in_flight, device):
        # One place for all tokens of a row: what a window shows at once lies on one path, linear in SNR in a cell.
        place = uniform(generator, rows, 1, dtype=dtype)
        noise = normal(generator, *clean.shape, dtype=dtype)
        snr = torch.lerp(edges[cell], edges[cell + 1], place)  # (B, T)
        abar = snr / (1 + snr)
        x = abar.sqrt()[..., None] * clean + (1 - abar).sqrt()[..., None] * noise  # (B, T, C)
        alone, shown = prior(ids, x, snr, begins)
        channel = channel_logits(x, abar, table)  # (B, T, V)
        errors = [(clean - (logits + channel).softmax(-1) @ table).square().sum(-1) for logits in (shown, alone)]
        excess = excess + 0.5 * widths[cell] * (errors[0] - errors[1])
    return PathExcess(F.cross_entropy(full_precision(alone).transpose(1, 2), ids[:, 1:], reduction="none"), excess)


def staggered_passes(
    length: int, cells: int, in_flight: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Begins of the windows and cells, each (T,), of all passes in which each token is in every cell once.

    Tokens after a window are pure noise while it is in flight, so that it need not see them. The first window of a
    pass is cut off by the start of the text: its missing tokens would be cleaner ones.
    """
    position = torch.arange(length, device=device)
    stretch = cells // in_flight
    for offset in range(in_flight):
        index = (position - offset) % in_flight  # in the window, were it not cut off
        for step in range(stretch):
            yield (position - index).clamp(min=0), index * stretch + step
