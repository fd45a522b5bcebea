"""Drawing tokens from logits, and how a context moves on when a text outgrows it.

Token draws are float64: float32 Gumbel noise truncates the tails and cools the samples (arXiv:2409.02908).
V vocabulary.
"""

import torch
from torch import Tensor

from algorithms.common.device import float64_device

COLDEST = 1e-30  # divides logits without overflow; below it a temperature is 0 to every purpose


def largest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` largest of scores (..., V) are, as a mask; of equal ones those of the lowest ids."""
    last = scores.topk(count, dim=-1).values[..., -1:]
    above, level = scores > last, scores == last
    return above | (level & (level.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


def filter_logits(logits: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Set to -inf all but the top_k logits, and of what is left all but the smallest set of probability >= top_p
    (nucleus, arXiv:1904.09751). The most probable token always stays; of equal ones those of the lowest ids do."""
    if top_k is not None and top_k < logits.size(-1):
        logits = logits.masked_fill(~largest(logits, top_k), -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the tokens that come first
        outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def target_logits(
    logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits (..., V) of the distribution that tokens are drawn from, -inf where it has none: divided by the
    temperature, then filtered. Temperature 0 leaves the most probable token alone, that of the lowest id if several
    are."""
    if temperature == 0:
        return filter_logits(logits, top_k=1)
    if temperature != 1:
        logits = logits / max(temperature, COLDEST)
    return filter_logits(logits, top_k=top_k, top_p=top_p)


def sample_tokens(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draw one token per position: logits (..., V) and uniforms (...) in [0, 1) give ids (...).

    Inverse-CDF draw in float64 from the distribution of `target_logits`.
    """
    device = logits.device
    logits = logits.to(float64_device(device)).double()
    logits = target_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return invert(logits.softmax(-1), uniform).to(device)


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (...) in proportion to weights (..., V), float64, by uniforms (...) in [0, 1)."""
    cdf = weights.cumsum(-1)
    target = uniform.to(cdf)[..., None] * cdf[..., -1:]
    return torch.searchsorted(cdf, target, right=True)[..., 0]  # how many of the cdf are at most the target


def context_start(position: int, block_size: int) -> int:
    """First token visible when token `position` is predicted.

    Within the first block_size tokens the whole past; beyond, the window jumps by half a block at a time, so
    that a cache serves block_size / 2 tokens before the context is encoded anew.
    """
    hop = max(1, block_size // 2)
    overflow = position - block_size
    return 0 if overflow <= 0 else -(-overflow // hop) * hop
