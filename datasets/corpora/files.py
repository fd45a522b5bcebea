"""Which files of a folder are documents, and what identifies the content of a file.

Links are followed and every file is read once; what systems and programs hide in folders is no data.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# By how the name of a file ends, in whatever case, how it is read.
FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".txt": "text",
    ".txt.gz": "text",
}
# What macOS, Windows, file servers, file systems and Spark leave in folders; other hidden names begin with a dot.
SYSTEM_NAMES = (
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "@eadir",
    "lost+found",
    "_temporary",
)
HASHED_WHOLE = 2**30  # bytes; the files of a larger corpus are known by inode, times and samples
SAMPLES, SAMPLE_BYTES = 16, 4096


@dataclass(frozen=True)
class Found:
    """Files of documents in their order, and the others that lie beside them."""

    files: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    def others_named(self) -> str:
        """Words on the files that are not read; empty where there are none."""
        if not self.others:
            return ""
        number = len(self.others)
        return f" ({number:,} other file{'s' * (number != 1)} not read, such as {self.others[0].name})"


def format_of(file: Path) -> str | None:
    """How a file is read: parquet, jsonl or text; None for other files."""
    name = file.name.lower()
    return next((kind for suffix, kind in FORMATS.items() if name.endswith(suffix)), None)


def find_files(root: Path) -> Found:
    """The documents that a path leads to: itself, or those in the folder and, through links too, below it.

    Raises FileNotFoundError for a link that leads nowhere, OSError for a folder that cannot be opened.
    """
    if not root.is_dir():
        return Found((root,)) if format_of(root) else Found((), (root,))
    files: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    for path in visible_files(root):
        if not path.exists():
            raise FileNotFoundError(f"{path} is a link that leads nowhere: mend it, or remove it")
        real = os.path.realpath(path)
        if path.is_file() and real not in seen:
            seen.add(real)
            (files if format_of(path) else others).append(path)
    return Found(tuple(sorted(files)), tuple(sorted(others)))


def visible_files(root: Path) -> Iterator[Path]:
    """Every entry below a folder that is no folder, but for hidden ones; each folder is entered once, also by links."""
    entered = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        open_to_us = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if not is_hidden(name) and real not in entered:
                entered.add(real)
                open_to_us.append(name)
        folders[:] = open_to_us
        yield from (Path(folder, name) for name in sorted(names) if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a name is that of something that a system or program keeps for itself."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_NAMES


def identity(file: Path, *, corpus_size: int) -> str:
    """What changes when the content of a file does: a hash of it, or in a corpus above HASHED_WHOLE of its inode, time
    of change, size and samples."""
    with file.open("rb") as data:
        if corpus_size <= HASHED_WHOLE:
            return hashlib.file_digest(data, "sha256").hexdigest()
        stat = os.fstat(data.fileno())
        digest = hashlib.sha256(repr((stat.st_ino, stat.st_ctime_ns, stat.st_size)).encode())
        for i in range(SAMPLES):
            data.seek(max(stat.st_size - SAMPLE_BYTES, 0) * i // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
        return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise OSError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error
