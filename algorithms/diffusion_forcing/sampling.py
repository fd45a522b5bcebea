"""The one decoding loop of Diffusion Forcing: chunks, a sliding window, a scheduling matrix row by row.

Source: arXiv:2407.01392, algorithm 2. Prompt, infilling and free generation are one call with other given
positions. Shapes: B batch, L all tokens, W window, C channels; levels 0 (clean) to S = sampling_timesteps
(noise).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from algorithms.diffusion_forcing.diffusion import Diffusion, Score


class NormalSource(Protocol):
    """Gaussian draws by row: row i depends on its own seed alone."""

    def normal(self, *shape: int) -> Tensor:
        """The next draw, (B, *shape) float32."""


class Sampled(NamedTuple):
    """Embeddings x (B, L, C), steps from one matrix row to the next, and runs of the denoiser."""

    x: Tensor
    steps: int
    forwards: int


@torch.no_grad()
def sample(
    diffusion: Diffusion,
    x: Tensor,
    given: Tensor,
    *,
    matrix: Callable[[int], Tensor],
    noise: NormalSource,
    block_size: int,
    chunk_size: int | None = None,
    guidance_fn: Score | None = None,
    window_offset: Callable[[int, int], Tensor] | None = None,
    on_row: Callable[[Tensor, Tensor, int], None] | None = None,
) -> Sampled:
    """Fill in the positions of x (B, L, C) that are not `given` (B, L) bool; the given ones stay as they are.

    The columns given in every row at the start are the prompt. After it, chunks of `chunk_size` positions
    (None: all the rest at once) start as noise and follow `matrix(horizon)` (rows, horizon), seen in a window
    of the last `block_size` positions; a given position of a chunk is at level 0 throughout.

    `window_offset(start, W)` -> (W, C) is what the denoiser's x0 holds beside the token, such as learned
    positions: only the denoiser's window has it, while x here, in `guidance_fn(x0_hat (B, W, C))`, in
    `on_row` and in the result is free of it, so that a finished token can move along in the window. `on_row(x
    (B, L, C), levels (B, L), forwards)` sees every row of each chunk's matrix, the first being its noise, which
    costs no run of the denoiser, and the runs so far; positions whose chunk has not begun are 0, at level S.
    Raises ValueError where a chunk does not fit the window.
    """
    total = given.shape[1]
    prompt = int(given.all(dim=0).long().cumprod(dim=0).sum())
    horizon = horizon_of(total - prompt, chunk_size, block_size)
    x = torch.where(given[..., None], x, 0.0)
    levels = torch.where(given, 0, diffusion.sampling_timesteps)  # (B, L)
    silent = diffusion.is_ddim_sampling and diffusion.ddim_eta == 0

    def draw(like: Tensor) -> Tensor:
        # The noise of a silent step is multiplied by 0: zeros spare the draws.
        return torch.zeros_like(like) if silent else noise.normal(*like.shape[1:]).to(like)

    steps = 0
    for begin in range(prompt, total, horizon):
        end = min(begin + horizon, total)
        window, chunk = slice(max(0, end - block_size), end), slice(begin, end)
        offset = x.new_zeros(()).expand(end - window.start, x.shape[2])  # (W, C)
        if window_offset is not None:
            offset = window_offset(window.start, end - window.start).to(x)
        score = None if guidance_fn is None else _without(offset, guidance_fn)

        start = noise.normal(end - begin, x.shape[2]).to(x).clamp(-diffusion.clip_noise, diffusion.clip_noise)
        x[:, chunk] = torch.where(given[:, chunk, None], x[:, chunk], start - offset[begin - end :])
        levels[:, :begin] = 0  # what is finished is context, even where a matrix ends above level 0
        for row, row_levels in enumerate(matrix(end - begin).to(x.device)):
            following = levels.clone()
            following[:, chunk] = torch.where(given[:, chunk], 0, row_levels)
            if row > 0:
                now, then = levels[:, window], following[:, window]
                stepped = diffusion.sample_step(x[:, window] + offset, now, then, guidance_fn=score, noise_fn=draw)
                x[:, window] = torch.where((now == then)[..., None], x[:, window], stepped - offset)
                steps += 1
            levels = following
            if on_row is not None:
                on_row(x.clone(), levels.clone(), steps)
    return Sampled(x, steps, forwards=steps)


def _without(offset: Tensor, guidance_fn: Score) -> Score:
    return lambda x0_hat: guidance_fn(x0_hat - offset)


def horizon_of(rest: int, chunk_size: int | None, block_size: int) -> int:
    """Positions begun at a time, when `rest` are left to fill; ValueError if they do not fit a window."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or null for all the rest at once, got {chunk_size}")
    horizon = rest if chunk_size is None else min(chunk_size, rest)
    if horizon > block_size:
        raise ValueError(
            f"{horizon} tokens at once do not fit the window of {block_size}: set chunk_size to at most {block_size}"
        )
    return max(horizon, 1)
