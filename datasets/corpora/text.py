"""What a corpus held in memory looks like, and the helpers that its loaders share."""

import os
import tempfile
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path


@dataclass(frozen=True)
class TextCorpus:
    """The text of each part, in the order train, val, test.

    With `continuous`, test follows val in the source without a gap: the two together are then offered as `val_whole`,
    which is what others report as validation, while models are selected on `val` alone and `test` stays untouched.
    """

    parts: dict[str, str]
    continuous: bool


def split_continuous(text: str, held_out: float) -> TextCorpus:
    """Train on the head; the first half of the held-out tail is val, the second half is test."""
    head = int(len(text) * (1 - held_out))  # nanoGPT's int(n * 0.9) where held_out is 0.1
    middle = head + (len(text) - head) // 2
    return TextCorpus({"train": text[:head], "val": text[head:middle], "test": text[middle:]}, continuous=True)


def read_bytes(path: str | Path, key: str = "path") -> bytes:
    """The content of a user's file; FileNotFoundError or ValueError names what is wrong with the path."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{key}={path} does not exist: check the spelling, or give an absolute path")
    if path.is_dir():
        raise ValueError(f"{key}={path} is a folder: give the file inside it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {key}={path} ({error.strerror}): check its permissions") from error


def decode_utf8(data: bytes, path: str | Path) -> str:
    """The text of UTF-8 bytes; ValueError gives the offset of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} (0x{data[error.start]:02x}) cannot be decoded; "
            "convert it, for example with iconv -t utf-8"
        ) from error


def unwritable(folder: str | Path, error: OSError) -> OSError:
    """The one sentence for a cache folder that is full, read-only or no folder."""
    return OSError(
        f"cannot write to the cache folder {folder} ({error.strerror or error}): "
        "free some space there, or choose another folder with dataset.cache_dir=FOLDER"
    )


def write_atomically(path: Path, data: bytes, cache_dir: str | Path) -> None:
    """Write a whole file or nothing: readers never see a part of it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(cache_dir, error) from error
        raise


def download(url: str, what: str) -> bytes:
    """The content behind a public URL; OSError names the remedy when there is no network."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise OSError(
            f"could not download {what} from {url} ({reason}): "
            "fetch the file on another machine and pass it with dataset.path=FILE"
        ) from error
