"""The table of token embeddings, and the way back from embeddings to tokens."""

import pytest
import torch
import torch.nn.functional as F

from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig, TokenTable, round_to_tokens
from tests.algorithms.diffusion_forcing.tiny_models import V, generator, some_ids


def test_fixed_norm_embeddings_cannot_collapse():
    """Catches a norm that follows the learned weights."""
    table = TokenTable(V, 9, EmbeddingConfig(dim=9))
    with torch.no_grad():
        table.weight *= 1e-3
    torch.testing.assert_close(table().norm(dim=-1), torch.full((V,), 3.0))


@pytest.mark.parametrize("rounding", ["nearest", "head"])
def test_rounding_returns_the_tokens(rounding):
    """Catches rounding that does not invert the embedding (head does so for equal norms only)."""
    table = TokenTable(V, 8, EmbeddingConfig(dim=8))()
    ids = some_ids()
    assert torch.equal(round_to_tokens(F.embedding(ids, table), table, rounding), ids)


def test_nearest_is_the_l2_neighbour():
    """Catches a product without the norms, where embeddings differ in length."""
    table = torch.randn(V, 3, generator=generator()) * torch.arange(1, V + 1)[:, None]
    x0 = torch.randn(4, 6, 3, generator=generator())
    assert torch.equal(round_to_tokens(x0, table), torch.cdist(x0, table.expand(4, -1, -1)).argmin(-1))
