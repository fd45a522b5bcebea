"""One module per family of corpora; `load_corpus` picks the reader that a configuration names."""

from collections.abc import Callable

from datasets.config import DatasetConfig
from datasets.corpora import plain_files, shakespeare, text8
from datasets.corpora.documents import DocumentCorpus
from datasets.corpora.text import TextCorpus

READERS: dict[str, Callable[[DatasetConfig], TextCorpus | DocumentCorpus]] = {
    "shakespeare": lambda config: shakespeare.load_nine(),
    "shakespeare_complete": lambda config: shakespeare.load_complete(),
    "shakespeare_other": lambda config: shakespeare.load_other(),
    "tiny_shakespeare": plain_files.load_tiny_shakespeare,
    "text_file": plain_files.load_text_file,
    "text8": text8.load,
    "documents": DocumentCorpus.from_config,
}


def load_corpus(config: DatasetConfig) -> TextCorpus | DocumentCorpus:
    """The corpus, in memory or as a stream; raises ValueError, FileNotFoundError or OSError in one sentence."""
    return READERS[config.name](config)
