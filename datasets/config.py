"""What a user may say about the data: one frozen dataclass, checked before any work starts."""

import io
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

# What `path` means to each corpus.
PATH_NEEDED = ("text_file", "documents")
PATH_REFUSED = ("shakespeare", "shakespeare_complete", "shakespeare_other")
ENCODED = ("text_file", "documents")  # text of the user's, whose encoding may need to be said
HELD_OUT_DEFAULTS = {"text_file": 0.1, "documents": 0.01}
SMALLEST_BPE = 257  # the 256 bytes and the end-of-text token

Corpus = Literal[
    "shakespeare",
    "shakespeare_complete",
    "shakespeare_other",
    "tiny_shakespeare",
    "text8",
    "text_file",
    "documents",
]
CORPORA = get_args(Corpus)
TokenizerName = Literal[
    "char",
    "byte",
    "bpe",
    "loaded",
]
LOADED = "loaded"  # the tokenizer that the checkpoint of load= carries
FORMER_NAMES = {"openwebtext": "documents"}  # by which older runs and checkpoints know a corpus


def _present_name(name: Any) -> Any:
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def _absolute(path: str) -> str:
    """A path that leads to the same file from any working folder; `~` is the home folder."""
    return str(Path(os.path.expanduser(path)).absolute()) if path else path


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False))
class DatasetConfig:
    """A corpus, its tokenizer and where prepared arrays are kept; raises ValueError on an impossible combination.

    `path` and `tokenizer_path` become absolute, so that whoever stores the configuration stores which file was meant.
    """

    name: Annotated[Corpus, BeforeValidator(_present_name)] = "shakespeare"
    path: AbsolutePath | None = None  # the user's file or folder, where the corpus needs or accepts one
    tokenizer: TokenizerName = "char"
    vocab_size: Annotated[int, Field(strict=True)] | None = 1024  # of a bpe vocabulary trained on the train split
    tokenizer_path: AbsolutePath | None = None  # a tokenizer.json to load instead of training one; bpe only
    held_out_fraction: Annotated[float, Field(gt=0, le=0.5, strict=True)] | None = None  # kept from training
    encoding: str | None = None  # of text without a byte order mark; None is UTF-8
    text_column: Annotated[str, Field(min_length=1)] = "text"  # of Parquet and JSONL documents
    cache_dir: Annotated[str, AfterValidator(os.path.expanduser)] = "data"  # prepared arrays and downloads

    def __post_init__(self):
        if self.name in PATH_NEEDED and not self.path:
            raise ValueError(f"path is missing: {self.name} is text of your own, say where with dataset.path=PATH")
        if self.name in PATH_REFUSED and self.path is not None:
            raise ValueError(
                f"path={self.path} has no use, as {self.name} takes none: leave it out, "
                "or choose dataset=text_file to read a file of your own"
            )
        if self.name == "documents" and self.tokenizer == "char":
            raise ValueError(
                "tokenizer=char needs to know all characters beforehand, and documents are read as a stream: "
                "choose dataset.tokenizer=bpe or dataset.tokenizer=byte"
            )
        if self.tokenizer_path is not None and self.tokenizer != "bpe":
            raise ValueError(
                f"tokenizer_path belongs to dataset.tokenizer=bpe, not to {self.tokenizer}: change one of the two"
            )
        if self.tokenizer == "bpe" and self.tokenizer_path is None:
            if self.vocab_size is None:
                raise ValueError(
                    "vocab_size is missing, which bpe needs to be trained: say dataset.vocab_size=N, "
                    "or dataset.tokenizer_path=tokenizer.json to load one"
                )
            if self.vocab_size < SMALLEST_BPE:
                raise ValueError(
                    f"vocab_size={self.vocab_size} is too small: byte-level bpe needs at least {SMALLEST_BPE} "
                    "(256 bytes and the end-of-text token)"
                )
        if self.held_out_fraction is not None and self.name not in HELD_OUT_DEFAULTS:
            raise ValueError(
                f"held_out_fraction belongs to {' and '.join(HELD_OUT_DEFAULTS)}, and {self.name} has fixed splits: "
                "leave it out"
            )
        if self.encoding is not None:
            self._check_encoding(self.encoding)
        if self.text_column != "text" and self.name != "documents":
            raise ValueError(f"text_column belongs to documents, and {self.name} has no columns: leave it out")

    def _check_encoding(self, encoding: str) -> None:
        if self.name not in ENCODED:
            raise ValueError(
                f"encoding belongs to {' and '.join(ENCODED)}, and {self.name} has a fixed one: leave it out"
            )
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"encoding is '{encoding}', which is no text encoding that Python knows: say one such as utf-8, "
                "utf-16, cp1252 or latin-1"
            ) from error

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        if self.tokenizer != "bpe":
            return {"vocab_size": "tokenizer"}
        return {} if self.tokenizer_path is None else {"vocab_size": "tokenizer_path"}

    @property
    def given_path(self) -> str:
        """The path of a corpus that cannot do without one."""
        assert self.path is not None  # checked above
        return self.path

    @property
    def held_out(self) -> float:
        """Share of the text that goes to val and test together (text_file and documents)."""
        return HELD_OUT_DEFAULTS[self.name] if self.held_out_fraction is None else self.held_out_fraction
