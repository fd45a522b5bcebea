"""What a tokenizer is to the rest of the program, and what all of them share. N tokens of a text."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Self

import numpy as np


class Tokenizer(ABC):
    """Text to ids and back. `options` are what rebuilds it, plain containers that a checkpoint carries."""

    kind: ClassVar[str]  # its name in the registry
    vocabulary_size: int
    start_id: int  # unconditional generation starts after this token; a streamed document ends with it
    end_id: int | None = None  # that token, where it is the end of a document and nothing else

    @classmethod
    def learn(cls, *, train: Iterable[str], everything: Iterable[str], vocab_size: int | None) -> Self:
        """The tokenizer for a corpus, from the head of its train split or from all of its text."""
        return cls()

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64 that decode to this very text. Raises ValueError naming what the vocabulary lacks."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) int64 of each text."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""

    def options(self) -> dict:
        """Arguments that make the same tokenizer again."""
        return {}

    def state(self) -> dict:
        """Plain containers for a checkpoint."""
        return {"kind": self.kind, **self.options()}


def as_list(ids: Iterable[int]) -> list[int]:
    """Plain integers from a list, an array or a tensor."""
    return ids.tolist() if hasattr(ids, "tolist") else [int(i) for i in ids]


def check_kept(text: str, again: str) -> None:
    """ValueError with the first difference, unless a text came back as it was: likelihoods would be of another one."""
    if again != text:
        start = next(
            (i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), min(len(text), len(again))
        )
        near = slice(max(start - 10, 0), start + 10)
        raise ValueError(
            f"the tokenizer changes the text, {text[near]!r} comes back as {again[near]!r}: take one that keeps every "
            "text, as byte-level BPE without normaliser and prefix space, or dataset.tokenizer=byte"
        )


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
