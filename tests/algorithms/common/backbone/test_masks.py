"""Who sees whom: masks of parts against the whole, and of two streams against what they say in words.

T clean tokens, N noisy ones.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone.masks import (
    Blocks,
    Rule,
    RuleBlocks,
    SeenBlocks,
    attention_mask,
    two_stream_mask,
    two_stream_rule,
    window_mask,
    window_rule,
    windows_of,
)


@given(st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=60)
def test_mask_of_a_suffix_is_the_suffix_of_the_mask(queries, cached):
    """Catches masks that count queries from 0 when keys are cached before them."""
    keys = queries + cached
    whole = attention_mask("causal", keys, keys)
    assert torch.equal(attention_mask("causal", queries, keys), whole[cached:])


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 12))
@settings(max_examples=40)
def test_a_band_holds_the_last_keys(queries, cached, window):
    """Catches a window that is one key too long, or that counts from the first query instead of from each one."""
    keys = queries + cached
    mask = attention_mask("causal", queries, keys, window=window)
    expected = [[cached + i - window < key <= cached + i for key in range(keys)] for i in range(queries)]
    assert mask.tolist() == expected


@given(st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60)
def test_two_streams_in_words(clean, widths, bidirectional):
    """Catches a noisy token that sees its own clean twin or another window, one that does not see all of its window or
    sees more than its past of it, and a clean one that sees noise."""
    begins = torch.tensor([1 + sum(widths[:i]) for i, width in enumerate(widths) for _ in range(width)])
    positions = torch.arange(1, 1 + sum(widths))
    mask = two_stream_mask(clean, positions, begins, bidirectional=bidirectional)
    texts = [("clean", place) for place in range(clean)] + list(zip(begins.tolist(), positions.tolist(), strict=True))
    for (own, here), row in zip(texts, mask.tolist(), strict=True):
        for (other, there), seen in zip(texts, row, strict=True):
            if own == "clean":
                expected = other == "clean" and there <= here
            else:
                expected = there < own if other == "clean" else other == own and (bidirectional or there <= here)
            assert seen == expected
    assert torch.equal(mask[clean:, clean:], window_mask(positions, begins, bidirectional=bidirectional))


def by_rule(rule: Rule, tokens: int) -> torch.Tensor:
    index, none = torch.arange(tokens), torch.tensor(0)
    return rule(none, none, index[:, None], index)


def visited(blocks: SeenBlocks, kind: str, end: str) -> torch.Tensor:
    """The blocks of a kind as a mask of tokens (queries, keys), from what is listed for queries or for keys."""
    counts, indices = blocks.get_buffer(f"{kind}_{end}_count")[0, 0], blocks.get_buffer(f"{kind}_{end}")[0, 0]
    listed = torch.zeros(len(counts), len(counts), dtype=torch.bool)
    for row, count in enumerate(counts):
        listed[row, indices[row, :count].long()] = True
    tokens = listed.repeat_interleave(blocks.block, 0).repeat_interleave(blocks.block, 1)
    return tokens[: blocks.tokens, : blocks.tokens]


@given(st.data(), st.integers(1, 5), st.sampled_from([2, 4, 8]), st.integers(1, 9))
@settings(max_examples=60)
def test_blocks_and_rules_are_the_masks(data, many, widest, block):
    """Catches a rule that is another than its mask, a block left out in which somebody sees somebody, one taken for
    whole that is not, and queries of a key that are not the keys of a query turned round."""
    noisy = many * widest
    clean = noisy + data.draw(st.integers(1, 9))
    start, width = data.draw(st.integers(1, clean - noisy)), 2 ** data.draw(st.integers(1, widest.bit_length() - 1))
    positions = start + torch.arange(noisy)
    begins = positions - torch.arange(noisy) % width
    for before in (0, clean):
        mask = two_stream_mask(before, positions, begins)
        rule = two_stream_rule(before, begins) if before else window_rule(begins)
        assert torch.equal(by_rule(rule, before + noisy), mask)
        blocks = Blocks(before, noisy, widest, block=block)
        assert_blocks_hold(blocks, mask)
    assert not blocks.state_dict()


def assert_blocks_hold(blocks: SeenBlocks, mask: torch.Tensor) -> None:
    """What is seen lies in the blocks that are listed, and of those taken for whole everything is."""
    some, every = (visited(blocks, kind, "keys") for kind in ("some", "every"))
    assert torch.equal(mask & (some | every), mask) and torch.equal(mask | every, mask)
    assert not (some & every).any()
    for kind, of_queries in (("some", some), ("every", every)):
        assert torch.equal(visited(blocks, kind, "queries").T, of_queries)


@given(st.integers(0, 9), st.integers(1, 20), st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=60)
def test_blocks_of_a_rule_are_its_mask(more, noisy, width, block):
    """Catches the same of windows that are bidirectional and of any width, block by block: neither one left out nor one
    listed in which nobody sees anybody."""
    positions = torch.arange(noisy)
    begins = positions // width * width
    clean = int(begins.max()) + more
    mask = two_stream_mask(clean, positions, begins, bidirectional=True)
    rule = two_stream_rule(clean, begins, bidirectional=True)
    assert torch.equal(by_rule(rule, clean + noisy), mask)
    blocks = RuleBlocks(rule, clean + noisy, block=block)
    assert_blocks_hold(blocks, mask)
    some, every = (visited(blocks, kind, "keys") for kind in ("some", "every"))
    for q, k in itertools.product(range(0, clean + noisy, block), repeat=2):
        part = mask[q : q + block, k : k + block]
        assert bool(some[q, k]) == bool(part.any() and not part.all()) and bool(every[q, k]) == bool(part.all())
    assert not blocks.state_dict()


def test_most_blocks_of_two_streams_are_not_computed():
    """Catches blocks so cautious that they save nothing: at GPT-2's context half of them are left out."""
    blocks = Blocks(1024, 512, 16)
    computed = sum(int(blocks.get_buffer(f"{kind}_keys_count").sum()) for kind in ("some", "every"))
    assert computed <= 0.53 * (1536 // blocks.block) ** 2


def test_fewer_blocks_are_computed_where_windows_are_known():
    """Catches the same of block diffusion: of text and blocks of 4 tokens, a little over a quarter each."""
    begins = torch.arange(1024) // 4 * 4
    blocks = RuleBlocks(two_stream_rule(1024, begins, bidirectional=True), 2048)
    computed = sum(int(blocks.get_buffer(f"{kind}_keys_count").sum()) for kind in ("some", "every"))
    assert computed <= 0.32 * (2048 // blocks.block) ** 2


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("offset", "bidirectional"), [(1, False), (0, True), (0, False)])
def test_windows_of_every_clean_token(n, offset, bidirectional):
    """Catches a window that sees another one, or clean tokens that it does not follow, and wrong places."""
    positions, begins = windows_of(n + 1, n, offset=offset)
    sees = two_stream_mask(n + 1, positions, begins, bidirectional=bidirectional)
    names = [("clean", i) for i in range(n + 1)] + [(j, i) for j in range(n + 1) for i in range(n)]
    for (a, i), row in zip(names, sees, strict=True):
        for (b, k), seen in zip(names, row, strict=True):
            past = b == "clean" and k <= (i if a == "clean" else a + offset - 1)
            expected = past or (a == b != "clean" and (bidirectional or k <= i))
            assert bool(seen) == expected
    assert positions.tolist() == [a + offset + i for a, i in names[n + 1 :]]


def test_unknown_attention_is_named():
    """Catches a misspelt kind that would see everything."""
    with pytest.raises(ValueError, match="attention 'casual' is unknown: choose one of causal"):
        attention_mask("casual", 2, 2)
