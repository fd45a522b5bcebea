"""Scheduling matrices: the noise level of every position of the horizon, row by row from noise to text.

Source: Diffusion Forcing (arXiv:2407.01392), section 3.3 and algorithm 2. Shape: (rows, horizon), levels 0
(clean) to S = sampling_timesteps (noise); a column falls by at most one level per row.
"""

import math

import torch
from torch import Tensor

from algorithms.diffusion_forcing.process.schedules import check_choice

MODES = ("pyramid", "full_sequence", "autoregressive", "trapezoid", "trapezoid_original")


def scheduling_matrix(mode: str, horizon: int, sampling_timesteps: int, uncertainty_scale: float) -> Tensor:
    """Noise levels by row and position, int64 (rows, horizon); `uncertainty_scale` is the delay of each
    position.

    pyramid: near positions first; full_sequence: all together; autoregressive: one after the other;
    trapezoid: from both ends to the middle; trapezoid_original: that with the faults of the original program,
    for its reference values. Raises ValueError for an unknown mode, a horizon or sampling_timesteps below 1,
    or an uncertainty_scale that is negative or not finite.
    """
    check_choice("scheduling matrix", mode, MODES)
    if horizon < 1:
        raise ValueError(f"the horizon of a scheduling matrix must be at least 1 position, got {horizon}")
    if sampling_timesteps < 1:
        raise ValueError(f"sampling_timesteps must be at least 1, got {sampling_timesteps}")
    if not 0 <= uncertainty_scale < math.inf:
        raise ValueError(f"uncertainty_scale must be a finite number from 0 up, got {uncertainty_scale}")

    position = torch.arange(horizon)
    if mode == "full_sequence":
        delay = torch.zeros_like(position)
    elif mode == "autoregressive":
        delay = position * sampling_timesteps
    elif mode == "pyramid":
        delay = _whole(position, uncertainty_scale)
    elif mode == "trapezoid":
        delay = _whole(torch.minimum(position, horizon - 1 - position), uncertainty_scale)
    else:
        return _trapezoid_original(position, sampling_timesteps, uncertainty_scale)
    return _staircase(delay, sampling_timesteps + int(delay.max()) + 1, sampling_timesteps)


def widest_flight(matrix: Tensor) -> int:
    """The most tokens, from the first unfinished one to the last that moves, in a step of `matrix` (rows, horizon)."""
    moving = matrix[1:] != matrix[:-1]  # (rows - 1, horizon)
    position = torch.arange(matrix.size(1))
    final = (matrix[:-1] == 0).long().cumprod(1).sum(1)
    widths = torch.where(moving, position, -1).amax(1) - final + 1
    return max([0, *widths.tolist()])  # trapezoid_original may have one row only


def _whole(position: Tensor, scale: float) -> Tensor:
    return (position.double() * scale).long()  # float64, as int(t * scale) in Python


def _staircase(delay: Tensor, rows: int, sampling_timesteps: int) -> Tensor:
    """Each column waits `delay` (horizon,) rows at the top, then falls a level per row: (rows, horizon)."""
    return (sampling_timesteps + delay - torch.arange(rows)[:, None]).clamp(0, sampling_timesteps)


def _trapezoid_original(position: Tensor, sampling_timesteps: int, scale: float) -> Tensor:
    # Column -t follows t, so the last follows t = 1; an even horizon's middle is never written, stays 0.
    horizon = len(position)
    delay = _whole(torch.minimum(position, horizon - position), scale)
    if horizon % 2 == 0:
        delay[horizon // 2] = -sampling_timesteps
    return _staircase(delay, sampling_timesteps + int((horizon + 1) // 2 * scale), sampling_timesteps)
