"""One token a UTF-8 byte. N tokens of a text."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from datasets.tokenizers.base import Tokenizer, as_list


class ByteTokenizer(Tokenizer):
    """One token a UTF-8 byte: 256 tokens, and no text is out of vocabulary."""

    kind: ClassVar[str] = "byte"
    vocabulary_size = 256
    start_id = ord("\n")

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64, N counted in bytes."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8, which a model may well write, become U+FFFD."""
        return bytes(as_list(ids)).decode("utf-8", errors="replace")
