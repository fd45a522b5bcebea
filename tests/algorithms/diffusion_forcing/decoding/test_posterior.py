"""What the sampler computes: the cached loop against whole windows, against the GPT's own decoder, and what both cost.

B batch, T tokens, C embedding channels, V vocabulary.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone import LanguageModel
from algorithms.common.backbone.masks import attention_mask
from algorithms.common.decoder import Generation, Request
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, sample_tokens
from algorithms.diffusion_forcing.config import DiffusionConfig
from algorithms.diffusion_forcing.decoding import settings as decoders
from algorithms.diffusion_forcing.decoding.scheduling_matrix import widest_flight
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig, round_to_tokens
from algorithms.diffusion_forcing.process.gaussian import channel_logits
from algorithms.teacher_forcing.decoding import Autoregressive
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from tests.algorithms.diffusion_forcing.tiny_models import (
    MEAN,
    V,
    asked,
    digits,
    faithful,
    shifted,
    some_ids,
    two_stream,
    write,
)

BLOCK = 16


@cache
def model_of(make, style: str = "rope", **changes) -> DFLM:
    diffusion = DiffusionConfig(beta_schedule="cosine", log_snr_shift=-1.4, timesteps=8)
    return make(style, block_size=BLOCK, diffusion=diffusion, **changes)


def written(model: DFLM, ids, is_given, decoder: MatrixDecoder, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, L, C) and tokens (B, L) that the matrix loop writes around the given ones."""
    found: list[torch.Tensor] = []
    plain = decoders.sample

    def sample(*arguments, **options):
        found.append(plain(*arguments, **options))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(decoders, "sample", sample)
        patch.setattr(MatrixDecoder, "writes_as_gpt", lambda *_: False)
        seeds = range(seed, seed + len(ids))
        tokens = decoder.decode(model, Request(ids, is_given, list(seeds), encode=digits)).ids
    assert torch.equal(tokens, round_to_tokens(found[0].x, model.denoiser.table()))
    return found[0].x, tokens


def text_with(holes: list[int], length: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, L), and which are given: the first, and all but `holes`."""
    is_given = torch.ones(rows, length, dtype=torch.bool)
    is_given[:, holes] = False
    return some_ids(rows, length), is_given


# ---- cached = uncached ----

schedules = st.one_of(
    st.tuples(st.just("pyramid"), st.sampled_from([0.0, 0.3, 1.0, 2.5, 4.0])),
    st.tuples(st.sampled_from(["full_sequence", "autoregressive"]), st.just(1.0)),
    st.tuples(st.sampled_from(["trapezoid", "trapezoid_original"]), st.sampled_from([0.5, 1.0, 2.0])),
)


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@given(
    schedule=schedules,
    token_draw=st.sampled_from(["sample", "last", "mean", "chain"]),
    steps=st.sampled_from([1, 3, 8]),  # 8 is DDPM
    eta=st.sampled_from([0.0, 0.3, 1.0]),
    stabilization_level=st.sampled_from([0, 0, 1, 6]),
    chunk_size=st.sampled_from([None, 1, 4, 7]),
    holes=st.lists(st.integers(1, BLOCK), min_size=1, max_size=BLOCK, unique=True),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_cached_equals_uncached(
    make, style, schedule, token_draw, steps, eta, stabilization_level, chunk_size, holes, seed
):
    """Catches keys of a noisy token that are kept, final tokens that are read as noisy or too early, draws that belong
    to the window instead of the token, and flights cut at the wrong place: prompts and holes alike, in a text that
    fills the context."""
    decoder = MatrixDecoder(
        schedule=schedule[0],
        uncertainty_scale=schedule[1],
        sampling_timesteps=steps,
        ddim_eta=eta,
        stabilization_level=stabilization_level,
        chunk_size=chunk_size,
        token_draw="sample" if token_draw == "chain" and make is shifted else token_draw,
    )
    ids, is_given = text_with(holes, BLOCK + 1)
    cached = written(model_of(make, style), ids, is_given, decoder, seed)
    whole = written(model_of(make, style), ids, is_given, replace(decoder, use_cache=False), seed)
    torch.testing.assert_close(cached[0], whole[0], rtol=0, atol=1e-6)
    assert torch.equal(cached[1], whole[1])
    assert torch.equal(cached[1][is_given], ids[is_given])


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("schedule", ["pyramid", "full_sequence", "autoregressive"])
@pytest.mark.parametrize("steps", [5, 8])
def test_cached_equals_uncached_under_guidance(make, schedule, steps):
    """Catches a score that sees nothing, or zeros, where tokens are final, and autograd that fails in the cache."""
    decoder = replace(
        MEAN, schedule=schedule, sampling_timesteps=steps, keyword="412", guidance_scale=2.0, chunk_size=5
    )
    ids, is_given = text_with([*range(3, 8), *range(10, 15)], 16)
    model = model_of(make)
    cached = written(model, ids, is_given, decoder)
    whole = written(model, ids, is_given, replace(decoder, use_cache=False))
    free = written(model, ids, is_given, replace(decoder, keyword=None, guidance_scale=0.0))
    torch.testing.assert_close(cached[0], whole[0], rtol=0, atol=1e-6)
    assert torch.equal(cached[1], whole[1])
    assert not torch.allclose(cached[0], free[0])


@pytest.mark.parametrize("make", [shifted, two_stream])
def test_cached_equals_uncached_with_estimates_fed_back(make):
    """Catches an estimate that is fed back at another position, where tokens become final between two rows."""
    model = model_of(make, self_conditioning=0.5)
    for scale, chunk_size in [(0.5, None), (2.0, 6)]:
        decoder = MatrixDecoder(
            schedule="pyramid", sampling_timesteps=8, uncertainty_scale=scale, chunk_size=chunk_size
        )
        ids, is_given = text_with(list(range(2, 16)), 16)
        cached = written(model, ids, is_given, decoder)
        whole = written(model, ids, is_given, replace(decoder, use_cache=False))
        torch.testing.assert_close(cached[0], whole[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_estimates_are_fed_back_to_their_own_tokens(monkeypatch, scale):
    """Catches an estimate of a neighbour, of an earlier row, or of a token that was not in flight: what a row adds to a
    token's channel is what the row before predicted of it."""
    model = model_of(shifted, self_conditioning=0.5)
    denoiser, beliefs, predicted = model.denoiser, [], {}
    decoder = MatrixDecoder(schedule="pyramid", sampling_timesteps=8, uncertainty_scale=scale, chunk_size=6)
    read_noisy, head = denoiser.read_noisy, denoiser.head

    def reads(x: torch.Tensor, abar: torch.Tensor, belief: torch.Tensor) -> torch.Tensor:
        beliefs.append(belief)
        return read_noisy(x, abar, belief)

    def heads(past: torch.Tensor, *known) -> torch.Tensor:
        logits, final = head(past, *known), made[-1].read.size(1)
        if beliefs:  # of this row, which has not predicted yet
            channel, told = beliefs
            for place in range(told.size(1)):
                expected = predicted.get(final + place, torch.zeros(2, V, dtype=torch.double))
                torch.testing.assert_close(told[:, place] - channel[:, place], expected, rtol=0, atol=1e-9)
            beliefs.clear()
        predicted.clear()
        predicted.update({final + place: logits[:, place] for place in range(logits.size(1))})
        return logits

    monkeypatch.setattr(denoiser, "read_noisy", reads)
    monkeypatch.setattr(denoiser, "head", heads)
    plain, made = decoders.make_posterior, []
    monkeypatch.setattr(decoders, "make_posterior", lambda *given: made.append(plain(*given)) or made[-1])
    out = write(model, some_ids(2, 2), length=14, seeds=[0, 1], decoder=decoder)
    assert predicted and made[-1].forwards == out.forwards > 14


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("width", [BLOCK // 2, BLOCK // 2 + 3, BLOCK])
def test_wide_flights_beyond_the_context(estimates, use_cache, width):
    """Catches a flight of more than half the context that pushes all final tokens out of it, and a state that is left
    over from an earlier context: the estimates are those of a pass over the text from the context's start on."""
    model = model_of(two_stream)
    denoiser, table = model.denoiser, model.denoiser.table()
    decoder = replace(MEAN, schedule="full_sequence", sampling_timesteps=2, chunk_size=width, use_cache=use_cache)
    ids = write(model, some_ids(2, 2), length=3 * width, seeds=[0, 1], decoder=decoder).ids
    assert len(estimates) == 6
    for number, (_, x, levels, estimate) in enumerate(estimates):
        begin = 2 + width * (number // 2)
        end = begin + width
        start = min(context_start(end - 1, BLOCK), begin - 1) if use_cache else max(0, end - BLOCK - 1)
        x, abar, estimate = x[:, -width:], model.process.alphas_cumprod[levels[:, -width:]], estimate[:, -width:]
        T = end - start - 1
        all_x, snr = torch.zeros(2, T, 4, dtype=torch.double), torch.ones(2, T, dtype=torch.double)
        all_x[:, -width:], snr[:, -width:] = x, abar / (1 - abar)
        begins = torch.arange(T).clamp(max=T - width)
        prior = denoiser.window_priors(ids[:, start:end], all_x, snr, begins)[1][:, -width:]
        expected = (prior + channel_logits(x, abar, table)).softmax(-1) @ table
        torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-6)


# ---- one token in flight: the GPT's decoder ----


def orthogonal(make, style: str = "rope") -> DFLM:
    """A model whose token embeddings are orthogonal, so that what leads to a token raises that token alone."""
    model = make(style, block_size=BLOCK, embedding=EmbeddingConfig(dim=V))
    with torch.no_grad():
        model.denoiser.table.weight.copy_(torch.eye(V))
    return model


def draws_of_the_gpt(length: int) -> type[RowRandom]:
    """A source without noise whose uniforms are those of the GPT's decoder, the same at all levels of a token."""

    class Draws(RowRandom):
        def __init__(self, seeds) -> None:
            super().__init__(seeds)
            self.tokens = iter(super().uniform(length).T)

        def uniform(self, *shape: int) -> torch.Tensor:
            return next(self.tokens)[:, None].expand(-1, *shape)

        def normal(self, *shape: int) -> torch.Tensor:
            return torch.zeros_like(super().normal(*shape))

    return Draws


def passes_of(backbone: torch.nn.Module, call) -> tuple[Generation, list[int]]:
    """What a call returns, and the tokens of each pass of the backbone in it."""
    seen: list[int] = []
    with backbone.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[0] * out.shape[1])):
        return call(), seen


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("steps", [1, 8, 16])
@pytest.mark.parametrize("setting", [{}, {"temperature": 0.6, "top_k": 4, "top_p": 0.8}, {"temperature": 0.0}], ids=str)
def test_one_token_in_flight_is_the_gpt(monkeypatch, make, style, steps, setting):
    """Catches another distribution, another context far beyond block_size, or more work than the GPT's decoder: with
    its uniforms the same tokens come, at one pass for each however many levels it goes through."""
    model, length = orthogonal(make, style), 3 * BLOCK
    prompt, gpt = some_ids(3, 2), GPT(GPTConfig(model.config.backbone), vocabulary_size=V)
    gpt.model, sampling = model.denoiser.model, Autoregressive(**setting)
    backbone = gpt.model.backbone
    theirs, their_passes = passes_of(
        backbone, lambda: gpt.generate(asked(prompt, length=length, seeds=[4, 5, 6]), sampling)
    )
    monkeypatch.setattr(decoders, "RowRandom", draws_of_the_gpt(length))
    decoder = MatrixDecoder(sampling_timesteps=steps, chunk_size=7, **setting)
    ours, our_passes = passes_of(
        backbone, lambda: write(model, prompt, length=length, seeds=[4, 5, 6], decoder=decoder)
    )
    assert torch.equal(ours.ids, theirs.ids)
    assert our_passes == their_passes
    assert ours.forwards == theirs.forwards == length and ours.token_forwards == sum(their_passes)


@pytest.mark.parametrize("make", [shifted, two_stream])
@pytest.mark.parametrize("decoder", [MatrixDecoder(), MatrixDecoder(schedule="pyramid", token_draw="chain")], ids=str)
def test_the_gpts_loop_and_the_matrix_write_the_same(monkeypatch, make, decoder):
    """Catches a setting that takes the GPT's loop and is not token by token, and costs or a trace unlike the matrix's:
    with the same draws every token, pass and level is that of the matrix."""
    model = orthogonal(make)
    decoder = replace(decoder, token_draw="sample") if make is shifted else decoder
    wanted = {"length": 3 * BLOCK, "seeds": [4, 5, 6], "trace": True, "decoder": decoder}
    assert decoder.writes_as_gpt(model, asked(some_ids(3, 2), length=4, seeds=[0, 1, 2]))
    fast = write(model, some_ids(3, 2), **wanted)
    monkeypatch.setattr(decoders, "RowRandom", draws_of_the_gpt(3 * BLOCK))
    monkeypatch.setattr(MatrixDecoder, "writes_as_gpt", lambda *_: False)
    slow = write(model, some_ids(3, 2), **wanted)
    assert torch.equal(fast.ids, slow.ids) and fast.row_forwards is slow.row_forwards is None
    costs = [(one.steps, one.forwards, one.token_forwards, one.decided) for one in (fast, slow)]
    assert costs[0] == costs[1]
    moved = (
        slow.trace.levels.diff(dim=0, prepend=slow.trace.levels[:1]).flatten(1).any(1)
    )  # not noise, nor rows that stay
    assert torch.equal(fast.trace.levels, slow.trace.levels[moved])
    assert torch.equal(fast.trace.forwards, slow.trace.forwards[moved])
    decided = fast.trace.levels == 0
    assert torch.equal(fast.trace.tokens[decided], slow.trace.tokens[moved][decided])


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling_timesteps": 2},
        {"schedule": "full_sequence"},
        {"schedule": "pyramid", "uncertainty_scale": 0.5},
        {"schedule": "trapezoid"},
        {"stabilization_level": 1},
        {"token_draw": "mean"},
        {"sliding": True},
    ],
    ids=str,
)
def test_other_settings_keep_the_matrix(changes):
    """Catches a setting whose texts follow another law, and are written by the GPT's loop."""
    model, wanted = model_of(two_stream), asked(some_ids(2, 2), length=3 * BLOCK, seeds=[0, 1])
    assert MatrixDecoder().writes_as_gpt(model, wanted)
    assert not MatrixDecoder(**changes).writes_as_gpt(model, wanted)
    with_suffix = asked(some_ids(2, 2), length=4, seeds=[0, 1], suffix=some_ids(2, 2))
    assert not MatrixDecoder().writes_as_gpt(model, with_suffix)
    assert MatrixDecoder().writes_as_gpt(model_of(shifted), with_suffix)  # nobody reads the suffix


@pytest.mark.parametrize("make", [shifted, two_stream])
def test_sliding_decodes_as_a_band_mask_would(monkeypatch, make):
    """Catches a context that slides too far or too short, and one that is read twice: every token comes from a pass
    over the whole text in which each token sees the last block_size ones."""
    model, length = orthogonal(make), 3 * BLOCK
    gpt = model.denoiser.model
    large = LanguageModel(replace(model.config.backbone, block_size=4 * BLOCK), V).double()
    large.load_state_dict(gpt.state_dict())
    ids, draws = some_ids(2, 2), RowRandom([4, 5]).uniform(length)
    for step in range(length):
        T = ids.size(1)
        mask, positions = attention_mask("causal", T, T, window=BLOCK), torch.arange(T)
        logits = large.lm_head(large.backbone(large.wte(ids), mask=mask, positions=positions))[:, -1]
        ids = torch.cat([ids, sample_tokens(logits, draws[:, step])[:, None]], dim=1)
    monkeypatch.setattr(decoders, "RowRandom", draws_of_the_gpt(length))
    decoder = MatrixDecoder(sliding=True, sampling_timesteps=4)
    out, passes = passes_of(
        gpt.backbone, lambda: write(model, ids[:, :2], length=length, seeds=[4, 5], decoder=decoder)
    )
    assert torch.equal(out.ids, ids)
    assert passes == [2 * 2] + [2] * (length - 1)


@given(schedule=schedules, seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_sliding_changes_nothing_within_the_context(schedule, seed):
    """Catches a sliding cache that forgets a token too soon, with several in flight."""
    mode, scale = schedule
    decoder = MatrixDecoder(schedule=mode, uncertainty_scale=scale, sampling_timesteps=3, chunk_size=6)
    ids, is_given = text_with(list(range(3, BLOCK + 1)), BLOCK + 1)
    plain = written(model_of(two_stream), ids, is_given, decoder, seed)
    sliding = written(model_of(two_stream), ids, is_given, replace(decoder, sliding=True), seed)
    torch.testing.assert_close(sliding[0], plain[0], rtol=0, atol=1e-6)


# ---- text behind what is written ----

RIGHT = StreamConfig(max_window=4)
CAUSAL = StreamConfig(max_window=4, backward_layers=0)


@pytest.mark.parametrize(("make", "streams"), [(two_stream, RIGHT), (two_stream, CAUSAL), (shifted, RIGHT)])
@pytest.mark.parametrize("schedule", ["autoregressive", "full_sequence"])
def test_a_suffix_is_seen_by_what_reads_to_the_left(make, streams, schedule):
    """Catches known text behind the flight that is not read, read where the network is causal, or read across tokens
    that are not begun."""
    model = model_of(make, streams=streams)
    reads_right = make is two_stream and streams is RIGHT
    decoder = MatrixDecoder(schedule=schedule, sampling_timesteps=4)
    assert decoder.sees_right(model) == reads_right
    prompt, suffix = some_ids(40, 3), some_ids(40, 3, seed=1)
    texts = []
    for tail in (suffix, (suffix + 1) % V):
        wanted = asked(prompt, length=2, seeds=range(40), suffix=tail)
        if not reads_right:
            with pytest.raises(ValueError, match="suffix cannot be seen by the decoder matrix"):
                decoder.check(model, wanted)
        with torch.no_grad():
            out = decoder.decode(model, wanted).ids
        assert torch.equal(out[:, :3], prompt) and torch.equal(out[:, 5:], tail)
        texts.append(out[:, 3:5])
    differs = (texts[0] != texts[1]).any(dim=0).tolist()
    assert differs == [reads_right and schedule == "full_sequence", reads_right]


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}], ids=str)
def test_known_text_in_flight_need_not_be_probable(monkeypatch, setting):
    """Catches a chain that goes on from the most probable token where another one is given."""
    model, told = model_of(two_stream), []
    plain = type(model.denoiser).left

    def left(self, tokens, known):
        told.append(tokens)
        return plain(self, tokens, known)

    monkeypatch.setattr(type(model.denoiser), "left", left)
    decoder = MatrixDecoder(schedule="full_sequence", sampling_timesteps=1, token_draw="chain", **setting)
    ids = some_ids(8, 5)
    is_given = torch.tensor([[True, False, True, False, True]]).expand(8, -1)
    out = model.generate(Request(ids, is_given, range(8)), decoder)
    assert torch.equal(out.ids[is_given], ids[is_given])
    chain = torch.cat(told, dim=1)  # of the one step, the tokens before positions 2, 3 and 4
    assert torch.equal(chain, out.ids[:, 1:4])


def test_what_reads_to_the_left_reads_as_far_as_its_windows():
    """Catches a suffix that is cut at the flight, or read farther than any window that was trained: of 4 positions the
    one that is written and 3 behind it."""
    model, decoder = model_of(two_stream), MatrixDecoder(sampling_timesteps=4)
    prompt, suffix = some_ids(60, 3), some_ids(60, 6, seed=1)

    def last_written(changed: int) -> torch.Tensor:
        tail = suffix.clone()
        tail[:, changed] = (tail[:, changed] + 1) % V
        return write(model, prompt, length=2, seeds=range(60), decoder=decoder, suffix=tail).ids[:, 4]

    plain = write(model, prompt, length=2, seeds=range(60), decoder=decoder, suffix=suffix).ids[:, 4]
    assert [not torch.equal(last_written(changed), plain) for changed in range(6)] == [True] * 3 + [False] * 3


# ---- cost ----


@pytest.mark.parametrize("make", [shifted, two_stream, faithful])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("schedule", ["pyramid", "full_sequence", "trapezoid"])
def test_costs_are_what_the_backbone_computes(make, use_cache, schedule):
    """Catches passes, or tokens in them, that are not counted, or counted but not computed."""
    model = make() if make is faithful else model_of(make)
    backbone = model.denoiser.backbone if make is faithful else model.denoiser.model.backbone
    decoder = replace(MEAN, schedule=schedule, chunk_size=4, use_cache=use_cache)
    out, passes = passes_of(backbone, lambda: write(model, some_ids(3, 2), length=14, seeds=[0, 1, 2], decoder=decoder))
    assert out.forwards == len(passes)
    assert out.token_forwards == sum(passes)


def test_the_cache_saves_its_share():
    """Catches a cached loop that computes what it need not: of 256 tokens, 32 in flight and 8 levels, a whole window at
    every row takes at least 8 times the tokens."""
    model = two_stream(block_size=257)
    decoder = MatrixDecoder(schedule="pyramid", uncertainty_scale=0.25, sampling_timesteps=8, chunk_size=None)
    assert widest_flight(decoder.matrix(255)) == 32
    cost = [
        write(
            model, some_ids(1, 1), length=255, seeds=[0], decoder=replace(decoder, use_cache=use_cache)
        ).token_forwards
        for use_cache in (True, False)
    ]
    assert cost[1] >= 8 * cost[0]
