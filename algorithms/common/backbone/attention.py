"""Multi-head self-attention with a choice of visibility, rotary positions and an exact key-value cache.

Source: Vaswani et al. 2017 (arXiv:1706.03762); RoPE: Su et al. 2021 (arXiv:2104.09864); QK-norm: arXiv:2010.04245.
B batch, T tokens, C channels, nh heads, hs head size, S keys visible (cached and new).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.config import BackboneConfig

ATTENTION_KINDS = ("causal", "bidirectional", "block_causal")


class KVCache:
    """Keys and values of the tokens already encoded, one pair per layer, in buffers that are seldom allocated.

    `length` tokens have been kept. A forward pass with the cache encodes new tokens behind them; those that it is told
    to keep move `length` on, the others are overwritten by the next pass. Under causal attention the result is the one
    of a pass over the whole sequence. With a `window` a query sees the last `window` tokens, itself among them, and
    older keys are dropped; that needs positions that count from anywhere, as rotary ones do.
    """

    def __init__(self, n_layer: int, *, window: int | None = None) -> None:
        self.length = 0
        self.window = window
        self._dropped = 0  # tokens before the first in the buffers
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * n_layer

    @property
    def first(self) -> int:
        """The first token that the next one sees."""
        return 0 if self.window is None else max(0, self.length + 1 - self.window)

    def append(self, layer: int, k: Tensor, v: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Store k, v (B, nh, T, hs) behind the kept ones; returns those that any of the T queries sees (B, nh, S,
        hs)."""
        pair = self._room(layer, k, capacity)
        begin, start = self.first - self._dropped, self.length - self._dropped
        end = start + k.size(2)
        for buffer, new in zip(pair, (k, v), strict=True):
            buffer[:, :, start:end] = new.detach()
        if torch.is_grad_enabled() and k.requires_grad:  # gradients reach the new tokens, and need no buffer later
            return torch.cat([pair[0][:, :, begin:start], k], dim=2), torch.cat([pair[1][:, :, begin:start], v], dim=2)
        return pair[0][:, :, begin:end], pair[1][:, :, begin:end]

    def make_room(self, tokens: int, capacity: int) -> None:
        """Drop what no query will see any more where `tokens` new ones would not fit behind the rest."""
        if self.window is None and self.length + tokens > capacity:
            raise ValueError(f"the cache holds {capacity} tokens, {self.length + tokens} were asked for")
        full = next((pair for pair in self._pairs if pair is not None), None)
        if full is None or self.length - self._dropped + tokens <= full[0].size(2):
            return
        size, seen = (
            max(2 * capacity, capacity + tokens),
            slice(self.first - self._dropped, self.length - self._dropped),
        )
        for layer, pair in enumerate(self._pairs):
            if pair is not None:
                kept = tuple(buffer[:, :, seen] for buffer in pair)
                self._pairs[layer] = (self._buffer(kept[0], size), self._buffer(kept[1], size))
        self._dropped = self.first

    def _room(self, layer: int, k: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        pair = self._pairs[layer]
        if pair is None:
            size = capacity if self.window is None else max(2 * capacity, capacity + k.size(2))
            pair = (self._buffer(k[:, :, :0].detach(), size), self._buffer(k[:, :, :0].detach(), size))
            self._pairs[layer] = pair
        return pair

    @staticmethod
    def _buffer(kept: Tensor, size: int) -> Tensor:
        buffer = kept.new_empty((kept.size(0), kept.size(1), size, kept.size(3)))
        buffer[:, :, : kept.size(2)] = kept
        return buffer


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


def rotary_table(length: int, head_size: int) -> Tensor:
    """Cosines and sines of every position: (2, length, hs/2), base 10000, computed in float64."""
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the halves of x (B, nh, T, hs) by the angles of table (2, T, hs/2)."""
    cos, sin = table.to(x.dtype)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


class Attention(nn.Module):
    """Self-attention of one block; the visibility rule is passed in by the backbone at each call."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.capacity = config.block_size
        self.dropout = config.dropout
        self.qk_norm = config.style == "rope"
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, *, causal: bool, mask: Tensor | None, rotary: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). `mask` (T, S) is True where a query sees a key; `causal` needs none."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if cache is not None:
            k, v = cache.append(self.layer, k, v, self.capacity)  # (B, nh, S, hs)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))
