"""`documents`: a folder or file of documents (parquet, jsonl, txt), streamed so that memory stays bounded.

Each document goes to train, val or test by a hash of its own text: the order of files does not matter,
and copies of one document never lie on both sides of the split.
"""

import gzip
import hashlib
import importlib.util
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from datasets.config import DatasetConfig

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt", ".txt.gz")
SEPARATOR = "<|endoftext|>"  # a line of a .txt file that ends a document; without one the file is one document
LONGEST_DOCUMENT = 1_000_000  # characters; a longer document of a .txt file is cut, which bounds the memory
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class DocumentCorpus:
    """Documents that are read one at a time; `held_out` is the share that goes to val and test together."""

    root: Path
    files: tuple[Path, ...]
    held_out: float

    @classmethod
    def from_config(cls, config: DatasetConfig) -> "DocumentCorpus":
        """Find the files; FileNotFoundError or ValueError when there is nothing to read."""
        root = Path(config.given_path)
        if not root.exists():
            raise FileNotFoundError(f"path={root} does not exist: give a file or folder of documents")
        found = sorted(root.rglob("*")) if root.is_dir() else [root]
        files = tuple(file for file in found if file.is_file() and file.name.endswith(SUFFIXES))
        if not files:
            raise ValueError(f"path={root} holds no documents: expected files ending in {', '.join(SUFFIXES)}")
        if any(file.suffix == ".parquet" for file in files) and importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"reading the parquet files of {root} needs pyarrow: pip install pyarrow")
        return cls(root, files, config.held_out)

    def key(self) -> str:
        """What identifies the source without reading it: names, sizes and times of the files, and the split."""
        stats = [(str(file.relative_to(self.root)), file.stat()) for file in self.files]
        listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(json.dumps([self.held_out, listing]).encode()).hexdigest()

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (split, text) for each document that is not empty."""
        for file in self.files:
            for text in read_documents(file):
                if text.strip():
                    yield self.split_of(text), text

    def split_of(self, text: str) -> str:
        """train, val or test: a pure function of the text."""
        digest = hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest()
        draw = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1)
        if draw >= self.held_out:
            return "train"
        return "val" if draw < self.held_out / 2 else "test"


def read_documents(file: Path) -> Iterator[str]:
    """The documents of one file in their order; ValueError names the file that cannot be read."""
    if file.suffix == ".parquet":
        yield from read_parquet(file)
        return
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8", newline="") as lines:
            yield from (read_jsonl if ".jsonl" in file.suffixes else read_txt)(lines, file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: convert it with iconv -t utf-8, or remove it") from error
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{file} breaks off in the middle of its compressed data: fetch it again") from error
    except OSError as error:
        raise OSError(f"cannot read {file} ({error.strerror or error}): check the file") from error


def read_parquet(file: Path) -> Iterator[str]:
    """The column `text` of a parquet file, a few rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            if "text" not in table.schema_arrow.names:
                columns = ", ".join(table.schema_arrow.names)
                raise ValueError(f"{file} has no column named text (it has {columns}): rename the column")
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file} is not a readable parquet file: fetch it again, or remove it") from error


def read_jsonl(lines: TextIO, file: Path) -> Iterator[str]:
    """The field `text` of each line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'line {number} of {file} is no JSON object with a field "text"') from error
        if not isinstance(text, str):
            raise ValueError(f'line {number} of {file}: the field "text" is no string')
        yield text.encode("utf-8", errors="replace").decode("utf-8")  # JSON may hold half a surrogate pair


def read_txt(lines: TextIO, file: Path) -> Iterator[str]:
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
