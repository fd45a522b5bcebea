"""The key-value cache: sliding contexts against a pass with a band mask, and tokens that are computed but not kept.

B batch, T tokens, C channels.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.masks import attention_mask

BLOCK = 12
LONG = 120  # tokens of the reference, which sees whole texts
KINDS = [("nanogpt", False), ("rope", False), ("rope", True)]  # style, sliding


def backbone_of(style: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=BLOCK, style=style)).double()


@cache
def reference(style: str) -> Backbone:
    """The backbone with room for whole texts."""
    small = backbone_of(style)
    large = Backbone(replace(small.config, block_size=LONG)).double()
    weights = {name: value for name, value in small.state_dict().items() if name != "wpe.weight"}
    large.load_state_dict(weights, strict=style == "rope")
    return large


def whole_pass(style: str, x: torch.Tensor, window: int | None) -> torch.Tensor:
    """States of x (B, T, C) in one pass, every token seeing the last `window` ones."""
    T = x.size(1)
    return reference(style)(x, mask=attention_mask("causal", T, T, window=window), positions=torch.arange(T))


def some_input(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, tokens, 16, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=25)
def test_a_sliding_cache_equals_a_band_mask(cuts):
    """Catches keys that are dropped too early or too late, masks that are off by the dropped ones, and rotary positions
    that start anew: any split of a text many times longer than the context."""
    x = some_input(sum(cuts))
    backbone = backbone_of("rope")
    memory = backbone.new_cache(sliding=True)
    pieces = [backbone(part, cache=memory) for part in x.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole_pass("rope", x, BLOCK), rtol=0, atol=1e-12)


def test_a_sliding_cache_serves_any_number_of_single_tokens():
    """Catches buffers that are moved at the wrong token, and a rotary table that ends."""
    x = some_input(LONG)
    backbone = backbone_of("rope")
    memory = backbone.new_cache(sliding=True)
    states = torch.cat([backbone(token, cache=memory) for token in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(states, whole_pass("rope", x, BLOCK), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("style", "sliding"), KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_tokens_that_are_not_kept_leave_no_trace(style, sliding, data):
    """Catches a transient token whose keys a later pass still sees, and kept ones that are overwritten: each pass gives
    the states of a whole pass over all kept tokens and its own transient ones."""
    pairs = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any)
    backbone = backbone_of(style)
    memory = backbone.new_cache(sliding=sliding)
    kept = some_input(0)
    for step, (k, t) in enumerate(data.draw(st.lists(pairs, min_size=1, max_size=8))):
        if not sliding and kept.size(1) + k + t > BLOCK:
            break
        new, transient = some_input(k + t, seed=step + 1).split([k, t], dim=1)
        h = backbone(torch.cat([new, transient], dim=1), cache=memory, keep=k)
        kept = torch.cat([kept, new], dim=1)
        expected = whole_pass(style, torch.cat([kept, transient], dim=1), BLOCK if sliding else None)
        torch.testing.assert_close(h, expected[:, -k - t :], rtol=0, atol=1e-12)
        assert memory.length == kept.size(1)


@pytest.mark.parametrize(("style", "sliding"), KINDS)
def test_gradients_reach_the_new_tokens_and_leave_no_trace(style, sliding):
    """Catches a gradient that is lost in the buffers, one into tokens of an earlier pass, and a buffer that autograd
    still needs when the next pass writes to it."""
    backbone = backbone_of(style)
    memory = backbone.new_cache(sliding=sliding)
    direction = torch.randn(16, dtype=torch.double)  # a plain sum of LayerNorm outputs is constant
    kept, outputs, gradients = some_input(5), [], []
    earlier = kept.requires_grad_()
    backbone(earlier, cache=memory)
    for k, t in [(0, 3), (2, 4), (1, 1)]:
        new = some_input(k + t, seed=t).requires_grad_()
        outputs.append((backbone(new, cache=memory, keep=k) @ direction).sum())
        whole = torch.cat([kept, new], dim=1).detach().requires_grad_()
        states = whole_pass(style, whole, BLOCK if sliding else None)[:, -k - t :]
        (expected,) = torch.autograd.grad((states @ direction).sum(), whole)
        gradients.append((new, expected[:, -k - t :]))
        kept = torch.cat([kept, new[:, :k]], dim=1).detach()
    torch.stack(outputs).sum().backward()
    assert earlier.grad is None
    for new, expected in gradients:
        torch.testing.assert_close(new.grad, expected, rtol=0, atol=1e-12)


def test_sliding_needs_rotary_positions():
    """Catches learned positions that run out in the middle of a text."""
    with pytest.raises(ValueError, match=r"needs rotary positions: take algorithm\.backbone\.style=rope"):
        backbone_of("nanogpt").new_cache(sliding=True)


def test_a_full_cache_says_so():
    """Catches tokens that are written over the first ones, or an index error in place of a sentence."""
    backbone = backbone_of("rope")
    memory = backbone.new_cache()
    backbone(some_input(BLOCK - 1), cache=memory)
    with pytest.raises(ValueError, match="13 tokens do not fit into the context of 12"):
        backbone(some_input(2), cache=memory)
    with pytest.raises(ValueError, match="13 tokens do not fit into the context of 12"):
        backbone(some_input(2), cache=memory, positions=torch.tensor([10, 11]))


# ---- rows of their own lengths ----


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=6),
    st.integers(0, 100),
)
@settings(max_examples=20)
def test_rows_of_their_own_lengths_equal_a_pass_over_each(style, kept, seed):
    """Catches slots of another row, positions that count another row's tokens, and tokens kept that were refused: what
    a pass of three tokens makes of each row is what a pass over that row's kept ones and these makes."""
    backbone = backbone_of(style)
    memory, rows = backbone.new_row_cache(2), [torch.zeros(1, 0, 16, dtype=torch.double) for _ in range(2)]
    for number, counts in enumerate(kept):
        if max(row.size(1) for row in rows) + 3 > BLOCK:
            break
        x, distance = some_input(3, seed=seed + number), torch.arange(3)
        positions, mask = memory.positions(distance), memory.behind(attention_mask("causal", 3, 3))
        h = backbone(backbone.add_positions(x, positions), cache=memory, keep=0, mask=mask, positions=positions)
        for row in range(2):
            whole = torch.cat([rows[row], x[row : row + 1]], dim=1)
            expected = backbone(backbone.add_positions(whole))[0, -3:]
            torch.testing.assert_close(h[row], expected, rtol=0, atol=1e-12)
            rows[row] = whole[:, : rows[row].size(1) + counts[row]]
        memory.keep(counts)
        assert memory.filled == [row.size(1) for row in rows]


def test_a_backbone_need_not_know_which_cache_it_has():
    """Catches a mask or positions of one cache that the backbone makes itself: told nothing, rows that are selected are
    encoded as by the plain cache."""
    backbone, x = backbone_of("rope"), some_input(7)
    plain, by_row = backbone.new_cache(), backbone.new_row_cache(3)
    by_row.select(torch.tensor([2, 0]))
    for part in x.split([4, 1, 2], dim=1):
        torch.testing.assert_close(backbone(part, cache=by_row), backbone(part, cache=plain), rtol=0, atol=1e-12)
    assert by_row.filled == [7, 0, 7] and plain.length == 7
