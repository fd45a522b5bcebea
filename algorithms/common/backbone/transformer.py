"""The backbone: one transformer, the same for every method; only its visibility and what is fed to it differ.

Source: GPT-2 as in karpathy/nanoGPT (style `nanogpt`); the `rope` style follows modded-nanoGPT habits.
B batch, T tokens, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.attention import (
    ATTENTION_KINDS,
    Attention,
    KVCache,
    attention_mask,
    rotary_table,
)
from algorithms.common.backbone.config import BackboneConfig


class LayerNorm(nn.Module):
    """LayerNorm with gain and an optional bias (torch's own cannot drop only the bias on every backend)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class RMSNorm(nn.Module):
    """RMSNorm without a learned gain."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])


def make_norm(config: BackboneConfig) -> nn.Module:
    return LayerNorm(config.n_embd, config.bias) if config.style == "nanogpt" else RMSNorm()


class MLP(nn.Module):
    """Position-wise network of width 4C: GELU in the nanogpt style, squared ReLU in the rope style."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gelu = config.style == "nanogpt"
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)  # (B, T, 4C)
        h = F.gelu(h) if self.gelu else h * F.relu(h)  # = relu(h)², several times faster on a CPU than squaring
        return self.dropout(self.c_proj(h))


class Block(nn.Module):
    """Pre-norm residual block: x += attention(norm x); x += mlp(norm x)."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, *, causal: bool, mask: Tensor | None, rotary: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal=causal, mask=mask, rotary=rotary, cache=cache)
        return x + self.mlp(self.ln_2(x))


class Backbone(nn.Module):
    """Maps input vectors (B, T, C) to final hidden states (B, T, C).

    `attention` says what a position may see: `causal`, `bidirectional` or `block_causal` (blocks of `block_len`).
    Token embeddings and heads belong to the methods; learned positions are added by `add_positions`.
    """

    rotary: Tensor

    def __init__(self, config: BackboneConfig, *, attention: str = "causal", block_len: int = 1) -> None:
        super().__init__()
        if attention not in ATTENTION_KINDS:
            raise ValueError(f"attention '{attention}' is unknown: choose one of {', '.join(ATTENTION_KINDS)}")
        self.config = config
        self.attention = attention
        self.block_len = block_len
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.style == "nanogpt" else None
        self.drop = nn.Dropout(config.dropout)
        self.ln_in = RMSNorm() if config.style == "rope" else nn.Identity()
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = make_norm(config)
        table = rotary_table(config.block_size, config.n_embd // config.n_head)
        self.register_buffer("rotary", table, persistent=False)
        self.apply(init_weights)
        if config.style == "nanogpt":  # GPT-2: residual projections start smaller, by depth
            for name, parameter in self.named_parameters():
                if name.endswith("c_proj.weight"):
                    nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * config.n_layer))

    def new_cache(self, *, sliding: bool = False) -> KVCache:
        """An empty key-value cache for this backbone; only a causal backbone can use one exactly.

        `sliding`: any number of tokens, of which each sees the last block_size; only with rotary positions.
        """
        if self.attention != "causal":
            raise ValueError(f"a key-value cache is exact only under causal attention, not {self.attention}")
        if sliding and self.wpe is not None:
            raise ValueError("a sliding cache needs rotary positions: take algorithm.backbone.style=rope")
        return KVCache(self.config.n_layer, window=self.config.block_size if sliding else None)

    def add_positions(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the learned position embeddings of start .. start + T - 1 to x (B, T, C); nothing with RoPE."""
        if self.wpe is None:
            return x
        self._check_length(start + x.size(1))
        return x + self.wpe.weight[start : start + x.size(1)]

    def forward(
        self,
        x: Tensor,
        *,
        cache: KVCache | None = None,
        keep: int | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks over x (B, T, C).

        With `cache`, x follows the cached tokens, and the keys and values of its first `keep` tokens (None: all) stay
        there. `mask` (T, S) and `positions` (T,) replace the backbone's own visibility and numbering (two streams in
        one pass); both may differ by row, (B, 1, T, S) and (B, T).
        """
        T = x.size(1)
        start = 0 if cache is None else cache.length
        window = None if cache is None else cache.window
        if positions is None:
            if window is None:
                self._check_length(start + T)
            rotary = self._rotary(start + T)[:, start : start + T]
        else:
            rotary = self.rotary[:, positions]
            if positions.dim() == 2:  # every row has its own
                rotary = rotary[:, :, None]
        keys = T if cache is None else start + T - cache.first  # those that the first query or a later one sees
        causal = mask is None and self.attention == "causal" and start == 0 and (window is None or window >= T)
        if mask is None and not causal and (self.attention == "block_causal" or (self.attention == "causal" and T > 1)):
            mask = attention_mask(self.attention, T, keys, block_len=self.block_len, window=window, device=x.device)
        if cache is not None:
            cache.make_room(T, self.config.block_size)
        x = self.ln_in(self.drop(x))
        for block in self.blocks:
            rotary_or_none = None if self.wpe is not None else rotary
            x = block(x, causal=causal, mask=mask, rotary=rotary_or_none, cache=cache)
        if cache is not None:
            cache.length += T if keep is None else keep
        return self.ln_f(x)

    def _rotary(self, length: int) -> Tensor:
        """The table for positions 0 .. length - 1, made longer where a sliding cache has come further."""
        if length > self.rotary.size(1):
            longer = rotary_table(2 * length, self.config.n_embd // self.config.n_head)
            self.rotary = longer.to(self.rotary)
        return self.rotary

    def _check_length(self, length: int) -> None:
        if length > self.config.block_size:
            raise ValueError(
                f"{length} tokens do not fit into the context of {self.config.block_size}: "
                "shorten the input or raise algorithm.backbone.block_size"
            )


def init_weights(module: nn.Module) -> None:
    """GPT-2's initialisation: weights N(0, 0.02²), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
