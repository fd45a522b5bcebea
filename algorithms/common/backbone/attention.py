"""Multi-head self-attention with rotary positions; who sees whom, and what is cached, the backbone says.

Source: Vaswani et al. 2017 (arXiv:1706.03762); RoPE: Su et al. 2021 (arXiv:2104.09864); QK-norm: arXiv:2010.04245.
B batch, T tokens, C channels, nh heads, hs head size, S keys visible (cached and new).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.cache import Cache
from algorithms.common.backbone.config import BackboneConfig


def rotary_table(length: int, head_size: int) -> Tensor:
    """What turns every position, (2, length, hs), base 10000, computed in float64: cosines, and sines that are negative
    in the second half."""
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([sin, -sin], dim=-1)]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the halves of x (..., T, hs) by the angles of table (2, T, hs)."""
    cos, sin = table
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


class Attention(nn.Module):
    """Self-attention of one block; the visibility rule is passed in by the backbone at each call."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qk_norm = config.style == "rope"
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, *, causal: bool, mask: Tensor | None, rotary: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). `mask` (T, S) is True where a query sees a key; `causal` needs none."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, nh, S, hs)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))
