"""Multi-head self-attention with rotary positions; who sees whom, and what is cached, the backbone says.

Source: Vaswani et al. 2017 (arXiv:1706.03762); RoPE: Su et al. 2021 (arXiv:2104.09864); QK-norm: arXiv:2010.04245;
FlexAttention: arXiv:2412.05496. B batch, T tokens, C channels, nh heads, hs head size, S keys visible (cached and new).
"""

from functools import cache as cached
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from algorithms.common.backbone.cache import Cache
from algorithms.common.backbone.config import BackboneConfig

SMALLEST_HEAD = 16  # that FlexAttention's kernel takes
HAS_TRITON = find_spec("triton") is not None  # the compiler of that kernel


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


@cached
def compiled_flex() -> Any:
    """FlexAttention is fast only as one compiled kernel, also where all else runs eagerly."""
    return torch.compile(flex_attention, dynamic=False)


def fuses(device: torch.device, head_size: int) -> bool:
    """Whether there is a kernel here that computes the visible blocks of a BlockMask alone."""
    return device.type == "cuda" and head_size >= SMALLEST_HEAD and HAS_TRITON


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | BlockMask | None, dropout: float) -> Tensor:
    """q (B, nh, T, hs), k and v (B, nh, S, hs) -> (B, nh, T, hs)."""
    if isinstance(mask, BlockMask):
        flex = flex_attention if torch.compiler.is_compiling() else compiled_flex()
        return flex(q.to(v.dtype), k.to(v.dtype), v, block_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)


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
        self, x: Tensor, *, causal: bool, mask: Tensor | BlockMask | None, rotary: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C). `mask` (T, S) is True where a query sees a key; `causal` needs none."""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # (3, B, nh, T, hs)
        qk, v = qkv[:2], qkv[2]
        if rotary is not None:
            qk = rotate(qk, rotary)
        if self.qk_norm:
            qk = F.rms_norm(qk, qk.shape[-1:])
        q, k = qk.unbind()
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, nh, S, hs)
        y = attend(q, k, v, causal=causal, mask=mask, dropout=self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))
