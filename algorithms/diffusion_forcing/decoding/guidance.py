"""Guidance for text: differentiable losses on the estimated embeddings x0_hat, as scores to maximise.

Source: classifier guidance (arXiv:2105.05233), as Diffusion Forcing applies it. Losses are in nats, one per
row: a row's guidance must not depend on its neighbours. Shapes: B batch, T tokens, C channels, V vocabulary,
N keyword.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def guidance_from_loss(loss: Callable[[Tensor], Tensor], scale: float) -> Callable[[Tensor], Tensor]:
    """Turn a loss on x0_hat (B, T, C), by row or scalar, into a score for `sample_step` to maximise."""

    def score(x0_hat: Tensor) -> Tensor:
        return -scale * loss(x0_hat).sum()

    return score


def keyword_loss(table: Tensor, ids: Sequence[int], temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Loss (B, T, C) -> (B,) that falls as the tokens `ids` appear side by side, at whatever place.

    A token's probability is the softmax of -|x0_hat - e_v|^2 / temperature over the embeddings `table` (V,
    C). The loss is -ln of the keyword's probability averaged over the places, a soft minimum of its negative
    log-likelihood; it is 0 in a window too short for the keyword. Raises ValueError for an empty keyword, ids
    outside the table, or a temperature that is not positive.
    """
    if len(ids) == 0:
        raise ValueError("the keyword of the guidance is empty: give at least one token")
    for token in ids:
        if not 0 <= token < len(table):
            raise ValueError(f"token {token} of the keyword is outside the vocabulary of {len(table)} tokens")
    if not temperature > 0:
        raise ValueError(f"the temperature of the keyword guidance must be positive, got {temperature}")

    def loss(x0_hat: Tensor) -> Tensor:
        places = x0_hat.shape[1] - len(ids) + 1
        if places < 1:
            return 0.0 * x0_hat.sum(dim=(1, 2))
        embeddings = table.to(x0_hat)
        logits = (2 * x0_hat @ embeddings.T - embeddings.square().sum(-1)) / temperature  # |x0_hat|^2 cancels
        log_probs = logits.log_softmax(-1)[..., list(ids)]  # (B, T, N)
        keyword = torch.stack([log_probs[:, n : n + places, n] for n in range(len(ids))]).sum(0)  # (B, places)
        return math.log(places) - keyword.logsumexp(1)

    return loss
