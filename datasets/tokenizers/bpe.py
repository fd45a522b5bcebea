"""Byte-level byte-pair encoding (Sennrich et al. 2016) through the library `tokenizers`. N tokens of a text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from datasets.tokenizers.base import Tokenizer, as_list, check_kept

END_OF_TEXT = "<|endoftext|>"


class BPETokenizer(Tokenizer):
    """Byte-level BPE through the library `tokenizers`; END_OF_TEXT is a token of its own."""

    kind: ClassVar[str] = "bpe"

    def __init__(self, json: str):
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(json)
        # Whatever changes or randomises texts on their way to a model's input has no place in a corpus.
        self._backend.no_truncation()
        self._backend.no_padding()
        if getattr(self._backend.model, "dropout", None) is not None:
            self._backend.model.dropout = None
        self.end_is_added = self._backend.token_to_id(END_OF_TEXT) is None
        if not any(t.special and t.content == END_OF_TEXT for t in self._backend.get_added_tokens_decoder().values()):
            self._backend.add_special_tokens([END_OF_TEXT])
        # The end-of-text mark is set by us alone: where a text spells it out, it is ordinary characters.
        self._backend.encode_special_tokens = True
        self.start_id = self.end_id = self._backend.get_vocab()[END_OF_TEXT]
        self.vocabulary_size = max(self._backend.get_vocab().values()) + 1

    @classmethod
    def learn(cls, *, train: Iterable[str], everything: Iterable[str], vocab_size: int | None) -> Self:
        assert vocab_size is not None  # checked by DatasetConfig
        return cls.train(train, vocab_size)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
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
    def load(cls, path: str | Path) -> Self:
        """Read a tokenizer.json; FileNotFoundError or ValueError when it is none."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"tokenizer_path={path} is no file: give a tokenizer.json")
        try:
            return cls(path.read_text(encoding="utf-8-sig"))
        except Exception as error:  # the library raises plain Exception for whatever it cannot read
            raise ValueError(f"tokenizer_path={path} is no tokenizer.json ({error})") from error

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) int64."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) int64 of each text; the texts are spread over the cores. ValueError where they are another text."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        for text, again in zip(texts, self._backend.decode_batch(ids, skip_special_tokens=False), strict=True):
            check_kept(text, again)
        return [np.array(one, dtype=np.int64) for one in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; END_OF_TEXT is written out."""
        return self._backend.decode(as_list(ids), skip_special_tokens=False)

    def options(self) -> dict:
        return {"json": self._backend.to_str()}
