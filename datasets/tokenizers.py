"""Text <-> token ids: characters (as nanoGPT's shakespeare_char), bytes, and byte-level BPE (Sennrich et al. 2016).

Each kind keeps itself as plain containers (`state`), so that a checkpoint carries its tokenizer. V vocabulary size.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """What the rest of the program knows of a tokenizer."""

    vocabulary_size: int
    start_id: int  # unconditional generation starts after this token; a streamed document ends with it

    def encode(self, text: str) -> np.ndarray: ...
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def state(self) -> dict: ...


class CharTokenizer:
    """One token a character; ids follow the sorted characters of the corpus."""

    kind: ClassVar[str] = "char"

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocabulary_size = len(self.characters)
        start = next((c for c in ("\n", " ") if c in self.characters), self.characters[0])
        self.start_id = self.characters.index(start)
        self._points = code_points(self.characters)  # (V,) sorted

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

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) int64 of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(self.characters[i] for i in as_list(ids))

    def state(self) -> dict:
        """Plain containers for a checkpoint."""
        return {"kind": self.kind, "characters": self.characters}


class ByteTokenizer:
    """One token a UTF-8 byte: 256 tokens, and no text is out of vocabulary."""

    kind: ClassVar[str] = "byte"
    vocabulary_size = 256
    start_id = ord("\n")

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


class BPETokenizer:
    """Byte-level BPE through the library `tokenizers`; END_OF_TEXT is a token of its own."""

    kind: ClassVar[str] = "bpe"

    def __init__(self, serialised: str):
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(serialised)
        if self._backend.token_to_id(END_OF_TEXT) is None:
            self._backend.add_special_tokens([END_OF_TEXT])
        # The end-of-text mark is set by us alone: where a text spells it out, it is ordinary characters.
        self._backend.encode_special_tokens = True
        self.start_id = self._backend.get_vocab()[END_OF_TEXT]
        self.vocabulary_size = max(self._backend.get_vocab().values()) + 1

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from texts until the vocabulary has vocab_size tokens, or the texts offer no more merges."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend.to_str())

    @classmethod
    def load(cls, path: str | Path) -> "BPETokenizer":
        """Read a tokenizer.json; FileNotFoundError or ValueError when it is none."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"tokenizer_path={path} is no file: give a tokenizer.json")
        try:
            return cls(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception for whatever it cannot read
            raise ValueError(f"tokenizer_path={path} is no tokenizer.json ({error})") from error

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) int64 of each text; the texts are spread over the cores."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; END_OF_TEXT is written out."""
        return self._backend.decode(as_list(ids), skip_special_tokens=False)

    def state(self) -> dict:
        """Plain containers for a checkpoint."""
        return {"kind": self.kind, "json": self._backend.to_str()}


def tokenizer_from_state(state: dict) -> Tokenizer:
    """The tokenizer that `state()` described; ValueError for an unknown kind."""
    if state["kind"] == CharTokenizer.kind:
        return CharTokenizer(state["characters"])
    if state["kind"] == ByteTokenizer.kind:
        return ByteTokenizer()
    if state["kind"] == BPETokenizer.kind:
        return BPETokenizer(state["json"])
    raise ValueError(f"unknown kind of tokenizer {state['kind']!r}: expected char, byte or bpe")


def code_points(text: str) -> np.ndarray:
    """Unicode code points (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


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
