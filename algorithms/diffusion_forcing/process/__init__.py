"""The Gaussian noise process: schedules, loss weights, levels drawn in training. It knows no network."""

from typing import Any

from algorithms.diffusion_forcing.process.fitted_levels import FittedProcess
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess

INFORMATION = "information"  # the beta_schedule that is fitted while training


def make_process(
    *, beta_schedule: str, vocabulary_size: int, squared_norm: float, log_snr_shift: float = 0.0, **options: Any
) -> GaussianProcess:
    """The process of a named schedule over embeddings of this squared norm; `options` as in GaussianProcess."""
    if beta_schedule == INFORMATION:
        return FittedProcess(vocabulary_size=vocabulary_size, squared_norm=squared_norm, **options)
    return GaussianProcess(beta_schedule=beta_schedule, log_snr_shift=log_snr_shift, **options)
