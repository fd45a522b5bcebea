"""The Gaussian process of Diffusion Forcing, and its steps back by DDIM or DDPM. It knows no network.

Source: Chen et al. 2024 (arXiv:2407.01392) and github.com/buoyancy99/diffusion-forcing; DDPM: arXiv:2006.11239; DDIM:
arXiv:2010.02502. B batch, T tokens, C channels, V vocabulary; levels (B, T) are -1 (clean) and 0 to timesteps - 1,
sampling levels (B, T) 0 (clean) to S = sampling_timesteps (noise).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from algorithms.common.artifact import Artifact
from algorithms.common.device import exact_product
from algorithms.common.randomness import Source, normal
from algorithms.diffusion_forcing.process.schedules import beta_schedule as betas_of
from algorithms.diffusion_forcing.process.schedules import check_choice, process_tables
from algorithms.diffusion_forcing.process.snr_weights import snr_weights

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
Predict = Callable[[Tensor, Tensor], Tensor]  # x (B, T, C), levels (B, T) -> output (B, T, C)
Score = Callable[[Tensor], Tensor]
NoiseSource = Callable[[Tensor], Tensor]


def check_levels(levels: Tensor, low: int, high: int) -> Tensor:
    """Noise levels as int64; ValueError names the first that is not a whole number in low..high.

    Values are read on the CPU alone: a step does not wait for a device, where our own code made them.
    """
    whole = levels.long()
    bad = (levels != whole) | (whole < low) | (whole > high)  # NaN differs from whatever it is cast to
    if bad.device.type == "cpu" and bad.any():
        value = levels[torch.nonzero(bad)[0].unbind()].item()
        raise ValueError(f"noise level {value:g} is not a whole number from {low} to {high}")
    return whole


def channel_logits(x: Tensor, abar: Tensor, table: Tensor) -> Tensor:
    """log N(x_l; sqrt(abar_l) e_v, (1 - abar_l) I) up to a constant, from x (..., C), abar (...): (..., V)."""
    abar = abar[..., None]
    scale = abar.sqrt() / (1 - abar)
    squares = table.square().sum(-1)  # (V,)
    return torch.addcmul(-0.5 * scale * abar.sqrt() * squares, scale, exact_product(x, table.T))


class GaussianProcess(nn.Module):
    """q(x_k | x_0) = N(sqrt(abar_k) x_0, (1 - abar_k) I), how a network's output is read, and what its errors weigh.

    `beta_schedule` is the name of one, or the betas (timesteps,). Raises ValueError for impossible settings. Levels are
    int64 and held to be right: who takes them from others calls `check_levels`.
    """

    alphas_cumprod: Tensor
    snr: Tensor

    def __init__(
        self,
        *,
        timesteps: int = 32,
        beta_schedule: str | Tensor = "cosine",
        objective: str = "pred_noise",
        use_fused_snr: bool = True,
        snr_clip: float = 5.0,
        cum_snr_decay: float = 0.95,
        clip_noise: float = 5.0,
        log_snr_shift: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("objective", objective, OBJECTIVES)
        betas = beta_schedule if isinstance(beta_schedule, Tensor) else betas_of(beta_schedule, timesteps)
        for name, value in {"snr_clip": snr_clip, "clip_noise": clip_noise}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= cum_snr_decay <= 1:
            raise ValueError(f"cum_snr_decay must be from 0 to 1, got {cum_snr_decay}")
        self.timesteps = timesteps
        self.objective = objective
        self.snr_clip = snr_clip
        self.cum_snr_decay = cum_snr_decay if use_fused_snr else None
        self.clip_noise = clip_noise
        for name, table in process_tables(betas, snr_clip=snr_clip, log_snr_shift=log_snr_shift).items():
            self.register_buffer(name, table)

    # ---- from clean to noisy ----

    def at(self, table: str, levels: Tensor, *, clean: float) -> Tensor:
        """Entries of a table for levels (B, T) -> (B, T, 1), with the limit `clean` at level -1."""
        return torch.where(levels < 0, clean, getattr(self, table)[levels.clamp(min=0)])[..., None]

    def clamp(self, noise: Tensor) -> Tensor:
        """Noise within +-clip_noise."""
        return noise.clamp(-self.clip_noise, self.clip_noise)

    def draw_noise(self, shape: Sequence[int], generator: Source) -> Tensor:
        """Clamped Gaussian noise of `shape` on the generator's device."""
        return self.clamp(normal(generator, *shape))

    def alpha_sigma(self, noise_levels: Tensor) -> tuple[Tensor, Tensor]:
        """Scales sqrt(abar) of signal and sqrt(1 - abar) of noise at levels (B, T), each (B, T, 1)."""
        alpha = self.at("sqrt_alphas_cumprod", noise_levels, clean=1.0)
        return alpha, self.at("sqrt_one_minus_alphas_cumprod", noise_levels, clean=0.0)

    def q_sample(self, x0: Tensor, noise_levels: Tensor, noise: Tensor) -> Tensor:
        """Bring x0 (B, T, C) to levels (B, T) with the draw `noise` (B, T, C), not clamped (DDPM, eq. 4)."""
        alpha, sigma = self.alpha_sigma(noise_levels)
        return alpha * x0 + sigma * noise

    # ---- from one prediction to another ----

    def predict_start_from_noise(self, x: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and the noise in it."""
        recip = self.at("sqrt_recip_alphas_cumprod", levels, clean=1.0)
        return recip * x - self.at("sqrt_recipm1_alphas_cumprod", levels, clean=0.0) * noise

    def predict_noise_from_start(self, x: Tensor, levels: Tensor, x0: Tensor) -> Tensor:
        """The noise (B, T, C) in x at levels (B, T), given x0; a clean token holds none, so 0."""
        recip = self.at("sqrt_recip_alphas_cumprod", levels, clean=1.0)
        return (recip * x - x0) / self.at("sqrt_recipm1_alphas_cumprod", levels, clean=math.inf)

    def predict_v(self, x0: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """v = sqrt(abar) noise - sqrt(1 - abar) x0, (B, T, C) (arXiv:2202.00512, appendix D)."""
        alpha, sigma = self.alpha_sigma(levels)
        return alpha * noise - sigma * x0

    def predict_start_from_v(self, x: Tensor, levels: Tensor, v: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and v."""
        alpha, sigma = self.alpha_sigma(levels)
        return alpha * x - sigma * v

    # ---- what a network says, and what its errors weigh ----

    def predict_start(self, x: Tensor, levels: Tensor, output: Tensor) -> Tensor:
        """x0 (B, T, C) from x at levels (B, T) and a network's output, read by the objective."""
        if self.objective == "pred_noise":
            return self.predict_start_from_noise(x, levels, self.clamp(output))
        return output if self.objective == "pred_x0" else self.predict_start_from_v(x, levels, output)

    def predictions(self, predict: Predict, x: Tensor, noise_levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pred_noise, pred_x0 and output, each (B, T, C), of `predict` on x (B, T, C) at levels (B, T).

        `predict` is told level 0 of a clean token, the lowest that a network is trained on.
        """
        output = predict(x, noise_levels.clamp(min=0))
        pred_x0 = self.predict_start(x, noise_levels, output)
        if self.objective == "pred_noise":
            return self.clamp(output), pred_x0, output
        return self.predict_noise_from_start(x, noise_levels, pred_x0), pred_x0, output

    def compute_loss_weights(self, noise_levels: Tensor) -> Tensor:
        """Weights (B, T) of the squared errors at levels (B, T); 0 for a clean token: nothing to predict."""
        snr = self.at("snr", noise_levels, clean=self.snr_clip)[..., 0]  # a clean token counts fully for those after it
        weights = snr_weights(snr, self.objective, snr_clip=self.snr_clip, decay=self.cum_snr_decay)
        return torch.where(noise_levels < 0, 0.0, weights)

    def weighted_error(self, predict: Predict, x0: Tensor, levels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise x0 (B, T, C) to levels (B, T) and predict: pred_x0 and the weighted squared error, both (B, T, C)."""
        weights = self.compute_loss_weights(levels)
        _, pred_x0, output = self.predictions(predict, self.q_sample(x0, levels, noise), levels)
        if self.objective == "pred_noise":
            target = noise
        else:
            target = x0 if self.objective == "pred_x0" else self.predict_v(x0, levels, noise)
        return pred_x0, (output - target.detach()).square() * weights[..., None]

    # ---- a schedule that is fitted while training, as FittedProcess's; this one stays as it is ----

    @property
    def observes(self) -> bool:
        """Whether it wants to hear, in this step, what tokens cost."""
        return False

    def observe(self, levels: Tensor, nats: Tensor) -> None:
        """Hear what tokens at levels (B, T) cost given all that is known of them: nats (B, T)."""

    def gather(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take what all processes have observed for one's own; `total` sums over them."""

    def forget(self) -> None:
        """Forget what was observed since the last fit."""

    def fit(self) -> None:
        """Move the levels to where they are uniform in the nats observed, and forget these."""

    def artifacts(self) -> list[Artifact]:
        """What is worth a picture: fitted levels."""
        return []


class Sampler:
    """Steps of a GaussianProcess from noise to text, through some of its levels.

    `sampling_timesteps` S below the process's timesteps samples by DDIM, equal by DDPM; with a `level_power` below 1
    more of the levels lie at high noise. `stabilization_level` L shows the context of a step as if at level L - 1, and
    L = 0 shows it clean. Raises ValueError for impossible settings.
    """

    def __init__(
        self,
        process: GaussianProcess,
        sampling_timesteps: int,
        level_power: float = 1.0,
        ddim_eta: float = 0.0,
        stabilization_level: int = 0,
    ) -> None:
        top = process.timesteps
        limits = {"sampling_timesteps": (1, sampling_timesteps), "stabilization_level": (0, stabilization_level)}
        for name, (low, value) in limits.items():
            if not low <= value <= top:
                raise ValueError(f"{name} must be {low} to timesteps = {top}, got {value}")
        if not level_power > 0:
            raise ValueError(f"level_power must be positive, got {level_power}")
        if not 0 <= ddim_eta <= 1:
            raise ValueError(f"ddim_eta must be from 0 to 1, got {ddim_eta}")
        self.process = process
        self.sampling_timesteps = sampling_timesteps
        self.ddim_eta = ddim_eta
        self.stabilization_level = stabilization_level
        self.is_ddim = sampling_timesteps < top or level_power != 1
        steps = torch.linspace(-1, top - 1, sampling_timesteps + 1)
        if level_power != 1:
            steps = ((steps + 1) / top) ** level_power * top - 1
        self.real_steps = steps.long().to(process.snr.device)  # sampling levels 0..S -> levels -1..timesteps-1

    def step(
        self,
        predict: Predict,
        x: Tensor,
        curr: Tensor,
        following: Tensor,
        *,
        guidance_fn: Score | None = None,
        noise_fn: NoiseSource | None = None,
    ) -> Tensor:
        """Take x (B, T, C) from sampling levels (B, T) to the following ones, by DDIM or DDPM.

        A token that keeps its level, such as the context at 0, is returned unchanged. `guidance_fn(x0_hat)` returns a
        scalar score to maximise. `noise_fn(like)` returns the next Gaussian draw (default torch.randn_like): asked once
        by DDIM; by DDPM first for the stabilised context, then for the step. Raises ValueError for a level outside
        0..S, one that rises, or, in DDPM, one that falls by more than 1.
        """
        process, draw = self.process, noise_fn or torch.randn_like
        curr = check_levels(curr, 0, self.sampling_timesteps)
        following = check_levels(following, 0, self.sampling_timesteps)
        self._check_fall(curr, following)
        real_steps = self.real_steps.to(curr.device)
        curr, following = real_steps[curr], real_steps[following]

        shown = torch.where(curr < 0, self.stabilization_level - 1, curr)
        context_noise = torch.zeros_like(x) if self.is_ddim else process.clamp(draw(x))
        seen = torch.where((curr < 0)[..., None], process.q_sample(x, shown, context_noise), x)
        alpha_next = process.at("alphas_cumprod", following, clean=1.0)
        if guidance_fn is None:
            pred_noise, pred_x0, _ = process.predictions(predict, seen, shown)
        else:
            pred_noise, pred_x0 = self._guided(predict, seen, shown, (1 - alpha_next).sqrt(), guidance_fn)

        noise = process.clamp(draw(x))
        if self.is_ddim:
            alpha = process.at("alphas_cumprod", shown, clean=1.0)
            stepped = self._ddim(pred_noise, pred_x0, alpha, alpha_next, noise)
        else:
            stepped = self._ddpm(seen, pred_x0, shown, noise)
        return torch.where((curr == following)[..., None], x, stepped)

    def _check_fall(self, curr: Tensor, following: Tensor) -> None:
        fall = curr - following
        bad = (fall < 0) | (fall > (self.sampling_timesteps if self.is_ddim else 1))
        if bad.device.type == "cpu" and bad.any():  # see check_levels
            place = torch.nonzero(bad)[0].unbind()
            rule = "a level never rises"
            if fall[place] > 0:
                rule = "DDPM lowers a level by 1 at a time; fewer sampling_timesteps than timesteps skip levels"
            raise ValueError(f"noise level {int(curr[place])} cannot go to {int(following[place])}: {rule}")

    def _guided(
        self, predict: Predict, x: Tensor, levels: Tensor, strength: Tensor, guidance_fn: Score
    ) -> tuple[Tensor, Tensor]:
        """pred_noise less `strength` (B, T, 1) times the score's gradient, and the pred_x0 it implies."""
        with torch.inference_mode(False), torch.enable_grad():
            x, levels = x.detach().clone().requires_grad_(), levels.clone()  # clones may enter autograd again
            pred_noise, pred_x0, _ = self.process.predictions(predict, x, levels)
            (gradient,) = torch.autograd.grad(guidance_fn(pred_x0), x)
        guided = pred_noise.detach() - strength * gradient
        return guided, self.process.predict_start_from_noise(x.detach(), levels, guided)

    def _ddim(self, pred_noise: Tensor, pred_x0: Tensor, alpha: Tensor, alpha_next: Tensor, noise: Tensor) -> Tensor:
        """DDIM, eq. 12 and 16; `alpha` and `alpha_next` are the abar (B, T, 1) of the two levels."""
        sigma = self.ddim_eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt()
        sigma = torch.where(alpha_next == 1, 0.0, sigma)
        direction = (1 - alpha_next - sigma**2).clamp(min=0).sqrt()  # rounding may pass below 0 at eta = 1
        return pred_x0 * alpha_next.sqrt() + pred_noise * direction + sigma * noise

    def _ddpm(self, x: Tensor, pred_x0: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """DDPM, eq. 6-7, with the clipped posterior variance; the last step, from level 0, adds no noise."""
        process = self.process
        coef1 = process.at("posterior_mean_coef1", levels, clean=1.0)
        mean = coef1 * pred_x0 + process.at("posterior_mean_coef2", levels, clean=0.0) * x
        log_variance = process.at("posterior_log_variance_clipped", levels, clean=0.0)
        return mean + torch.where((levels > 0)[..., None], (0.5 * log_variance).exp() * noise, 0.0)
