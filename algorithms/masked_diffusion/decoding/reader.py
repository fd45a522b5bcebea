"""How a network reads a text while it is written: in which chunks, and what it is shown of each.

B batch, L all positions, R rows still being decoded, K positions of the chunk, M of them that are looked at, W window,
V vocabulary without the mask token.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from algorithms.masked_diffusion.decoding.state import ChunkState, Predictor


@dataclass(frozen=True)
class Chunk:
    """Positions `begin` to `end` of a text, decided together, and the window from `start` to `stop` that the network is
    shown of it: with masks where nothing is decided, beyond the text, too. `past` is the first token that it sees."""

    begin: int
    end: int
    start: int
    stop: int
    past: int

    @property
    def place(self) -> slice:
        """Where the chunk lies in its window."""
        return slice(self.begin - self.start, self.end - self.start)

    def window(self, text: Tensor, mask_id: int) -> Tensor:
        """A copy (R, W) of the window of texts (R, L)."""
        shown = text[:, self.start : self.stop]
        return F.pad(shown, (0, self.stop - self.start - shown.size(1)), value=mask_id).clone()


class Reader(ABC):
    """How a network reads a text while it is written. As a Predictor it is asked for the logits of a chunk."""

    width: int  # tokens of a window
    token_forwards: int | None = None  # tokens in its passes so far, where it counts them

    @abstractmethod
    def chunks(self, first: int, length: int) -> Iterator[Chunk]:
        """The chunks of texts of so many positions, whose first `first` are given."""

    def enter(self, chunk: Chunk, text: Tensor, rows: list[int], fresh: list[int]) -> tuple[int, Tensor | None]:
        """Read what stands before a chunk of text (B, L), in `rows`: those with something to decide from there on.

        Returns the passes that this took, and logits (F, V) of the chunk's first token for the rows `fresh`, in which
        it is open, where it is drawn at once; else None.
        """
        return 0, None

    @abstractmethod
    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        """As in Predictor."""


class SlidingWindow(Reader):
    """Chunks of `chunk_len` tokens that see `context_len` tokens before them, and what is given behind."""

    def __init__(self, predict: Predictor, window: int, chunk_len: int, context_len: int) -> None:
        self.predict, self.width = predict, window
        self.chunk_len, self.context_len = chunk_len, context_len

    def chunks(self, first: int, length: int) -> Iterator[Chunk]:
        for begin in range(first, length, self.chunk_len):
            start = max(0, begin - self.context_len)
            yield Chunk(begin, min(begin + self.chunk_len, length), start, start + self.width, past=start)

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        return self.predict(x, chunk, state)
