"""Strict conversion of YAML into frozen dataclasses."""

from dataclasses import field
from typing import Annotated, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field
from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Number, Positive
from experiments.run.build import build, keys_below
from experiments.run.registry import ALGORITHMS, EXPERIMENTS, look_up
from experiments.run.schema import LanguageModelingConfig


@dataclass(frozen=True, config=STRICT)
class Inner:
    size: Annotated[int, Field(strict=True)]
    rate: Number | None = None


@dataclass(frozen=True, config=STRICT)
class Round:
    name: Literal["round"] = "round"
    round: Positive = 1.0


@dataclass(frozen=True, config=STRICT)
class Square:
    name: Literal["square"] = "square"
    side: Count = 1
    text: str = ""

    def __post_init__(self) -> None:
        if self.side == 13:
            raise ValueError("side is 13: take another, or set round")


@dataclass(frozen=True, config=STRICT)
class Outer:
    inner: Inner
    name: Literal["outer"] = "outer"
    other: Inner | None = None
    filled: Inner = field(default_factory=lambda: Inner(7))
    names: list[str] = field(default_factory=list)
    count: int | None = 2
    shape: Annotated[Round | Square, Field(discriminator="name")] = field(default_factory=Round)
    square: Square = field(default_factory=Square)
    by_label: dict[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count == 5:
            raise ValueError("five is right out")
        if self.count == 6:
            raise ValueError("inner.size and count are at odds")


def test_nested_values_and_defaults() -> None:
    """Catches a nested default that is lost, and a nested node that stays a DictConfig."""
    config = OmegaConf.create({"inner": {"size": 1}, "other": {"size": 3, "rate": 2}, "names": ["a"]})
    made = build(Outer, config, "x")
    assert made == Outer(Inner(1), "outer", Inner(3, 2.0), Inner(7), ["a"], 2)
    assert type(made.other.rate) is float and type(made.names) is list


def test_null_replaces_an_optional_default() -> None:
    """Catches null on the command line that is taken for "not given"."""
    assert build(Outer, {"inner": {"size": 1}, "count": None, "other": None}, "x").count is None


def test_a_number_is_taken_for_a_text() -> None:
    """Catches `prompt=1984`, which YAML reads as a number, refused."""
    config = {"inner": {"size": 1}, "shape": {"name": "square", "text": 1984}, "names": [1]}
    made = build(Outer, config, "x")
    assert made.shape == Square(text="1984") and made.names == ["1"]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"inner": {"size": 1, "sise": 2}}, "unknown config key 'x.inner.sise': did you mean 'x.inner.size'?"),
        ({"inner": {"sise": 2}}, "unknown config key 'x.inner.sise': did you mean 'x.inner.size'?"),
        ({"iner": {"size": 2}}, "unknown config key 'x.iner': did you mean 'x.inner'?"),
        ({"inner": {"size": "many"}}, "config key 'x.inner.size' has a wrong value: it must be .* integer, not 'many'"),
        ({"inner": {"size": 1.5}}, "'x.inner.size' has a wrong value"),
        ({"inner": {"size": True}}, "'x.inner.size' has a wrong value"),
        ({"inner": {"size": None}}, "'x.inner.size' has a wrong value: it must be a valid integer, not null"),
        ({"inner": {"size": 1, "rate": float("nan")}}, "x.inner.rate is nan: it must be a finite number"),
        ({"inner": {}}, "'x.inner.size' has no value: set it"),
        ({"inner": {"size": "???"}}, "'x.inner.size' has no value: set it"),
        ({"inner": 3}, "'x.inner' has a wrong value: it must hold keys of its own, not 3"),
        ({"inner": {"size": 1}, "names": 3}, "'x.names' has a wrong value"),
        ({"inner": {"size": 1}, "other": {"size": 1, "z": 1}}, "unknown config key 'x.other.z'"),
        ({"inner": {"size": 1}, "by_label": {"a": {"size": 1, "rte": 1}}}, "'x.by_label.a.rte': .*'x.by_label.a.rate'"),
        ({"inner": {"size": 1}, "count": 5}, "^x: five is right out"),
        ({"inner": {"size": 1}, "count": 6}, "^x.inner.size and count are at odds"),
        ({"inner": {"size": 1}, "shape": {"name": "round", "round": 0}}, "^x.shape.round is 0: it must be above 0"),
        ({"inner": {"size": 1}, "shape": {"name": "round", "rond": 1}}, "'x.shape.rond': did you mean 'x.shape.round'"),
        ({"inner": {"size": 1}, "shape": {"name": "square", "side": 13}}, "^x.shape.side is 13: take another"),
        ({"inner": {"size": 1}, "shape": {"side": 1}}, "config key 'x.shape.name' has no value: set it"),
        (
            {"inner": {"size": 1}, "shape": {"name": "hexagon", "points": 5}},
            "x.shape.name is 'hexagon', which does not fit x.name=outer: choose one of round, square",
        ),
        (
            {"name": "outer", "inner": {"size": 1}, "square": {"name": "round", "round": 5}},
            "x.square.name is 'round', which does not fit x.name=outer: choose one of square",
        ),
        ({"name": "outr", "inner": {"size": 1}}, "x.name is 'outr': did you mean 'outer'?"),
    ],
)
def test_mistakes_are_one_sentence_with_the_key(config: dict, sentence: str) -> None:
    """Catches a mistake that passes silently, or is reported without its place, its reason or its remedy."""
    with pytest.raises(ValueError, match=sentence) as caught:
        build(Outer, OmegaConf.create({"name": "outer"} | config), "x")
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_what_is_found_out_later_gets_its_key_too() -> None:
    """Catches a class that knows its own field alone, and a sentence that was complete and gets its key twice."""
    config = Outer(Inner(1))
    for said, known in [
        ("side is 3, above the 2 of the model", "x.square.side is 3"),
        ("square.side is 3", "x.square.side is 3"),
        ("rate=3 is too much", "x: rate=3 is"),  # of which of them?
        ("x.square.side is 3", "x.square.side is 3"),
        ("there is no room", "x: there is no room"),
    ]:
        with pytest.raises(FileNotFoundError, match=f"^{known}"), keys_below("x", config):
            raise FileNotFoundError(said)
    with pytest.raises(FileNotFoundError, match=r"^x\.side is 3"), keys_below("x", Square()):
        raise FileNotFoundError("side is 3")


@pytest.mark.parametrize(
    "key", ["max_steps", "batch_size", "accumulate_grad_batches", "val_every_steps", "checkpoint_every_steps"]
)
def test_training_sizes_below_one_are_refused(key: str) -> None:
    """Catches a zero interval that would divide by zero, or a run of no steps, hours later."""
    with pytest.raises(ValueError, match=f"experiment.training.{key} is 0: it must be at least 1"):
        build(LanguageModelingConfig, {"training": {key: 0}}, "experiment")


@pytest.mark.parametrize("registry", [ALGORITHMS, EXPERIMENTS])
def test_registered_classes_exist_and_have_a_config_class(registry: dict[str, str]) -> None:
    """Catches an entry of the table that points nowhere."""
    for name in registry:
        assert look_up(registry, name, "name").config_class.name == name


def test_unknown_name_gets_the_near_miss() -> None:
    """Catches a checkpoint or config that names a class outside the table."""
    with pytest.raises(ValueError, match=r"algorithm\.name is 'gtp', which is unknown: did you mean 'gpt'"):
        look_up(ALGORITHMS, "gtp", "algorithm.name")
