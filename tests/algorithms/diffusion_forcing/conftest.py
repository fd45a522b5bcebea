"""Doubles for the tests of Diffusion Forcing: the reference values, and denoisers whose outputs are known.

tests/golden/diffusion_forcing.npz holds outputs of the original program, time first; `Golden` turns them
batch first. Shapes: B batch, T tokens, C channels, V vocabulary.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.diffusion_forcing.decoding.posterior import MatrixStep, TokenPosterior

GOLDEN = Path(__file__).parents[2] / "golden" / "diffusion_forcing.npz"


class Golden:
    """Reference cases by kind and number."""

    def __init__(self) -> None:
        self.arrays = np.load(GOLDEN)
        self.cases: dict[str, dict[str, Any]] = {entry["case"]: entry for entry in json.loads(str(self.arrays["meta"]))}

    def names(self, prefix: str) -> list[str]:
        """Names of the arrays below `prefix`."""
        return [name.removeprefix(prefix) for name in self.arrays.files if name.startswith(prefix)]

    def raw(self, name: str) -> Tensor:
        """One array as it was stored."""
        return torch.from_numpy(self.arrays[name])

    def batch_first(self, case: str) -> dict[str, Tensor]:
        """All arrays of a case; (T, B, ...) becomes (B, T, ...), draws (N, T, B, C) become (N, B, T, C)."""
        tensors = {name: self.raw(f"{case}/{name}") for name in self.names(f"{case}/")}
        axes = {"W": None, "b": None, "noise": 1 if "curr" in tensors else 0}
        for name, tensor in tensors.items():
            axis = axes.get(name, 0)
            if axis is not None:
                tensors[name] = tensor.transpose(axis, axis + 1).contiguous()
        return tensors


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


class CumulativeMeanDenoiser:
    """The causal toy network of the reference values: 2 tanh(cummean(x) @ W + x / 2 + (k / timesteps) b)."""

    def __init__(self, weight: Tensor, bias: Tensor, timesteps: int) -> None:
        self.weight, self.bias, self.timesteps = weight, bias, timesteps
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, noise_levels: Tensor) -> Tensor:
        self.seen.append((x.detach().clone(), noise_levels.clone()))
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        mean = x.cumsum(dim=1) / count
        level = (noise_levels / self.timesteps)[..., None]
        return 2 * torch.tanh(mean @ self.weight + 0.5 * x + level * self.bias)


@pytest.fixture(scope="session")
def toy() -> Callable[..., CumulativeMeanDenoiser]:
    """Make the toy network, by default with fixed random weights for C = 4."""

    def make(weight: Tensor | None = None, bias: Tensor | None = None, timesteps: int = 32) -> CumulativeMeanDenoiser:
        generator = torch.Generator().manual_seed(0)
        random_weight = torch.randn(4, 4, generator=generator) / 2
        random_bias = torch.randn(4, generator=generator)
        return CumulativeMeanDenoiser(
            random_weight if weight is None else weight, random_bias if bias is None else bias, timesteps
        )

    return make


class PosteriorMean:
    """The exact denoiser of independent tokens, e_v of `table` (V, C) with probability prior_v: x0_hat = E[x0
    | x]."""

    def __init__(self, table: Tensor, prior: Tensor, alphas_cumprod: Tensor) -> None:
        self.table, self.prior, self.alphas_cumprod = table, prior, alphas_cumprod

    def __call__(self, x: Tensor, noise_levels: Tensor) -> Tensor:
        abar = self.alphas_cumprod[noise_levels][..., None]
        logits = (abar.sqrt() * (x @ self.table.T) - abar * self.table.square().sum(-1) / 2) / (1 - abar)
        return (logits + self.prior.log()).softmax(-1) @ self.table


@pytest.fixture(scope="session")
def posterior_mean() -> type[PosteriorMean]:
    return PosteriorMean


class Recorded(NamedTuple):
    """A row as a TokenPosterior was asked for it: itself, x (B, W, C) at levels (B, W), and its answer (B, W, C)."""

    posterior: TokenPosterior
    x: Tensor
    levels: Tensor
    x0: Tensor


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Every row that any TokenPosterior is asked for from now on."""
    calls: list[Recorded] = []
    plain = TokenPosterior.estimate

    def estimate(self: TokenPosterior, x: Tensor, levels: Tensor, row: MatrixStep) -> Tensor:
        calls.append(Recorded(self, x, levels, plain(self, x, levels, row)))
        return calls[-1].x0

    monkeypatch.setattr(TokenPosterior, "estimate", estimate)
    return calls
