"""Writing in blocks: the decoders of masked diffusion inside a block, its past in an exact key-value cache.

A block's first token is drawn from the pass that reads what was finished before it; each step on the others is a pass
over the block alone. Or a block drafts what the clean stream verifies as a GPT. B batch, L all positions, R rows, F of
them with an open first token, K tokens of a block, M of them that are looked at, n drafts,
W = n + 2 tokens of a block that drafts them, V vocabulary without the mask token.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.backbone import KVCache, LanguageModel
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, invert
from algorithms.common.speculation import Drafter, Probabilities
from algorithms.masked_diffusion.decoding import Chunk, ChunkState, Reader


class BlockReader(Reader):
    """A text that is read block by block, in contexts of block_size tokens and the next one, as in training.

    A longer text moves on as a GPT's does, by `context_start`; blocks are counted from the start of the context, and
    what is known of one is visible in it. Without `use_cache` the past is read anew in every pass, to the same result.
    """

    def __init__(self, network: LanguageModel, *, block_len: int, mask_id: int, use_cache: bool = True) -> None:
        self.network, self.mask_id, self.use_cache = network, mask_id, use_cache
        self.width = block_len
        self.window = network.backbone.config.block_size
        self.token_forwards: int = 0
        self.chunk: Chunk | None = None
        self.rows: list[int] = []  # whose past has been read
        self.past: Tensor | None = None  # (rows, tokens) of it
        self.cache: KVCache | None = None
        self.inside: tuple[list[int], KVCache] | None = None  # the same for rows whose block is being decided

    def chunks(self, first: int, length: int) -> Iterator[Chunk]:
        position = first
        while position < length:
            past = context_start(position, self.window - 1)
            start = position - (position - past) % self.width
            stop = min(start + self.width, past + self.window)
            yield Chunk(position, end := min(stop, length), start, stop, past)
            position = end

    def enter(self, chunk: Chunk, text: Tensor, rows: list[int], fresh: list[int]) -> tuple[int, Tensor | None]:
        if self.chunk is None or chunk.past != self.chunk.past:
            self.cache = None
        self.chunk = chunk
        if chunk.start == chunk.past:  # nothing before the first block
            return 0, None
        network, draws = self.network, chunk.begin == chunk.start and len(fresh) > 0
        past = text[rows if len(rows) < len(text) else slice(None), chunk.past : chunk.start]
        past = past.to(network.wte.weight.device)  # (rows, tokens)
        if self.use_cache:
            if self.cache is None:
                self.cache = network.backbone.new_cache()
            elif rows != self.rows:
                self.cache = rows_of(self.cache, [self.rows.index(row) for row in rows])
            self.inside = rows, self.cache
        new = past[:, 0 if self.cache is None else self.cache.length :]
        self.rows, self.past = rows, past
        self.token_forwards += new.numel()
        hidden = network.hidden(new, cache=self.cache)[:, -1]  # (rows, C)
        if not draws:
            return 1, None
        if len(fresh) < len(rows):
            hidden = hidden[[self.rows.index(row) for row in fresh]]
        return 1, network.lm_head(hidden)[..., : self.mask_id]

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        backbone, shown = self.network.backbone, self.network.wte(x)  # (R, K, C)
        assert self.chunk is not None
        before = self.chunk.start - self.chunk.past
        self.token_forwards += x.numel()
        if before == 0:
            hidden = backbone(backbone.add_positions(shown), bidirectional=True)
        elif self.use_cache:
            cache = self._inside(state.rows.tolist())
            hidden = backbone(backbone.add_positions(shown, before), cache=cache, keep=0, bidirectional=True)
        else:
            assert self.past is not None
            rows = [self.rows.index(row) for row in state.rows.tolist()]
            past = self.network.wte(self.past[rows])
            self.token_forwards += len(x) * before
            begins = torch.full((x.size(1),), before, device=x.device)
            places = begins + torch.arange(x.size(1), device=x.device)
            hidden = backbone.two_streams(past, shown, places, begins, bidirectional=True)[1]
        return self.network.lm_head(state.at(hidden[:, chunk]))[..., : self.mask_id]

    def _inside(self, rows: list[int]) -> KVCache:
        """The cache of the rows whose block is still being decided."""
        assert self.inside is not None
        known, cache = self.inside
        if rows != known:
            self.inside = rows, rows_of(cache, [known.index(row) for row in rows])
        return self.inside[1]


def rows_of(cache: KVCache, rows: list[int]) -> KVCache:
    """A copy of a cache that holds the rows at these places alone."""
    assert cache.buffer is not None
    found = KVCache(cache.n_layer, cache.capacity)
    found.buffer, found.length = cache.buffer[:, :, rows], cache.length
    return found


class BlockDrafter(Drafter):
    """A block that begins with a token of the text, its other n + 1 tokens masked, drafts the last n of them.

    The one in between is the clean stream's to draw, and no draft depends on it or on another draft. Such a block
    begins at any token, where training's begin at every block_len-th, and ends with its drafts.
    """

    offset = 0
    bidirectional = True

    def __init__(self, network: LanguageModel, *, drafts: int, mask_id: int, context: int) -> None:
        self.network, self.mask_id, self.context = network, mask_id, context
        self.drafts, self.width = drafts, drafts + 2

    def begin(self, random: RowRandom) -> None:
        """Masks are not drawn."""

    def windows(self, rows: Tensor, tokens: Tensor) -> Tensor:
        blocks = F.pad(tokens[..., None], (0, self.width - 1), value=self.mask_id)  # (R, n + 1, W)
        return self.network.wte(blocks.flatten(1))

    def logits(self, states: Tensor) -> Tensor:
        return self.network.lm_head(states)[..., : self.mask_id]

    def draft(
        self, window: Tensor, token: Tensor, uniform: Tensor, probabilities: Probabilities
    ) -> tuple[Tensor, Tensor]:
        q = probabilities(self.logits(window[:, 2:]))  # (R, n, V), behind the first and the next token
        return invert(q, uniform).to(token.device), q
