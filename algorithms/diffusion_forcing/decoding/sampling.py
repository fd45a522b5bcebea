"""The one decoding loop of Diffusion Forcing: chunks, a sliding window, a scheduling matrix row by row.

Source: arXiv:2407.01392, algorithm 2. Prompt, infilling and free generation are one call with other given
positions; what is computed for a row, the context decides. Shapes: B batch, L all tokens, W window, C channels; levels
0 (clean) to S = sampling_timesteps (noise).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from algorithms.diffusion_forcing.decoding.posterior import Context, Row
from algorithms.diffusion_forcing.diffusion import Diffusion, Score


class Source(Protocol):
    """Random draws by row: row i depends on its own seed alone."""

    def normal(self, *shape: int) -> Tensor:
        """The next draw, (B, *shape) float32."""

    def uniform(self, *shape: int) -> Tensor:
        """The next draw from [0, 1), (B, *shape) float64."""


class Sampled(NamedTuple):
    """Embeddings x (B, L, C) and steps from one matrix row to the next; what they cost, the context knows."""

    x: Tensor
    steps: int


class TokenDraws:
    """The random numbers of every token, drawn when it is begun: they depend on its position and level alone, not on
    what is computed beside it."""

    def __init__(self, source: Source, like: Tensor, levels: int, *, normal: bool, uniform: bool) -> None:
        self.source, self.like, self.levels = source, like, levels
        self.has_normal, self.has_uniform = normal and levels > 1, uniform
        self.normals: dict[int, Tensor] = {}  # (B, S - 1, C), by position: the step to level 0 has no noise
        self.uniforms: dict[int, Tensor] = {}  # (B, S)

    def begin(self, position: int) -> None:
        if self.has_normal:
            self.normals[position] = self.source.normal(self.levels - 1, self.like.size(2)).to(self.like)
        if self.has_uniform:
            self.uniforms[position] = self.source.uniform(self.levels).to(self.like.device)

    def end(self, position: int) -> None:
        self.normals.pop(position, None)
        self.uniforms.pop(position, None)

    def normal(self, window: slice, levels: Tensor) -> Tensor:
        """Noise (B, W, C) of the step from levels (B, W), 0 where there is none."""
        noise = torch.zeros_like(self.like[:, window])
        rows = torch.arange(len(levels), device=levels.device)
        for position in range(window.start, window.stop):
            if position in self.normals:
                level = levels[:, position - window.start]
                drawn = self.normals[position][rows, (level - 2).clamp(min=0)]
                noise[:, position - window.start] = torch.where((level > 1)[:, None], drawn, 0.0)
        return noise

    def uniform(self, window: slice, levels: Tensor) -> Tensor:
        """Uniforms (B, W) of the step from levels (B, W)."""
        rows = torch.arange(len(levels), device=levels.device)
        found = [
            self.uniforms[position][rows, (levels[:, position - window.start] - 1).clamp(min=0)]
            if position in self.uniforms
            else levels.new_zeros(len(levels), dtype=torch.float64)
            for position in range(window.start, window.stop)
        ]
        return torch.stack(found, dim=1)


@torch.no_grad()
def sample(
    diffusion: Diffusion,
    x: Tensor,
    given: Tensor,
    *,
    matrix: Callable[[int], Tensor],
    source: Source,
    chunk_size: int | None = None,
    draws_tokens: bool = False,
    guidance_fn: Score | None = None,
    on_row: Callable[[Tensor, Tensor, int], None] | None = None,
) -> Sampled:
    """Fill in the positions of x (B, L, C) that are not `given` (B, L) bool; the given ones stay as they are.

    `diffusion.denoiser` is a Context. The columns given in every row at the start are the prompt. After it, chunks of
    `chunk_size` positions (None: all the rest at once) start as noise and follow `matrix(horizon)` (rows, horizon); a
    given position of a chunk is at level 0 throughout. A position is final, and told to the context, once it and all
    before it are at level 0 in every row. `draws_tokens`: the context needs uniforms.

    What the context's x0 holds beside the token, such as learned positions, only its window has: x here, in
    `guidance_fn(x0_hat (B, W, C))`, in `on_row` and in the result is free of it. `on_row(x (B, L, C), levels (B, L),
    forwards)` sees every row of each chunk's matrix, the first being its noise, and the passes so far; positions whose
    chunk has not begun are 0, at level S. Raises ValueError where a chunk does not fit the context.
    """
    context = cast(Context, diffusion.denoiser)
    _B, total = given.shape
    S = diffusion.sampling_timesteps
    prompt = int(given.all(dim=0).long().cumprod(dim=0).sum())
    horizon = max(1, total - prompt if chunk_size is None else min(chunk_size, total - prompt))
    x = torch.where(given[..., None], x, 0.0)
    levels = torch.where(given, 0, S)  # (B, L)
    silent = diffusion.is_ddim_sampling and diffusion.ddim_eta == 0
    draws = TokenDraws(source, x, S, normal=not silent, uniform=draws_tokens)
    noisy_context = diffusion.stabilization_level > 0 and not diffusion.is_ddim_sampling
    shown = torch.zeros_like(x) if noisy_context else None  # the noise in which final tokens are shown

    def commit(begin: int, end: int) -> None:
        if shown is not None:
            shown[:, begin:end] = source.normal(end - begin, x.size(2)).to(x)
        if end > begin:
            context.commit(x[:, begin:end], None if shown is None else shown[:, begin:end])

    commit(0, prompt)
    final, steps = prompt, 0
    for begin in range(prompt, total, horizon):
        end = min(begin + horizon, total)
        chunk = slice(begin, end)
        start = source.normal(end - begin, x.size(2)).to(x).clamp(-diffusion.clip_noise, diffusion.clip_noise)
        rows = matrix(end - begin)
        context.check(rows)
        whole = context.window(begin, end - 1, end)
        beside = context.offset(whole)
        if beside is not None:
            start = start - beside[begin - whole.start :].to(x)
        x[:, chunk] = torch.where(given[:, chunk, None], x[:, chunk], start)
        for row, row_levels in enumerate(rows.to(x.device)):
            following = levels.clone()
            following[:, chunk] = torch.where(given[:, chunk], 0, row_levels)
            moving = torch.nonzero((following != levels).any(dim=0)).flatten().tolist()
            begun = (rows[max(0, row - 1)] == S) & (rows[row] < S)  # given ones as well: a row's draws are its own
            for position in torch.nonzero(begun).flatten().tolist():
                draws.begin(begin + position)
            if row == 0:
                levels = following
            elif moving:
                x = _step(diffusion, x, levels, following, (final, moving[-1], end), draws, shown, guidance_fn)
                levels = following
                steps += 1
                done = int((levels[:, final:end] == 0).all(dim=0).long().cumprod(dim=0).sum())
                commit(final, final + done)
                final += done
            if on_row is not None:
                on_row(x.clone(), levels.clone(), context.forwards)
        commit(final, end)  # what a matrix leaves above level 0 is context from here on, too
        for position in range(begin, end):
            draws.end(position)
        final = end
        levels[:, :end] = 0
    return Sampled(x, steps)


def _step(
    diffusion: Diffusion,
    x: Tensor,
    levels: Tensor,
    following: Tensor,
    bounds: tuple[int, int, int],
    draws: TokenDraws,
    shown: Tensor | None,
    guidance_fn: Score | None,
) -> Tensor:
    """x (B, L, C) taken from one row to the next; `bounds`: the first unfinished position, the last that moves, the end
    of the chunk."""
    context = cast(Context, diffusion.denoiser)
    final, last, end = bounds
    while last + 1 < x.size(1) and last + 1 - final < context.lookahead and not bool(levels[:, last + 1].any()):
        last += 1  # known text behind the flight
    window = context.window(final, last, max(end, last + 1))
    now, then = levels[:, window], following[:, window]
    uniform = draws.uniform(window, now) if draws.has_uniform else None
    context.place(
        Row(final - window.start, last - window.start, (then == 0) & (now > 0), (now == 0) | (then < now), uniform)
    )
    noises = [draws.normal(window, now)]
    if not diffusion.is_ddim_sampling:  # asks for that of the context first
        noises.insert(0, torch.zeros_like(noises[0]) if shown is None else shown[:, window])
    waiting = iter(noises)
    beside = context.offset(window)
    score = guidance_fn if guidance_fn is None or beside is None else _without(beside, guidance_fn)
    if guidance_fn is not None and context.knows_final:
        known = x[:, max(0, last + 1 - context.block_size) : final]
        score = _behind(known, slice(final - window.start, last + 1 - window.start), guidance_fn)
    old = x[:, window] if beside is None else x[:, window] + beside
    new = diffusion.sample_step(old, now, then, guidance_fn=score, noise_fn=lambda like: next(waiting))
    x = x.clone()
    x[:, window] = torch.where((now == then)[..., None], x[:, window], new if beside is None else new - beside)
    return x


def _without(offset: Tensor, guidance_fn: Score) -> Score:
    return lambda x0_hat: guidance_fn(x0_hat - offset)


def _behind(known: Tensor, flight: slice, guidance_fn: Score) -> Score:
    """Shows the score the final tokens, known (B, n, C), as they are, and what is in flight behind them."""
    return lambda x0_hat: guidance_fn(torch.cat([known, x0_hat[:, flight]], dim=1))
