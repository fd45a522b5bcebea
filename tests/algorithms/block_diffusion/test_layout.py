"""Who predicts which token, and what is hidden: the layout of a window in blocks, and its masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.block_diffusion.layout import Layout
from algorithms.block_diffusion.masking import hide_in_blocks, shares_of_blocks
from algorithms.common.backbone.masks import two_stream_mask
from algorithms.masked_diffusion.masking import counted_masks, stratified_shares

windows = st.integers(2, 14), st.integers(1, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(*windows)
@settings(max_examples=100)
def test_every_token_is_predicted_once_and_by_whom_it_should_be(tokens: int, block_len: int) -> None:
    """Catches a token that no stream predicts or both do, a first token that is hidden, and streams that hold more than
    somebody needs."""
    layout, places = Layout(tokens, block_len), range(tokens)
    firsts = [place for place in places if place % block_len == 0]
    assert layout.starts.tolist() == [place - 1 for place in firsts[1:]]
    assert layout.hidden.tolist() == [place for place in places if place not in firsts]
    assert layout.clean == firsts[-1] and layout.starts.tolist()[-1:] == ([layout.clean - 1] if layout.clean else [])
    assert layout.noisy == max([place + 1 for place in places if place not in firsts], default=0)
    stream = [*range(layout.clean), *(layout.clean + place for place in range(layout.noisy))]
    for place, source in zip(places[1:], layout.sources.tolist(), strict=True):
        assert stream[source] == (place - 1 if place in firsts else layout.clean + place)
    assert layout.begins.tolist() == [place // block_len * block_len for place in range(layout.noisy)]
    lengths = [sum(place // block_len == block for place in layout.hidden.tolist()) for block in range(layout.blocks)]
    assert layout.lengths.tolist() == lengths


@pytest.mark.parametrize("block_len", [1, 2, 4, 8, 16])
def test_one_token_in_block_len_is_the_gpts(block_len: int) -> None:
    """Catches a block that is off by one, or a last one that counts for another."""
    layout = Layout(17, block_len)
    assert len(layout.starts) * block_len == 16 and len(layout.starts) + len(layout.hidden) == 16


@given(*windows)
@settings(max_examples=60)
def test_a_grid_of_blocks_is_laid_out_and_read_again(tokens: int, block_len: int) -> None:
    """Catches values that land at a first token, in another block, or behind the end of a shorter one."""
    layout = Layout(tokens, block_len)
    if layout.noisy == 0:
        return
    ids = torch.arange(1, tokens + 1)[None]
    grid = layout.in_grid(ids[:, : layout.noisy])
    assert grid.shape == (1, layout.blocks, layout.block_len - 1)
    laid = layout.in_text(grid)
    assert laid[0].tolist() == [0 if layout.first[p] else p + 1 for p in range(layout.noisy)]
    values = layout.of_last(laid.float(), 0.5)[0].tolist()
    assert values == [0.5 if layout.first[p] else p + 1 for p in range(1, tokens)]
    more = ids[..., None].expand(-1, -1, 3)[:, : layout.noisy]
    assert torch.equal(layout.in_grid(more)[..., 1], grid)


@given(*windows)
@settings(max_examples=60)
def test_blocks_of_attention_are_those_of_the_mask(tokens: int, block_len: int) -> None:
    """Catches a kernel that leaves out what somebody sees in the very layout that is trained on."""
    layout = Layout(tokens, block_len)
    if layout.seen is None:
        assert layout.clean == 0 or layout.noisy == 0
        return
    mask = two_stream_mask(layout.clean, layout.places, layout.begins, bidirectional=True)
    for kind, found in (("some", mask.any() and not mask.all()), ("every", mask.all())):  # one block of 128
        assert bool(layout.seen.get_buffer(f"{kind}_keys_count").sum()) == bool(found)
    assert layout.seen.tokens == len(mask)


@given(*windows, st.integers(0, 10**6))
@settings(max_examples=100)
def test_so_many_tokens_of_each_block_are_hidden(tokens: int, block_len: int, seed: int) -> None:
    """Catches a hidden first token, a block without a hidden one, a wrong count or weight, and places that a shorter
    block lacks."""
    layout = Layout(tokens, block_len)
    if layout.noisy == 0:
        return
    shares = 1 - torch.rand(3, layout.blocks, generator=generator(seed))
    masked, weight = hide_in_blocks(shares, layout.lengths, layout.block_len - 1, generator(seed))
    expected = (shares * layout.lengths).ceil()
    assert torch.equal(masked.sum(-1).float(), expected) and torch.equal(weight, layout.lengths / expected)
    laid = layout.in_text(masked)
    assert laid.sum() == masked.sum() and not laid[:, layout.first[: layout.noisy]].any()


def test_every_number_of_hidden_tokens_is_as_likely_in_every_block() -> None:
    """Catches shares whose order in a batch favours a number somewhere: the loss would not be the bound."""
    rows, layout = 30, Layout(14, 4)
    counts = torch.zeros(layout.blocks, 4)
    for seed in range(200):
        share = stratified_shares(rows, generator(seed))[0]
        masked, _ = hide_in_blocks(shares_of_blocks(share, layout.blocks), layout.lengths, 3, generator(seed))
        for block in range(layout.blocks):
            counts[block] += torch.bincount(masked[:, block].sum(-1), minlength=4)
    shares = counts / counts.sum(-1, keepdim=True)
    assert (shares[:-1] - torch.tensor([0, 1, 1, 1]) / 3).abs().max() < 0.02
    assert shares[-1].tolist() == [0, 1, 0, 0]  # a block of two tokens


def test_hidden_tokens_are_stratified_over_windows_and_over_blocks() -> None:
    """Catches blocks of a window, or windows of a batch, that are all hidden to the same degree: noise in the loss."""
    share = stratified_shares(32, generator())[0]
    shares = shares_of_blocks(share, 16)
    assert torch.equal(shares[:, 0], share)
    assert ((shares > 0) & (shares <= 1)).all()
    for block in shares.unbind(1):  # 10 or 11 windows hide one, two or three tokens of four, but for the seam
        counts = torch.bincount((block * 3).ceil().long(), minlength=4)[1:]
        assert counts.min() >= 9 and counts.max() <= 12
    assert (shares.mean(1) - 0.5).abs().max() < 0.06 and (shares.std(1) - 12**-0.5).abs().max() < 0.05


def test_one_block_is_masked_as_in_masked_diffusion() -> None:
    """Catches draws in another order: the same seed would not be the same step of the other method."""
    layout, share = Layout(13, 13), stratified_shares(4, generator())[0]
    masked, weight = hide_in_blocks(shares_of_blocks(share, 1), layout.lengths, 12, generator(1))
    expected, of_rows = counted_masks(share, 12, generator(1))
    assert torch.equal(masked[:, 0], expected)
    torch.testing.assert_close(weight[:, 0], of_rows)


def test_numbers_of_hidden_tokens_survive_a_cast() -> None:
    """Catches counts that bfloat16 rounds: the last token of a long block would never be hidden."""
    assert Layout(516, 258).bfloat16().lengths.tolist() == [257, 257]
