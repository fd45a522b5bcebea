"""The original's recipe: what its bound may depend on, and that every form of it learns."""

import pytest
import torch

from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from tests.algorithms.diffusion_forcing.tiny_models import V, faithful, generator, some_ids


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_faithful_bound_of_a_token_depends_on_its_past_only(objective, style):
    """Catches a mask of the two-stream pass that lets a noisy token see its own clean twin or the future."""
    model = faithful(style, objective, embedding=EmbeddingConfig(dim=None, norm="free", scale=3.0)).double()
    ids = some_ids(batch=1)
    noise_of = generator
    before = model.nll(ids, noise_of())
    for position in range(1, 9):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 1) % V
        after = model.nll(changed, noise_of())
        torch.testing.assert_close(after[:, : position - 1], before[:, : position - 1], rtol=0, atol=1e-9)
        assert not torch.equal(after[:, position - 1], before[:, position - 1])


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("fusion", ["add", "concat_mlp"])
@pytest.mark.parametrize("norm", ["free", "fixed"])
def test_every_faithful_recipe_learns(objective, fusion, norm):
    """Catches an objective, fusion or embedding whose loss does not fall, or a part without gradient."""
    model = faithful(
        "nanogpt", objective, time_fusion=fusion, ce_weight=0.5, embedding=EmbeddingConfig(dim=None, norm=norm)
    ).train()
    ids = some_ids(batch=16)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(ids, generator())["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
