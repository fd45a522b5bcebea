"""Likelihoods of a masked diffusion model: the bound over all orders, and exact ones of single orders.

Sources: any-order bound ARDM (arXiv:2110.02037, eq. 6); likelihood of a deterministic decoder DUEL (arXiv:2603.01367).
A window is ids (B, T + 1) whose first token is given; every function returns nats (B, T) of its last T tokens, which
add up to the row's. V vocabulary without the mask token.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.device import float64_device
from algorithms.common.randomness import Source, draw_rows
from algorithms.masked_diffusion.decoding import ChunkState, MaskedDecoder, Prediction
from algorithms.masked_diffusion.masking import counted_masks, hide, stratified_shares

Network = Callable[[Tensor], Tensor]  # ids with masks (B, T + 1) -> logits (B, T + 1, V)


def nats_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies (B, T) of targets (B, T) under logits (B, T, V)."""
    nats = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return nats.unflatten(0, targets.shape)


def any_order_bound(network: Network, ids: Tensor, *, mask_id: int, passes: int, generator: Source) -> Tensor:
    """The bound on -log p from `passes` masks of each window, whose numbers of masked tokens are stratified.

    passes = T masks every number of tokens once; a multiple of T, so many times. Unbiased for any `passes`.
    """
    targets = ids[:, 1:]
    B, T = targets.shape
    nats = torch.zeros(B, T, device=ids.device)
    shares = draw_rows(generator, B, lambda rows, g: stratified_shares(passes, g, rows=rows))  # (B, passes)
    for share in shares.unbind(1):
        masked, weight = counted_masks(share, T, generator)
        x = hide(ids, masked, mask_id)
        nats += nats_of_logits(network(x)[:, 1:], targets) * masked * weight[:, None]
    return nats / passes


def chain_rule(network: Network, ids: Tensor, *, mask_id: int) -> Tensor:
    """The exact -log p of the model read from left to right: each token given those before it, the rest masked."""
    nats = []
    for position in range(1, ids.size(1)):
        x = ids.clone()
        x[:, position:] = mask_id
        logits = network(x)[:, position]  # (B, V)
        nats.append(F.cross_entropy(logits.float(), ids[:, position], reduction="none"))
    return torch.stack(nats, dim=1)


def decoder_likelihood(network: Network, ids: Tensor, *, mask_id: int, decoder: MaskedDecoder) -> Tensor:
    """The exact -log p of what `decoder` writes, all T tokens being one chunk (DUEL)."""

    def logits_of(tokens: Tensor) -> Tensor:
        return network(torch.cat([ids[:, :1], tokens], dim=1))[:, 1:]

    none = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
    return decided_nats(logits_of, ids[:, 1:], none, mask_id=mask_id, window=ids.size(1), decoder=decoder)


def decided_nats(
    logits_of: Network, targets: Tensor, given: Tensor, *, mask_id: int, window: int, decoder: MaskedDecoder
) -> Tensor:
    """Nats (R, K) of chunks targets (R, K) as `decoder` decides them, 0 where they are `given` (R, K).

    The decoder's order has to follow from the text alone: its commit rule is asked, step by step, which tokens of the
    true text it would decide, and these are scored given those decided before, by logits_of(tokens) -> (R, K, V).
    """
    device, home = targets.device, float64_device(targets.device)
    targets, given = targets.to(home), given.to(home)
    nats = torch.zeros(targets.shape, device=home)
    state = ChunkState.start(targets, given, mask_id=mask_id, window=window)
    state.memory.update(decoder.begin(state, nats.double()))
    while bool(state.open.any()):
        logits = decoder.tempered(logits_of(state.tokens.to(device)).to(home))
        following = decoder.commit(state, Prediction.of(logits, targets, decoder.top_k))
        nats += nats_of_logits(logits, targets) * (state.open & ~following.open)
        state = following
    return nats.to(device)
