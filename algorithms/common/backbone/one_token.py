"""The pass over one new token a row, as a straight line of operations on plain tensors.

A module's call costs about as much as a small product on a CPU, and a launch on a GPU: here are neither more calls nor
more kernels than the arithmetic needs. The modules' own pass is the same function; tests hold both to each other.
B batch, C channels, S slots of the cache, nh heads, hs head size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.attention import rotate
from algorithms.common.backbone.cache import KVCache
from algorithms.common.device import working_dtype

EPSILON = 1e-5  # of a LayerNorm


class Affine(NamedTuple):
    """The weight and the bias of a linear map or a norm, where it has them."""

    weight: Any
    bias: Any


class Layer(NamedTuple):
    """The weights of a block."""

    norm_1: Affine
    attn: Affine
    proj: Affine
    norm_2: Affine
    fc: Affine
    out: Affine


class OneToken:
    """A causal Backbone behind what a KVCache without a window holds, for passes over one token a row.

    `backbone(x (B, 1, C), cache=one_token)` is then the pass that it would be with the cache itself. Told a `place`
    (1,) int64, a tensor that its owner moves on, it works on shapes and addresses that are the same at every token, as
    a CUDA graph needs them, and leaves the cache's length alone: a token sees the slots up to its place by a mask.
    `lay_out` copies weights into the order that a CPU reads fastest, which pays for many tokens.
    """

    def __init__(self, backbone: Any, cache: KVCache, place: Tensor | None = None, *, lay_out: bool = False) -> None:
        assert cache.window is None and cache.buffer is not None
        self.cache, self.place = cache, place
        self.pairs = cache.buffer.flatten(0, 1)  # (2 n_layer, B, nh, S, hs)
        self.each = self.pairs.unbind(0)
        self.slots = torch.arange(cache.capacity, device=self.pairs.device)
        self.n_head = backbone.config.n_head
        self.is_rope = backbone.config.style == "rope"
        self.rotary = backbone.rotary.transpose(0, 1).to(cache.buffer.dtype)  # (block_size, 2, hs)
        self.layers = [
            Layer(
                _affine(block.ln_1),
                _affine(block.attn.c_attn, lay_out),
                _affine(block.attn.c_proj, lay_out),
                _affine(block.ln_2),
                _affine(block.mlp.c_fc, lay_out),
                _affine(block.mlp.c_proj, lay_out),
            )
            for block in backbone.blocks
        ]
        self.norm = _affine(backbone.ln_f)

    @property
    def where(self) -> int | Tensor:
        """The place of the next token."""
        return self.cache.length if self.place is None else self.place

    def states(self, x: Tensor) -> Tensor:
        """Final hidden states (B, 1, C) of the next token's inputs x (B, 1, C); its keys and values stay."""
        B, _, C = x.shape
        new, seen, mask = self._slots()
        x = x.view(B, C)
        if self.is_rope:
            x = F.rms_norm(x, (C,))
            turn = self.rotary[self.cache.length] if self.place is None else self.rotary.index_select(0, self.place)[0]
        for i, layer in enumerate(self.layers):
            qkv = F.linear(_normed(x, layer.norm_1), *layer.attn).view(B, 3, self.n_head, -1)
            if self.is_rope:
                qk = rotate(qkv[:, :2], turn)
                q, k = F.rms_norm(qk, qk.shape[-1:]).unbind(1)  # (B, nh, hs) each
                v = qkv[:, 2]
            else:
                q, k, v = qkv.unbind(1)
            self._write(new, 2 * i, k)
            self._write(new, 2 * i + 1, v)
            y = F.scaled_dot_product_attention(q[:, :, None], seen[2 * i], seen[2 * i + 1], attn_mask=mask)
            x = x + F.linear(y.view(B, C), *layer.proj)
            h = F.linear(_normed(x, layer.norm_2), *layer.fc)
            x = x + F.linear(h * F.relu(h) if self.is_rope else F.gelu(h), *layer.out)
        if self.place is None:
            self.cache.keep(1)
        return _normed(x, self.norm)[:, None]

    def _slots(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None]:
        """Of the keys, then the values of every layer: where new ones go, those that are seen; and who of them is."""
        if self.place is not None:
            return self.each, self.each, (self.slots <= self.place)[None]
        end = self.cache.begin(1).stop
        return self.pairs[..., end - 1, :].unbind(0), self.pairs[..., :end, :].unbind(0), None

    def _write(self, new: Sequence[Tensor], index: int, values: Tensor) -> None:
        """Put keys or values (B, nh, hs) where they go."""
        if self.place is None:
            new[index].copy_(values)
        else:
            new[index].index_copy_(2, self.place, values[:, :, None].to(new[index].dtype))


def _affine(module: Any, lay_out: bool = False) -> Affine:
    """The weights of a linear map in the dtype that it computes in, so that autocast need not cast them at every token;
    of a norm as they are. Laid out, the longer side of a matrix is contiguous: one row times (384, 1536) is read at 1.5
    times the speed of its transpose."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(module, nn.Linear):
        weight, bias = (None if one is None else one.detach().to(working_dtype(one)) for one in (weight, bias))
        if lay_out and weight is not None and module.out_features > module.in_features:
            weight = weight.T.contiguous().T
    return Affine(weight, bias)


def _normed(x: Tensor, norm: Affine) -> Tensor:
    """RMSNorm where there is no gain, else LayerNorm."""
    if norm.weight is None:
        return F.rms_norm(x, x.shape[-1:])
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, EPSILON)
