"""Every choice of algorithm, backbone, decoder and dataset: composed, converted, built, and run for a step."""

import importlib
import re
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from algorithms.diffusion_flow.velocity import VelocityFlowConfig
from datasets.config import CORPORA, DatasetConfig
from experiments.run.build import build
from experiments.run.composition import leaves
from experiments.run.folder import CONFIGS
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import WandbConfig
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


@pytest.mark.parametrize("name", choices("algorithm"))
def test_muon_trains_every_method(name: str) -> None:
    """Catches a method with a matrix in its blocks that Muon misses, or another weight that it takes."""
    sizes = [f"algorithm.backbone.{size}" for size in SMALL]
    algorithm = make(composed(f"algorithm={name}", "algorithm/optimizer=muon", *sizes))
    made = algorithm.configure_optimizers()
    ids = torch.randint(0, V, (3, algorithm.block_size + 1), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        made["optimizer"].zero_grad()
        losses.append(algorithm.loss(ids, torch.Generator().manual_seed(1))["loss"])
        losses[-1].backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert losses[-1] < losses[0]
    state = made["optimizer"].state
    muon = {name for name, p in algorithm.named_parameters() if "momentum_buffer" in state.get(p, {})}
    assert muon == {name for name, p in algorithm.named_parameters() if ".blocks." in name and p.dim() == 2}


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
    assert sum(p.numel() for p in algorithm.parameters()) > 1e4


# Groups whose files fill a class, named in the file's comment; the others hold settings of several groups or of Hydra.
GROUPS = ("algorithm", "algorithm/backbone", "algorithm/decoder", "algorithm/optimizer")
GROUPS += ("callbacks", "dataset", "experiment", "logger")
FILES = [CONFIGS / group / f"{name}.yaml" for group in GROUPS for name in choices(group)]


def group_of(file: Path) -> str:
    return file.parent.relative_to(CONFIGS).as_posix()


def values_of(file: Path) -> dict[str, Any]:
    """What a file composes to, with what it inherits."""
    group = group_of(file)
    config = composed(f"{group}={file.stem}", *(["algorithm=gpt"] if "/" in group else []))
    return OmegaConf.to_container(OmegaConf.select(config, group.replace("/", ".")), resolve=True)


def class_of(file: Path) -> type:
    module, name = re.search(r"^# -> (\S+)\.py: (\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE).groups()
    return getattr(importlib.import_module(module.replace("/", ".")), name)


def defaults_of(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A class's defaults as plain containers; `values` fill the fields that have none."""
    required = {f.name: values[f.name] for f in fields(cls) if f.default is f.default_factory is MISSING}
    return asdict(cls(**required))


def parents(file: Path) -> list[Path]:
    """The files of its own group that a file inherits from."""
    listed = yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", [])
    return [file.with_name(f"{name}.yaml") for name in listed if isinstance(name, str) and name != "_self_"]


def own_leaves(file: Path) -> dict[str, Any]:
    body = yaml.safe_load(file.read_text(encoding="utf-8"))
    return dict(leaves({key: value for key, value in body.items() if key != "defaults"}))


def test_one_file_states_the_defaults_of_a_class() -> None:
    """Catches a default that differs between the class, which tests and Python use, and the command line."""
    stating: dict[type, list[str]] = {class_of(file): [] for file in FILES}
    for file in FILES:
        cls, values = class_of(file), values_of(file)
        if defaults_of(cls, values) == values:
            stating[cls].append(f"{group_of(file)}/{file.stem}")
    assert {cls.__name__: found for cls, found in stating.items() if len(found) != 1} == {}


@pytest.mark.parametrize("name", ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"])
def test_a_method_without_arguments_is_the_one_of_the_command_line(name: str) -> None:
    """Catches a backbone, an optimiser or a decoder that Python code gets and the command line does not."""
    cls = look_up(ALGORITHMS, name, "algorithm.name").config_class
    assert build(cls, composed(f"algorithm={name}").algorithm, "algorithm") == cls()


@pytest.mark.parametrize(
    ("override", "key", "cls"),
    [
        ("logger=wandb", "logger.wandb", WandbConfig),
        ("algorithm=diffusion_flow_reference", "algorithm.flow", VelocityFlowConfig),
    ],
)
def test_parts_that_a_default_lacks_have_theirs(override: str, key: str, cls: type) -> None:
    """Catches the same for classes that no file fills on its own."""
    assert build(cls, OmegaConf.select(composed(override), key), key) == cls()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{group_of(file)}/{file.stem}")
def test_a_file_holds_what_differs_and_explains_its_keys(file: Path) -> None:
    """Catches a value that is said twice along a line of inheritance, and a key that a reader must look up in code."""
    own, inherited = own_leaves(file), {}
    for parent in parents(file):
        inherited |= dict(leaves(values_of(parent)))
    assert {key: value for key, value in own.items() if key in inherited and inherited[key] == value} == {}
    explained, todo = set(), [file]
    while todo:
        text, todo = todo[-1].read_text(encoding="utf-8"), [*todo[:-1], *parents(todo[-1])]
        explained |= set(re.findall(r"^ *(\w+):[^#\n]*#", text, re.MULTILINE))
    keys = re.findall(
        r"^ *(\w+): *[^#\s]",
        file.read_text(encoding="utf-8").partition("_self_")[2] or file.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert set(keys) - explained == set()


@pytest.mark.parametrize("name", choices("dataset"))
def test_datasets_convert(name: str, tmp_path: Path) -> None:
    """Catches a dataset file with values that DatasetConfig refuses, or a corpus without its file."""
    path = [f"dataset.path={tmp_path}"] if name in ("text_file", "documents", "openwebtext") else []
    made = build(DatasetConfig, composed(f"dataset={name}", *path).dataset, "dataset")
    assert made.name == ("documents" if name == "openwebtext" else name)
    assert set(CORPORA) <= set(choices("dataset"))
    build(DatasetConfig, composed(f"dataset={name}", *path, "dataset.tokenizer=bpe").dataset, "dataset")
