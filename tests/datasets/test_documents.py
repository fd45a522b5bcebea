"""The streamed corpus: every format gives the same documents, splits follow the text, memory stays bounded."""

import gzip
import importlib.util
import json
import random
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from datasets import prepare as prepare_module
from datasets.config import DatasetConfig
from datasets.corpora import documents, load_corpus
from datasets.prepare import prepare
from datasets.tokenizers import END_OF_TEXT

DOCUMENTS = [f"Document {number}: {'word ' * (number % 7)}é end." for number in range(200)]


def write_jsonl(file, texts):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    file.write_bytes(gzip.compress(lines.encode()) if file.suffix == ".gz" else lines.encode())


def write_parquet(file, texts):
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), file, row_group_size=50)


def write_txt(file, texts):
    file.write_text(f"\n{END_OF_TEXT}\n".join(texts), encoding="utf-8")


def config_of(path, tmp_path, **fields):
    given = {"tokenizer": "byte", "held_out_fraction": 0.3, "cache_dir": str(tmp_path / "cache")}
    return DatasetConfig("documents", path=str(path), **(given | fields))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_jsonl), ("a.jsonl.gz", write_jsonl), ("a.parquet", write_parquet), ("a.txt", write_txt)],
)
def test_every_format_gives_the_same_documents(name, write, tmp_path):
    """Catches a reader that loses, merges or reorders documents."""
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / name, DOCUMENTS)
    for path in (tmp_path / "texts", tmp_path / "texts" / name):
        texts = [text.removesuffix("\n") for _, text in load_corpus(config_of(path, tmp_path)).documents()]
        assert texts == DOCUMENTS


def test_prepared_documents_are_whole_and_on_one_side(tmp_path):
    """Catches a document in two splits or none, a missing end mark, and a split that is not about its share."""
    write_jsonl(tmp_path / "a.jsonl", DOCUMENTS + DOCUMENTS[:50])
    config = config_of(tmp_path / "a.jsonl", tmp_path, tokenizer="bpe", vocab_size=300)
    prepared = prepare(config)
    found = {}
    for name, ids in prepared.splits.items():
        assert ids[-1] == prepared.tokenizer.start_id
        texts = prepared.tokenizer.decode(ids).split(END_OF_TEXT)[:-1]
        found[name] = set(texts)
        assert prepared.characters_per_token[name] == pytest.approx(sum(map(len, texts)) / len(ids))
    assert set(found) == {"train", "val", "test"}
    assert found["train"] | found["val"] | found["test"] == set(DOCUMENTS)
    assert sum(map(len, found.values())) == len(DOCUMENTS)
    assert 10 < len(found["val"]) < 50 and 10 < len(found["test"]) < 50


def test_bpe_learns_from_a_bounded_head_of_train_documents(tmp_path, monkeypatch):
    """Catches a vocabulary that saw held-out documents, and a sample that grows with the corpus."""
    seen = []
    original = prepare_module.BPETokenizer.train

    def record(texts, vocab_size):
        seen.extend(texts)
        return original(seen, vocab_size)

    monkeypatch.setattr(prepare_module.BPETokenizer, "train", record)
    monkeypatch.setattr(prepare_module, "SAMPLE_CHARACTERS", 1000)
    write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    config = config_of(tmp_path / "a.jsonl", tmp_path, tokenizer="bpe", vocab_size=280)
    train = [text for split, text in load_corpus(config).documents() if split == "train"]
    prepare(config)
    assert seen[:-1] == train[: len(seen) - 1]
    assert sum(map(len, seen)) == 1000


@pytest.mark.parametrize("kind", ["many.jsonl", "one.txt"])
def test_memory_does_not_grow_with_the_corpus(kind, tmp_path, monkeypatch):
    """Catches a reader or writer that gathers the corpus before it writes."""
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 50_000)
    monkeypatch.setattr(documents, "LONGEST_DOCUMENT", 20_000)
    draw = random.Random(0)
    texts = [draw.randbytes(5_000).hex() for _ in range(1_200)]  # 12 MB in documents of 10 kB
    file = tmp_path / kind
    if kind == "many.jsonl":
        write_jsonl(file, texts)
    else:
        file.write_text("\n".join(texts), encoding="utf-8")  # no separator: one document, which must be cut
    size = file.stat().st_size
    del texts
    tracemalloc.start()
    try:
        prepared = prepare(config_of(file, tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(map(len, prepared.splits.values())) > 0.95 * size
    assert peak < size / 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text", "holds no documents"),
        ("a.jsonl", b'{"text": "good"}\n{"body": "bad"}\n', "line 2 of .* no JSON object"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 of .* no string"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' * 99, mtime=0)[:-12], "breaks off"),
        ("a.jsonl.gz", b"no gzip at all", "cannot read"),
        ("a.parquet", b"no parquet at all", "not a readable parquet"),
        ("a.txt", b"one document alone", "got no text"),
    ],
)
def test_bad_documents_are_one_sentence_and_leave_nothing(name, content, words, tmp_path):
    """Catches a raw error of a reader, and a half-written cache behind it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        prepare(config_of(tmp_path / name, tmp_path))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_parquet_file_needs_a_text_column_and_pyarrow(tmp_path, monkeypatch):
    """Catches a KeyError for another column, and an ImportError where the optional package is missing."""
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    config = config_of(tmp_path / "a.parquet", tmp_path)
    with pytest.raises(ValueError, match=r"no column named text \(it has body\)"):
        prepare(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        load_corpus(config)


def test_a_missing_folder_is_named(tmp_path):
    """Catches an empty listing that is taken for an empty corpus."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_corpus(config_of(tmp_path / "nowhere", tmp_path))
