"""The two streams: a GPT on clean texts, and noisy windows that see what they will while sampling, never themselves.

B batch, T tokens, N noisy ones, C embedding channels, V vocabulary.
"""

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone import BackboneConfig
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import NeighbourStates, StreamConfig
from algorithms.diffusion_forcing.models.two_stream import window_config
from algorithms.diffusion_forcing.process.gaussian import channel_logits
from algorithms.diffusion_forcing.process.row_mixture import RowMixture, sample_noise_levels
from experiments.run.build import build
from tests.algorithms.diffusion_forcing.tiny_models import (
    MEAN,
    V,
    generator,
    next_token,
    shifted,
    some_ids,
    two_stream,
    write,
)

widths_of_windows = st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda widths: sum(widths) <= 7)


@cache
def model_of(style: str) -> DFLM:
    return two_stream(style)


def layout(start: int, widths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (N,) from `start` on and the begin (N,) of each one's window."""
    begins = [start + sum(widths[:i]) for i, width in enumerate(widths) for _ in range(width)]
    return torch.arange(start, start + sum(widths)), torch.tensor(begins)


def noise_like_tokens(tokens: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, tokens, channels, dtype=torch.double, generator=generator(seed))


# ---- what it sees ----


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@given(start=st.integers(1, 7), widths=widths_of_windows)
@settings(max_examples=15)
def test_who_sees_whom(style, start, widths):
    """Catches a leak: by gradients, a noisy token sees the clean ones before its window and the noisy ones in it up to
    itself, a clean token those up to itself and nothing noisy."""
    start = min(start, 8 - sum(widths))
    positions, begins = layout(start, widths)
    denoiser, T, N = model_of(style).denoiser, 8, len(positions)
    ids, direction = some_ids(1, T), noise_like_tokens(1, 16)[0, 0]
    clean = denoiser.model.wte(ids).detach().requires_grad_()
    noisy = noise_like_tokens(N, 16)[:1].requires_grad_()
    with denoiser.model.wte.register_forward_hook(lambda *_: clean):
        of_clean, of_noisy = denoiser.model.backbone.two_streams(denoiser.model.wte(ids), noisy, positions, begins)

    def seen_by(state: torch.Tensor) -> tuple[list[int], list[int]]:
        found = torch.autograd.grad(state @ direction, (clean, noisy), retain_graph=True)
        return tuple(torch.nonzero(gradient[0].abs().sum(-1)).flatten().tolist() for gradient in found)

    for i in range(T):
        assert seen_by(of_clean[0, i]) == (list(range(i + 1)), [])
    for n in range(N):
        window = [m for m in range(n + 1) if begins[m] == begins[n]]
        assert seen_by(of_noisy[0, n]) == (list(range(begins[n])), window)


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@given(start=st.integers(1, 7), widths=widths_of_windows)
@settings(max_examples=15)
def test_a_window_is_what_it_is_while_sampling(style, start, widths):
    """Catches a mask, or positions, that differ from those of a plain causal pass over clean past and window."""
    start = min(start, 8 - sum(widths))
    positions, begins = layout(start, widths)
    denoiser, ids, noisy = model_of(style).denoiser, some_ids(2, 8), noise_like_tokens(len(positions), 16)
    backbone, clean = denoiser.model.backbone, denoiser.model.wte(ids)
    of_clean, of_noisy = denoiser.model.backbone.two_streams(denoiser.model.wte(ids), noisy, positions, begins)
    torch.testing.assert_close(of_clean, backbone(backbone.add_positions(clean)), rtol=0, atol=1e-12)
    for begin in begins.unique().tolist():
        inside = begins == begin
        plain = backbone(backbone.add_positions(torch.cat([clean[:, :begin], noisy[:, inside]], dim=1)))
        torch.testing.assert_close(of_noisy[:, inside], plain[:, begin:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("backward_layers", [0, 1])
@given(widths=st.lists(st.integers(1, 4), min_size=8, max_size=8).map(lambda widths: filling(8, widths)))
@settings(max_examples=8)
def test_a_tokens_own_noise_stays_out_of_its_prior(make, backward_layers, widths):
    """Catches a leak that would count a token's own noisy value twice: its prior depends on the clean tokens before its
    window and the window's other noisy tokens, those to the right only if they are read, and on nothing else."""
    model = _made(make, backward_layers)
    denoiser, reads_right = model.denoiser, make is two_stream and backward_layers > 0
    _, begins = layout(0, widths)
    ids, direction = some_ids(1, 9), noise_like_tokens(1, V, seed=1)[0, 0]
    clean = denoiser.model.wte(ids[:, :-1]).detach().requires_grad_()
    x = noise_like_tokens(8, 4)[:1].requires_grad_()
    snr = torch.linspace(0.1, 0.9, 8, dtype=torch.double)[None]
    with denoiser.model.wte.register_forward_hook(lambda *_: clean):
        alone, shown = denoiser.window_priors(ids, x, snr, begins)
    for place in range(8):
        score = shown[0, place] @ direction
        of_clean, of_x = torch.autograd.grad(score, (clean, x), retain_graph=True, materialize_grads=True)
        others = [n for n in range(8) if begins[n] == begins[place] and (n < place or (reads_right and n > place))]
        assert torch.nonzero(of_x[0].abs().sum(-1)).flatten().tolist() == others
        assert torch.nonzero(of_clean[0].abs().sum(-1)).flatten().tolist() == list(range(begins[place] + 1))
        of_clean, of_x = torch.autograd.grad(
            alone[0, place] @ direction, (clean, x), retain_graph=True, materialize_grads=True
        )
        assert torch.nonzero(of_clean[0].abs().sum(-1)).flatten().tolist() == list(range(place + 1))
        assert not of_x.any()


def filling(tokens: int, widths: list[int]) -> list[int]:
    """As many of the widths as it takes to fill so many tokens, the last cut short."""
    taken: list[int] = []
    for width in widths:
        taken.append(min(width, tokens - sum(taken)))
    return [width for width in taken if width]


@cache
def _made(make, backward_layers: int) -> DFLM:
    return make(streams=StreamConfig(max_window=4, backward_layers=backward_layers))


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_the_sampler_computes_the_priors_of_the_windows(estimates, make, style):
    """Catches a path bound that is of another model than the one that writes: at every row of two chunks denoised
    together, the sampler's estimates are the posterior means of `window_priors` and the tokens' own channel."""
    model = make(style)
    denoiser, table, width = model.denoiser, model.denoiser.table(), 3
    decoder = replace(MEAN, schedule="full_sequence", chunk_size=width)
    ids = write(model, some_ids(2, 2), length=2 * width, seeds=[0, 1], decoder=decoder).ids  # (B, 8)
    assert len(estimates) == 2 * decoder.sampling_timesteps
    for number, (_, x, levels, estimate) in enumerate(estimates):
        begin = 2 + width * (number // decoder.sampling_timesteps)
        window = slice(begin - 1, begin - 1 + width)  # in the numbering of ids[:, 1:]
        abar = model.process.alphas_cumprod[levels]
        all_x, snr = torch.zeros(2, 7, 4, dtype=torch.double), torch.ones(2, 7, dtype=torch.double)
        all_x[:, window], snr[:, window] = x, abar / (1 - abar)
        begins = torch.arange(7)
        begins[window] = window.start
        prior = denoiser.window_priors(ids, all_x, snr, begins)[1][:, window]
        expected = (prior + channel_logits(x, abar, table)).softmax(-1) @ table
        torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-7)  # rotary tables are float32


# ---- what it learns ----


def windows_one_by_one(model: DFLM, ids: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """`noisy_ce` from a pass for each window, and one from the right for each token, with the same draws."""
    denoiser, process = model.denoiser, model.process
    N = denoiser.streams.tokens(ids.size(1) - 1)
    start, width = denoiser._layout(ids.size(1) - 1, N, draws)
    levels = sample_noise_levels(
        len(ids) * (N // width),
        width,
        timesteps=process.timesteps,
        mixture=model.config.rows,
        generator=draws,
        windows=True,
    ).view(-1, N)
    x0 = denoiser.embed(ids[:, start : start + N])
    x, abar = process.q_sample(x0, levels, process.draw_noise(x0.shape, draws)), process.alphas_cumprod[levels.clamp(0)]
    noisy = denoiser.read_noisy(x, abar, channel_logits(x, abar, model.denoiser.table()))
    backbone, nats = denoiser.model.backbone, []
    known = torch.ones(len(ids), 1, dtype=torch.bool)
    for first in range(0, N, width):
        begin, window = start + first, noisy[:, first : first + width]
        states = backbone(backbone.add_positions(torch.cat([denoiser.model.wte(ids[:, :begin]), window], dim=1)))
        own = states[:, begin:]
        if denoiser.noisy_layers is not None:
            own = own + denoiser.more(denoiser.noisy_layers(own))
        states = torch.cat([states[:, :begin], own], dim=1)
        for i in range(width + 1):
            if i == 0 and denoiser.right_layers is None:
                continue
            right = None
            if denoiser.right_layers is not None and i < width - 1:
                read = denoiser.right_layers(window[:, i + 1 :].flip(1))[:, -1:]
                right = NeighbourStates(read, known[:1])
            at = begin + i
            left = denoiser.left(ids[:, at - 1 : at], known) if i > 0 else None
            logits = denoiser.head(states[:, at - 1 : at], right, left)[:, 0]
            nats.append(F.cross_entropy(logits, ids[:, at], reduction="none"))
    return torch.stack(nats).mean()


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize(("forward_layers", "backward_layers"), [(0, 0), (0, 2), (2, 0), (1, 1)])
@pytest.mark.parametrize("chain", [0.0, 1.0])
def test_the_loss_is_that_of_windows_one_by_one(style, forward_layers, backward_layers, chain):
    """Catches targets that are shifted, a window that reads another's states or right side, noise or levels that go to
    other tokens, and a token that is predicted from itself."""
    layers = {"forward_layers": forward_layers, "backward_layers": backward_layers}
    streams = StreamConfig(max_window=4, chain=chain, **layers)
    model = two_stream(style, block_size=13, streams=streams, rows=RowMixture(1, 1, 0, 0, 1))
    ids = some_ids(3, 14)
    for seed in range(4):
        noisy_ce = model.loss(ids, generator(seed))["noisy_ce"]
        expected = windows_one_by_one(model, ids, generator(seed))
        torch.testing.assert_close(noisy_ce, expected, rtol=1e-7, atol=0)  # rotary tables are float32


@pytest.mark.parametrize("make", [shifted, two_stream])
def test_the_loss_is_the_weighted_sum_of_its_parts(make):
    """Catches parts that are not summed as configured, or a name that is missing from the log."""
    model = make(mse_weight=0.3, ce_weight=0.7, streams=StreamConfig(max_window=4, weight=0.2))
    parts = {name: float(value.detach()) for name, value in model.loss(some_ids(), generator()).items()}
    ce = parts["ce"] if make is shifted else parts["clean_ce"] + 0.2 * parts["noisy_ce"]
    assert parts["loss"] == pytest.approx(0.3 * parts["mse"] + 0.7 * ce, rel=1e-5)


@pytest.mark.parametrize(
    ("forward_layers", "backward_layers", "chain"), [(0, 0, 0.0), (1, 0, 0.5), (0, 1, 0.0), (1, 1, 0.5)]
)
def test_every_part_of_the_two_streams_learns(forward_layers, backward_layers, chain):
    """Catches a part without gradient, and losses that do not fall."""
    layers = {"forward_layers": forward_layers, "backward_layers": backward_layers}
    streams = StreamConfig(max_window=4, chain=chain, **layers)
    model = next_token("two_stream", streams=streams, mse_weight=0.1).train()
    ids, optimiser, losses = some_ids(batch=16), torch.optim.Adam(model.parameters(), 1e-2), []
    for step in range(30):
        loss = model.loss(ids, generator(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        if step:  # the last layer of what is added to the GPT starts as zeros, which hide the rest of it for a step
            assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_it_starts_as_the_causal_model():
    """Catches layers over noisy tokens, what is read from the right or the token before disturbing the GPT before they
    have learnt anything."""
    denoiser = next_token("two_stream").double().denoiser
    past, noisy = noise_like_tokens(4, 16), noise_like_tokens(4, 16, seed=1)
    right = denoiser.read_right(noisy)
    left = denoiser.left(some_ids(2, 4), torch.ones(2, 4, dtype=torch.bool))
    assert torch.equal(denoiser.refine(past), past)
    assert torch.equal(denoiser.head(past, right, left), denoiser.model.lm_head(past))


@given(seed=st.integers(0, 2**40), block_size=st.integers(9, 60), share=st.floats(0.01, 1.0))
@settings(max_examples=30)
def test_windows_lie_inside_the_text(seed, block_size, share):
    """Catches noisy tokens without a clean past or behind the text's end, and a layout that draws from the generator of
    the noise, which a device would be waited for."""
    streams = StreamConfig(share=share, max_window=8)
    denoiser, draws = next_token("two_stream", block_size=60, streams=streams).denoiser, generator(seed)
    N = streams.tokens(block_size)
    start, width = denoiser._layout(block_size, N, draws)
    assert width in (2, 4, 8) and N % 8 == 0
    assert 8 <= N <= max(8, share * block_size)
    assert start >= 1 and start + N <= block_size
    assert torch.equal(draws.get_state(), generator(seed).get_state())


# ---- settings ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": 0.0}, "streams.share is 0.0: it must be above 0"),
        ({"share": 1.1}, "streams.share is 1.1: it must be at most 1"),
        ({"max_window": 12}, "streams.max_window is 12: it must be a power of 2, at least 2"),
        ({"max_window": 1}, "streams.max_window is 1: it must be at least 2"),
        ({"max_window": 0}, "streams.max_window is 0: it must be at least 2"),
        ({"weight": -0.1}, "streams.weight is -0.1: it must be at least 0"),
        ({"chain": 1.5}, "streams.chain is 1.5: it must be at most 1"),
        ({"forward_layers": -1}, "streams.forward_layers is -1: it must be at least 0"),
        ({"backward_layers": -1}, "streams.backward_layers is -1: it must be at least 0"),
    ],
)
def test_impossible_streams_are_named(changes, words):
    """Catches settings that would train nothing, or fail in the middle of a step."""
    with pytest.raises(ValueError, match=re.escape(f"algorithm.{words}")):
        build(StreamConfig, changes, "algorithm.streams")


def test_windows_that_do_not_fit_are_named():
    """Catches a window without a clean past, and a backbone from right to left whose heads cannot turn."""
    with pytest.raises(ValueError, match=r"max_window is 8: it must be below the 8 tokens of a text"):
        next_token("two_stream", streams=StreamConfig(max_window=8))
    assert StreamConfig(max_window=8).tokens(9) == 8
    with pytest.raises(ValueError, match=r"n_embd / n_head is 3: it must be even, .* always have rotary positions"):
        window_config(BackboneConfig(1, 2, 6, 8, style="nanogpt"), 1)
