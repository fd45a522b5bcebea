"""The one decoding loop along a scheduling matrix: chunks, a sliding window, row by row.

Source: arXiv:2407.01392, algorithm 2. Prompt, infilling and free generation are one call with other given positions;
what is computed for a row, the posterior decides. B batch, L all tokens, W window, C channels; levels 0 (clean) to
S = sampling_timesteps (noise).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from algorithms.common.device import float64_device
from algorithms.common.randomness import RowRandom
from algorithms.diffusion_forcing.decoding.posterior import MatrixStep, Posterior
from algorithms.diffusion_forcing.process.gaussian import Sampler, Score

OnRow = Callable[[Tensor, Tensor, int], None]
IsOver = Callable[[Tensor, int], bool]


class Sampled(NamedTuple):
    """Embeddings x (B, L, C) and steps from one matrix row to the next; what they cost, the posterior knows."""

    x: Tensor
    steps: int


class TokenDraws:
    """The random numbers of every token, drawn when it is begun: they depend on its position and level alone, not on
    what is computed beside it."""

    def __init__(self, random: RowRandom, like: Tensor, levels: int, *, normal: bool, uniform: bool) -> None:
        self.random, self.like, self.levels = random, like, levels
        self.home = float64_device(like.device)  # of the uniforms
        self.has_normal, self.has_uniform = normal and levels > 1, uniform
        self.normals: dict[int, Tensor] = {}  # (B, S - 1, C), by position: the step to level 0 has no noise
        self.uniforms: dict[int, Tensor] = {}  # (B, S)

    def begin(self, position: int) -> None:
        if self.has_normal:
            self.normals[position] = self.random.normal(self.levels - 1, self.like.size(2)).to(self.like)
        if self.has_uniform:
            self.uniforms[position] = self.random.uniform(self.levels).to(self.home)

    def end(self, position: int) -> None:
        self.normals.pop(position, None)
        self.uniforms.pop(position, None)

    def normal(self, window: slice, levels: Tensor) -> Tensor:
        """Noise (B, W, C) of the step from levels (B, W), 0 where there is none."""
        noise = self._drawn(self.normals, window, levels - 2, torch.zeros_like(self.like[:, 0]))
        return torch.where((levels > 1)[..., None], noise, 0.0)

    def uniform(self, window: slice, levels: Tensor) -> Tensor | None:
        """Uniforms (B, W) of the step from levels (B, W), if any are drawn."""
        if not self.has_uniform:
            return None
        levels = levels.to(self.home)
        return self._drawn(self.uniforms, window, levels - 1, levels.new_zeros(len(levels), dtype=torch.float64))

    def _drawn(self, numbers: dict[int, Tensor], window: slice, index: Tensor, nothing: Tensor) -> Tensor:
        """(B, W, ...): those at index (B, W), `nothing` (B, ...) of a token that has none."""
        rows, places = torch.arange(len(index), device=index.device), range(window.start, window.stop)
        each = zip(places, index.clamp(min=0).T, strict=True)
        return torch.stack([numbers[place][rows, i] if place in numbers else nothing for place, i in each], dim=1)


@torch.no_grad()
def sample(
    sampler: Sampler,
    posterior: Posterior,
    x: Tensor,
    given: Tensor,
    *,
    matrix: Callable[[int], Tensor],
    random: RowRandom,
    chunk_size: int | None = None,
    guidance_fn: Score | None = None,
    on_row: OnRow | None = None,
    is_over: IsOver | None = None,
) -> Sampled:
    """Fill in the positions of x (B, L, C) that are not `given` (B, L) bool; the given ones stay as they are.

    The columns given in every row at the start are the prompt. After it, chunks of `chunk_size` positions (None: all of
    the rest) start as noise and follow `matrix(horizon)` (rows, horizon); a given position of a chunk is at level 0
    throughout. A position is final, and told to the posterior, once it and all before it are at level 0 in every row.

    What the posterior's x0 holds beside the token, such as learned positions, only its window has: x here, in
    `guidance_fn(x0_hat (B, W, C))`, in `on_row` and in the result is free of it. `on_row(x (B, L, C), levels (B, L),
    forwards)` sees every row of each chunk's matrix, the first being its noise, and the passes so far; positions whose
    chunk has not begun are 0, at level S. `is_over(x (B, n, C), final)` hears of the n positions before `final`
    that are final from now on: once it says so, the rest stays as it is.
    """
    known, total = given.cpu(), given.size(1)
    prompt = int(known.all(dim=0).long().cumprod(dim=0).sum())
    horizon = max(1, total - prompt if chunk_size is None else min(chunk_size, total - prompt))
    loop = _Loop(sampler, posterior, x, given, known, random, guidance_fn, on_row, is_over)
    loop.commit(prompt)
    for begin in range(prompt, total, horizon):
        if loop.over:
            break
        end = min(begin + horizon, total)
        loop.chunk(begin, end, matrix(end - begin))
    return Sampled(loop.x, loop.steps)


@dataclass
class _Loop:
    """The state of one call: x (B, L, C) at levels (B, L), of which the first `final` positions are final.

    Matrix and given positions are `known` on the CPU: what moves, and what is done, is read off `plan` (B, L), the
    levels once more, without waiting for the device.
    """

    sampler: Sampler
    posterior: Posterior
    x: Tensor
    given: Tensor
    known: Tensor
    random: RowRandom
    guidance_fn: Score | None
    on_row: OnRow | None
    is_over: IsOver | None = None
    final: int = 0
    steps: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        sampler, S = self.sampler, self.sampler.sampling_timesteps
        self.x = torch.where(self.given[..., None], self.x, 0.0)
        self.levels, self.plan = torch.where(self.given, 0, S), torch.where(self.known, 0, S)
        silent = sampler.is_ddim and sampler.ddim_eta == 0
        self.draws = TokenDraws(self.random, self.x, S, normal=not silent, uniform=self.posterior.draws_tokens)
        noisy_context = sampler.stabilization_level > 0 and not sampler.is_ddim
        self.shown = torch.zeros_like(self.x) if noisy_context else None  # the noise in which final tokens are shown

    def commit(self, end: int) -> None:
        """All positions before `end` are final."""
        new = slice(self.final, end)
        if end > self.final:
            if self.shown is not None:
                self.shown[:, new] = self.random.normal(end - self.final, self.x.size(2)).to(self.x)
            self.posterior.commit(self.x[:, new], None if self.shown is None else self.shown[:, new])
            self.over = self.is_over is not None and self.is_over(self.x[:, new], end)
        self.final = end

    def chunk(self, begin: int, end: int, rows: Tensor) -> None:
        """Take the positions from `begin` to `end` through the rows of a matrix (rows, end - begin)."""
        S, chunk = self.sampler.sampling_timesteps, slice(begin, end)
        noise = self.sampler.process.clamp(self.random.normal(end - begin, self.x.size(2)).to(self.x))
        whole = self.posterior.window(begin, end - 1, end)
        beside = self.posterior.offset(whole)
        if beside is not None:
            noise = noise - beside[begin - whole.start :].to(self.x)
        self.x[:, chunk] = torch.where(self.given[:, chunk, None], self.x[:, chunk], noise)
        for number, row in enumerate(rows.to(self.x.device)):
            following, planned = self.levels.clone(), self.plan.clone()
            following[:, chunk] = torch.where(self.given[:, chunk], 0, row)
            planned[:, chunk] = torch.where(self.known[:, chunk], 0, rows[number])
            moving = torch.nonzero((planned != self.plan).any(dim=0)).flatten().tolist()
            begun = (rows[max(0, number - 1)] == S) & (rows[number] < S)  # given ones, too: a row's draws are its own
            for position in torch.nonzero(begun).flatten().tolist():
                self.draws.begin(begin + position)
            if number == 0:
                self.levels, self.plan = following, planned
            elif moving:
                finishes = bool(((planned == 0) & (self.plan > 0)).any())
                self._step(following, moving[-1], end, finishes)
                self.levels, self.plan = following, planned
                done = int((planned[:, self.final : end] == 0).all(dim=0).long().cumprod(dim=0).sum())
                self.commit(self.final + done)
            if self.on_row is not None:
                self.on_row(self.x.clone(), self.levels.clone(), self.posterior.forwards)
            if self.over:
                return
        self.commit(end)  # what a matrix leaves above level 0 is context from here on, too
        for position in range(begin, end):
            self.draws.end(position)
        self.levels[:, :end] = 0
        self.plan[:, :end] = 0

    def _step(self, following: Tensor, last: int, end: int, finishes: bool) -> None:
        """From one row to the next, `following` (B, L), of which `last` is the last position that moves; whether any
        `finishes` there."""
        posterior, final = self.posterior, self.final
        known = last + 1  # text behind the flight is in it, as far as it is read
        while known < self.x.size(1) and known - final < posterior.lookahead and not bool(self.plan[:, known].any()):
            known += 1
        last = known - 1
        window = posterior.window(final, last, max(end, last + 1))
        now, then = self.levels[:, window], following[:, window]
        uniform = self.draws.uniform(window, now)
        finishing, decided = (then == 0) & (now > 0), (now == 0) | (then < now)
        places = final - window.start, last - window.start
        row = MatrixStep(*places, now == 0, finishing, decided, uniform, finishes)
        noises = [self.draws.normal(window, now)]
        if not self.sampler.is_ddim:  # asks for that of the context first
            noises.insert(0, torch.zeros_like(noises[0]) if self.shown is None else self.shown[:, window])
        waiting = iter(noises)
        beside = posterior.offset(window)
        old = self.x[:, window] if beside is None else self.x[:, window] + beside
        new = self.sampler.step(
            lambda x, levels: posterior.estimate(x, levels, row),
            old,
            now,
            then,
            guidance_fn=self._score(beside, row, last),
            noise_fn=lambda like: next(waiting),
        )
        new = new if beside is None else new - beside
        self.x = self.x.clone()
        self.x[:, window] = torch.where((now == then)[..., None], self.x[:, window], new)
        self.steps += 1

    def _score(self, beside: Tensor | None, row: MatrixStep, last: int) -> Score | None:
        """Guidance on tokens alone, with final ones as they are where the posterior does not estimate them."""
        guidance_fn = self.guidance_fn
        if guidance_fn is None:
            return None
        if self.posterior.knows_final:
            known = self.x[:, max(0, last + 1 - self.posterior.block_size) : self.final]
            flight = slice(row.final, row.last + 1)
            return lambda x0_hat: guidance_fn(torch.cat([known, x0_hat[:, flight]], dim=1))
        return guidance_fn if beside is None else lambda x0_hat: guidance_fn(x0_hat - beside)
