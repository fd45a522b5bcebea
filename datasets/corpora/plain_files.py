"""Corpora that are one text file: Tiny Shakespeare as published (Karpathy, char-rnn) and the user's own text."""

import hashlib
from pathlib import Path

from datasets.config import DatasetConfig
from datasets.corpora.text import TextCorpus, decode_text, download, read_bytes, split_continuous, write_atomically

TINY_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FEWEST_CHARACTERS = 100  # below this a held-out half has no few characters left


def load_tiny_shakespeare(config: DatasetConfig) -> TextCorpus:
    """`tiny_shakespeare`: the exact file, from `path`, the cache or a download; always checked by SHA-256."""
    cached = Path(config.cache_dir) / "downloads" / "tiny_shakespeare.txt"
    if config.path is not None:
        data = check_tiny_shakespeare(read_bytes(config.path), config.path)
    elif cached.exists():
        data = check_tiny_shakespeare(read_bytes(cached, "cached file"), cached)
    else:
        data = download(TINY_SHAKESPEARE_URL, "Tiny Shakespeare")
        data = check_tiny_shakespeare(data, TINY_SHAKESPEARE_URL)
        write_atomically(cached, data, config.cache_dir)
    return split_continuous(data.decode("utf-8"), held_out=0.1)


def check_tiny_shakespeare(data: bytes, source: str | Path) -> bytes:
    """The data itself, or ValueError when it is not Tiny Shakespeare to the byte."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != TINY_SHAKESPEARE_SHA256:
        raise ValueError(
            f"{source} is not Tiny Shakespeare: its SHA-256 is {digest[:12]}..., not "
            f"{TINY_SHAKESPEARE_SHA256[:12]}...; use the unchanged input.txt of char-rnn, "
            "or dataset=text_file for another text"
        )
    return data


def load_text_file(config: DatasetConfig) -> TextCorpus:
    """`text_file`: any text file of the user's; its tail is held out."""
    text = decode_text(read_bytes(config.given_path), config.given_path, config.encoding)
    if not text.strip():
        raise ValueError(f"path={config.path} is empty: give a file with text in it")
    if len(text) < FEWEST_CHARACTERS:
        raise ValueError(
            f"path={config.path} has only {len(text)} characters: "
            f"give a text of at least {FEWEST_CHARACTERS}, better of many thousands"
        )
    return split_continuous(text, config.held_out)
