"""DatasetConfig: what is refused, in which words, and the YAML files that fill it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from datasets.config import CORPORA, DatasetConfig

YAML_FILES = sorted((Path(__file__).parents[2] / "configs" / "dataset").glob("*.yaml"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "shakespear"}, ["dataset.name=shakespear", "did you mean shakespeare?"]),
        ({"name": "shakespeare", "tokenizer": "bites"}, ["dataset.tokenizer=bites", "did you mean byte?"]),
        ({"name": "shakespeare", "tokenizer": "qqq"}, ["Choices: char, byte, bpe"]),
        ({"name": "text_file"}, ["dataset.path=PATH"]),
        ({"name": "openwebtext", "tokenizer": "bpe", "vocab_size": 300}, ["dataset.path=PATH"]),
        ({"name": "openwebtext", "path": "x"}, ["dataset.tokenizer=bpe"]),
        ({"name": "shakespeare", "path": "x"}, ["dataset=text_file"]),
        ({"name": "shakespeare", "tokenizer_path": "x"}, ["dataset.tokenizer=bpe"]),
        ({"name": "shakespeare", "tokenizer": "bpe"}, ["dataset.vocab_size=N"]),
        ({"name": "shakespeare", "tokenizer": "bpe", "vocab_size": 256}, ["at least 257"]),
        ({"name": "shakespeare", "held_out_fraction": 0.2}, ["fixed splits"]),
        ({"name": "text_file", "path": "x", "held_out_fraction": 0.0}, ["above 0 and at most 0.5"]),
    ],
)
def test_an_impossible_choice_is_one_sentence(fields, words):
    """Catches a bad choice that passes, or a message without the key and the remedy."""
    with pytest.raises(ValueError) as caught:
        DatasetConfig(**fields)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message


def test_every_corpus_has_its_yaml_file():
    """Catches a corpus that cannot be chosen on the command line, or a file for none."""
    assert {file.stem for file in YAML_FILES} == set(CORPORA)


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.stem)
def test_a_yaml_file_fills_the_dataclass(file):
    """Catches an unknown key, a missing key or a value that the checks refuse."""
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert list(values) == list(DatasetConfig.__dataclass_fields__)
    assert values["name"] == file.stem
    if file.stem in ("text_file", "openwebtext"):
        values["path"] = "given by the user"
    DatasetConfig(**values)
    assert DatasetConfig(**(values | {"tokenizer": "bpe"})).vocab_size  # bpe works without naming a size


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.stem)
def test_every_key_is_explained(file):
    """Catches a key without a comment, and a file that does not say which class receives it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# -> datasets/config.py: DatasetConfig"
    assert all(line.startswith("#") or "  # " in line for line in lines)
