"""What every network of Diffusion Forcing LM can be asked; the noise process is handed in where it is needed.

B batch, T tokens, N tokens in question, C embedding channels, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from algorithms.common.head import chunk_rows
from algorithms.common.likelihood import Likelihood
from algorithms.common.randomness import Source, draw_rows
from algorithms.diffusion_forcing.models.embeddings import TokenTable
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess
from algorithms.diffusion_forcing.process.row_mixture import sample_noise_levels


class NeighbourStates(NamedTuple):
    """What is known beside the past: states (B, N, n_embd), 0 where it is not; where (..., N, 1) bool."""

    states: Tensor
    where: Tensor


class Windows(NamedTuple):
    """Where N noisy tokens stand: positions (N,) in the text, the first of each one's window (N,), and the tokens of a
    stretch, where one lies as the other and none is left by a window."""

    positions: Tensor
    begins: Tensor
    stretch: int | None = None


class Draws(NamedTuple):
    """What chance decides in a training step on noisy rows: levels (B, N), noise (B, N, C), and whether the network
    reads its own estimates."""

    levels: Tensor
    noise: Tensor
    again: bool = False


class Losses(NamedTuple):
    """Parts of the loss by name, `ce`, nats per token, or two of them, and `mse`, the weighted squared error, where the
    loss weighs it; beside them, where the process asks for that, levels (B, N) of tokens and their nats (B, N) given
    all that is known."""

    parts: dict[str, Tensor]
    observed: tuple[Tensor, Tensor] | None = None


def over_rows(function: Callable[..., Tensor], vocabulary: int, *rows: Tensor) -> Tensor:
    """`function` (R, ...) of rows (R, ...) that each take V numbers on the way; where these would be many, in pieces
    that are computed again on the way back, so that they are never held at once."""
    size = chunk_rows(vocabulary)
    if size >= len(rows[0]):
        return function(*rows)
    pieces = zip(*(one.split(size) for one in rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([function(*piece) for piece in pieces])
    options: Any = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(function, *piece, **options) for piece in pieces])


class Denoiser(nn.Module, ABC):
    """A network over token embeddings, of which each may be noisy in its own way.

    Where it `predicts_tokens`, a decoder asks for the logits of next tokens, as ShiftedDenoiser has them; where not, it
    calls the network with embeddings x (B, T, C) at levels (B, T).
    """

    likelihood_kind: ClassVar[str] = "exact"
    predicts_tokens: ClassVar[bool] = True
    of_noise: tuple[str, ...] = ()  # parts of the loss that a step on clean texts alone leaves out
    interval = 1  # steps from one with noise to the next; those between are on clean texts alone
    reads_right = 0  # tokens of a window that may be read from right to left
    chains = False  # whether a token can be told the one just drawn before it
    table: TokenTable
    block_size: int  # tokens that it sees at once

    def __init__(self, config: Any) -> None:
        """From a DFLMConfig."""
        super().__init__()
        self.rows = config.rows  # what noisy rows look like in training
        self.squared_error = config.mse_weight > 0
        self.weights = {"ce": config.ce_weight, "mse": config.mse_weight}  # in the loss, of its parts

    def embed(self, ids: Tensor) -> Tensor:
        """Clean embeddings x0 (B, T, C) of ids (B, T)."""
        return F.embedding(ids, self.table())

    def draw_levels(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Levels (B, T) of a training batch of ids (B, T), in the rows of the mixture."""

        def levels(rows: int, g: torch.Generator) -> Tensor:
            options = {"timesteps": process.timesteps, "mixture": self.rows, "generator": g}
            return sample_noise_levels(rows, ids.size(1), **options)

        return draw_rows(generator, len(ids), levels)

    def draw(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> Any:
        """The draws of `losses` on ids (B, T + 1)."""
        levels = self.draw_levels(process, ids, generator)
        return Draws(levels, process.draw_noise((*ids.shape, self.table.dim), generator))

    @abstractmethod
    def losses(self, process: GaussianProcess, ids: Tensor, draws: Any) -> Losses:
        """The loss of ids (B, T + 1) in noisy rows: a pure function of weights and arguments."""

    def noise_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that clean texts do not train: none, where every step has noise."""
        return ()

    @abstractmethod
    def nll(self, process: GaussianProcess, ids: Tensor, generator: Source) -> Tensor:
        """Nats of ids[:, 1:] (B, T) on the autoregressive schedule, of the kind `likelihood_kind`."""

    @abstractmethod
    def estimate(self, process: GaussianProcess, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """Estimated embeddings (B, T, C) of ids[:, 1:], of ids (B, T + 1) seen as x (B, T + 1, C) at `levels`."""

    def likelihoods(self, process: GaussianProcess) -> dict[str, Likelihood]:
        """Every likelihood that it can state, by name."""
        return {"nll": Likelihood(self.likelihood_kind, partial(self.nll, process))}
