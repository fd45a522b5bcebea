"""The straight line of one token against the modules' own pass. B batch, T tokens, C channels."""

import pytest
import torch

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.one_token import OneToken

BLOCK, C = 12, 16


def backbone_of(style: str, bias: bool) -> Backbone:
    config = BackboneConfig(2, 2, C, BLOCK, style=style, bias=bias)
    backbone, generator = Backbone(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


@pytest.mark.parametrize(("style", "bias"), [("nanogpt", False), ("nanogpt", True), ("rope", False)])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("lay_out", [False, True])
@torch.no_grad()
def test_one_token_is_the_modules_pass(style, bias, fixed, lay_out):
    """Catches a norm, a bias, a rotation or a residual path that the straight line has and the modules have not, or the
    reverse; a slot that is off by one; and what an earlier text left in the buffer."""
    backbone = backbone_of(style, bias).double()
    x = torch.randn(3, BLOCK, C, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    memory, place = backbone.new_cache(), torch.zeros(1, dtype=torch.long) if fixed else None
    for text in (torch.flip(x, [1]), x):
        expected = backbone(backbone.add_positions(text))
        memory.clear()
        backbone(backbone.add_positions(text[:, :4]), cache=memory)
        one = OneToken(backbone, memory, place, lay_out=lay_out)
        for t in range(4, BLOCK):
            if place is not None:
                place.fill_(t)
            h = backbone(backbone.add_positions(text[:, t : t + 1], one.where), cache=one)
            torch.testing.assert_close(h, expected[:, t : t + 1], rtol=0, atol=1e-12)
        assert memory.length == (4 if fixed else BLOCK)


@torch.no_grad()
def test_keys_and_values_are_kept_in_the_precision_of_attention():
    """Catches a cache in float32 under autocast, twice as large as what attention reads of it, and weights that are
    cast anew at every token."""
    backbone = backbone_of("rope", False)
    x = torch.randn(2, BLOCK, C, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, memory = backbone(x), backbone.new_cache()
        backbone(x[:, :4], cache=memory)
        one = OneToken(backbone, memory)
        assert memory.buffer.dtype == one.layers[0].attn.weight.dtype == torch.bfloat16
        states = torch.cat([backbone(x[:, t : t + 1], cache=one) for t in range(4, BLOCK)], dim=1)
    torch.testing.assert_close(states, expected[:, 4:].to(states.dtype), rtol=0, atol=0.05)
