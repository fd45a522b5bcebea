"""Guidance for text: the keyword loss in closed form, and its effect on sampling."""

import math

import pytest
import torch

from algorithms.diffusion_forcing.decoding.guidance import guidance_from_loss, keyword_loss
from algorithms.diffusion_forcing.diffusion import Diffusion

TABLE = 3 * torch.eye(4)


def test_the_loss_is_the_mean_probability_over_places():
    """Catches a minimum over the wrong places, tokens read out of order, or a loss not in nats."""
    x0_hat = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    loss = keyword_loss(TABLE, [2, 0, 1], temperature=0.7)(x0_hat)
    for row in range(2):
        probabilities = (-torch.cdist(x0_hat[row], TABLE).square() / 0.7).softmax(-1)
        places = [probabilities[p, 2] * probabilities[p + 1, 0] * probabilities[p + 2, 1] for p in range(3)]
        assert loss[row].item() == pytest.approx(-math.log(sum(places) / 3), rel=1e-4)


def test_the_loss_falls_when_the_keyword_appears():
    """Catches a loss that is content with the tokens apart or in another order."""
    loss = keyword_loss(TABLE, [1, 2])
    texts = torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2], [2, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    values = loss(TABLE[texts])
    assert values[:2].max() < 2 < values[2:].min()
    torch.testing.assert_close(values[0], values[1])  # whatever the place


def test_a_window_shorter_than_the_keyword_is_not_guided():
    """Catches a crash, or a gradient, in the first chunks of a long keyword."""
    x0_hat = torch.randn(2, 2, 4).requires_grad_()
    values = keyword_loss(TABLE, [1, 2, 3])(x0_hat)
    values.sum().backward()
    assert values.tolist() == [0, 0]
    assert not x0_hat.grad.any()


def test_the_score_is_the_negated_loss_summed_over_rows():
    """Catches a score that is minimised, and one whose strength depends on the size of the batch."""
    x0_hat = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    loss = keyword_loss(TABLE, [3])
    score = guidance_from_loss(loss, scale=2.0)
    assert score(x0_hat).item() == pytest.approx(-2 * loss(x0_hat).sum().item())
    assert guidance_from_loss(torch.sum, scale=2.0)(x0_hat).item() == pytest.approx(-2 * x0_hat.sum().item())


@pytest.mark.parametrize("steps", [16, 32])
def test_guided_sampling_raises_the_probability_of_the_keyword(posterior_mean, steps):
    """Catches guidance that has no effect, or the opposite one, over a whole run of DDIM or DDPM."""
    prior = torch.full((4,), 0.25)
    denoiser = posterior_mean(TABLE, prior, Diffusion(torch.nn.Identity()).alphas_cumprod)
    diffusion = Diffusion(denoiser, sampling_timesteps=steps, objective="pred_x0")
    loss = keyword_loss(TABLE, [1, 2])
    start = torch.randn(400, 4, 4, generator=torch.Generator().manual_seed(2))

    def share_with_keyword(guidance_fn) -> float:
        torch.manual_seed(3)
        x = start
        for level in range(steps, 0, -1):
            curr = torch.full((400, 4), level)
            x = diffusion.sample_step(x, curr, curr - 1, guidance_fn=guidance_fn)
        tokens = torch.cdist(x, TABLE).argmin(-1)
        return ((tokens[:, :-1] == 1) & (tokens[:, 1:] == 2)).any(dim=1).float().mean().item()

    free = share_with_keyword(None)
    assert free == pytest.approx(3 / 16, abs=0.06)  # inclusion and exclusion: 3/16 - 1/256
    assert share_with_keyword(guidance_from_loss(loss, 1.0)) > free + 0.3
    assert share_with_keyword(guidance_from_loss(loss, -1.0)) < free


@pytest.mark.parametrize(
    ("ids", "temperature", "words"),
    [([], 1.0, "empty"), ([4], 1.0, "token 4"), ([-1], 1.0, "token -1"), ([1], 0.0, "temperature")],
)
def test_impossible_keywords_are_named(ids, temperature, words):
    """Catches ids that would index from the end of the table."""
    with pytest.raises(ValueError, match=words):
        keyword_loss(TABLE, ids, temperature)
