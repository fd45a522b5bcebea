"""What a tokenizer is to the rest of the program, and what all of them share. N tokens of a text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Protocol, Self

import numpy as np


class Tokenizer(Protocol):
    """What the rest of the program knows of a tokenizer; `state()` is plain containers that a checkpoint carries."""

    kind: ClassVar[str]  # its name in the registry
    vocabulary_size: int
    start_id: int  # unconditional generation starts after this token; a streamed document ends with it

    def encode(self, text: str) -> np.ndarray: ...
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def state(self) -> dict: ...

    @classmethod
    def learn(cls, *, train: Iterable[str], everything: Iterable[str], vocab_size: int | None) -> Self:
        """The tokenizer for a corpus, from the head of its train split or from all of its text."""
        ...

    @classmethod
    def from_state(cls, state: dict) -> Self:
        """The tokenizer that `state()` described."""
        ...


def as_list(ids: Iterable[int]) -> list[int]:
    """Plain integers from a list, an array or a tensor."""
    return ids.tolist() if hasattr(ids, "tolist") else [int(i) for i in ids]


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut a text into pieces of about `size` characters, which encode to the same tokens as the whole.

    A cut lies between a visible character and white space, where byte-level BPE never joins.
    """
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        while end < len(text) and not (text[end].isspace() and not text[end - 1].isspace()):
            end += 1
        yield text[start:end]
        start = end
