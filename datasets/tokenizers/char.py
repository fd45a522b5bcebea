"""One token a character, as nanoGPT's shakespeare_char. N tokens of a text, V vocabulary size."""

from collections.abc import Iterable
from typing import ClassVar, Self

import numpy as np

from datasets.tokenizers.base import Tokenizer, as_list


class CharTokenizer(Tokenizer):
    """One token a character; ids follow the sorted characters of the corpus."""

    kind: ClassVar[str] = "char"

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocabulary_size = len(self.characters)
        start = next((c for c in ("\n", " ") if c in self.characters), self.characters[0])
        self.start_id = self.characters.index(start)
        self._points = code_points(self.characters)  # (V,) sorted

    @classmethod
    def learn(cls, *, train: Iterable[str], everything: Iterable[str], vocab_size: int | None) -> Self:
        return cls("".join(set().union(*everything)))

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64; ValueError names the characters that the vocabulary lacks."""
        points = code_points(text)  # (N,)
        ids = np.searchsorted(self._points, points).clip(max=self.vocabulary_size - 1)
        known = self._points[ids] == points
        if not known.all():
            unknown = sorted({chr(point) for point in points[~known]})
            named = ", ".join(repr(character) for character in unknown[:10]) + (", ..." if unknown[10:] else "")
            raise ValueError(
                f"the vocabulary of {self.vocabulary_size} characters has no {named}: "
                "leave them out of the text, or train with dataset.tokenizer=byte, which knows every text"
            )
        return ids.astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(self.characters[i] for i in as_list(ids))

    def options(self) -> dict:
        return {"characters": self.characters}


def code_points(text: str) -> np.ndarray:
    """Unicode code points (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
