"""The Gaussian process and its steps: reference values, round trips, waiting and clean tokens, errors,
oracles."""

import math

import pytest
import torch

from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.process.gaussian import OBJECTIVES

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def from_meta(denoiser, meta: dict) -> Diffusion:
    names = ("timesteps", "beta_schedule", "objective", "clip_noise", "sampling_timesteps", "stabilization_level")
    names += ("use_fused_snr", "cum_snr_decay", "snr_clip")
    settings = {name: meta[name] for name in names if name in meta}
    return Diffusion(denoiser, ddim_eta=meta.get("ddim_sampling_eta", 0.0), **settings)


# ---- reference values ----


@pytest.mark.parametrize("case", range(9))
def test_training_matches_the_original(golden, toy, case):
    """Catches a wrong target, an unclamped noise, a wrong weight or a wrong x0 prediction in any objective."""
    meta, data = golden.cases[f"forward/{case}"], golden.batch_first(f"forward/{case}")
    diffusion = from_meta(toy(data["W"], data["b"], meta["timesteps"]), meta)
    pred_x0, loss = diffusion(data["x"], data["noise_levels"], data["noise"])
    torch.testing.assert_close(pred_x0, data["x_pred"], **CLOSE)
    torch.testing.assert_close(loss, data["loss"], **CLOSE)
    clamped = data["noise"].clamp(-meta["clip_noise"], meta["clip_noise"])
    noised = diffusion.q_sample(data["x"], data["noise_levels"], clamped)
    torch.testing.assert_close(noised, data["q_sample"], **CLOSE)


@pytest.mark.parametrize("case", range(24))
def test_steps_match_the_original(golden, toy, case):
    """Catches an error in DDIM, DDPM, the map of levels or stabilisation, and draws asked for in another order."""
    meta, data = golden.cases[f"sample_step/{case}"], golden.batch_first(f"sample_step/{case}")
    diffusion = from_meta(toy(data["W"], data["b"], meta["timesteps"]), meta)
    assert diffusion.is_ddim_sampling == (meta["sampler"] == "ddim")
    draws = iter(data["noise"][: meta["noise_calls"]])
    out = diffusion.sample_step(data["x"], data["curr"], data["next"], noise_fn=lambda like: next(draws))
    torch.testing.assert_close(out, data["out"], **CLOSE)
    assert next(draws, None) is None


@pytest.mark.parametrize("case", range(6))
def test_guided_steps_match_the_original(golden, toy, case):
    """Catches guidance of the wrong sign or strength, and an x0 that ignores it.

    In float64, as the float32 rounding of two machines differs by more than the tolerance in one value of case 5.
    """
    meta, data = golden.cases[f"guided/{case}"], golden.batch_first(f"guided/{case}")
    data |= {name: data[name].double() for name in ("W", "b", "x", "target")}
    diffusion = from_meta(toy(data["W"], data["b"], meta["timesteps"]), meta).double()

    def score(x0_hat: torch.Tensor) -> torch.Tensor:
        return 0.3 * (data["target"] * torch.tanh(x0_hat)).sum()

    out = diffusion.sample_step(data["x"], data["curr"], data["next"], guidance_fn=score)
    torch.testing.assert_close(out, data["out"].double(), **CLOSE)


# ---- the process ----


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_exact_output_gives_the_exact_x0(objective):
    """Catches an objective read as another: from the true target the true x0 and noise come back, without loss."""
    levels = torch.randint(0, 28, (2, 5), generator=torch.Generator().manual_seed(0))
    x0, noise = randn(2, 5, 4), randn(2, 5, 4, seed=1)
    helper = Diffusion(torch.nn.Identity())
    target = {"pred_noise": noise, "pred_x0": x0, "pred_v": helper.predict_v(x0, levels, noise)}[objective]
    diffusion = Diffusion(lambda x, k: target, objective=objective)
    pred_x0, loss = diffusion(x0, levels, noise)
    torch.testing.assert_close(pred_x0, x0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(diffusion.predict_start(diffusion.q_sample(x0, levels, noise), levels, target), pred_x0)
    pred_noise, _, output = diffusion.model_predictions(diffusion.q_sample(x0, levels, noise), levels)
    torch.testing.assert_close(pred_noise, noise, rtol=1e-3, atol=1e-3)
    assert torch.equal(output, target)
    assert loss.max() < 1e-9


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clean_tokens_are_exact_and_differentiable(objective, toy):
    """Catches 0/0 at level -1, in values or gradients, and a denoiser told a level it never met."""
    denoiser = toy()
    diffusion = Diffusion(denoiser, objective=objective)
    x0 = randn(1, 4, 4).requires_grad_()
    levels = torch.tensor([[-1, 5, -1, 31]])
    assert torch.equal(diffusion.q_sample(x0, levels, randn(1, 4, 4, seed=1))[0, [0, 2]], x0[0, [0, 2]])
    pred_noise, pred_x0, _ = diffusion.model_predictions(x0, levels)
    (pred_noise.sum() + pred_x0.sum()).backward()
    assert x0.grad.isfinite().all()
    assert pred_noise.isfinite().all()
    if objective != "pred_noise":
        assert not pred_noise[0, [0, 2]].any()
    if objective != "pred_x0":
        assert torch.equal(pred_x0[0, [0, 2]], x0[0, [0, 2]])
    assert denoiser.seen[0][1].tolist() == [[0, 5, 0, 31]]


def test_no_gradient_into_the_target():
    """Catches embeddings that learn to be easy targets through the pred_x0 loss."""
    diffusion = Diffusion(lambda x, k: torch.zeros_like(x), objective="pred_x0")
    x0 = randn(1, 3, 2).requires_grad_()
    _, loss = diffusion(x0, torch.tensor([[3, 4, 5]]))
    assert loss.sum() > 0
    assert not loss.requires_grad


def test_buffers_travel_but_the_number_of_steps_does_not():
    """Catches a checkpoint that cannot be sampled with another number of steps."""
    trained = Diffusion(torch.nn.Identity(), sampling_timesteps=32)
    assert "real_steps" not in trained.state_dict()
    Diffusion(torch.nn.Identity(), sampling_timesteps=8).load_state_dict(trained.state_dict())


# ---- steps ----


@pytest.mark.parametrize("steps", [8, 32])
@pytest.mark.parametrize("stabilization_level", [0, 1, 10, 32])
def test_waiting_tokens_and_context_are_unchanged(toy, steps, stabilization_level):
    """Catches context that drifts, and DDPM that refuses or moves a token whose level stays."""
    diffusion = Diffusion(toy(), sampling_timesteps=steps, ddim_eta=0.5, stabilization_level=stabilization_level)
    x = randn(2, 5, 4)
    curr, following = torch.tensor([[0, 0, 3, 4, steps]] * 2), torch.tensor([[0, 0, 2, 4, steps]] * 2)
    out = diffusion.sample_step(x, curr, following)
    still = [0, 1, 3, 4]
    assert torch.equal(out[:, still], x[:, still])
    assert not torch.isclose(out[:, 2], x[:, 2]).any()
    assert out.isfinite().all()


@pytest.mark.parametrize("steps", [16, 32])
@pytest.mark.parametrize(("stabilization_level", "told", "scale"), [(0, 0, None), (1, 0, 0), (10, 9, 9)])
def test_stabilisation_shows_the_context_as_it_says(toy, steps, stabilization_level, told, scale):
    """Catches level 0 read as the last level, where the context is noise, and a missing scale at other levels."""
    denoiser = toy()
    diffusion = Diffusion(denoiser, sampling_timesteps=steps, stabilization_level=stabilization_level)
    x, context_noise = randn(1, 3, 4), randn(1, 3, 4, seed=1)
    draws = iter([context_noise, torch.zeros_like(x)])
    curr = torch.tensor([[0, 0, 5]])
    diffusion.sample_step(x, curr, torch.tensor([[0, 0, 4]]), noise_fn=lambda like: next(draws))
    shown, levels = denoiser.seen[0]
    assert levels[0].tolist() == [told, told, int(diffusion.real_steps[5])]
    assert torch.equal(shown[:, 2], x[:, 2])
    if scale is None:
        assert torch.equal(shown[:, :2], x[:, :2])
    else:
        fresh = context_noise if steps == 32 else torch.zeros_like(x)  # DDPM noises the context, DDIM only scales it
        expected = diffusion.q_sample(x, torch.full((1, 3), scale), fresh)
        torch.testing.assert_close(shown[:, :2], expected[:, :2])


def test_draws_are_clamped_and_counted(toy):
    """Catches noise beyond clip_noise and a sampler that asks for another number of draws than it promises."""
    for steps, calls in ((16, 1), (32, 2)):
        diffusion = Diffusion(toy(), sampling_timesteps=steps, ddim_eta=1.0, clip_noise=2.0)
        x, levels = randn(1, 2, 4), torch.tensor([[9, 8]])
        asked = []

        def huge(like, asked=asked):
            asked.append(1)
            return torch.full_like(like, 100.0)

        wild = diffusion.sample_step(x, levels, levels - 1, noise_fn=huge)
        tame = diffusion.sample_step(x, levels, levels - 1, noise_fn=lambda like: torch.full_like(like, 2.0))
        assert torch.equal(wild, tame)
        assert len(asked) == calls


@pytest.mark.parametrize("steps", [16, 32])
def test_guidance_raises_the_score_and_works_in_inference_mode(toy, steps):
    """Catches DDPM without guidance, a minimised score, and autograd that fails where Lightning samples."""
    diffusion = Diffusion(toy(), sampling_timesteps=steps, objective="pred_x0")
    x, target, levels = randn(2, 3, 4), randn(2, 3, 4, seed=1), torch.tensor([[6, 6, 6]] * 2)

    def score(x0_hat: torch.Tensor) -> torch.Tensor:
        return 0.1 * (target * x0_hat).sum()

    def after(guidance_fn) -> torch.Tensor:
        return diffusion.sample_step(x, levels, levels - 1, guidance_fn=guidance_fn, noise_fn=torch.zeros_like)

    plain = after(None)
    with torch.inference_mode():
        x, levels = x.clone(), levels.clone()
        guided = after(score)
    torch.testing.assert_close(after(lambda x0: 0 * x0.sum()), plain, rtol=1e-4, atol=1e-5)
    assert (target * (guided - plain)).sum() > 0


def test_eta_one_in_ddim_is_finite(toy):
    """Catches the root of a rounding error below 0 where a long step from almost no signal is all noise."""
    for steps in (2, 5):
        diffusion = Diffusion(toy(), timesteps=1000, sampling_timesteps=steps, ddim_eta=1.0)
        curr = torch.full((1, 3), steps)
        assert diffusion.sample_step(randn(1, 3, 4), curr, curr - 1).isfinite().all()


# ---- errors ----


@pytest.mark.parametrize("level", [-2, 32, float("nan"), 2.5])
def test_levels_out_of_range_are_named_in_training(toy, level):
    """Catches Python's negative indices, which silently read the last alpha, and NaN cast to some integer."""
    diffusion = Diffusion(toy())
    levels = torch.tensor([[0, level, 3]])
    for call in (
        diffusion.compute_loss_weights,
        diffusion.alpha_sigma,
        lambda k: diffusion(torch.zeros(1, 3, 4), k),
        lambda k: diffusion.q_sample(torch.zeros(1, 3, 4), k, torch.zeros(1, 3, 4)),
        lambda k: diffusion.model_predictions(torch.zeros(1, 3, 4), k),
    ):
        with pytest.raises(ValueError, match=f"level {level:g} "):
            call(levels)


@pytest.mark.parametrize("level", [-1, 17, float("nan")])
def test_levels_out_of_range_are_named_in_sampling(toy, level):
    """Catches a step taken from or to a level that does not exist."""
    diffusion = Diffusion(toy(), sampling_timesteps=16)
    good, bad = torch.tensor([[3, 3]]), torch.tensor([[3, level]])
    for curr, following in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match=f"level {level:g} "):
            diffusion.sample_step(torch.zeros(1, 2, 4), curr, following)


def test_levels_that_rise_or_skip_are_named(toy):
    """Catches a step into more noise, and DDPM's one-step posterior used over several levels."""
    x, five, three = torch.zeros(1, 1, 4), torch.tensor([[5]]), torch.tensor([[3]])
    for steps in (16, 32):
        with pytest.raises(ValueError, match="3 cannot go to 5: a level never rises"):
            Diffusion(toy(), sampling_timesteps=steps).sample_step(x, three, five)
    with pytest.raises(ValueError, match="5 cannot go to 3: DDPM"):
        Diffusion(toy()).sample_step(x, five, three)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timesteps": 0, "sampling_timesteps": 0}, "timesteps"),
        ({"sampling_timesteps": 33}, "sampling_timesteps"),
        ({"sampling_timesteps": 0}, "sampling_timesteps"),
        ({"objective": "pred_nois"}, "did you mean pred_noise"),
        ({"beta_schedule": "cosinus"}, "did you mean cosine"),
        ({"stabilization_level": -1}, "stabilization_level"),
        ({"stabilization_level": 33}, "stabilization_level"),
        ({"clip_noise": 0.0}, "clip_noise"),
        ({"clip_noise": math.nan}, "clip_noise"),
        ({"snr_clip": -1.0}, "snr_clip"),
        ({"cum_snr_decay": 1.1}, "cum_snr_decay"),
        ({"ddim_eta": -0.1}, "ddim_eta"),
        ({"log_snr_shift": math.nan}, "log_snr_shift"),
    ],
)
def test_impossible_settings_are_named(change, words):
    """Catches settings that would only fail, or silently mislead, in the middle of a run."""
    with pytest.raises(ValueError, match=words):
        Diffusion(torch.nn.Identity(), **change)


# ---- oracles ----


def run(diffusion: Diffusion, samples: int, channels: int) -> torch.Tensor:
    """Draw `samples` single tokens, each its own batch row: (samples, C)."""
    generator = torch.Generator().manual_seed(0)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    x = draw(torch.empty(samples, 1, channels))
    for level in range(diffusion.sampling_timesteps, 0, -1):
        curr = torch.full((samples, 1), level)
        x = diffusion.sample_step(x, curr, curr - 1, noise_fn=draw)
    return x[:, 0]


@pytest.mark.parametrize(("steps", "eta"), [(100, 0.0), (50, 1.0), (50, 0.0)])
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_the_exact_denoiser_reproduces_a_discrete_prior(posterior_mean, steps, eta, shift):
    """Catches a reverse process that is biased: with exact posterior means, tokens come at their frequencies."""
    table = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    prior = torch.tensor([0.6, 0.3, 0.1])
    settings = {"timesteps": 100, "objective": "pred_x0", "ddim_eta": eta, "log_snr_shift": shift}
    abar = Diffusion(torch.nn.Identity(), **settings).alphas_cumprod
    diffusion = Diffusion(posterior_mean(table, prior, abar), sampling_timesteps=steps, **settings)
    x = run(diffusion, 6000, 2)
    distance, tokens = torch.cdist(x, table).min(dim=1)
    assert distance.max() < 0.3
    frequency = torch.bincount(tokens, minlength=3) / len(tokens)
    torch.testing.assert_close(frequency, prior, rtol=0, atol=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("steps", [200, 100])
def test_the_exact_denoiser_reproduces_a_gaussian(objective, steps):
    """Catches a wrong posterior mean or variance: the samples' mean and spread are those of the data."""
    mean, std = 1.5, 0.7

    def exact(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        alpha, sigma = diffusion.alpha_sigma(levels)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        noise = (x - alpha * x0) / sigma
        return {"pred_x0": x0, "pred_noise": noise, "pred_v": alpha * noise - sigma * x0}[objective]

    diffusion = Diffusion(exact, timesteps=200, sampling_timesteps=steps, objective=objective, ddim_eta=0.5)
    x = run(diffusion, 4000, 1)
    assert abs(x.mean() - mean) < 0.05
    assert abs(x.std() - std) < 0.05
