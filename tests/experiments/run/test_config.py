"""Strict conversion of YAML into frozen dataclasses."""

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from experiments.run.config import ALGORITHMS, EXPERIMENTS, TrainingConfig, build, look_up


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    other: Inner | None = None
    filled: Inner = field(default_factory=lambda: Inner(7))
    names: list[str] = field(default_factory=list)
    count: int | None = 2

    def __post_init__(self) -> None:
        if self.count == 5:
            raise ValueError("five is right out")


def test_nested_values_and_defaults() -> None:
    """Catches a nested default that is lost, and a nested node that stays a DictConfig."""
    config = OmegaConf.create({"inner": {"size": 1}, "other": {"size": 3, "rate": 2}, "names": ["a"]})
    assert build(Outer, config, "x") == Outer(Inner(1), Inner(3, 2.0), Inner(7), ["a"], 2)


def test_null_replaces_an_optional_default() -> None:
    """Catches null on the command line that is taken for "not given"."""
    assert build(Outer, {"inner": {"size": 1}, "count": None, "other": None}, "x").count is None


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"inner": {"size": 1, "sise": 2}}, "unknown config key 'x.inner.sise': did you mean 'x.inner.size'?"),
        ({"inner": {"size": "many"}}, "'x.inner.size' has a wrong value: .*'many'"),
        ({"inner": {"size": 1.5}}, "'x.inner.size' has a wrong value"),
        ({"inner": {}}, "'x.inner.size' has no value"),
        ({"inner": 3}, "'x.inner' has a wrong value"),
        ({"inner": {"size": 1}, "names": 3}, "'x.names' has a wrong value"),
        ({"inner": {"size": 1}, "other": {"size": 1, "z": 1}}, "unknown config key 'x.other.z'"),
        ({"inner": {"size": 1}, "count": 5}, "five is right out"),
    ],
)
def test_mistakes_are_one_sentence_with_the_key(config: dict, sentence: str) -> None:
    """Catches a mistake that passes silently, or is reported without its place."""
    with pytest.raises(ValueError, match=sentence) as caught:
        build(Outer, OmegaConf.create(config), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["max_steps", "batch_size", "accumulate_grad_batches", "val_every_steps", "checkpoint_every_steps"]
)
def test_training_sizes_below_one_are_refused(key: str) -> None:
    """Catches a zero interval that would divide by zero, or a run of no steps, hours later."""
    with pytest.raises(ValueError, match=f"experiment.training.{key} is 0"):
        TrainingConfig(**{key: 0})


@pytest.mark.parametrize("registry", [ALGORITHMS, EXPERIMENTS])
def test_registered_classes_exist_and_have_a_config_class(registry: dict[str, str]) -> None:
    """Catches an entry of the table that points nowhere."""
    for name in registry:
        assert look_up(registry, name, "name").config_class(**_needed(name)).name == name


def _needed(name: str) -> dict:
    from algorithms.common.backbone import BackboneConfig
    from algorithms.diffusion_forcing.config import DiffusionConfig

    given: dict = {"backbone": BackboneConfig(1, 1, 8, 8)} if name in ALGORITHMS else {}
    return given | ({"diffusion": DiffusionConfig(objective="pred_x0")} if name == "df_lm" else {})


def test_unknown_name_gets_the_near_miss() -> None:
    """Catches a checkpoint or config that names a class outside the table."""
    with pytest.raises(ValueError, match=r"algorithm\.name is 'gtp', which is unknown: did you mean 'gpt'"):
        look_up(ALGORITHMS, "gtp", "algorithm.name")
