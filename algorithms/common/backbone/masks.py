"""Who sees whom: boolean masks of attention, True where a query (rows) sees a key (columns).

Two streams are a text and, beside it, windows of noisy tokens that stand behind a clean past (BD3-LM,
arXiv:2503.09573). T clean tokens, N noisy ones.
"""

import torch
from torch import Tensor

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


def windows_behind(clean: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Positions and begins (N,) of windows of `width` noisy tokens, one behind each of `clean` clean ones."""
    begins = torch.arange(1, clean + 1, device=device).repeat_interleave(width)
    return begins + torch.arange(width, device=device).repeat(clean), begins
