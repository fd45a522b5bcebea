"""Rotary positions: what a rotation may depend on."""

import torch

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.masks import attention_mask


def test_rotation_depends_on_relative_position_only():
    """Catches a rotation applied to queries and keys in different directions."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=12)).double()
    x = torch.randn(1, 6, 16, dtype=torch.double)
    mask = attention_mask("causal", 6, 6)
    near = backbone(x, mask=mask, positions=torch.arange(6))
    far = backbone(x, mask=mask, positions=torch.arange(6) + 5)
    torch.testing.assert_close(near, far, rtol=0, atol=1e-6)
