"""Who sees whom: boolean masks of attention, True where a query (rows) sees a key (columns).

Two streams are a text and, beside it, windows of noisy tokens that stand behind a clean past (BD3-LM,
arXiv:2503.09573). FlexAttention (arXiv:2412.05496) takes the same rules as functions of query and key, and computes the
blocks alone in which somebody may see somebody. T clean tokens, N noisy ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # queries, and keys, that FlexAttention's kernel takes at once
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of batch, head, query and key: whether it is seen
KINDS, ENDS = ("some", "every"), ("keys", "queries")  # of blocks, and for whom they are listed
ATTENTION_KINDS = ("causal", "bidirectional", "block_causal")


def attention_mask(
    kind: str,
    queries: int,
    keys: int,
    *,
    block_len: int = 1,
    window: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Which keys each query may see: bool (queries, keys); the queries are the last `queries` of the keys.

    `block_causal` blocks hold `block_len` tokens: a query sees its own block whole and every earlier one. With a
    `window` a causal query sees the last `window` keys up to itself.
    """
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    if kind == "causal":
        return k <= q if window is None else (k <= q) & (k > q - window)
    if kind == "block_causal":
        return k // block_len <= q // block_len
    if kind == "bidirectional":
        return torch.ones(queries, keys, dtype=torch.bool, device=device)
    raise ValueError(f"attention '{kind}' is unknown: choose one of {', '.join(ATTENTION_KINDS)}")


def window_mask(positions: Tensor, begins: Tensor) -> Tensor:
    """Each of N tokens sees those of its own window up to itself: (N, N).

    `positions` (N,) are places in the text, `begins` (N,) the first place of each token's window.
    """
    return (begins == begins[:, None]) & (positions <= positions[:, None])


def two_stream_mask(clean: int, positions: Tensor, begins: Tensor) -> Tensor:
    """Mask (T + N, T + N) of T clean tokens, then N noisy ones at `positions` (N,) in windows from `begins` (N,) on.

    A clean token sees clean ones up to itself. A noisy one sees the clean ones before its window, and the noisy ones
    of its window up to itself: what it sees while a text is written.
    """
    now = torch.arange(clean, device=positions.device)
    upper = torch.cat([now <= now[:, None], now.new_zeros(clean, len(positions), dtype=torch.bool)], dim=1)
    return torch.cat([upper, torch.cat([now < begins[:, None], window_mask(positions, begins)], dim=1)])


def window_rule(begins: Tensor) -> Rule:
    """`window_mask` of tokens that stand in the order of the text."""
    return lambda batch, head, query, key: (begins[query] == begins[key]) & (key <= query)


def two_stream_rule(clean: int, begins: Tensor) -> Rule:
    """`two_stream_mask` of noisy tokens that stand in the order of the text."""
    window = torch.cat([begins.new_full((clean,), -1), begins])  # (T + N,)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, past = window[query], key <= query
        return torch.where(own < 0, past, (key < own) | (window[key] == own) & past)

    return sees


class Blocks(nn.Module):
    """The blocks of attention in which somebody may see somebody, wherever the windows of a text begin: constants that
    no step computes, and no part of a checkpoint.

    `clean` tokens, then `noisy` ones in windows of at most `widest`, which are a power of 2 wide and begin at multiples
    of it. A rule decides inside a block, but for those of clean tokens whose past is whole.
    """

    def __init__(self, clean: int, noisy: int, widest: int, *, block: int = BLOCK) -> None:
        super().__init__()
        self.tokens, self.block = clean + noisy, block
        first = np.arange(0, self.tokens, block)
        last = np.minimum(first + block, self.tokens) - 1
        q, k = (first[:, None], last[:, None]), (first[None], last[None])
        past = k[0] <= q[1]  # some key is not after some query
        own = past & (q[1] >= clean) & (k[1] >= clean) & (k[1] > q[0] - widest)
        some = (k[0] < clean) & (past | (q[1] >= clean)) | own
        every = (k[1] <= q[0]) & (q[1] < clean)
        for name, seen in zip(KINDS, (some & ~every, every), strict=True):
            for end, side in zip(ENDS, (seen, seen.T), strict=True):
                counts = torch.tensor(side.sum(1), dtype=torch.int32, device="cpu")[None, None]
                indices = torch.tensor(np.argsort(~side, axis=1, kind="stable"), dtype=torch.int32, device="cpu")
                self.register_buffer(f"{name}_{end}_count", counts, persistent=False)
                self.register_buffer(f"{name}_{end}", indices[None, None], persistent=False)

    def mask(self, rule: Rule) -> BlockMask:
        """Attention by this rule, in these blocks."""
        names = [f"{kind}_{end}{what}" for end in ENDS for kind in KINDS for what in ("_count", "")]
        blocks = [self.get_buffer(name) for name in names]
        arguments: Any = ((self.tokens, self.tokens), *blocks, (self.block, self.block), rule)
        return BlockMask(*arguments)


def windows_behind(clean: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Positions and begins (N,) of windows of `width` noisy tokens, one behind each of `clean` clean ones."""
    begins = torch.arange(1, clean + 1, device=device).repeat_interleave(width)
    return begins + torch.arange(width, device=device).repeat(clean), begins
