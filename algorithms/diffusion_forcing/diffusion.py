"""The Gaussian diffusion of Diffusion Forcing: noising, training loss, one step of DDIM or DDPM.

Source: Chen et al. 2024 (arXiv:2407.01392) and github.com/buoyancy99/diffusion-forcing; DDPM:
arXiv:2006.11239; DDIM: arXiv:2010.02502. Shapes: B batch, T tokens, C channels; levels (B, T) are -1 (clean)
and 0 to timesteps - 1.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from algorithms.diffusion_forcing.checks import check_choice, check_levels
from algorithms.diffusion_forcing.process.schedules import beta_schedule as betas_of
from algorithms.diffusion_forcing.process.schedules import process_tables
from algorithms.diffusion_forcing.process.snr_weights import snr_weights

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
Score = Callable[[Tensor], Tensor]
NoiseSource = Callable[[Tensor], Tensor]


class Diffusion(nn.Module):
    """Noise process around `denoiser(x (B, T, C), noise_levels (B, T)) -> (B, T, C)`.

    `beta_schedule` is the name of one, or the betas (timesteps,). `sampling_timesteps` below `timesteps` samples by
    DDIM, equal by DDPM; with a `level_power` below 1 more of the sampling levels lie at high noise.
    `stabilization_level` L shows the context of a sampling step as if at level L - 1; L = 0 shows it clean. The
    denoiser is told level 0 of a clean token, the lowest it is trained on. Raises ValueError for impossible settings.
    """

    alphas_cumprod: Tensor
    snr: Tensor
    real_steps: Tensor

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        *,
        timesteps: int = 32,
        sampling_timesteps: int = 32,
        beta_schedule: str | Tensor = "cosine",
        objective: str = "pred_noise",
        use_fused_snr: bool = True,
        snr_clip: float = 5.0,
        cum_snr_decay: float = 0.95,
        clip_noise: float = 5.0,
        ddim_eta: float = 0.0,
        stabilization_level: int = 0,
        log_snr_shift: float = 0.0,
        level_power: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        betas = beta_schedule if isinstance(beta_schedule, Tensor) else betas_of(beta_schedule, timesteps)
        if not 1 <= sampling_timesteps <= timesteps:
            raise ValueError(f"sampling_timesteps must be 1 to timesteps = {timesteps}, got {sampling_timesteps}")
        if not 0 <= stabilization_level <= timesteps:
            raise ValueError(f"stabilization_level must be 0 to timesteps = {timesteps}, got {stabilization_level}")
        for name, value in {"snr_clip": snr_clip, "clip_noise": clip_noise, "level_power": level_power}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, value in {"cum_snr_decay": cum_snr_decay, "ddim_eta": ddim_eta}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")

        self.denoiser = denoiser
        self.timesteps = timesteps
        self.sampling_timesteps = sampling_timesteps
        self.objective = objective
        self.snr_clip = snr_clip
        self.cum_snr_decay = cum_snr_decay if use_fused_snr else None
        self.clip_noise = clip_noise
        self.ddim_eta = ddim_eta
        self.stabilization_level = stabilization_level
        self.is_ddim_sampling = sampling_timesteps < timesteps or level_power != 1
        for name, table in process_tables(betas, snr_clip=snr_clip, log_snr_shift=log_snr_shift).items():
            self.register_buffer(name, table)
        # Sampling levels 0..S -> levels -1..timesteps-1; not saved: a checkpoint serves any number of steps.
        real_steps = torch.linspace(-1, timesteps - 1, sampling_timesteps + 1)
        if level_power != 1:
            real_steps = ((real_steps + 1) / timesteps) ** level_power * timesteps - 1
        real_steps = real_steps.long()
        self.register_buffer("real_steps", real_steps, persistent=False)

    # ---- the process ----

    def _at(self, table: str, levels: Tensor, *, clean: float) -> Tensor:
        """Entries of a table for levels (B, T) -> (B, T, 1), with the limit `clean` at level -1."""
        return torch.where(levels < 0, clean, getattr(self, table)[levels.clamp(min=0)])[..., None]

    def _clamp(self, noise: Tensor) -> Tensor:
        return noise.clamp(-self.clip_noise, self.clip_noise)

    def draw_noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Clamped Gaussian noise of `shape` on the generator's device."""
        return self._clamp(torch.randn(tuple(shape), generator=generator, device=generator.device))

    @torch.no_grad()
    def set_betas(self, betas: Tensor) -> None:
        """Replace the noise schedule by betas (timesteps,), in place."""
        for name, table in process_tables(betas, snr_clip=self.snr_clip).items():
            getattr(self, name).copy_(table)

    def alpha_sigma(self, noise_levels: Tensor) -> tuple[Tensor, Tensor]:
        """Scales sqrt(abar) of signal and sqrt(1 - abar) of noise at levels (B, T), each (B, T, 1)."""
        levels = check_levels(noise_levels, -1, self.timesteps - 1)
        alpha = self._at("sqrt_alphas_cumprod", levels, clean=1.0)
        return alpha, self._at("sqrt_one_minus_alphas_cumprod", levels, clean=0.0)

    def q_sample(self, x0: Tensor, noise_levels: Tensor, noise: Tensor) -> Tensor:
        """Bring x0 (B, T, C) to levels (B, T) with the draw `noise` (B, T, C), not clamped (DDPM, eq. 4)."""
        alpha, sigma = self.alpha_sigma(noise_levels)
        return alpha * x0 + sigma * noise

    def predict_start_from_noise(self, x: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and the noise in it."""
        recip = self._at("sqrt_recip_alphas_cumprod", levels, clean=1.0)
        return recip * x - self._at("sqrt_recipm1_alphas_cumprod", levels, clean=0.0) * noise

    def predict_noise_from_start(self, x: Tensor, levels: Tensor, x0: Tensor) -> Tensor:
        """The noise (B, T, C) in x at levels (B, T), given x0; a clean token holds none, so 0."""
        recip = self._at("sqrt_recip_alphas_cumprod", levels, clean=1.0)
        return (recip * x - x0) / self._at("sqrt_recipm1_alphas_cumprod", levels, clean=math.inf)

    def predict_v(self, x0: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """v = sqrt(abar) noise - sqrt(1 - abar) x0, (B, T, C) (arXiv:2202.00512, appendix D)."""
        alpha, sigma = self.alpha_sigma(levels)
        return alpha * noise - sigma * x0

    def predict_start_from_v(self, x: Tensor, levels: Tensor, v: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and v."""
        alpha, sigma = self.alpha_sigma(levels)
        return alpha * x - sigma * v

    # ---- training ----

    def compute_loss_weights(self, noise_levels: Tensor) -> Tensor:
        """Weights (B, T) of the squared errors at levels (B, T); 0 for a clean token: nothing to predict."""
        levels = check_levels(noise_levels, -1, self.timesteps - 1)
        snr = self._at("snr", levels, clean=self.snr_clip)[..., 0]  # a clean token counts fully for those after it
        weights = snr_weights(snr, self.objective, snr_clip=self.snr_clip, decay=self.cum_snr_decay)
        return torch.where(levels < 0, 0.0, weights)

    def predict_start(self, x: Tensor, levels: Tensor, output: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and the denoiser's output, read by the objective."""
        if self.objective == "pred_noise":
            return self.predict_start_from_noise(x, levels, self._clamp(output))
        return output if self.objective == "pred_x0" else self.predict_start_from_v(x, levels, output)

    def model_predictions(self, x: Tensor, noise_levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the denoiser on x (B, T, C) at levels (B, T): pred_noise, pred_x0, output, each (B, T, C)."""
        levels = check_levels(noise_levels, -1, self.timesteps - 1)
        output = self.denoiser(x, levels.clamp(min=0))
        pred_x0 = self.predict_start(x, levels, output)
        if self.objective == "pred_noise":
            return self._clamp(output), pred_x0, output
        return self.predict_noise_from_start(x, levels, pred_x0), pred_x0, output

    def forward(self, x0: Tensor, noise_levels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise x0 (B, T, C) to levels (B, T) and denoise: pred_x0 and weighted squared error, both (B, T,
        C).

        `noise` (B, T, C) is clamped to +-clip_noise; None draws it from torch's global generator.
        """
        noise = self._clamp(torch.randn_like(x0) if noise is None else noise)
        weights = self.compute_loss_weights(noise_levels)
        x = self.q_sample(x0, noise_levels, noise)
        _, pred_x0, output = self.model_predictions(x, noise_levels)
        if self.objective == "pred_noise":
            target = noise
        else:
            target = x0 if self.objective == "pred_x0" else self.predict_v(x0, noise_levels, noise)
        return pred_x0, (output - target.detach()).square() * weights[..., None]

    # ---- sampling ----

    def sample_step(
        self,
        x: Tensor,
        curr_noise_level: Tensor,
        next_noise_level: Tensor,
        *,
        guidance_fn: Score | None = None,
        noise_fn: NoiseSource | None = None,
    ) -> Tensor:
        """Take x (B, T, C) from sampling levels 0..S (B, T) to the next ones, by DDIM or DDPM.

        A token that keeps its level, such as the context at 0, is returned unchanged. `guidance_fn(x0_hat)`
        returns a scalar score to maximise. `noise_fn(like)` returns the next Gaussian draw (default
        torch.randn_like): asked once by DDIM; by DDPM first for the stabilised context, then for the step.
        Raises ValueError for a level outside 0..S, one that rises, or, in DDPM, one that falls by more than
        1.
        """
        curr = check_levels(curr_noise_level, 0, self.sampling_timesteps)
        following = check_levels(next_noise_level, 0, self.sampling_timesteps)
        self._check_fall(curr, following)
        curr, following = self.real_steps[curr], self.real_steps[following]
        draw = torch.randn_like if noise_fn is None else noise_fn

        shown = torch.where(curr < 0, self.stabilization_level - 1, curr)
        context_noise = torch.zeros_like(x) if self.is_ddim_sampling else self._clamp(draw(x))
        seen = torch.where((curr < 0)[..., None], self.q_sample(x, shown, context_noise), x)
        alpha_next = self._at("alphas_cumprod", following, clean=1.0)
        if guidance_fn is None:
            pred_noise, pred_x0, _ = self.model_predictions(seen, shown)
        else:
            pred_noise, pred_x0 = self._guided_predictions(seen, shown, (1 - alpha_next).sqrt(), guidance_fn)

        noise = self._clamp(draw(x))
        if self.is_ddim_sampling:
            alpha = self._at("alphas_cumprod", shown, clean=1.0)
            stepped = self._ddim(pred_noise, pred_x0, alpha, alpha_next, noise)
        else:
            stepped = self._ddpm(seen, pred_x0, shown, noise)
        return torch.where((curr == following)[..., None], x, stepped)

    def _check_fall(self, curr: Tensor, following: Tensor) -> None:
        fall = curr - following
        bad = (fall < 0) | (fall > (self.sampling_timesteps if self.is_ddim_sampling else 1))
        if bad.any():
            place = torch.nonzero(bad)[0].unbind()
            rule = "a level never rises"
            if fall[place] > 0:
                rule = "DDPM lowers a level by 1 at a time; fewer sampling_timesteps than timesteps skip levels"
            raise ValueError(f"noise level {int(curr[place])} cannot go to {int(following[place])}: {rule}")

    def _guided_predictions(
        self, x: Tensor, levels: Tensor, strength: Tensor, guidance_fn: Score
    ) -> tuple[Tensor, Tensor]:
        """pred_noise less `strength` (B, T, 1) times the score's gradient, and the pred_x0 it implies."""
        with torch.inference_mode(False), torch.enable_grad():
            x, levels = x.detach().clone().requires_grad_(), levels.clone()  # clones may enter autograd again
            pred_noise, pred_x0, _ = self.model_predictions(x, levels)
            (gradient,) = torch.autograd.grad(guidance_fn(pred_x0), x)
        guided = pred_noise.detach() - strength * gradient
        return guided, self.predict_start_from_noise(x.detach(), levels, guided)

    def _ddim(self, pred_noise: Tensor, pred_x0: Tensor, alpha: Tensor, alpha_next: Tensor, noise: Tensor) -> Tensor:
        """DDIM, eq. 12 and 16; `alpha` and `alpha_next` are the abar (B, T, 1) of the two levels."""
        sigma = self.ddim_eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt()
        sigma = torch.where(alpha_next == 1, 0.0, sigma)
        direction = (1 - alpha_next - sigma**2).clamp(min=0).sqrt()  # rounding may pass below 0 at eta = 1
        return pred_x0 * alpha_next.sqrt() + pred_noise * direction + sigma * noise

    def _ddpm(self, x: Tensor, pred_x0: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """DDPM, eq. 6-7, with the clipped posterior variance; the last step, from level 0, adds no noise."""
        coef1 = self._at("posterior_mean_coef1", levels, clean=1.0)
        mean = coef1 * pred_x0 + self._at("posterior_mean_coef2", levels, clean=0.0) * x
        log_variance = self._at("posterior_log_variance_clipped", levels, clean=0.0)
        return mean + torch.where((levels > 0)[..., None], (0.5 * log_variance).exp() * noise, 0.0)
