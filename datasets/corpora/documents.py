"""`documents`: a folder or file of documents (Parquet, JSONL, text), streamed so that memory stays bounded.

Each document goes to train, val or test by a hash of its own text: the order of files does not matter,
and copies of one document never lie on both sides of the split.
"""

import gzip
import hashlib
import importlib.util
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from datasets.config import DatasetConfig
from datasets.corpora.files import FORMATS, Found, find_files, format_of, identity
from datasets.corpora.text import check_wide, encoding_of, undecodable

SEPARATOR = "<|endoftext|>"  # a line of a text file that ends a document; without one the file is one document
LONGEST_DOCUMENT = 1_000_000  # characters; a longer document of a text file is cut, which bounds the memory
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class DocumentCorpus:
    """Documents that are read one at a time; `held_out` is the share that goes to val and test together."""

    root: Path
    found: Found
    held_out: float
    text_column: str = "text"
    encoding: str | None = None

    @classmethod
    def from_config(cls, config: DatasetConfig) -> "DocumentCorpus":
        """Find the files; FileNotFoundError or ValueError when there is nothing to read."""
        root = Path(config.given_path)
        if not root.exists():
            raise FileNotFoundError(f"path={root} does not exist: give a file or folder of documents")
        found = find_files(root)
        if not found.files:
            suffixes = ", ".join(FORMATS)
            raise ValueError(
                f"path={root} holds no documents{found.others_named()}: expected files ending in {suffixes}"
            )
        is_parquet = any(format_of(file) == "parquet" for file in found.files)
        if is_parquet and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"reading the parquet files of {root} needs pyarrow: pip install pyarrow")
        return cls(root, found, config.held_out, config.text_column, config.encoding)

    def key(self) -> str:
        """What identifies the documents: the content of the files in their order, and how they are read."""
        files = self.found.files
        with reading(self.root):
            size = sum(file.stat().st_size for file in files)
            listing = [[format_of(file), identity(file, corpus_size=size)] for file in files]
        return hashlib.sha256(
            json.dumps([self.held_out, self.text_column, self.encoding, listing]).encode()
        ).hexdigest()

    def describe(self, documents: int) -> str:
        """One line on what was read."""
        files, size = len(self.found.files), sum(file.stat().st_size for file in self.found.files)
        return (
            f"{self.root}: {files:,} file{'s' * (files != 1)}, {documents:,} documents, {size:,} bytes read"
            f"{self.found.others_named()}"
        )

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (split, text) for each document that is not empty."""
        for file in self.found.files:
            for text in self._read(file):
                if text.strip():
                    yield self.split_of(text), text

    def split_of(self, text: str) -> str:
        """train, val or test: a pure function of the text."""
        digest = hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest()
        draw = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1)
        if draw >= self.held_out:
            return "train"
        return "val" if draw < self.held_out / 2 else "test"

    def _read(self, file: Path) -> Iterator[str]:
        """The documents of one file in their order; ValueError or OSError names the file that cannot be read."""
        with reading(file):
            if format_of(file) == "parquet":
                yield from read_parquet(file, self.text_column, self.encoding)
                return
            with open_text(file, self.encoding) as lines:
                if format_of(file) == "jsonl":
                    yield from read_jsonl(lines, file, self.text_column)
                else:
                    yield from read_txt(lines)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What the system says of a file that cannot be read, in one sentence."""
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{file} breaks off in the middle of its compressed data: fetch it again") from error
    except OSError as error:
        named = error.filename or file
        raise OSError(f"cannot read {named} ({error.strerror or error}): check the file") from error


@contextmanager
def open_text(file: Path, encoding: str | None) -> Iterator[TextIO]:
    """The lines of a text, compressed or not, in the encoding of its byte order mark or else the given one."""
    opener: Any = gzip.open if file.name.lower().endswith(".gz") else open
    with opener(file, "rb") as raw:
        head = raw.peek(4096)
        codec = encoding_of(head, encoding)
        check_wide(head, file, codec)
        try:
            yield io.TextIOWrapper(raw, encoding=codec, newline="")
        except UnicodeError as error:
            raise ValueError(undecodable(file, codec, error)) from error


def read_parquet(file: Path, column: str, encoding: str | None) -> Iterator[str]:
    """One column of a Parquet file, of strings or of bytes that are text, a few rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            if column not in schema.names:
                raise ValueError(f"{file} has no column '{column}': {choose_column(schema.names)}")
            kind = schema.field(column).type
            if not holds_text(kind):
                raise ValueError(f"{file}: the column '{column}' holds {kind}, not text: {choose_column(schema.names)}")
            row = 0
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column]):
                for data in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    row += 1
                    if data:
                        yield decode_cell(data, encoding, f"{file}: row {row} of the column '{column}'")
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        raise ValueError(f"{file} is not a readable parquet file: fetch it again, or remove it") from error


def holds_text(kind: Any) -> bool:
    """Whether an Arrow type is of strings or bytes, in whatever layout; a column of nulls has none to lose."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return holds_text(kind.value_type)
    kinds = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
    return any(getattr(types, f"is_{name}")(kind) for name in (*kinds, "null"))


def decode_cell(data: bytes, encoding: str | None, where: str) -> str:
    """The text of a cell; ValueError where its bytes are none."""
    codec = encoding_of(data, encoding)
    try:
        return data.decode(codec)
    except UnicodeError as error:
        raise ValueError(undecodable(where, codec, error)) from error


def choose_column(names: list[str]) -> str:
    """The remedy for a column or field that is missing or no text."""
    return f"it has {', '.join(names)}; say dataset.text_column=NAME"


def read_jsonl(lines: TextIO, file: Path, field: str) -> Iterator[str]:
    """One field of each line; null is no document."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix("\ufeff")  # files with byte order marks that were joined
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {file} is no JSON object: {error}") from error
        if not isinstance(entry, dict):
            raise ValueError(f"line {number} of {file} is no JSON object but a {type(entry).__name__}")
        if field not in entry:
            raise ValueError(f"line {number} of {file} has no field '{field}': {choose_column(list(entry))}")
        text = entry[field]
        if text is None:
            continue
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(
                f"line {number} of {file}: the field '{field}' holds {kind}, not text: {choose_column(list(entry))}"
            )
        yield text.encode("utf-8", errors="replace").decode("utf-8")  # JSON may hold half a surrogate pair


def read_txt(lines: TextIO) -> Iterator[str]:
    """Documents between lines of SEPARATOR, each of at most about LONGEST_DOCUMENT characters."""
    parts: list[str] = []
    size = 0
    while line := lines.readline(LONGEST_DOCUMENT):
        is_separator = line.strip() == SEPARATOR
        if parts and (is_separator or size + len(line) > LONGEST_DOCUMENT):
            yield "".join(parts)
            parts, size = [], 0
        if not is_separator:
            parts.append(line)
            size += len(line)
    if parts:
        yield "".join(parts)
