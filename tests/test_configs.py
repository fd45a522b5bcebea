"""Every choice of algorithm, backbone, decoder and dataset: composed, converted, built, and run for a step."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from datasets.config import DatasetConfig
from experiments.run.config import ALGORITHMS, build, look_up
from experiments.run.folder import CONFIGS
from tests.algorithms.writing import write

V = 11
SMALL = ["n_layer=1", "n_head=2", "n_embd=16", "block_size=24"]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def make(config: DictConfig) -> Any:
    cls = look_up(ALGORITHMS, config.algorithm.name, "algorithm.name")
    return cls(build(cls.config_class, config.algorithm, "algorithm"), vocabulary_size=V, total_steps=4)


def algorithm_of(decoder: str, *overrides: str) -> Any:
    """The first method that takes a decoder, with it."""
    for name in ALGORITHMS:
        try:
            return make(composed(f"algorithm={name}", f"algorithm/decoder={decoder}", *overrides))
        except ValueError:
            continue
    raise AssertionError(f"no method takes algorithm/decoder={decoder}")


def run_a_step(algorithm: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, V, (3, algorithm.block_size + 1), generator=generator)
    optimizer = algorithm.configure_optimizers()["optimizer"]
    before = [p.detach().clone() for p in algorithm.parameters()]
    algorithm.loss(ids, generator)["loss"].backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, algorithm.parameters(), strict=True))
    algorithm.eval()
    nll = algorithm.nll(ids, generator)
    assert nll.shape == (3, algorithm.block_size) and nll.isfinite().all()
    out = write(algorithm, ids[:, :3], length=20, seeds=[0, 1, 2], trace=True)
    assert out.ids.shape == (3, 23) and torch.equal(out.ids[:, :3], ids[:, :3])
    assert out.ids.max() < V and out.forwards >= 1
    assert torch.equal(out.trace.tokens[-1], out.ids)


@pytest.mark.parametrize("name", choices("algorithm"))
def test_algorithms_run(name: str) -> None:
    """Catches an algorithm file that does not compose, convert, learn, evaluate or generate as it stands."""
    run_a_step(make(composed(f"algorithm={name}", *(f"algorithm.backbone.{size}" for size in SMALL))))


@pytest.mark.parametrize("name", choices("algorithm/decoder"))
def test_decoders_run(name: str) -> None:
    """Catches a decoder file with a key that its class lacks, or settings that cannot generate."""
    sizes = [f"algorithm.backbone.{size}" for size in SMALL]
    run_a_step(algorithm_of(name, *sizes))


@pytest.mark.parametrize("method", ["gpt", "df_lm"])
@pytest.mark.parametrize("name", choices("algorithm/backbone"))
def test_backbones_build(name: str, method: str) -> None:
    """Catches sizes that do not fit together."""
    algorithm = make(composed(f"algorithm={method}", f"algorithm/backbone={name}"))
    assert sum(p.numel() for p in algorithm.parameters()) > 1e5


@pytest.mark.parametrize("name", choices("dataset"))
def test_datasets_convert(name: str, tmp_path: Path) -> None:
    """Catches a dataset file whose name or keys DatasetConfig does not know."""
    path = [f"dataset.path={tmp_path}"] if name in ("text_file", "openwebtext") else []
    config = build(DatasetConfig, composed(f"dataset={name}", *path).dataset, "dataset")
    assert config.name == name


@pytest.mark.parametrize("name", [*choices("algorithm"), *(f"decoder/{name}" for name in choices("algorithm/decoder"))])
def test_keys_are_commented(name: str) -> None:
    """Catches a key that a reader must look up in the code, unless the file inherits it with its comment."""
    text = (CONFIGS / "algorithm" / f"{name}.yaml").read_text()
    assert "\n# -> algorithms/" in text
    if re.search(r"\n  - (?!_self_)\w+\n", text):  # inherits its keys from another file
        return
    body = text.partition("_self_\n")[2] or text
    keys = [line for line in body.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert [line for line in keys if "#" not in line and not line.rstrip().endswith(":")] == []
