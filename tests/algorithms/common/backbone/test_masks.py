"""Who sees whom: masks of parts against the whole, and of two streams against what they say in words.

T clean tokens, N noisy ones.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone.masks import attention_mask, two_stream_mask, window_mask, windows_behind


@given(st.sampled_from(["causal", "block_causal"]), st.integers(1, 9), st.integers(0, 9), st.integers(1, 5))
@settings(max_examples=60)
def test_mask_of_a_suffix_is_the_suffix_of_the_mask(kind, queries, cached, block_len):
    """Catches masks that count queries from 0 when keys are cached before them."""
    keys = queries + cached
    whole = attention_mask(kind, keys, keys, block_len=block_len)
    assert torch.equal(attention_mask(kind, queries, keys, block_len=block_len), whole[cached:])


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 12))
@settings(max_examples=40)
def test_a_band_holds_the_last_keys(queries, cached, window):
    """Catches a window that is one key too long, or that counts from the first query instead of from each one."""
    keys = queries + cached
    mask = attention_mask("causal", queries, keys, window=window)
    expected = [[cached + i - window < key <= cached + i for key in range(keys)] for i in range(queries)]
    assert mask.tolist() == expected


@given(st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=40)
def test_two_streams_in_words(clean, widths):
    """Catches a noisy token that sees its own clean twin or another window, and a clean one that sees noise."""
    begins = torch.tensor([1 + sum(widths[:i]) for i, width in enumerate(widths) for _ in range(width)])
    positions = torch.arange(1, 1 + sum(widths))
    mask = two_stream_mask(clean, positions, begins)
    texts = [("clean", place) for place in range(clean)] + list(zip(begins.tolist(), positions.tolist(), strict=True))
    for (own, here), row in zip(texts, mask.tolist(), strict=True):
        for (other, there), seen in zip(texts, row, strict=True):
            if own == "clean":
                expected = other == "clean" and there <= here
            else:
                expected = there < own if other == "clean" else other == own and there <= here
            assert seen == expected
    assert torch.equal(mask[clean:, clean:], window_mask(positions, begins))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_windows_behind_every_clean_token(n):
    """Catches a window that sees another one, or clean tokens that it does not follow, and wrong places."""
    positions, begins = windows_behind(n + 1, n)
    sees = two_stream_mask(n + 1, positions, begins)
    names = [("clean", i) for i in range(n + 1)] + [(j, i) for j in range(n + 1) for i in range(n)]
    for (a, i), row in zip(names, sees, strict=True):
        for (b, k), seen in zip(names, row, strict=True):
            expected = (b == "clean" and k <= (i if a == "clean" else a)) or (a == b and k <= i)
            assert bool(seen) == expected
    assert positions.tolist() == [a + 1 + i for a, i in names[n + 1 :]]


def test_unknown_attention_is_named():
    """Catches a misspelt kind that would see everything."""
    with pytest.raises(ValueError, match="attention 'casual' is unknown: choose one of causal"):
        attention_mask("casual", 2, 2)
