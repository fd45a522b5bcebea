"""Cross-entropy of a linear head, which never holds all logits where they are large: chunk by chunk.

Sources: gradients made while a chunk's logits are there, Liger (arXiv:2410.10989); a vocabulary padded to a multiple of
64, nanoGPT. N tokens, of whatever shape (...), R of them in a chunk, C channels, V vocabulary.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from algorithms.common.device import full_precision, working_dtype

# Float32 logits that are held at once; a pass keeps up to five times as much for a moment. Larger chunks are no faster,
# as they fill any device; smaller ones add to the gradient of the whole head more often.
CHUNK_BYTES = 2**28
ALIGNMENT = 64  # classes, of a GPU's matrix products: others are several times slower
PADDED = 16 * ALIGNMENT  # the smallest vocabulary that is padded: below it, products of padding would cost more


def token_nats(hidden: Tensor, weight: Tensor, targets: Tensor, *, classes: int | None = None) -> Tensor:
    """Cross-entropies of targets (...) under logits `hidden @ weight.T`, the softmax in float32 at least.

    hidden (..., C), weight (V, C) -> nats (...). With `classes`, the first rows of the weight alone are classes. A way
    back through several chunks computes their logits again; that of `mean_nats` need not.
    """
    rows = chunk_rows(len(weight))
    if targets.numel() <= rows:
        return _nats(hidden, weight, targets, classes)
    chunks = zip(hidden.flatten(0, -2).split(rows), targets.flatten().split(rows), strict=True)
    if torch.is_grad_enabled():
        again = partial(checkpoint, _nats, use_reentrant=False, preserve_rng_state=False)
        nats = [again(h, weight, t, classes) for h, t in chunks]
    else:
        nats = [_nats(h, weight, t, classes) for h, t in chunks]
    return torch.cat(nats).view(targets.shape)


def mean_nats(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None = None, *, classes: int | None = None
) -> Tensor:
    """The mean over all tokens of `factors` (...) times the `token_nats` of the same arguments: a scalar.

    Factors are constants (masks, weights of a bound): no gradient reaches them.
    """
    small = targets.numel() <= chunk_rows(len(weight))
    if torch.is_grad_enabled() and not small:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        shares = torch.ones_like(targets) if factors is None else factors.detach()
        flat = hidden.flatten(0, -2), weight, targets.flatten(), shares.flatten().to(dtype)
        return _ChunkedMean.apply(*flat, classes)
    if small and factors is None:
        return _nats(hidden, weight, targets, classes, reduction="mean")
    nats = token_nats(hidden, weight, targets, classes=classes)
    return nats.mean() if factors is None else (nats * factors.detach()).mean()


def chunk_rows(vocabulary: int) -> int:
    """Tokens whose logits are held at once."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))


def _nats(hidden: Tensor, weight: Tensor, targets: Tensor, classes: int | None, *, reduction: str = "none") -> Tensor:
    """The plain cross-entropies (...) of targets (...) for hidden (..., C), or their mean."""
    logits = full_precision(F.linear(hidden, *_classes(hidden, weight, classes)))  # (..., V)
    nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)
    return nats.view(targets.shape) if reduction == "none" else nats


def _classes(hidden: Tensor, weight: Tensor, classes: int | None) -> tuple[Tensor, Tensor | None]:
    """The rows of the weight that are classes, in the dtype of their product with `hidden`, and its bias.

    On a GPU a large vocabulary is padded to a multiple of 64, by classes whose bias leaves them without probability.
    """
    if classes is not None:
        weight = weight[:classes]
    weight = weight.to(working_dtype(hidden))
    more = -len(weight) % ALIGNMENT
    if hidden.device.type != "cuda" or more == 0 or len(weight) < PADDED:
        return weight, None
    bias = F.pad(weight.new_zeros(len(weight)), (0, more), value=-torch.inf)
    return F.pad(weight, (0, 0, 0, more)), bias


class _ChunkedMean(torch.autograd.Function):
    """`mean_nats` of many tokens, each with its share in the mean.

    All that the gradient of the mean will be multiplied with is made in the forward pass, from the one set of logits. A
    token's share scales its state, (R, C), in place of the slope of its nats in the logits, (R, V).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, shares: Tensor, classes: int | None
    ) -> Tensor:
        """hidden (N, C), weight (V, C), targets (N,), shares (N,), float32 at least -> the mean, ()."""
        w, bias = _classes(hidden, weight, classes)
        V = len(weight) if classes is None else classes
        top = shares.abs().amax().clamp(min=torch.finfo(shares.dtype).tiny)  # float16 would lose shares that are small
        by_weight = torch.zeros_like(weight, dtype=shares.dtype)
        by_hidden, total = [], []
        rows = chunk_rows(len(weight))
        for h, t, share in zip(hidden.split(rows), targets.split(rows), shares.split(rows), strict=True):
            h, t, share = h.to(w.dtype), t[:, None], share[:, None]
            logs = full_precision(F.linear(h, w, bias)).log_softmax(-1)  # (R, V)
            nats = -logs.gather(1, t)  # (R, 1)
            slope = logs.exp_().scatter_add_(1, t, -torch.ones_like(nats)).to(w.dtype)  # (R, V)
            by_hidden.append(slope @ w)  # (R, C)
            by_weight[:V] += (slope.T @ (h * (share / top)).to(w.dtype))[:V]
            total.append((nats * share).sum())
        ctx.save_for_backward(torch.cat(by_hidden), by_weight, shares, top)
        ctx.dtypes = hidden.dtype, weight.dtype
        return torch.stack(total).sum() / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight, shares, top = ctx.saved_tensors
        scale = gradient / len(by_hidden)
        of_hidden = by_hidden * (scale * shares)[:, None]
        return of_hidden.to(ctx.dtypes[0]), (by_weight * (scale * top)).to(ctx.dtypes[1]), None, None, None
