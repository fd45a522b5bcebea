"""Texts on a command line: what Hydra reads is what was written."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from datasets.config import DatasetConfig
from experiments.run.registry import ALGORITHMS, EXPERIMENTS, look_up
from experiments.run.schema import RunKeys
from experiments.run.texts import LISTS, NEVER_NULL, TEXTS, as_written, is_in
from tests.conftest import Main

PROMPT = "experiment.sampling.prompt"
# Texts that only programs write, or whose words are names of this project.
NO_TEXTS = ("experiment.name", "experiment.tasks", "experiment.grid", "*.overrides", "*.methods", "*.algorithm")
NO_TEXTS += ("experiment.judges.dataset",)


def read(*argv: str) -> list[Any]:
    parser = OverridesParser.create()
    return [parser.parse_override(override).value() for override in as_written([*argv]) if "=" in override]


def members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without what is said about them."""
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in members(part)]
    return [annotation]


def text_keys(cls: Any, where: str) -> Iterator[tuple[str, bool, bool]]:
    """Keys of a config class that take a text: the key, whether it may be null, and whether it may be a list."""
    for field in dataclasses.fields(cls):
        key, kinds = f"{where}{field.name}", members(field.type)
        lists = [kind for kind in kinds if typing.get_origin(kind) is list and str in typing.get_args(kind)]
        if str in kinds or lists:
            yield key, type(None) in kinds, bool(lists)
        for kind in kinds:
            inner = typing.get_args(kind)[-1:] if typing.get_origin(kind) is dict else [kind]
            for one in (member for part in inner for member in members(part)):
                if dataclasses.is_dataclass(one):
                    yield from text_keys(one, f"{key}." if one is kind else f"{key}.*.")


def test_every_key_that_is_text_is_taken_as_written() -> None:
    """Catches a new key for texts, paths or names whose values Hydra reads as numbers, lists or operators."""
    found = {*text_keys(DatasetConfig, "dataset."), *text_keys(RunKeys, "")}
    for registry, root in ((ALGORITHMS, "algorithm."), (EXPERIMENTS, "experiment.")):
        for name in registry:
            found |= {*text_keys(look_up(registry, name, "name").config_class, root)}
    found = {one for one in found if not is_in(one[0], NO_TEXTS)}
    assert {key for key, _, _ in found if not is_in(key, TEXTS)} == set()
    assert {key for key, null, _ in found if not null} <= {*NEVER_NULL, *LISTS}
    assert {key for key, _, many in found if many} <= {*LISTS}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1.50",
            "1e5",
            "true",
            "null",
            "nan",
            "007",
            "1_000",
            " lead",
            "trail ",
            "  ",
            "",
            "To be, or not",
            "a=b",
            "(",
        ),
        *("läuf", "Σ", "[ROMEO", "{a}", "It's", 'say "no"', "a: b", "~", "<|endoftext|>", "#", "choice(a,b)", "a\nb"),
        *("C:\\runs\\a", "\\", "-x", "--", "$x", "@", "+", "😀", "“q”"),
    ],
)
def test_a_prompt_is_what_was_typed(text: str) -> None:
    """Catches a number that loses its digits, blanks that are stripped, and signs of Hydra's that need quotes."""
    assert read(f"{PROMPT}={text}") == [text]


@settings(max_examples=40)
@given(st.text(st.characters(exclude_characters="'\"\\$", exclude_categories=("Cs",)), max_size=12))
def test_any_text_is_read_as_written_and_only_once(text: str) -> None:
    """Catches a text that changes when a process of a data-parallel run or a sweep reads the command line again."""
    once = as_written([f"{PROMPT}={text}", f"name={text}" if text != "null" else "seed=1"])
    assert as_written(once) == once
    assert [OverridesParser.create().parse_override(word).value() for word in once] == [
        text,
        text if text != "null" else 1,
    ]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        (f'{PROMPT}="ROMEO:"', "ROMEO:"),
        (f"{PROMPT}='it\\'s'", "it's"),
        (f"{PROMPT}=ROMEO:\\nO, my", "ROMEO:\nO, my"),
        (f'{PROMPT}="ROMEO:\\nO"', "ROMEO:\nO"),
        (f"{PROMPT}=To be\\, or", "To be, or"),
        ("load=null", None),
        ("name='null'", "null"),
        ("++name=1.50", "1.50"),
        ("load=lr=1e-3,seed=1/run", "lr=1e-3,seed=1/run"),
        ("name=${algorithm.name}-${seed}", "${algorithm.name}-${seed}"),
        ("hydra.run.dir=outputs/${now:%Y-%m-%d}/a=1", "outputs/${now:%Y-%m-%d}/a=1"),
        ("logger.wandb.tags=[1.50,a=b,'c, d']", ["1.50", "a=b", "c, d"]),
        (f"{PROMPT}=[ROMEO: 1.50, 'O, my', a=b]", ["ROMEO: 1.50", "O, my", "a=b"]),
        (f'{PROMPT}="[ROMEO]"', "[ROMEO]"),
        ("experiment.sampling.stop=true", True),
        ("experiment.sampling.stop=\\n1.50", "\n1.50"),
        ("seed=1_0", 10),
    ],
)
def test_what_people_write(override: str, value: Any) -> None:
    """Catches quotes that become part of a text, a line break that cannot be written, and null that is no null."""
    assert read(override) == [value]


def test_a_prompt_may_look_like_an_interpolation() -> None:
    """Catches a prompt that OmegaConf takes for the name of a key."""
    (value,) = read(f"{PROMPT}=costs ${{5}}")
    assert OmegaConf.create({"prompt": value}).prompt == "costs ${5}"


def test_paths_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder called ~, and a prompt whose ~ is taken for a path."""
    monkeypatch.setenv("HOME", "/home/me")
    keys = ("load", "resume", "dataset.path", "hydra.run.dir", "experiment.judge", "experiment.methods.gpt.load")
    assert {*read(*(f"{key}=~/a b" for key in keys))} == {"/home/me/a b"}
    assert read("experiment.judge=[~/a,b]", f"{PROMPT}=~/a") == [["/home/me/a", "b"], "~/a"]


def test_commas_sweep_under_multirun_alone() -> None:
    """Catches a sweep over files that became one file, and a number in it that lost its text."""
    parser = OverridesParser.create()

    def sweep(override: str) -> list[str]:
        (word,) = (word for word in as_written(["--multirun", override]) if "=" in word)
        parsed = parser.parse_override(word)
        return [*parsed.sweep_string_iterator()] if parsed.is_sweep_override() else [str(parsed.value())]

    assert sweep("dataset.path=a,b c") == ["a", "b\\ c"]  # as Hydra hands it to the job
    assert read("dataset.path=b\\ c") == ["b c"]
    assert sweep("name=1.50,'x,y',k=v") == ["'1.50'", "'x,y'", "'k=v'"]
    assert sweep("load=choice(a,b)") == ["a", "b"]
    assert sweep("experiment.judge=[a,b],[c]") == ["[a,b]", "[c]"]
    assert sweep(f"{PROMPT}=1.50") == ["1.50"]
    assert read("dataset.path=a,b") == ["a,b"]


def test_bytes_that_the_locale_cannot_read() -> None:
    """Catches a prompt that arrives in pieces in an ASCII locale, and ends the run when it is written down."""
    argument = "ä".encode().decode("ascii", "surrogateescape")
    assert read(f"{PROMPT}={argument}") == ["ä"]


def test_texts_reach_the_run(smoke: Main, corpus: Path) -> None:
    """Catches a text that is right on the command line and wrong in the config, the files or a later run."""
    place, copy = Path("läufe, lr=1"), Path("text=ä,1.txt")
    copy.write_text(corpus.read_text(encoding="utf-8"), encoding="utf-8")
    outcome = smoke(f"dataset.path={copy}", f"hydra.run.dir={place}", "name=1.50", "experiment.tasks=[training]")
    assert outcome.status == 0, outcome.err
    stored = OmegaConf.load(place / ".hydra" / "config.yaml")
    assert (stored.name, stored.dataset.path) == ("1.50", str(copy.resolve()))
    main = [f"load={place}", "experiment.tasks=[sampling]", "hydra.run.dir=second", "experiment.sampling.length=4"]
    outcome = smoke(*main, f"dataset.path={copy}", f"{PROMPT}=  the\\nking ")
    assert outcome.status == 0, outcome.err
    assert '"prompt": "  the\\nking "' in Path("second/samples/samples.json").read_text(encoding="utf-8")
