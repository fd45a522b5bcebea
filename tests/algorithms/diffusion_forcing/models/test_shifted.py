"""The next-token network on noisy inputs: what a prediction may depend on."""

import pytest
import torch

from tests.algorithms.diffusion_forcing.tiny_models import shifted, some_ids


@pytest.mark.parametrize("self_conditioning", [0.0, 1.0])
def test_a_tokens_own_noise_stays_out_of_its_prediction(self_conditioning):
    """Catches a leak in the rows of `shifted`: f for token l may depend on z_<l only, estimates fed back included."""
    model = shifted(self_conditioning=self_conditioning)
    ids, levels, table = some_ids(1, 6), torch.full((1, 6), 7), model.denoiser.table()
    x = torch.randn(1, 6, 4, dtype=torch.double, requires_grad=True)
    abar = model.process.alphas_cumprod[levels]
    given = ids, x, levels, abar, table
    past = model.denoiser._past(*given)
    if self_conditioning:
        past = model.denoiser._past(*given, past)
    prior = model.denoiser.model.lm_head(past)
    for position in range(5):  # of the tokens after the first
        (gradient,) = torch.autograd.grad(prior[0, position, 1], x, retain_graph=True)
        assert gradient[0, position + 1 :].abs().max() < 1e-12
        assert (gradient[0, : position + 1].abs().sum(-1) > 0).all()
