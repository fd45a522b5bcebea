"""Likelihoods of block diffusion: the bound over all orders inside blocks, and exact ones of single orders.

Sources: masked diffusion's (ARDM, arXiv:2110.02037; DUEL, arXiv:2603.01367), block by block (BD3-LM, arXiv:2503.09573):
-log p of a text is the sum over blocks of -log p(block | tokens before it). A window is ids (B, W) whose first token is
given; every function returns nats (B, T) of its last T tokens. All blocks of a window are asked about in one pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.block_diffusion.layout import Layout
from algorithms.block_diffusion.masking import hide_in_blocks
from algorithms.common.device import float64_device
from algorithms.common.randomness import Source, draw_rows
from algorithms.masked_diffusion.decoding import MaskedDecoder
from algorithms.masked_diffusion.likelihood import decided_nats, nats_of_logits
from algorithms.masked_diffusion.masking import stratified_shares

# ids (B, W), and the noisy stream's tokens (B, N), in which some are masked -> of the last T tokens, each given what
# predicts it: logits (B, T, V), or nats (B, T).
Network = Callable[[Tensor, Tensor], Tensor]


def any_order_bound(
    nats_of: Network, ids: Tensor, layout: Layout, *, mask_id: int, passes: int, generator: Source
) -> Tensor:
    """The bound on -log p from `passes` masks of each window, whose shares are stratified; nats_of(ids, x) -> (B, T).

    passes = block_len - 1 hides every number of a block's tokens once. First tokens of blocks are exact.
    """
    if layout.noisy == 0:
        return nats_of(ids, ids[:, :0])
    total = torch.zeros(ids.size(0), ids.size(1) - 1, device=ids.device)
    shares = draw_rows(generator, len(ids), lambda rows, g: stratified_shares(passes, g, rows=rows))  # (B, passes)
    for share in shares.unbind(1):
        shared = share[:, None].expand(-1, layout.blocks)
        masked, weight = hide_in_blocks(shared, layout.lengths, layout.block_len - 1, generator)
        factors = layout.in_text(masked * weight[..., None])  # (B, N)
        nats = nats_of(ids, ids[:, : layout.noisy].masked_fill(factors > 0, mask_id))
        total += nats * layout.of_last(factors, 1.0)
    return total / passes


def left_to_right(nats_of: Network, ids: Tensor, layout: Layout, *, mask_id: int) -> Tensor:
    """The exact -log p of the model read from left to right, each token given those before it, the rest of its block
    masked; nats_of(ids, x) -> (B, T)."""
    if layout.noisy == 0:
        return nats_of(ids, ids[:, :0])
    place = layout.places - layout.begins  # (N,) in the block
    total = torch.zeros(ids.size(0), ids.size(1) - 1, device=ids.device)
    for here in range(1, layout.block_len):
        nats = nats_of(ids, ids[:, : layout.noisy].masked_fill(place >= here, mask_id))
        total += nats * layout.of_last((place == here).float()[None], float(here == 1))
    return total


def decoder_likelihood(
    logits_of: Network, ids: Tensor, layout: Layout, *, mask_id: int, decoder: MaskedDecoder
) -> Tensor:
    """The exact -log p of what `decoder` writes, block by block (DUEL); logits_of(ids, x) -> (B, T, V).

    Its order has to follow from the text alone. Every block is a row of its own.
    """
    seen: list[Tensor] = []  # logits (B, T, V) of the latest pass

    def of_blocks(tokens: Tensor) -> Tensor:
        """Tokens (B M, h) with masks -> logits (B M, h, V)."""
        x = layout.in_text(tokens.view(B, M, -1))
        x = torch.where(layout.first[: layout.noisy], ids[:, : layout.noisy], x)
        seen[:] = [logits_of(ids, x)]
        return layout.in_grid(F.pad(seen[0], (0, 0, 1, 0))[:, : layout.noisy]).flatten(0, 1)

    (B, W), M, N = ids.shape, layout.blocks, layout.noisy
    if M == 0:
        seen = [logits_of(ids, ids[:, :0])]
        nats = torch.zeros(ids.shape, device=ids.device)
    else:
        lacking = torch.arange(layout.block_len - 1, device=ids.device) >= layout.lengths[:, None]  # (M, h)
        targets, given = layout.in_grid(ids[:, :N]).flatten(0, 1), lacking.repeat(B, 1)  # (B M, h)
        found = decided_nats(of_blocks, targets, given, mask_id=mask_id, window=layout.block_len, decoder=decoder)
        nats = F.pad(layout.in_text(found.view(B, M, -1)), (0, W - N))
    logits = decoder.tempered(seen[0].to(float64_device(ids.device)))
    firsts = nats_of_logits(logits, ids[:, 1:].to(logits.device)).to(ids.device)
    return torch.where(layout.first[1:], firsts, nats[:, 1:])
