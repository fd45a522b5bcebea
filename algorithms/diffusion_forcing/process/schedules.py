"""Beta schedules and the tables of the Gaussian process q(x_k | x_0) = N(sqrt(abar_k) x_0, (1 - abar_k) I).

Schedules: linear (arXiv:2006.11239), cosine (arXiv:2102.09672), sigmoid (arXiv:2212.11972); posterior: DDPM,
eq. 6-7. K = timesteps: every table has shape (K,), is computed in float64 and stored in float32.
"""

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BETA_SCHEDULES = ("linear", "cosine", "sigmoid")
MAX_BETA = 0.999
LINEAR_MIN_TIMESTEPS = 21  # the last beta is 20 / timesteps, and must stay below 1


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the nearest valid spelling, unless `value` is one of `choices`."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
        raise ValueError(f"unknown {name} {value!r}: {hint}")


def beta_schedule(name: str, timesteps: int) -> Tensor:
    """Variance beta_k added at each level, (K,) float64; ValueError for an unknown or degenerate schedule."""
    check_choice("beta_schedule", name, BETA_SCHEDULES)
    if timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    if name == "linear":
        if timesteps < LINEAR_MIN_TIMESTEPS:
            raise ValueError(
                f"beta_schedule linear needs timesteps of at least {LINEAR_MIN_TIMESTEPS}, got {timesteps}:"
                " take more timesteps, or the cosine schedule"
            )
        scale = 1000 / timesteps
        return torch.linspace(scale * 1e-4, scale * 2e-2, timesteps, dtype=torch.float64)
    time = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64) / timesteps
    alphas_cumprod = _cosine(time) if name == "cosine" else _sigmoid(time)
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(0, MAX_BETA)


def _cosine(time: Tensor, s: float = 0.008) -> Tensor:
    return torch.cos((time + s) / (1 + s) * math.pi * 0.5) ** 2


def _sigmoid(time: Tensor, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Tensor:
    # The original rounds the two end values to float32, which shows in the last levels of a long schedule.
    first, last = torch.tensor([start / tau, end / tau], dtype=torch.float32).sigmoid()
    return (last - ((time * (end - start) + start) / tau).sigmoid()) / (last - first)


def process_tables(betas: Tensor, *, snr_clip: float, log_snr_shift: float = 0.0) -> dict[str, Tensor]:
    """Every table of the process from its betas (K,), float32, under the original's buffer names.

    `log_snr_shift` s moves the schedule to abar' = sigmoid(logit(abar) + s); s = 0 leaves each bit as it is.
    Raises ValueError where the shift is so large that a table overflows.
    """
    alphas = 1.0 - betas
    alphas_cumprod = torch.cumprod(alphas, dim=0)
    if log_snr_shift != 0.0:
        alphas_cumprod = torch.sigmoid(torch.logit(alphas_cumprod) + log_snr_shift)
        alphas = alphas_cumprod / F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
        betas = 1.0 - alphas
    previous = F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
    variance = betas * (1.0 - previous) / (1.0 - alphas_cumprod)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": torch.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": torch.sqrt(1.0 - alphas_cumprod),
        "log_one_minus_alphas_cumprod": torch.log(1.0 - alphas_cumprod),
        "sqrt_recip_alphas_cumprod": torch.sqrt(1.0 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": torch.sqrt(1.0 / alphas_cumprod - 1),
        "posterior_variance": variance,
        # The variance is 0 at the first level: its logarithm is clipped.
        "posterior_log_variance_clipped": torch.log(variance.clamp(min=1e-20)),
        "posterior_mean_coef1": betas * torch.sqrt(previous) / (1.0 - alphas_cumprod),
        "posterior_mean_coef2": (1.0 - previous) * torch.sqrt(alphas) / (1.0 - alphas_cumprod),
        "snr": snr,
        "clipped_snr": snr.clamp(max=snr_clip),
    }
    tables = {name: table.to(torch.float32) for name, table in tables.items()}
    if not all(torch.isfinite(table).all() for table in tables.values()):
        raise ValueError(f"log_snr_shift {log_snr_shift:g} leaves the range of float32: choose a value nearer 0")
    return tables
