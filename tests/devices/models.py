"""Small models of every method with uneven weights, on the CPU and on a simulated device. V vocabulary."""

import copy
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from algorithms.common.base_algorithm import BaseAlgorithm
from experiments.run.build import build
from experiments.run.folder import CONFIGS
from experiments.run.registry import ALGORITHMS, look_up

V = 13
METHODS = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))
DECODERS = sorted(path.stem for path in (CONFIGS / "algorithm" / "decoder").glob("*.yaml"))
BACKBONE = ["n_layer=1", "n_head=2", "n_embd=16", "block_size=20"]
SMALL = [f"algorithm.backbone.{size}" for size in BACKBONE]
SMALL_FORCING = [*SMALL, "algorithm.streams.max_window=4", "algorithm.diffusion.timesteps=4"]
FORCING = [method for method in METHODS if method.startswith("df_lm")]


@cache
def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides)).algorithm


def configured(method: str, *overrides: str, decoder: str | None = None) -> Any:
    """The config of a small model; ValueError for a decoder that is not of this method."""
    sizes = SMALL_FORCING if method in FORCING else SMALL
    config = composed(f"algorithm={method}", *sizes, *overrides).copy()
    if decoder is not None:
        config.decoder = composed("algorithm=gpt", f"algorithm/decoder={decoder}").decoder
    for steps in {"sampling_timesteps", "steps"} & config.decoder.keys():
        if config.decoder[steps] is not None:
            config.decoder[steps] = min(config.decoder[steps], 4)  # as good as many, and sooner done
    cls = look_up(ALGORITHMS, config.name, "algorithm.name")
    return cls, build(cls.config_class, OmegaConf.create(OmegaConf.to_container(config)), "algorithm")


@cache
def cpu_model(method: str, *overrides: str) -> BaseAlgorithm:
    """A small model whose weights are as uneven as those of a trained one, and none of them zero."""
    cls, config = configured(method, *overrides)
    model = cls(config, vocabulary_size=V, total_steps=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def on_device(model: BaseAlgorithm, kind: str) -> BaseAlgorithm:
    return copy.deepcopy(model).to(torch.device(kind, 0))


def batch(rows: int = 3) -> torch.Tensor:
    """ids (B, T + 1)."""
    return torch.randint(V, (rows, 21), generator=torch.Generator().manual_seed(1))


def generator_on(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(2)


def equal(found: torch.Tensor | None, expected: torch.Tensor | None) -> bool:
    """Whether a tensor of any device has these very values."""
    if found is None or expected is None:
        return found is expected
    return torch.equal(found.cpu(), expected)


def precision(kind: str) -> Any:
    """Autocast as trainer.precision=auto has it: bf16 on CUDA, none on MPS."""
    return torch.autocast(kind, dtype=torch.bfloat16) if kind == "cuda" else nullcontext()
