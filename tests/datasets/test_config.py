"""DatasetConfig: what is refused, and in which words. (tests/test_configs.py holds the YAML files that fill it.)"""

from typing import get_args

import pytest

from datasets.config import CORPORA, FORMER_NAMES, DatasetConfig, TokenizerName
from datasets.corpora import READERS
from experiments.run.build import build

TOKENIZERS = ", ".join(get_args(TokenizerName))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "shakespear"}, ["dataset.name is 'shakespear'", "did you mean 'shakespeare'?"]),
        ({"name": "shakespeare", "tokenizer": "bites"}, ["dataset.tokenizer is 'bites'", "did you mean 'byte'?"]),
        ({"name": "shakespeare", "tokenizer": "qqq"}, ["dataset.tokenizer is 'qqq'", f"choose one of {TOKENIZERS}"]),
        ({"name": "text_file"}, ["dataset.path is missing", "dataset.path=PATH"]),
        ({"name": "documents", "tokenizer": "bpe"}, ["dataset.path is missing", "dataset.path=PATH"]),
        ({"name": "documents", "path": "x"}, ["dataset.tokenizer=char", "choose dataset.tokenizer=bpe"]),
        (
            {"name": "shakespeare", "path": "x"},
            ["dataset.path=/", "/x has", "or choose dataset=text_file"],
        ),
        ({"name": "shakespeare", "tokenizer_path": "x"}, ["dataset.tokenizer_path", "dataset.tokenizer=bpe"]),
        (
            {"name": "shakespeare", "tokenizer": "loaded", "tokenizer_path": "x"},
            ["not to loaded: change"],
        ),
        ({"name": "shakespeare", "encoding": "cp1252"}, ["dataset.encoding belongs to text_file and documents"]),
        ({"name": "text_file", "path": "x", "encoding": "utf-88"}, ["dataset.encoding is 'utf-88'", "such as utf-8"]),
        ({"name": "text_file", "path": "x", "encoding": "rot13"}, ["dataset.encoding is 'rot13'", "such as utf-8"]),
        ({"name": "text_file", "path": "x", "text_column": "body"}, ["dataset.text_column belongs to documents"]),
        ({"name": "shakespeare", "tokenizer": "bpe", "vocab_size": None}, ["dataset.vocab_size is missing", "size=N"]),
        ({"name": "shakespeare", "tokenizer": "bpe", "vocab_size": 256}, ["dataset.vocab_size=256", "at least 257"]),
        ({"name": "shakespeare", "held_out_fraction": 0.2}, ["dataset.held_out_fraction", "fixed splits", "leave it"]),
        ({"name": "text_file", "path": "x", "held_out_fraction": 0.0}, ["dataset.held_out_fraction is 0.0", "above 0"]),
        ({"name": "text_file", "path": "x", "held_out_fraction": 0.6}, ["held_out_fraction is 0.6", "at most 0.5"]),
    ],
)
def test_an_impossible_choice_is_one_sentence(fields, words):
    """Catches a bad choice that passes, or a message without the key and the remedy."""
    with pytest.raises(ValueError) as caught:
        build(DatasetConfig, fields, "dataset")
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message


def test_every_corpus_has_a_reader():
    """Catches a corpus that can be chosen and not read, and a former name that leads to none."""
    assert set(READERS) == set(CORPORA) >= set(FORMER_NAMES.values())


def test_a_former_name_still_leads_to_its_corpus():
    """Catches an older run or checkpoint whose corpus is no longer known."""
    stored = {"name": "openwebtext", "path": "x", "tokenizer": "bpe", "vocab_size": 8192}
    assert build(DatasetConfig, stored, "dataset") == DatasetConfig(**stored | {"name": "documents"})


def test_paths_are_absolute_wherever_the_program_goes_next(tmp_path, monkeypatch):
    """Catches a stored path that leads to another file from another working folder, and `~` taken for a folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    given = {"name": "text_file", "tokenizer": "bpe", "cache_dir": "~/cache"}
    config = DatasetConfig(path="here/text.txt", tokenizer_path="~/tokenizer.json", **given)
    assert config.path == str(tmp_path / "here" / "text.txt")
    assert config.tokenizer_path == str(tmp_path / "home" / "tokenizer.json")
    assert config.cache_dir == str(tmp_path / "home" / "cache")
    assert DatasetConfig(path=config.path, **given).path == config.path
