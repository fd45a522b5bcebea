"""The Gaussian diffusion of Diffusion Forcing as the original has it: the process paired with a network.

Source: Chen et al. 2024 (arXiv:2407.01392) and github.com/buoyancy99/diffusion-forcing. B batch, T tokens, C channels;
levels (B, T) are -1 (clean) and 0 to timesteps - 1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from algorithms.diffusion_forcing.process.gaussian import (
    GaussianProcess,
    NoiseSource,
    Predict,
    Sampler,
    Score,
    check_levels,
)


class Diffusion(GaussianProcess):
    """A GaussianProcess around `denoiser(x (B, T, C), noise_levels (B, T)) -> (B, T, C)`, and its Sampler.

    `options` are the settings of a GaussianProcess, the other arguments those of a Sampler. Buffers have the original's
    names. Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        *,
        sampling_timesteps: int = 32,
        ddim_eta: float = 0.0,
        stabilization_level: int = 0,
        level_power: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.denoiser = denoiser
        self.sampler = Sampler(self, sampling_timesteps, level_power, ddim_eta, stabilization_level)
        self.sampling_timesteps, self.is_ddim_sampling = sampling_timesteps, self.sampler.is_ddim
        self.real_steps = self.sampler.real_steps

    def check(self, noise_levels: Tensor) -> Tensor:
        """Levels of the caller as int64; ValueError for one that does not exist."""
        return check_levels(noise_levels, -1, self.timesteps - 1)

    def alpha_sigma(self, noise_levels: Tensor) -> tuple[Tensor, Tensor]:
        return super().alpha_sigma(self.check(noise_levels))

    def compute_loss_weights(self, noise_levels: Tensor) -> Tensor:
        return super().compute_loss_weights(self.check(noise_levels))

    def predictions(self, predict: Predict, x: Tensor, noise_levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().predictions(predict, x, self.check(noise_levels))

    def model_predictions(self, x: Tensor, noise_levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the denoiser on x (B, T, C) at levels (B, T): pred_noise, pred_x0, output, each (B, T, C)."""
        return self.predictions(self.denoiser, x, noise_levels)

    def forward(self, x0: Tensor, noise_levels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise x0 (B, T, C) to levels (B, T) and denoise: pred_x0 and weighted squared error, both (B, T, C).

        `noise` (B, T, C) is clamped to +-clip_noise; None draws it from torch's global generator.
        """
        noise = self.clamp(torch.randn_like(x0) if noise is None else noise)
        return self.weighted_error(self.denoiser, x0, noise_levels, noise)

    def sample_step(
        self,
        x: Tensor,
        curr_noise_level: Tensor,
        next_noise_level: Tensor,
        *,
        guidance_fn: Score | None = None,
        noise_fn: NoiseSource | None = None,
    ) -> Tensor:
        """Take x (B, T, C) from sampling levels 0..S (B, T) to the next ones; see `Sampler.step`."""
        functions = {"guidance_fn": guidance_fn, "noise_fn": noise_fn}
        return self.sampler.step(self.denoiser, x, curr_noise_level, next_noise_level, **functions)
