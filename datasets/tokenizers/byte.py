"""One token a UTF-8 byte. N tokens of a text."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

import numpy as np

from datasets.tokenizers.base import as_list


class ByteTokenizer:
    """One token a UTF-8 byte: 256 tokens, and no text is out of vocabulary."""

    kind: ClassVar[str] = "byte"
    vocabulary_size = 256
    start_id = ord("\n")

    @classmethod
    def learn(cls, *, train: Iterable[str], everything: Iterable[str], vocab_size: int | None) -> Self:
        """There is nothing to learn."""
        return cls()

    @classmethod
    def from_state(cls, state: dict) -> Self:
        """The tokenizer that `state()` described."""
        return cls()

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64, N counted in bytes."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) int64 of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8, which a model may well write, become U+FFFD."""
        return bytes(as_list(ids)).decode("utf-8", errors="replace")

    def state(self) -> dict:
        """Plain containers for a checkpoint."""
        return {"kind": self.kind}
