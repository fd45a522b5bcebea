"""The backbone: one transformer, the same for every method; only its visibility and what is fed to it differ.

Source: GPT-2 as in karpathy/nanoGPT (style `nanogpt`); the `rope` style follows modded-nanoGPT habits.
B batch, T tokens, C channels, S keys visible (cached and new), N noisy tokens of a second stream.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from algorithms.common.backbone.attention import Attention, fuses, rotary_table
from algorithms.common.backbone.cache import Cache, KVCache, RowCache, check_fits
from algorithms.common.backbone.config import BackboneConfig
from algorithms.common.backbone.layers import MLP, RMSNorm, init_weights, make_norm
from algorithms.common.backbone.masks import (
    ATTENTION_KINDS,
    SeenBlocks,
    two_stream_mask,
    two_stream_rule,
    window_mask,
    window_rule,
)
from algorithms.common.backbone.one_token import OneToken
from algorithms.common.device import working_dtype


class Block(nn.Module):
    """Pre-norm residual block: x += attention(norm x); x += mlp(norm x)."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, *, causal: bool, mask: Tensor | BlockMask | None, rotary: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal=causal, mask=mask, rotary=rotary, cache=cache)
        return x + self.mlp(self.ln_2(x))


class Backbone(nn.Module):
    """Maps input vectors (B, T, C) to final hidden states (B, T, C).

    `attention` says what a position may see: `causal` or `bidirectional`. Token
    embeddings and heads belong to the methods; learned positions are added by `add_positions`.
    """

    rotary: Tensor

    def __init__(self, config: BackboneConfig, *, attention: str = "causal") -> None:
        super().__init__()
        if attention not in ATTENTION_KINDS:
            raise ValueError(f"attention '{attention}' is unknown: choose one of {', '.join(ATTENTION_KINDS)}")
        self.config = config
        self.attention = attention
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
        block_size = self.config.block_size
        return KVCache(self.config.n_layer, block_size, window=block_size if sliding else None)

    def new_row_cache(self, rows: int) -> RowCache:
        """An empty cache whose rows hold up to block_size tokens, each its own number of them."""
        return RowCache(self.config.n_layer, rows, self.config.block_size)

    def add_positions(self, x: Tensor, where: int | Tensor = 0) -> Tensor:
        """Add learned position embeddings to x (B, T, C), nothing with RoPE: those from `where` on, or at places (T,)
        or (B, T)."""
        if self.wpe is None:
            return x
        if isinstance(where, Tensor):
            return x + self.wpe(where)
        check_fits(where + x.size(1), self.config.block_size)
        return x + self.wpe.weight[where : where + x.size(1)]

    def forward(
        self,
        x: Tensor,
        *,
        cache: Cache | OneToken | None = None,
        keep: int | None = None,
        mask: Tensor | BlockMask | None = None,
        positions: Tensor | None = None,
        bidirectional: bool = False,
    ) -> Tensor:
        """Run the blocks over x (B, T, C).

        With `cache`, x follows the cached tokens, and the keys and values of its first `keep` tokens (None: all) stay
        there. `mask` (T, S), perhaps in blocks, and `positions` (T,) replace the backbone's own visibility and
        numbering (two streams in one pass); both may differ by row, (B, 1, T, S) and (B, T). With `bidirectional` the
        tokens of x see what is cached and each other, whatever the backbone's own visibility.
        """
        if isinstance(cache, OneToken):
            return cache.states(x)
        T = x.size(1)
        places: slice | Tensor = slice(0, T)
        if cache is not None:
            places = cache.begin(T)
        elif positions is None:
            check_fits(T, self.config.block_size)
        rotary = None
        if self.wpe is None:
            rotary = self._rotary(places if positions is None else positions).to(working_dtype(x))
        if mask is None and cache is not None and not bidirectional:
            mask = cache.mask(T, x.device)
        causal = mask is None and not bidirectional and self.attention == "causal" and T > 1
        x = self.ln_in(self.drop(x))
        for block in self.blocks:
            x = block(x, causal=causal, mask=mask, rotary=rotary, cache=cache)
        if cache is not None:
            cache.keep(T if keep is None else keep)
        return self.ln_f(x)

    def two_streams(
        self,
        clean: Tensor,
        noisy: Tensor,
        positions: Tensor,
        begins: Tensor,
        blocks: SeenBlocks | None = None,
        *,
        bidirectional: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One pass over clean (B, T, C) and, beside them, noisy input vectors (B, N, C): the hidden states of both.

        `positions` (N,) are the noisy tokens' places in the text, `begins` (N,) the first place of each one's window;
        who sees whom is `two_stream_mask`, so that a window is what it is while a text is written. In training a GPU
        computes the `blocks` of it alone, where they are of these shapes.
        """
        T, N = clean.size(1), noisy.size(1)
        where = torch.cat([torch.arange(T, device=clean.device), positions])
        x = self.add_positions(torch.cat([clean, noisy], dim=1), where)
        if blocks is not None and self._goes_by(blocks, x):
            mask: Tensor | BlockMask = blocks.mask(two_stream_rule(T, begins, bidirectional=bidirectional))
        else:
            mask = two_stream_mask(T, positions, begins, bidirectional=bidirectional)
        return self(x, mask=mask, positions=where).split([T, N], dim=1)

    def windows(self, x: Tensor, begins: Tensor, blocks: SeenBlocks | None = None) -> Tensor:
        """A pass over vectors x (B, N, C) that see their own windows up to themselves: (B, N, C). The windows are the
        runs of one value in `begins` (N,); `blocks` as for two streams."""
        where = torch.arange(x.size(1), device=x.device)
        if blocks is not None and self._goes_by(blocks, x):
            mask: Tensor | BlockMask = blocks.mask(window_rule(begins))
        else:
            mask = window_mask(where, begins)
        return self(x, mask=mask, positions=where)

    def _goes_by(self, blocks: SeenBlocks, x: Tensor) -> bool:
        """Whether attention over x (B, T, C) goes by blocks, which knows no dropout."""
        config = self.config
        fits = self.training and config.dropout == 0 and x.size(1) == blocks.tokens
        return fits and fuses(x.device, config.n_embd // config.n_head)

    def _rotary(self, places: slice | Tensor) -> Tensor:
        """Cosines and sines at these places, from a table made longer where a sliding cache has come further."""
        if isinstance(places, slice) and places.stop > self.rotary.size(1):
            longer = rotary_table(2 * places.stop, self.config.n_embd // self.config.n_head)
            self.rotary = longer.to(self.rotary)
        rotary = self.rotary[:, places]
        return rotary[:, :, None] if rotary.dim() == 4 else rotary  # every row has its own
