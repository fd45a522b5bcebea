"""What a corpus held in memory looks like, and what its loaders share."""

import codecs
import os
import tempfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

BYTE_ORDER_MARKS = (  # at the start of a file, and how it is then decoded; longer ones first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


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
        raise FileNotFoundError(f"{key}={path} does not exist: check the spelling, or say where it is now")
    if path.is_dir():
        raise ValueError(f"{key}={path} is a folder: give the file inside it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {key}={path} ({error.strerror}): check its permissions") from error


def encoding_of(head: bytes, given: str | None = None) -> str:
    """How a file that begins with `head` is decoded: as its byte order mark says, else as `given`, else as UTF-8."""
    return next((codec for mark, codec in BYTE_ORDER_MARKS if head.startswith(mark)), given or "utf-8")


def decode_text(data: bytes, path: str | Path, encoding: str | None = None) -> str:
    """The text of a user's file without its byte order mark; ValueError names an encoding to try instead."""
    codec = encoding_of(data, encoding)
    check_wide(data, path, codec)
    try:
        return data.decode(codec)
    except UnicodeError as error:
        raise ValueError(undecodable(path, codec, error, offset=getattr(error, "start", None))) from error


def undecodable(path: str | Path, codec: str, error: UnicodeError, *, offset: int | None = None) -> str:
    """One sentence for text that is in another encoding than `codec`, with one that does read it, and how.

    `offset` is where in the file the decoder stopped, if that is known.
    """
    data, start = getattr(error, "object", b""), getattr(error, "start", 0)
    which = f" (byte 0x{data[start]:02x}{'' if offset is None else f' at {offset}'})" if data[start:] else ""
    name = codec.removesuffix("-sig").upper()
    guess = guess_encoding(data)
    if guess is None:
        return f"{path} is not {name} text{which} but binary: give a text file"
    near = data[max(start - 16, 0) & ~1 : start + 16 & ~1]
    reading = near.decode(guess, errors="replace")
    return (
        f"{path} is not {name} text{which}: say which encoding it is in, for example dataset.encoding={guess}, "
        f"by which it reads {reading!r} there"
    )


def check_wide(data: bytes, path: str | Path, codec: str) -> None:
    """ValueError where what was taken for UTF-8 is UTF-16 without a byte order mark, every second byte of it zero."""
    wide = wide_encoding(data) if codec == "utf-8" else None
    if wide is not None:
        raise ValueError(f"{path} is UTF-16 without a byte order mark: say dataset.encoding={wide}")


def guess_encoding(data: bytes) -> str | None:
    """An encoding that reads `data` for people to judge; None where it is hardly text at all."""
    if wide := wide_encoding(data):
        return wide
    if b"\0" in data:
        return None
    for codec in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            data.decode(codec)
            return codec
    return "latin-1"


def wide_encoding(data: bytes) -> str | None:
    """The kind of UTF-16 that `data` is by its zero bytes, which are the even ones or the odd ones; None for others."""
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < max(len(head) // 8, 1) or min(even, odd) > max(even, odd) // 8:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


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
