"""The streamed corpus: every format gives the same documents, splits follow the text, memory stays bounded."""

import gzip
import importlib.util
import json
import os
import random
import shutil
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from datasets import prepare as prepare_module
from datasets.config import DatasetConfig
from datasets.corpora import documents, files, load_corpus
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


def texts_of(config):
    return [text for _, text in load_corpus(config).documents()]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_jsonl),
        ("a.jsonl.gz", write_jsonl),
        ("a.parquet", write_parquet),
        ("a.txt", write_txt),
        ("A.Jsonl", write_jsonl),
        ("A.PARQUET", write_parquet),
        ("A.TXT", write_txt),
        ("a.ndjson", write_jsonl),
    ],
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
        ("a.jsonl", b'{"text": "good"}\n{"text": bad}\n', "line 2 of .* no JSON object"),
        ("a.jsonl", b'["text"]\n', "line 1 of .* no JSON object but a list"),
        ("a.jsonl", b'{"id": 1, "body": "bad"}\n', "no field 'text': it has id, body; say dataset.text_column=NAME"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 of .* 'text' holds int, not text: it has text; say"),
        ("a.txt", b"ASCII and then \xfcber", "not UTF-8 .* dataset.encoding=cp1252, by which it reads .*über"),
        ("a.txt", "wide".encode("utf-16-le"), "UTF-16 without a byte order mark: say dataset.encoding=utf-16-le"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-16 text"),
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
    assert not [path for path in (tmp_path / "cache").glob("*") if path.name != ".locks"]


def test_a_parquet_file_needs_a_text_column_and_pyarrow(tmp_path, monkeypatch):
    """Catches a KeyError for another column, and an ImportError where the optional package is missing."""
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    config = config_of(tmp_path / "a.parquet", tmp_path)
    with pytest.raises(ValueError, match=r"no column 'text': it has body; say dataset\.text_column=NAME"):
        prepare(config)
    assert texts_of(config_of(tmp_path / "a.parquet", tmp_path, text_column="body")) == ["x"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        load_corpus(config)


def test_a_missing_folder_is_named(tmp_path):
    """Catches an empty listing that is taken for an empty corpus."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_corpus(config_of(tmp_path / "nowhere", tmp_path))


@pytest.fixture
def folder(tmp_path):
    """Makes files of one document each, named by their paths, below a folder of documents."""
    root = tmp_path / "texts"

    def make(*names):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name, encoding="utf-8")
        return root

    return make


def test_links_are_followed_and_every_file_is_read_once(folder, tmp_path):
    """Catches a linked folder that is skipped in silence, a circle of links, and a document that is read twice."""
    root = folder("a.txt", "sub/b.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.txt").write_text("c", encoding="utf-8")
    (elsewhere / "blob").write_text("d", encoding="utf-8")
    (root / "linked").symlink_to(elsewhere)
    (root / "d.txt").symlink_to(elsewhere / "blob")  # as a cache of downloads keeps its files
    (root / "again.txt").symlink_to(root / "sub" / "b.txt")
    (root / "sub" / "up").symlink_to(root)
    (root / "sub" / "beside").symlink_to(root / "linked")
    assert sorted(texts_of(config_of(root, tmp_path))) == ["a.txt", "c", "d", "sub/b.txt"]
    (tmp_path / "entrance").symlink_to(root)
    assert len(texts_of(config_of(tmp_path / "entrance", tmp_path))) == 4
    (root / "gone.txt").symlink_to(root / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match=r"gone\.txt is a link that leads nowhere"):
        load_corpus(config_of(root, tmp_path))


def test_what_systems_hide_is_no_data(folder, tmp_path):
    """Catches resource forks, recycle bins and checkpoints of editors that a model is trained on."""
    hidden = ["._a.txt", ".a.txt", ".cache/a.txt", "__MACOSX/a.txt", "$RECYCLE.BIN/a.txt", "lost+found/a.txt"]
    hidden += [".ipynb_checkpoints/a.txt", "@eaDir/a.txt", "sub/.DS_Store", "Thumbs.db", "~$a.txt"]
    root = folder("a.txt", *hidden, "notes.csv")
    assert texts_of(config_of(root, tmp_path)) == ["a.txt"]
    assert texts_of(config_of(root / ".cache", tmp_path)) == [".cache/a.txt"]  # asked for by name


def test_what_was_read_is_said(folder, tmp_path):
    """Catches a count that leaves a file out, and files that are passed over without a word."""
    root = folder("a.txt", "sub/b.txt", ".hidden.txt", "notes.csv", "c.json")
    write_jsonl(root / "many.jsonl", DOCUMENTS)
    size = sum((root / name).stat().st_size for name in ("a.txt", "sub/b.txt", "many.jsonl"))
    said = f"{root}: 3 files, 202 documents, {size:,} bytes read (2 other files not read, such as c.json)"
    config = config_of(root, tmp_path)
    assert prepare(config).notes == (said,)
    assert prepare(config).notes == (said,)  # from the cache, too
    (root / "notes.csv").unlink()
    root = root.rename(tmp_path / "moved")
    assert prepare(config_of(root, tmp_path)).notes == (
        said.replace("texts", "moved").replace("2 other files", "1 other file"),
    )


@pytest.mark.parametrize("large", [False, True])
def test_content_decides_what_is_prepared_anew(large, tmp_path, monkeypatch):
    """Catches a run that trains on another text than its files hold: equal sizes and times are not equal contents."""
    if large:
        monkeypatch.setattr(files, "HASHED_WHOLE", 0)
    a, b, copy = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "copy"
    a.write_text("abcd " * 200 + f"\n{END_OF_TEXT}\n".join(DOCUMENTS), encoding="utf-8")
    b.write_text("wxyz " * 200 + f"\n{END_OF_TEXT}\n".join(DOCUMENTS), encoding="utf-8")
    for file in (a, b):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    keys = [load_corpus(config_of(file, tmp_path)).key() for file in (a, b)]
    assert keys[0] != keys[1]
    assert load_corpus(config_of(a, tmp_path)).key() == keys[0]
    shutil.copy2(b, a)  # in place, of the same name, size and time
    assert load_corpus(config_of(a, tmp_path)).key() != keys[0]
    copy.mkdir()
    shutil.copy2(b, copy / "other name.txt")
    assert (load_corpus(config_of(copy, tmp_path)).key() == keys[1]) is not large


@pytest.mark.parametrize("change", [{"text_column": "body"}, {"held_out_fraction": 0.2}, {"encoding": "latin-1"}])
def test_how_files_are_read_is_part_of_what_they_are(change, tmp_path):
    """Catches a prepared corpus of another column, split or encoding that is taken for this one."""
    write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    configs = [config_of(tmp_path / "a.jsonl", tmp_path, **fields) for fields in ({}, change)]
    assert load_corpus(configs[0]).key() != load_corpus(configs[1]).key()


def test_files_that_change_while_they_are_read(tmp_path, monkeypatch):
    """Catches prepared data of a half-copied file under the name of the whole one."""
    write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    original = prepare_module.write

    def write(*arguments):
        original(*arguments)
        write_jsonl(tmp_path / "a.jsonl", [*DOCUMENTS, "one more"])

    monkeypatch.setattr(prepare_module, "write", write)
    with pytest.raises(ValueError, match="changed while they were read: start again"):
        prepare(config_of(tmp_path / "a.jsonl", tmp_path))
    monkeypatch.undo()
    assert "201 documents" in prepare(config_of(tmp_path / "a.jsonl", tmp_path)).notes[0]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
def test_a_byte_order_mark_is_no_text(name, codec, tmp_path):
    """Catches a marked JSONL file that is "no JSON object", and a mark at the head of a document."""
    lines = json.dumps({"text": "héllo"}, ensure_ascii=False) + "\n"
    data = ("héllo" if name == "a.txt" else lines).encode(codec)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert texts_of(config_of(tmp_path / name, tmp_path)) == ["héllo"]


def test_joined_files_with_byte_order_marks(tmp_path):
    """Catches a mark inside of a JSONL file that others were joined into."""
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\n'.encode("utf-8-sig") * 2)
    assert texts_of(config_of(tmp_path / "a.jsonl", tmp_path)) == ["a", "a"]


def test_another_encoding_can_be_said(tmp_path):
    """Catches a setting that reaches one of the formats only."""
    (tmp_path / "a.txt").write_bytes("héllo".encode("cp1252"))
    cells = pyarrow.array(["héllo".encode("cp1252")])
    pyarrow.parquet.write_table(pyarrow.table({"text": cells}), tmp_path / "b.parquet")
    for name in ("a.txt", "b.parquet"):
        assert texts_of(config_of(tmp_path / name, tmp_path, encoding="cp1252")) == ["héllo"]
        with pytest.raises(ValueError, match=rf"{name}.* dataset\.encoding=cp1252, by which it reads .*héllo"):
            texts_of(config_of(tmp_path / name, tmp_path))


PLAIN = ["string", "large_string", "string_view"]
BYTES = ["binary", "large_binary", "binary_view"]


@pytest.mark.parametrize("kind", [*PLAIN, *BYTES, "dictionary", "dictionary of bytes"])
def test_a_parquet_column_of_text_in_any_layout(kind, tmp_path):
    """Catches a traceback for bytes, and a layout of strings that is refused; nulls are no documents."""
    values = ["héllo", None, "wörld"]
    if kind in BYTES or kind == "dictionary of bytes":
        values = [None if value is None else value.encode() for value in values]
    if kind.startswith("dictionary"):
        made = pyarrow.array(values).dictionary_encode()
    else:
        made = pyarrow.array(values, getattr(pyarrow, kind)())
    pyarrow.parquet.write_table(pyarrow.table({"text": made}), tmp_path / "a.parquet")
    assert texts_of(config_of(tmp_path / "a.parquet", tmp_path)) == ["héllo", "wörld"]


@pytest.mark.parametrize(("value", "kind"), [(3, "int64"), (["x"], "list<element: "), ({"a": "x"}, "struct<a: ")])
def test_a_parquet_column_of_something_else_is_named(value, kind, tmp_path):
    """Catches a traceback, or numbers that are taken for text."""
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "text": [value]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet: the column 'text' holds {kind}.*, not text: it has id, text"):
        texts_of(config_of(tmp_path / "a.parquet", tmp_path))
