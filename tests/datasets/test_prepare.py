"""The cache: found again, made anew when its content changes, whole or absent, and safe for two at once."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

from datasets import prepare as prepare_module
from datasets.prepare import check_lengths, prepare
from datasets.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer

TEXT = "Speak, speak.\nYou are all resolved rather to die than to famish?\n" * 40


def folders(config):
    """Everything in the cache but for its locks, also what is unfinished."""
    return sorted(path for path in Path(config.cache_dir).iterdir() if path.name != ".locks")


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


def test_several_prepare_at_once(text_config, monkeypatch):
    """Catches work that each of them does, a waiting one that fails, or an unfinished folder that stays."""
    config, written = text_config(TEXT), []
    all_are_here = threading.Barrier(3, timeout=30)
    original_locked, original_write = prepare_module.locked, prepare_module.write

    def locked(folder):
        all_are_here.wait()
        return original_locked(folder)

    def write(*arguments):
        written.append(arguments)
        original_write(*arguments)

    monkeypatch.setattr(prepare_module, "locked", locked)
    monkeypatch.setattr(prepare_module, "write", write)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(prepare, [config] * 3))
    assert len({prepared.splits["train"].tobytes() for prepared in found}) == len(written) == 1
    assert folders(config) == [found[0].folder]


def test_two_prepare_at_once_where_nothing_can_be_locked(text_config, monkeypatch):
    """Catches a loser of the race that fails, or that leaves its unfinished folder behind."""
    config = text_config(TEXT)
    both_are_writing = threading.Barrier(2, timeout=30)
    original = prepare_module.write

    def write(*arguments):
        both_are_writing.wait()
        original(*arguments)
        both_are_writing.wait()

    def no_locks(self, timeout=None):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(prepare_module.FileLock, "acquire", no_locks)
    monkeypatch.setattr(prepare_module, "write", write)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, [config, config])
    assert first.splits["train"].tolist() == second.splits["train"].tolist()
    assert folders(config) == [first.folder]


def test_a_killed_preparation_is_made_anew(text_config):
    """Catches a lock that a dead process holds, its unfinished folder that is taken for a whole one, or that stays."""
    config = text_config(TEXT)

    def killed_at_the_end():
        prepare_module.check_not_empty = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        prepare(config)

    child = multiprocessing.get_context("fork").Process(target=killed_at_the_end)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (left,) = folders(config)
    prepared = prepare(config)
    assert folders(config) == [left, prepared.folder]  # it may be at work elsewhere
    for path in (left, *left.iterdir()):
        os.utime(path, (0, 0))
    shutil.rmtree(prepared.folder)
    assert folders(config) == [left]
    assert prepare(config).folder == prepared.folder
    assert folders(config) == [prepared.folder]


def test_a_folder_that_was_copied_in_part_is_made_anew(text_config):
    """Catches a folder without meta.json that stands in the way for good."""
    config = text_config(TEXT)
    prepared = prepare(config)
    (prepared.folder / "meta.json").unlink()
    assert prepare(config).splits["train"].tolist() == prepared.splits["train"].tolist()
    assert folders(config) == [prepared.folder]


def test_a_tokenizer_of_a_checkpoint_is_kept(text_config):
    """Catches a vocabulary that is learned anew, and characters it lacks that become others."""
    loaded = prepare(text_config(TEXT)).tokenizer
    text = "You are to speak.\n" * 50
    config = text_config(text, tokenizer="loaded")
    prepared = prepare(config, loaded)
    assert prepared.tokenizer.state() == loaded.state()
    assert loaded.decode(prepared.splits["val"]) in text
    with pytest.raises(ValueError, match=r"tokenizer=loaded: the vocabulary of .* has no 'É', 'é':"):
        prepare(text_config("You are Éé.\n" * 50, tokenizer="loaded"), loaded)
    with pytest.raises(ValueError, match=r"tokenizer=loaded keeps .* load=RUN_FOLDER"):
        prepare(config)


def test_a_tokenizer_file_that_changes_the_text_is_named(text_config, tmp_path):
    """Catches bits per character of another text than the one on disk, and an end mark that is added in silence."""
    backend = Backend.from_str(BPETokenizer.train([TEXT], 270).state()["json"])
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(tmp_path / "lower.json"))
    given = {"tokenizer": "bpe", "tokenizer_path": str(tmp_path / "lower.json")}
    with pytest.raises(ValueError, match=r"lower\.json: the tokenizer changes the text, 'Speak, .* back as 'speak, "):
        prepare(text_config(TEXT, **given))
    content = json.loads(BPETokenizer.train([TEXT], 270).state()["json"])
    content["added_tokens"] = []
    content["model"]["vocab"]["<unused>"] = content["model"]["vocab"].pop(END_OF_TEXT)
    (tmp_path / "endless.json").write_text(json.dumps(content), encoding="utf-8")
    prepared = prepare(text_config(TEXT, **given | {"tokenizer_path": str(tmp_path / "endless.json")}))
    assert prepared.notes == (f"{tmp_path}/endless.json has no {END_OF_TEXT}: it is added as token 270 of 271",)


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
    for name in ("train.bin", "meta.json"):
        (prepared.folder / name).write_bytes(b"\0\0")
        with pytest.raises(ValueError, match="damaged: delete that folder"):
            prepare(text_config(TEXT))


def test_a_split_without_a_window_is_named():
    """Catches an index error deep in training, and an off-by-one at the shortest split that works."""
    splits = {"train": np.zeros(100), "val": np.zeros(9)}
    check_lengths(splits, 8)
    with pytest.raises(ValueError, match=r"split val has 9 tokens, but with block_size=9 .* at most 8"):
        check_lengths(splits, 9)


@pytest.mark.parametrize(
    ("tokens", "advised"), [(9, "lower experiment.block_size to at most 8, or give"), (1, "10: give")]
)
def test_advice_can_be_followed(tokens: int, advised: str) -> None:
    """Catches the advice to take windows of no tokens."""
    with pytest.raises(ValueError, match=f"split val has {tokens} tokens, .* one window takes .*{advised} more text"):
        check_lengths({"val": np.zeros(tokens)}, 9)
