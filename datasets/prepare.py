"""Corpus -> token arrays on disk, once: kept under a hash of the content, written whole or not at all, read as memory
maps. docs/data.md tells a reader what counts as the content."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datasets.config import LOADED, DatasetConfig
from datasets.corpora import DocumentCorpus, TextCorpus, load_corpus
from datasets.corpora.text import unwritable
from datasets.tokenizers import END_OF_TEXT, TOKENIZERS, BPETokenizer, Tokenizer, pieces, tokenizer_from_state

FORMAT = 3  # raise it when the meaning of prepared files changes: older folders are then no longer found
SAMPLE_CHARACTERS = 20_000_000  # a bpe vocabulary is learned from at most so much of the train split
PIECE_CHARACTERS = 250_000
BATCH_CHARACTERS = 1_000_000  # encoded at once; with the bpe sample it bounds the memory of a stream
ABANDONED_SECONDS = 24 * 3600  # an unfinished folder in which nothing was written for so long was left by a killed run


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus: ids (N,) uint16 or uint32 of each split, and what belongs to them."""

    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, np.memmap]
    characters_per_token: dict[str, float]
    fingerprint: str  # of the text in each split and the tokenizer's state
    documents: int  # or pieces of a text in memory
    notes: tuple[str, ...] = ()  # what a user should know of how it was read


def prepare(config: DatasetConfig, loaded: Tokenizer | None = None) -> Prepared:
    """Read the corpus, prepare it unless the cache has it, and open it; safe when several processes do so at once.

    `loaded` is the tokenizer of the checkpoint that a run starts from, for `tokenizer=loaded`. Raises ValueError,
    FileNotFoundError or OSError in one sentence.
    """
    if config.tokenizer == LOADED and loaded is None:
        raise ValueError(
            "tokenizer=loaded keeps the vocabulary of a trained model of this project: say which with load=RUN_FOLDER, "
            "or choose another tokenizer"
        )
    corpus = load_corpus(config)
    given = loaded if config.tokenizer == LOADED else None
    if config.tokenizer_path is not None:
        given = BPETokenizer.load(config.tokenizer_path)
    key = cache_key(config, corpus, given)
    folder = Path(config.cache_dir) / f"{config.name}-{key[:16]}"
    if not is_whole(folder):
        with locked(folder):
            if not is_whole(folder):
                with staged(folder) as staging:
                    write(staging, corpus, given or make_tokenizer(config, corpus), config)
                    if isinstance(corpus, DocumentCorpus) and cache_key(config, corpus, given) != key:
                        raise ValueError(f"files of path={config.path} changed while they were read: start again")
    prepared = open_prepared(folder)
    return replace(prepared, notes=tuple(notes_on(prepared, config, corpus, given)))


def notes_on(
    prepared: Prepared, config: DatasetConfig, corpus: TextCorpus | DocumentCorpus, given: Tokenizer | None
) -> Iterator[str]:
    """A line for each thing that a user should know of how the corpus was read."""
    if isinstance(corpus, DocumentCorpus):
        yield corpus.describe(prepared.documents)
    if isinstance(given, BPETokenizer) and given.end_is_added:
        added = f"it is added as token {given.start_id} of {given.vocabulary_size:,}"
        yield f"{config.tokenizer_path} has no {END_OF_TEXT}: {added}"


def cache_key(config: DatasetConfig, corpus: TextCorpus | DocumentCorpus, given: Tokenizer | None) -> str:
    """Hash of everything that the prepared files follow from; `given` is a tokenizer that is not learned from it."""
    if isinstance(corpus, TextCorpus):
        source = json.dumps([(part, hashlib.sha256(t.encode()).hexdigest()) for part, t in corpus.parts.items()])
    else:
        source = corpus.key()
    trained = config.vocab_size if config.tokenizer == "bpe" else None
    tokenizer = [config.tokenizer, trained] if given is None else given.state()
    return hashlib.sha256(json.dumps([FORMAT, config.name, source, tokenizer]).encode()).hexdigest()


def make_tokenizer(config: DatasetConfig, corpus: TextCorpus | DocumentCorpus) -> Tokenizer:
    """The tokenizer that the configuration asks for, made for the corpus."""
    train = (text for names, text in stream(corpus) if "train" in names)
    return TOKENIZERS[config.tokenizer].learn(
        train=head(train, SAMPLE_CHARACTERS),
        everything=(text for _, text in stream(corpus)),
        vocab_size=config.vocab_size,
    )


def head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first texts, until they have that many characters together."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def stream(corpus: TextCorpus | DocumentCorpus) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (the splits it belongs to, a document or a piece of text)."""
    if isinstance(corpus, DocumentCorpus):
        for split, text in corpus.documents():
            yield (split,), text
        return
    for part, text in corpus.parts.items():
        names = (part, "val_whole") if corpus.continuous and part != "train" else (part,)
        for piece in pieces(text, PIECE_CHARACTERS):
            yield names, piece


def in_batches(items: Iterator[tuple[tuple[str, ...], str]]) -> Iterator[list[tuple[tuple[str, ...], str]]]:
    """Group items until a group has BATCH_CHARACTERS."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += len(item[1])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class SplitWriter:
    """One split on its way to disk: its tokens, and what is known of them."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype):
        self.name = name
        self.dtype = dtype
        self.tokens = 0
        self.characters = 0
        self.digest = hashlib.sha256()
        self._cache_dir = folder.parent
        with cache_errors(self._cache_dir):
            self._file = open(folder / f"{name}.bin", "wb")  # noqa: SIM115

    def append(self, ids: np.ndarray, text: str) -> None:
        """Add ids (N,) and count the text that they stand for."""
        with cache_errors(self._cache_dir):
            self._file.write(ids.astype(self.dtype).tobytes())
        self.tokens += len(ids)
        self.characters += len(text)
        self.digest.update(text.encode())

    def close(self) -> None:
        """Flush to disk, where a full disk may show up last."""
        with cache_errors(self._cache_dir), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def write(folder: Path, corpus: TextCorpus | DocumentCorpus, tokenizer: Tokenizer, config: DatasetConfig) -> None:
    """Encode the corpus in one pass into NAME.bin for each split, and meta.json; a document ends with start_id."""
    dtype = np.dtype(np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32)
    ends = np.array([tokenizer.start_id] if isinstance(corpus, DocumentCorpus) else [], dtype=np.int64)
    names = ["train", "val", "test"]
    names += ["val_whole"] if isinstance(corpus, TextCorpus) and corpus.continuous else []
    documents = 0
    with ExitStack() as closing:
        writers = {name: SplitWriter(folder, name, dtype) for name in names}
        for writer in writers.values():
            closing.callback(writer.close)
        for batch in in_batches(stream(corpus)):
            with named_tokenizer(config):
                encoded = tokenizer.encode_batch([text for _, text in batch])
            documents += len(batch)
            for (splits, text), ids in zip(batch, encoded, strict=True):
                for name in splits:
                    writers[name].append(np.concatenate([ids, ends]), text)
    check_not_empty(writers, config)
    state = tokenizer.state()
    content = [[name, writer.digest.hexdigest()] for name, writer in writers.items()]
    meta = {
        "tokenizer": state,
        "dtype": dtype.name,
        "splits": {n: {"tokens": w.tokens, "characters": w.characters} for n, w in writers.items()},
        "fingerprint": hashlib.sha256(json.dumps([content, state]).encode()).hexdigest(),
        "documents": documents,
    }
    with cache_errors(folder.parent):
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


@contextmanager
def named_tokenizer(config: DatasetConfig) -> Iterator[None]:
    """What a tokenizer that was not learned from the text objects to names it."""
    try:
        yield
    except ValueError as error:
        if config.tokenizer_path is not None:
            raise ValueError(f"tokenizer_path={config.tokenizer_path}: {error}") from error
        raise ValueError(f"tokenizer={config.tokenizer}: {error}") from error


def check_not_empty(writers: dict[str, SplitWriter], config: DatasetConfig) -> None:
    """Raise ValueError when a split has no token at all."""
    empty = [name for name, writer in writers.items() if writer.tokens == 0]
    if empty:
        raise ValueError(
            f"split {empty[0]} of dataset={config.name} got no text: give more text, or raise dataset.held_out_fraction"
        )


def check_lengths(splits: Mapping[str, np.ndarray], block_size: int) -> None:
    """Raise ValueError when a split is shorter than one window of block_size + 1 tokens."""
    for name, ids in splits.items():
        if len(ids) < block_size + 1:
            shorter = f"lower experiment.block_size to at most {len(ids) - 1}, or " if len(ids) > 1 else ""
            raise ValueError(
                f"split {name} has {len(ids)} tokens, but with block_size={block_size} one window takes "
                f"{block_size + 1}: {shorter}give more text"
            )


def open_prepared(folder: Path) -> Prepared:
    """Map a prepared folder into memory; ValueError when its files are not those that were recorded."""
    damaged = f"the prepared data in {folder} is damaged: delete that folder, it is made anew"
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(damaged) from error
    dtype = np.dtype(meta["dtype"])
    splits = {}
    for name, counts in meta["splits"].items():
        file = folder / f"{name}.bin"
        if not file.exists() or file.stat().st_size != counts["tokens"] * dtype.itemsize:
            raise ValueError(damaged)
        splits[name] = np.memmap(file, dtype=dtype, mode="r")
    return Prepared(
        folder=folder,
        tokenizer=tokenizer_from_state(meta["tokenizer"]),
        splits=splits,
        characters_per_token={n: c["characters"] / c["tokens"] for n, c in meta["splits"].items()},
        fingerprint=meta["fingerprint"],
        documents=meta["documents"],
    )


def is_whole(folder: Path) -> bool:
    """Whether a folder was published: what an interrupted copy left has no meta.json yet."""
    return (folder / "meta.json").exists()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process prepare `folder` while others wait for it. The system frees the lock of a process that dies.

    Where there are no locks, as on some network drives, several do the same work, which staging makes safe as well.
    """
    with cache_errors(folder.parent):
        (folder.parent / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / ".locks" / f"{folder.name}.lock")
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rank_zero_only(print)(f"waiting for another process that prepares the same data: {folder}", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its place in one step when all went well, and vanishes otherwise."""
    clear_abandoned(folder)
    staging = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    with cache_errors(folder.parent):
        staging.mkdir(parents=True)
    try:
        yield staging
        with cache_errors(folder.parent):
            publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def clear_abandoned(folder: Path) -> None:
    """Remove what killed processes left of `folder`: unfinished folders in which nothing was written for a day."""
    for staging in folder.parent.glob(f".{folder.name}-*"):
        with suppress(OSError):
            last = max(path.stat().st_mtime for path in (staging, *staging.iterdir()))
            if time.time() - last > ABANDONED_SECONDS:
                shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, folder: Path) -> None:
    """Rename staging to folder; when another process was faster, its folder, of the same content, stays."""
    try:
        os.replace(staging, folder)
    except OSError:
        if is_whole(folder):
            return
        in_the_way = staging.with_name(f"{staging.name}-aside")
        os.replace(folder, in_the_way)
        os.replace(staging, folder)
        shutil.rmtree(in_the_way, ignore_errors=True)


@contextmanager
def cache_errors(cache_dir: str | Path) -> Iterator[None]:
    """Turn an OSError of writing into the sentence that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        raise unwritable(cache_dir, error) from error
