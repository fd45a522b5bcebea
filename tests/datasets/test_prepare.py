"""The cache: found again, made anew when its content changes, whole or absent, and safe for two at once."""

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasets import prepare as prepare_module
from datasets.prepare import check_lengths, prepare
from datasets.tokenizers import BPETokenizer, CharTokenizer

TEXT = "Speak, speak.\nYou are all resolved rather to die than to famish?\n" * 40


def folders(config):
    return sorted(Path(config.cache_dir).iterdir())


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_ids_on_disk_are_the_text(tokenizer, text_config):
    """Catches ids of another tokenizer, a lost piece between two batches, and halves that are not the whole."""
    prepared = prepare(text_config(TEXT, tokenizer=tokenizer, vocab_size=300))
    decoded = {name: prepared.tokenizer.decode(ids) for name, ids in prepared.splits.items()}
    assert decoded["train"] + decoded["val"] + decoded["test"] == TEXT
    assert decoded["val_whole"] == decoded["val"] + decoded["test"]
    for name, ids in prepared.splits.items():
        assert isinstance(ids, np.memmap)
        assert prepared.characters_per_token[name] == pytest.approx(len(decoded[name]) / len(ids))


def test_the_size_of_pieces_does_not_matter(text_config, monkeypatch):
    """Catches a text that is cut through a token when it is longer than one piece."""
    whole = prepare(text_config(TEXT, tokenizer="bpe", vocab_size=300))
    monkeypatch.setattr(prepare_module, "PIECE_CHARACTERS", 7)
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 50)
    cut = prepare(text_config(TEXT, tokenizer="bpe", vocab_size=300, cache_dir=str(whole.folder.parent) + "2"))
    assert cut.folder != whole.folder
    assert cut.splits["train"].tolist() == whole.splits["train"].tolist()
    assert cut.fingerprint == whole.fingerprint


def test_the_cache_is_found_again(text_config, monkeypatch):
    """Catches a cache that is never hit."""
    first = prepare(text_config(TEXT))
    monkeypatch.setattr(prepare_module, "write", None)
    second = prepare(text_config(TEXT))
    assert second.folder == first.folder
    assert second.fingerprint == first.fingerprint


def test_another_text_or_tokenizer_is_another_folder(text_config, tmp_path):
    """Catches a stale cache: old ids under a new text or vocabulary."""
    saved = tmp_path / "tokenizer.json"
    saved.write_text(BPETokenizer.train([TEXT], 270).state()["json"], encoding="utf-8")
    configs = [
        text_config(TEXT, tokenizer="byte"),
        text_config(TEXT, tokenizer="bpe", vocab_size=300),
        text_config(TEXT, tokenizer="bpe", vocab_size=290),
        text_config(TEXT, tokenizer="bpe", tokenizer_path=str(saved)),
        text_config(TEXT, held_out_fraction=0.2),
    ]
    prepared = [prepare(config) for config in configs] + [prepare(text_config(TEXT.replace("die", "dye")))]
    assert len({p.folder for p in prepared}) == len(prepared)
    assert len({p.fingerprint for p in prepared}) == len(prepared)
    saved.write_text(BPETokenizer.train([TEXT], 280).state()["json"], encoding="utf-8")
    assert prepare(text_config(TEXT, tokenizer="bpe", tokenizer_path=str(saved))).folder != prepared[3].folder


def test_bpe_never_sees_the_held_out_text(text_config):
    """Catches a vocabulary that leaks held-out words into training, where they would cost fewer tokens."""
    text = "hopeless " * 300 + "zyzzyva " * 30
    tokenizer = prepare(text_config(text, tokenizer="bpe", vocab_size=300)).tokenizer
    assert len(tokenizer.encode(" hopeless")) == 1
    assert len(tokenizer.encode("zyzzyva")) == 7


def test_large_vocabularies_get_wide_ids(text_config):
    """Catches ids above 65,535 that wrap around in sixteen bits."""
    text = "".join(chr(0x3400 + n) if n < 0x6000 else chr(0x1B000 + n) for n in range(70_000))
    prepared = prepare(text_config(text))
    assert prepared.tokenizer.vocabulary_size == 70_000
    assert prepared.splits["train"].dtype == np.uint32
    assert prepared.tokenizer.decode(prepared.splits["test"]) == text[-3500:]
    assert prepare(text_config(TEXT)).splits["train"].dtype == np.uint16


def test_two_prepare_at_once(text_config, monkeypatch):
    """Catches a loser of the race that fails, or that leaves its unfinished folder behind."""
    config = text_config(TEXT)
    both_are_writing = threading.Barrier(2, timeout=30)
    original = prepare_module.write

    def write(*arguments):
        both_are_writing.wait()
        original(*arguments)
        both_are_writing.wait()

    monkeypatch.setattr(prepare_module, "write", write)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, [config, config])
    assert first.splits["train"].tolist() == second.splits["train"].tolist()
    assert folders(config) == [first.folder]


def test_a_failure_leaves_nothing(text_config, monkeypatch):
    """Catches a half-written folder that the next run takes for a prepared one."""
    config = text_config(TEXT)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharTokenizer, "state", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert folders(config) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(text_config):
    """Catches a bare errno or a truncated array when the disk fills up while writing."""
    config = text_config(TEXT * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond this fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write .* dataset\.cache_dir=FOLDER") as caught:
            prepare(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert config.cache_dir in str(caught.value)
    assert folders(config) == []


def test_an_unwritable_cache_folder_is_one_sentence(text_config, tmp_path):
    """Catches NotADirectoryError or PermissionError without the remedy."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot write .* dataset\.cache_dir=FOLDER"):
        prepare(text_config(TEXT, cache_dir=str(tmp_path / "file" / "cache")))


def test_a_damaged_cache_is_named(text_config):
    """Catches training on a truncated array after a copy that broke off."""
    prepared = prepare(text_config(TEXT))
    (prepared.folder / "train.bin").write_bytes(b"\0\0")
    with pytest.raises(ValueError, match="damaged: delete that folder"):
        prepare(text_config(TEXT))


def test_a_split_without_a_window_is_named():
    """Catches an index error deep in training, and an off-by-one at the shortest split that works."""
    splits = {"train": np.zeros(100), "val": np.zeros(9)}
    check_lengths(splits, 8)
    with pytest.raises(ValueError, match=r"split val has 9 tokens, but with block_size=9 .* at most 8"):
        check_lengths(splits, 9)
