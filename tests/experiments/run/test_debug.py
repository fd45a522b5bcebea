"""debug= beside other choices: what is said on the command line stands."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.run.build import build
from experiments.run.composition import composed_group
from experiments.run.folder import CONFIGS
from experiments.run.registry import EXPERIMENTS, look_up

DEBUGS = {"none": 1000, "smoke": 2, "overfit": 300, "profile": 50}  # and their steps


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def composing() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return OmegaConf.to_container(compose("config", overrides=[*overrides]))


def test_a_chosen_machine_and_backbone_stand() -> None:
    """Catches a smoke test on the CPU where a GPU was asked for, and of another backbone than the one that was."""
    trainers, backbones = choices("trainer"), choices("algorithm/backbone")
    for trainer, backbone in zip(trainers, [*backbones, *trainers], strict=False):
        backbone = backbone if backbone in backbones else backbones[0]
        config = composed("debug=smoke", f"trainer={trainer}", f"algorithm/backbone={backbone}")
        assert config["trainer"] == composed_group(f"trainer/{trainer}")["trainer"]
        expected = composed_group(f"algorithm/backbone/{backbone}")["algorithm"]["backbone"]
        assert config["algorithm"]["backbone"] == expected
    asked = composed("debug=profile", "trainer=gpu")["trainer"]
    assert (asked["accelerator"], asked["profiler"]) == ("gpu", "simple")


def test_a_key_stands_in_any_order() -> None:
    """Catches a batch size, a device or a size of the backbone that debug=smoke replaces."""
    said = ["experiment.training.batch_size=3", "trainer.accelerator=mps", "algorithm.backbone.n_embd=48"]
    for words in (["debug=smoke", *said], [*said, "debug=smoke"]):
        config = composed(*words)
        assert config["experiment"]["training"]["batch_size"] == 3
        assert config["trainer"]["accelerator"] == "mps" and config["algorithm"]["backbone"]["n_embd"] == 48
        assert config["experiment"]["training"]["max_steps"] == 2


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_debug_is_for_every_experiment(experiment: str) -> None:
    """Catches an experiment that debug= cannot be combined with, and a corpus chosen beside it that is replaced."""
    for debug, steps in DEBUGS.items() if experiment == "language_modeling" else [("smoke", 2)]:
        config = composed(f"experiment={experiment}", f"debug={debug}", "dataset=text8")
        node = config["experiment"]
        cls = look_up(EXPERIMENTS, node["name"], "experiment.name").config_class
        assert build(cls, node, "experiment").training.max_steps == steps
        assert config["dataset"]["name"] == "text8"


def test_a_smoke_test_is_small_for_every_method() -> None:
    """Catches a method whose own backbone wins over that of debug=smoke: seconds would become minutes."""
    config = composed("algorithm=df_lm_faithful", "debug=smoke")
    assert config["algorithm"]["backbone"]["n_layer"] == 1 and config["trainer"]["accelerator"] == "cpu"
