"""The Gaussian process by itself: conversions between predictions, the channel of a token, steps of any prediction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, Sampler, channel_logits


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(-1, 31), st.floats(-4, 4), st.integers(0, 2**31))
def test_round_trips_between_noise_start_and_v(level, shift, seed):
    """Catches a conversion with the wrong sign or table, in the shifted schedule and for clean tokens too."""
    process = GaussianProcess(log_snr_shift=shift)
    levels = torch.full((2, 3), level)
    x0, noise = randn(2, 3, 4, seed=seed), randn(2, 3, 4, seed=seed + 1)
    x = process.q_sample(x0, levels, noise)
    v = process.predict_v(x0, levels, noise)
    alpha, sigma = process.alpha_sigma(levels)
    amplified = 1e-6 / float(alpha.min())  # dividing by a small alpha amplifies rounding
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2, 3, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(process.predict_start_from_v(x, levels, v), x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        process.predict_start_from_noise(x, levels, noise), x0, rtol=1e-4, atol=1e-5 + 10 * amplified
    )
    held = torch.zeros_like(noise) if level < 0 else noise
    tolerance = 1e-5 + 1e-5 / max(float(sigma.min()), 1e-3)
    torch.testing.assert_close(process.predict_noise_from_start(x, levels, x0), held, rtol=1e-4, atol=tolerance)


def test_channel_is_the_gaussian_log_density():
    """Catches a wrong weight of the analytic channel, also for embeddings of unequal norm."""
    table = 2 * torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    abar = torch.tensor([[0.01, 0.5, 0.99], [0.3, 0.3, 0.8]], dtype=torch.double)
    means, deviation = abar.sqrt()[..., None, None] * table, (1 - abar).sqrt()[..., None, None]
    density = torch.distributions.Normal(means, deviation).log_prob(x[:, :, None]).sum(-1)
    ours = channel_logits(x, abar, table)
    torch.testing.assert_close(ours.log_softmax(-1), density.log_softmax(-1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("steps", "eta"), [(8, 0.0), (8, 0.7), (32, 0.0)])
def test_a_process_steps_back_with_any_prediction_handed_to_it(toy, steps, eta):
    """Catches a process that holds a network, or a pairing that does more than hand its own to the sampler."""
    process, network = GaussianProcess(), toy()
    sampler = Sampler(process, sampling_timesteps=steps, ddim_eta=eta, stabilization_level=3)
    paired = Diffusion(network, sampling_timesteps=steps, ddim_eta=eta, stabilization_level=3)
    assert not list(process.parameters()) and not list(process.children())
    assert process.state_dict().keys() == paired.state_dict().keys()
    x, curr, following = randn(2, 4, 4), torch.tensor([[0, 2, 5, 8]] * 2), torch.tensor([[0, 1, 5, 7]] * 2)
    draws = [randn(2, 4, 4, seed=seed) for seed in (1, 2)]
    ours, theirs = iter(draws), iter(draws)
    out = sampler.step(network, x, curr, following, noise_fn=lambda like: next(ours))
    assert torch.equal(out, paired.sample_step(x, curr, following, noise_fn=lambda like: next(theirs)))


def test_a_sampler_follows_the_tables_of_its_process():
    """Catches tables that are copied: a schedule that is fitted, or moved to another type, moves its samplers, too."""
    process = GaussianProcess()
    sampler = Sampler(process, sampling_timesteps=8)
    x, levels = randn(1, 2, 4).double(), torch.full((1, 2), 8)
    before = sampler.step(lambda x, levels: x, x, levels, levels - 1)
    process.double()
    assert not torch.equal(sampler.step(lambda x, levels: x, x, levels, levels - 1), before)
    process.alphas_cumprod[:] = 0.5
    assert sampler.process.alphas_cumprod is process.alphas_cumprod
