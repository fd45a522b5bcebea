"""text8: the first 10^8 characters of cleaned English Wikipedia (Matt Mahoney), 27 symbols, split 90M / 5M / 5M."""

import io
import zipfile
from pathlib import Path

from datasets.config import DatasetConfig
from datasets.corpora.text import TextCorpus, download, read_bytes, write_atomically

URL = "http://mattmahoney.net/dc/text8.zip"
LENGTH = 100_000_000
ALPHABET = b" abcdefghijklmnopqrstuvwxyz"


def load(config: DatasetConfig) -> TextCorpus:
    """`text8`: from `path` (text8 or text8.zip), the cache or a download; length and symbols are checked."""
    cached = Path(config.cache_dir) / "downloads" / "text8.zip"
    source: str | Path
    if config.path is not None:
        source, data = config.path, unpack(read_bytes(config.path), config.path)
    elif cached.exists():
        source, data = cached, unpack(read_bytes(cached, "cached file"), cached)
    else:
        archive = download(URL, "text8")
        source, data = URL, unpack(archive, URL)
        check(data, URL, LENGTH)
        write_atomically(cached, archive, config.cache_dir)
    check(data, source, LENGTH)
    return split(data.decode("ascii"))


def unpack(data: bytes, source: str | Path) -> bytes:
    """The member `text8` of a zip archive; anything but a zip archive is returned as it is."""
    if not data.startswith(b"PK"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read("text8")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{source} is no complete text8.zip ({error}): fetch it again from {URL}") from error


def check(data: bytes, source: str | Path, length: int) -> None:
    """Raise ValueError unless data has the published length and no symbol outside the 27."""
    if len(data) != length:
        raise ValueError(
            f"{source} is not text8: it has {len(data):,} characters, not {length:,}; "
            "fetch it again, or use dataset=text_file for another text"
        )
    others = data.translate(None, delete=ALPHABET)
    if others:
        raise ValueError(
            f"{source} is not text8: it holds symbols other than a-z and space, such as "
            f"{chr(others[0])!r}; fetch it again, or use dataset=text_file for another text"
        )


def split(text: str) -> TextCorpus:
    """The standard split by position: 90 % train, then 5 % val, then 5 % test; papers report test alone."""
    val, test = len(text) * 90 // 100, len(text) * 95 // 100
    return TextCorpus({"train": text[:val], "val": text[val:test], "test": text[test:]}, continuous=False)
