"""What is computed for a row of a scheduling matrix: the whole window, or the tokens in flight alone.

`WholeWindow` runs any denoiser over the last `block_size` positions, as the original does. `TokenPosterior` asks a
ShiftedDenoiser: final tokens are read once and kept as keys and values, and only the tokens in flight are computed
again. B batch, W window, n tokens in flight, C embedding channels, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.backbone import KVCache
from algorithms.common.sampling import context_start, sample_tokens
from algorithms.diffusion_forcing.decoding.scheduling_matrix import widest_flight
from algorithms.diffusion_forcing.models import NeighbourStates, ShiftedDenoiser
from algorithms.diffusion_forcing.models.embeddings import token_logits
from algorithms.diffusion_forcing.process.gaussian import Predict, Sampler, channel_logits


@dataclass(frozen=True)
class MatrixStep:
    """A step from one matrix row to the next, in a window of positions: the first `final` of them are finished, the
    last in flight is `last`; `known` (B, W) are at level 0 already, `finishing` (B, W) reach it now, `decided` (B, W)
    are there or move, so that a token is drawn for them. `uniform` (B, W), float64, decides which. `finishes` says, on
    the CPU, whether any does."""

    final: int
    last: int
    known: Tensor
    finishing: Tensor
    decided: Tensor
    uniform: Tensor | None
    finishes: bool


class Posterior(ABC):
    """What a network says of the tokens of a row, while the loop tells it which ones are final.

    `forwards` counts passes of the network, `token_forwards` the tokens in them, over the batch.
    """

    block_size: int  # tokens that guidance sees at once
    knows_final = False  # it estimates the tokens in flight alone; guidance sees final ones as they are
    draws_tokens = False  # it needs the uniforms of a row
    lookahead = 0  # known text behind the flight is read as far as that from the first unfinished position
    forwards = 0
    token_forwards = 0

    def check(self, matrix: Tensor) -> None:
        """Raise ValueError unless the rows of a matrix (rows, horizon) fit: all tokens of a chunk are seen at once."""
        if (horizon := matrix.size(1)) > self.block_size:
            raise ValueError(
                f"{horizon} tokens at once do not fit the window of {self.block_size}: set chunk_size to at most "
                f"{self.block_size}"
            )

    @abstractmethod
    def window(self, final: int, last: int, end: int) -> slice:
        """The positions to compute, where `final` come before the first unfinished one, `last` is the last in flight
        and `end` the end of the chunk."""

    @abstractmethod
    def estimate(self, x: Tensor, levels: Tensor, row: MatrixStep) -> Tensor:
        """The network's output (B, W, C), as the process's objective reads it, for x (B, W, C) at levels (B, W)."""

    def commit(self, x: Tensor, noise: Tensor | None) -> None:  # noqa: B027
        """x (B, n, C) are the next final tokens; `noise` (B, n, C), if any, is what they are shown in from now on."""

    def offset(self, window: slice) -> Tensor | None:
        """What the network's x0 holds beside the tokens at these positions: (W, C)."""
        return None


def make_posterior(denoiser: Any, sampler: Sampler, decoder: Any) -> Posterior:
    """The Posterior that fits what a Denoiser predicts, with the settings of a MatrixDecoder; for one call of it."""
    if denoiser.predicts_tokens:
        return TokenPosterior(denoiser, sampler, decoder)
    return WholeWindow(denoiser, denoiser.block_size, denoiser.positions)


class WholeWindow(Posterior):
    """`denoiser` over the last block_size positions at every row; its `positions(length)`, if any, are in its x0."""

    def __init__(self, denoiser: Predict, block_size: int, positions: Callable[[int], Tensor] | None = None) -> None:
        self.denoiser, self.block_size, self.positions = denoiser, block_size, positions

    def window(self, final: int, last: int, end: int) -> slice:
        return slice(max(0, end - self.block_size), end)

    def offset(self, window: slice) -> Tensor | None:
        return None if self.positions is None else self.positions(window.stop - window.start)

    def estimate(self, x: Tensor, levels: Tensor, row: MatrixStep) -> Tensor:
        self.forwards += 1
        self.token_forwards += levels.numel()
        return self.denoiser(x, levels)


class TokenPosterior(Posterior):
    """Posterior means, or embeddings of tokens drawn from the posterior, of a ShiftedDenoiser.

    A reverse step towards a drawn token is an exact draw of q(z_next | z) = sum_v p(v | z) q(z_next | z, e_v), for a
    step of any size; towards the mean it is one only in the limit of small steps.

    Beyond block_size tokens the context jumps by half of that at a time and is read anew, as a GPT's does here; with
    `sliding` every token sees the last block_size ones, and nothing is read twice.
    """

    knows_final = True

    def __init__(self, denoiser: ShiftedDenoiser, sampler: Sampler, decoder: Any) -> None:
        self.denoiser, self.process, self.decoder = denoiser, sampler.process, decoder
        self.draws_tokens = decoder.token_draw != "mean"
        self.block_size, self.lookahead = denoiser.block_size, denoiser.reads_right
        self.table = denoiser.table().detach()  # (V, C)
        self.read = self.table.new_zeros(0)  # (B, n, n_embd): all final tokens, as the backbone reads them
        self.start = 0  # the first of them in the context
        self.cache: KVCache | None = None
        self.state: Tensor | None = None  # (B, 1, n_embd), after the last final token
        self.estimates: tuple[int, Tensor] | None = None  # those of the last row, from a position on

    def check(self, matrix: Tensor) -> None:
        if not self.decoder.use_cache:
            super().check(matrix)
        elif (flight := widest_flight(matrix)) > self.block_size:
            raise ValueError(
                f"{flight} tokens in flight do not fit the context of {self.block_size}: raise uncertainty_scale, or "
                "set chunk_size"
            )

    def window(self, final: int, last: int, end: int) -> slice:
        if self.decoder.use_cache:
            return slice(final, last + 1)
        return slice(max(0, end - self.block_size - 1), end)  # the last one is not read, and a final one is before all

    def commit(self, x: Tensor, noise: Tensor | None) -> None:
        denoiser = self.denoiser
        if self.decoder.stabilization_level == 0:
            read = denoiser.model.wte(token_logits(x, self.table).argmax(-1))
        else:
            levels = torch.full(x.shape[:2], self.decoder.stabilization_level - 1, device=x.device)
            shown = self.process.q_sample(x, levels, torch.zeros_like(x) if noise is None else noise)
            abar = self.process.alphas_cumprod[levels]
            read = denoiser.read_noisy(shown, abar, channel_logits(shown, abar, self.table))
        self.read = torch.cat([self.read, read], dim=1)

    def estimate(self, x: Tensor, levels: Tensor, row: MatrixStep) -> Tensor:
        """x0 (B, W, C); zero outside of the tokens in flight."""
        denoiser, n = self.denoiser, row.last + 1 - row.final
        z = x[:, row.final :]
        abar = self.process.alphas_cumprod[levels[:, row.final :]]
        channel = channel_logits(z, abar, self.table)
        alone = channel.size(1) == 1  # nobody reads the noisy value of a single token
        noisy = self.read[:, :1] if alone else denoiser.read_noisy(z, abar, channel)
        right = denoiser.read_right(noisy[:, :n])
        if denoiser.self_conditioning and not alone:
            noisy = denoiser.read_noisy(z, abar, channel + self._last_estimates(channel))
        states = self._cached_states(noisy) if self.decoder.use_cache else self._all_states(noisy, x.size(1))
        if denoiser.self_conditioning:
            self.estimates = (self.read.size(1), denoiser.head(states[:, :n]).detach())
        x0 = self._x0(states[:, :n], right, channel[:, :n], row)
        return F.pad(x0, (0, 0, row.final, x.size(1) - row.last - 1))

    def _last_estimates(self, like: Tensor) -> Tensor:
        """What the last row's pass said of the tokens from the first unfinished one on, from their past: like (B, n,
        V), 0 for those that were not in flight."""
        found = torch.zeros_like(like)
        if self.estimates is not None:
            then, logits = self.estimates
            kept = logits[:, self.read.size(1) - then :][:, : like.size(1)]
            found[:, : kept.size(1)] = kept
        return found

    def _x0(self, past: Tensor, right: NeighbourStates | None, channel: Tensor, row: MatrixStep) -> Tensor:
        """What is stepped towards (B, n, C), from the states before the tokens (B, n, n_embd) and their channels."""
        draw = self.decoder.token_draw
        if draw == "chain":
            return F.embedding(self._chain(past, right, channel, row), self.table)
        flight = slice(row.final, row.last + 1)
        logits = self._target(self.denoiser.head(past, right), row.known[:, flight]) + channel  # (B, n, V)
        mean = None if draw == "sample" else logits.softmax(-1) @ self.table
        if mean is not None and (draw == "mean" or not row.finishes):
            return mean
        assert row.uniform is not None
        drawn = F.embedding(sample_tokens(logits, row.uniform[:, flight]), self.table)
        return drawn if mean is None else torch.where(row.finishing[:, flight, None], drawn, mean)

    def _chain(self, past: Tensor, right: NeighbourStates | None, channel: Tensor, row: MatrixStep) -> Tensor:
        """Tokens (B, n) drawn one after the other, each given the one before it, without another pass."""
        assert row.uniform is not None
        uniform, decided, known = (each[:, row.final :] for each in (row.uniform, row.decided, row.known))
        tokens: list[Tensor] = []
        for i in range(past.size(1)):
            one = slice(i, i + 1)
            left = self.denoiser.left(tokens[-1], decided[:, i - 1 : i]) if tokens else None
            beside = None if right is None else NeighbourStates(right.states[:, one], right.where[one])
            logits = self._target(self.denoiser.head(past[:, one], beside, left), known[:, one]) + channel[:, one]
            tokens.append(sample_tokens(logits, uniform[:, one]))
        return torch.cat(tokens, dim=1)

    def _target(self, logits: Tensor, known: Tensor) -> Tensor:
        """What tokens follow, by the decoder's settings, given all but their own channels: from the network's logits
        (B, n, V). Tokens that are `known` (B, n) may be some that would never be drawn."""
        target = self.decoder.target(logits)
        return torch.where(known[..., None], logits, target) if self.decoder.restricts else target

    def _cached_states(self, noisy: Tensor) -> Tensor:
        """States (B, W, n_embd) of the last final token and of all in flight, noisy (B, W, n_embd), but the last."""
        backbone, noisy = self.denoiser.model.backbone, noisy[:, :-1]
        if not self.decoder.sliding:
            final = self.read.size(1)
            start = max(self.start, min(context_start(final + noisy.size(1), self.block_size), final - 1))
            if start != self.start:
                self.start, self.cache = start, None
        if self.cache is None:
            self.cache = backbone.new_cache(sliding=self.decoder.sliding)
        new = self.read[:, self.start + self.cache.length :]
        n = new.size(1)
        h = torch.cat([new, noisy], dim=1)
        if h.size(1):
            self._count(h)
            h = backbone(backbone.add_positions(h, self.cache.length), cache=self.cache, keep=n)
        if n:
            self.state = h[:, n - 1 : n].detach()
        assert self.state is not None
        return torch.cat([self.state, self.denoiser.refine(h[:, n:])], dim=1)

    def _all_states(self, noisy: Tensor, width: int) -> Tensor:
        """The same by a pass over the whole window, what is not begun included."""
        backbone = self.denoiser.model.backbone
        final = width - noisy.size(1)
        h = torch.cat([self.read[:, self.read.size(1) - final :], noisy[:, :-1]], dim=1)
        self._count(h)
        h = backbone(backbone.add_positions(h))
        return torch.cat([h[:, final - 1 : final], self.denoiser.refine(h[:, final:])], dim=1)

    def _count(self, h: Tensor) -> None:
        self.forwards += 1
        self.token_forwards += h.size(0) * h.size(1)
