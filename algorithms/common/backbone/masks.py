"""Who sees whom: boolean masks of attention, True where a query (rows) sees a key (columns).

Two streams are a text and, beside it, windows of noisy tokens that stand behind a clean past (BD3-LM,
arXiv:2503.09573): causal inside a window, or bidirectional. FlexAttention (arXiv:2412.05496) takes the same rules as
functions of query and key, and computes the blocks alone in which somebody may see somebody. T clean tokens, N noisy
ones.
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
ATTENTION_KINDS = ("causal", "bidirectional")


def attention_mask(
    kind: str,
    queries: int,
    keys: int,
    *,
    window: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Which keys each query may see: bool (queries, keys); the queries are the last `queries` of the keys.

    With a `window` a causal query sees the last `window` keys up to itself.
    """
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    if kind == "causal":
        return k <= q if window is None else (k <= q) & (k > q - window)
    if kind == "bidirectional":
        return torch.ones(queries, keys, dtype=torch.bool, device=device)
    raise ValueError(f"attention '{kind}' is unknown: choose one of {', '.join(ATTENTION_KINDS)}")


def window_mask(positions: Tensor, begins: Tensor, *, bidirectional: bool = False) -> Tensor:
    """Each of N tokens sees those of its own window up to itself, or all of them: (N, N).

    `positions` (N,) are places in the text, `begins` (N,) the first place of each token's window.
    """
    own = begins == begins[:, None]
    return own if bidirectional else own & (positions <= positions[:, None])


def two_stream_mask(clean: int, positions: Tensor, begins: Tensor, *, bidirectional: bool = False) -> Tensor:
    """Mask (T + N, T + N) of T clean tokens, then N noisy ones at `positions` (N,) in windows from `begins` (N,) on.

    A clean token sees clean ones up to itself. A noisy one sees the clean ones before its window, and the noisy ones
    of its window up to itself, or all of them: what it sees while a text is written.
    """
    now = torch.arange(clean, device=positions.device)
    upper = torch.cat([now <= now[:, None], now.new_zeros(clean, len(positions), dtype=torch.bool)], dim=1)
    windows = window_mask(positions, begins, bidirectional=bidirectional)
    return torch.cat([upper, torch.cat([now < begins[:, None], windows], dim=1)])


def window_rule(begins: Tensor) -> Rule:
    """`window_mask` of tokens that stand in the order of the text."""
    return lambda batch, head, query, key: (begins[query] == begins[key]) & (key <= query)


def two_stream_rule(clean: int, begins: Tensor, *, bidirectional: bool = False) -> Rule:
    """`two_stream_mask` of noisy tokens that stand in the order of the text."""
    window = torch.cat([begins.new_full((clean,), -1), begins])  # (T + N,)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, past = window[query], key <= query
        inside = window[key] == own
        return torch.where(own < 0, past, (key < own) | (inside if bidirectional else inside & past))

    return sees


class SeenBlocks(nn.Module):
    """The blocks of attention of `tokens` in which somebody may see somebody: constants that no step computes, and no
    part of a checkpoint.

    `some` and `every` (blocks, blocks) say of queries and keys whether one of them is seen, and whether all are: there
    no rule is asked.
    """

    def __init__(self, tokens: int, some: np.ndarray, every: np.ndarray, *, block: int = BLOCK) -> None:
        super().__init__()
        self.tokens, self.block = tokens, block
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


class Blocks(SeenBlocks):
    """Those of `clean` tokens, then `noisy` ones in causal windows, wherever the windows of a text begin.

    Windows are at most `widest`, a power of 2 wide, and begin at multiples of it. A rule decides inside a block, but
    for those of clean tokens whose past is whole.
    """

    def __init__(self, clean: int, noisy: int, widest: int, *, block: int = BLOCK) -> None:
        tokens = clean + noisy
        first = np.arange(0, tokens, block)
        last = np.minimum(first + block, tokens) - 1
        q, k = (first[:, None], last[:, None]), (first[None], last[None])
        past = k[0] <= q[1]  # some key is not after some query
        own = past & (q[1] >= clean) & (k[1] >= clean) & (k[1] > q[0] - widest)
        some = (k[0] < clean) & (past | (q[1] >= clean)) | own
        super().__init__(tokens, some, (k[1] <= q[0]) & (q[1] < clean), block=block)


class RuleBlocks(SeenBlocks):
    """Those of a rule that is the same in every step, found by asking it about every query and key of `tokens`."""

    def __init__(self, rule: Rule, tokens: int, *, block: int = BLOCK) -> None:
        first, none = range(0, tokens, block), torch.tensor(0, device="cpu")
        keys = torch.arange(tokens, device="cpu")
        some, every = [], []
        for begin in first:
            sees = rule(none, none, keys[begin : begin + block, None], keys).numpy()  # (queries of a block, tokens)
            some.append(np.logical_or.reduceat(sees.any(0), first))
            every.append(np.logical_and.reduceat(sees.all(0), first))
        super().__init__(tokens, np.stack(some), np.stack(every), block=block)


def windows_of(clean: int, width: int, *, offset: int = 1, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Positions and begins (N,) of windows of `width` noisy tokens, one for each of `clean` clean ones, `offset` places
    behind it."""
    begins = torch.arange(offset, clean + offset, device=device).repeat_interleave(width)
    return begins + torch.arange(width, device=device).repeat(clean), begins
