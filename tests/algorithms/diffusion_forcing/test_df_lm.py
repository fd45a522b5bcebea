"""Diffusion Forcing LM: what the network may see, its exact likelihood, the distribution of its samples."""

import math
from dataclasses import replace

import pytest
import torch

from algorithms.diffusion_forcing.bounds import ancestral_bound
from algorithms.diffusion_forcing.config import DiffusionConfig
from algorithms.diffusion_forcing.decoding import settings as decoders
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.df_lm import DFLM, level_bins
from algorithms.diffusion_forcing.process.row_mixture import RowMixture
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from tests.algorithms.diffusion_forcing.tiny_models import (
    MEAN,
    V,
    faithful,
    generator,
    next_token,
    shifted,
    some_ids,
    two_stream,
    write,
)

MAKERS = pytest.mark.parametrize("make", [shifted, two_stream])


@MAKERS
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("fusion", ["add", "concat_mlp"])
@pytest.mark.parametrize("self_conditioning", [0.0, 1.0])
def test_without_noise_it_is_a_gpt(make, style, fusion, self_conditioning):
    """Catches a shift, a head or a conditioning that differs from teacher forcing when the past is clean: likelihood
    and loss of clean texts are those of a GPT of the same weights."""
    model = make(style, fusion, rows=RowMixture(0, 0, 0, 1, 0), self_conditioning=self_conditioning)
    gpt = GPT(GPTConfig(model.config.backbone), vocabulary_size=V).double().eval()
    gpt.model.load_state_dict(model.denoiser.model.state_dict())
    ids = some_ids()
    assert torch.equal(model.nll(ids, generator()), gpt.nll(ids, generator()))
    part = "ce" if make is shifted else "clean_ce"
    loss = gpt.loss(ids, generator())["loss"]
    torch.testing.assert_close(model.loss(ids, generator())[part].float(), loss.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("parameterisation", ["shifted", "two_stream"])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("beta_schedule", ["cosine", "information"])
def test_it_starts_from_the_weights_of_the_gpt_of_its_seed(parameterisation, style, beta_schedule):
    """Catches a draw before, or within, the GPT's own: a comparison of methods would start from other weights."""
    diffusion = DiffusionConfig(objective="pred_x0", beta_schedule=beta_schedule)
    model = next_token(parameterisation, style, diffusion=diffusion)
    for seed in (0, 3):
        ours = DFLM(model.config, vocabulary_size=V, seed=seed).denoiser.model.state_dict()
        theirs = GPT(GPTConfig(model.config.backbone), vocabulary_size=V, seed=seed).model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def single_token_process(timesteps: int, make=shifted) -> tuple[DFLM, torch.Tensor]:
    """A model whose next-token prediction is a fixed distribution, so that everything is known in closed form."""
    model = make(diffusion=DiffusionConfig(beta_schedule="cosine", log_snr_shift=-1.4, timesteps=timesteps))
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.double)
    head = model.denoiser.model.lm_head
    head.forward = lambda h: probabilities.log().expand(*h.shape[:-1], V)
    return model, probabilities


def test_path_bound_on_the_autoregressive_schedule_is_the_cross_entropy():
    """Catches a wrong Jacobian, prior or reconstruction term: by I-MMSE the bound with many levels equals -log q."""
    model, probabilities = single_token_process(timesteps=400)
    process, table = model.process, model.denoiser.table()
    batch = 40_000
    ids = torch.arange(V).repeat(batch // V)[:, None].expand(-1, 2)
    g = generator()
    levels = (torch.rand(batch, generator=g) * 400).long()[:, None].expand(-1, 2)
    noise = torch.randn(batch, 2, 4, generator=g, dtype=torch.double)
    x0 = model.denoiser.embed(ids)
    x = process.q_sample(x0, levels, noise)
    with torch.no_grad():
        x0_hat = model.denoiser.estimate(process, ids, x, levels)  # (B, 1, C), of the second token
        estimate = ancestral_bound(process, ids[:, 1:], levels[:, 1:], x0[:, 1:], x0_hat, x[:, 1:], table)[:, 0]
    for token in range(V):
        values = estimate[ids[:, 1] == token]
        error = values.std() / math.sqrt(len(values))
        assert abs(float(values.mean() + probabilities[token].log())) < 4 * float(error) + 0.02


@MAKERS
@pytest.mark.parametrize("timesteps", [1, 6, 32])
def test_bounds_of_pyramids_are_stated_beside_the_exact_nats(make, timesteps):
    """Catches levels that the tokens in flight cannot share, a bound called exact, and an excess where the window tells
    nothing: there the bound of every path is the exact one."""
    model, ids = single_token_process(timesteps, make)[0], some_ids()
    stated = model.likelihoods()
    assert {name: one.kind for name, one in stated.items()} == {
        "nll": "exact",
        "pyramid_2": "bound",
        "pyramid_4": "bound",
    }
    for one in stated.values():
        torch.testing.assert_close(one.nll(ids, generator()), model.nll(ids, generator()), rtol=1e-5, atol=0)
    assert list(faithful().likelihoods()) == ["nll"]


@MAKERS
@pytest.mark.parametrize("timesteps", [1, 3, 16])
def test_drawn_tokens_follow_the_prediction_for_any_number_of_levels(make, timesteps):
    """Catches a reverse step that is not the exact posterior: one level or many, a token is distributed as it is
    predicted."""
    model, probabilities = single_token_process(16, make)
    decoder = MatrixDecoder(sampling_timesteps=timesteps, chunk_size=1)
    n = 6000
    prompt = torch.zeros(n, 1, dtype=torch.long)
    ids = write(model, prompt, length=1, seeds=range(n), decoder=decoder).ids[:, 1]
    share = torch.bincount(ids, minlength=V) / n
    assert (share - probabilities).abs().max() < 4.5 * math.sqrt(0.25 / n)


@MAKERS
def test_the_autoregressive_schedule_samples_the_networks_own_distribution(make):
    """Catches a clean past that is shown as noisy, or a wrong shift: the joint distribution of two tokens is f's."""
    model = make()
    decoder = MatrixDecoder(sampling_timesteps=4, chunk_size=2)
    n = 6000
    prompt = torch.full((n, 1), 3)
    ids = write(model, prompt, length=2, seeds=range(n), decoder=decoder).ids[:, 1:]
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    with torch.no_grad():
        nll = model.nll(torch.cat([torch.full((V * V, 1), 3), pairs], dim=1), generator())
    expected = (-nll.sum(1)).exp()
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-4)
    share = torch.bincount(ids[:, 0] * V + ids[:, 1], minlength=V * V) / n
    assert 0.5 * float((share - expected).abs().sum()) < 0.04  # total variation; about 0.02 by chance


@pytest.mark.parametrize("make", [shifted, two_stream, faithful])
def test_batched_generation_equals_single(make):
    """Catches rows that share noise: each row depends on its prompt and seed only, also past the window."""
    model = make()
    prompt = some_ids(batch=3, tokens=2)
    decoder = _with_chunk(MEAN if make is faithful else MatrixDecoder(schedule="pyramid"), 4)
    batch = write(model, prompt, length=15, seeds=[7, 8, 9], decoder=decoder).ids
    for row in range(3):
        one = write(model, prompt[row : row + 1], length=15, seeds=[7 + row], decoder=decoder)
        assert torch.equal(one.ids[0], batch[row])


def _with_chunk(decoder: MatrixDecoder, chunk: int) -> MatrixDecoder:
    return replace(decoder, chunk_size=chunk)


@pytest.mark.parametrize("parameterisation", ["shifted", "two_stream"])
@pytest.mark.parametrize("schedule", ["full_sequence", "pyramid"])
def test_keyword_guidance_raises_the_keyword(parameterisation, schedule):
    """Catches guidance of the wrong sign or without effect: the keyword appears more often than unguided."""
    model = next_token(parameterisation)
    torch.nn.init.normal_(model.denoiser.model.lm_head.weight, 0, 0.5)
    prompt = torch.zeros(150, 1, dtype=torch.long)
    counts = []
    plain = replace(MEAN, schedule=schedule)
    for decoder in (plain, replace(plain, keyword="412", guidance_scale=2.0)):
        ids = write(model, prompt, length=7, seeds=range(150), decoder=decoder).ids
        texts = ["".join(map(str, row.tolist())) for row in ids]
        counts.append(sum("412" in text for text in texts))
    assert counts[1] > 2 * counts[0] + 5


@pytest.mark.parametrize("make", [shifted, two_stream, faithful])
def test_trace_follows_the_matrix(make):
    """Catches a trace whose levels are not those of the scheduling matrix, or that ends on other tokens."""
    model = make()
    out = write(model, some_ids(2, 2), length=4, seeds=[0, 1], decoder=_with_chunk(MEAN, 4), trace=True)
    matrix = MEAN.matrix(4) / MEAN.sampling_timesteps
    torch.testing.assert_close(out.trace.levels[:, 0, 2:], matrix.float())
    assert (out.trace.levels[:, :, :2] == 0).all()
    assert torch.equal(out.trace.tokens[-1], out.ids)
    assert out.steps == len(matrix) - 1
    if make is faithful:  # the others compute nothing for a token that is alone in flight
        assert out.trace.forwards.tolist() == list(range(len(matrix)))


@pytest.mark.parametrize("token_draw", ["mean", "sample"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_trace_counts_the_passes_up_to_each_state(monkeypatch, use_cache, chunk_size, token_draw):
    """Catches a pass counted for the noise of a new chunk, and counts shifted against their states."""
    model, passes, at = two_stream(), [], []
    model.denoiser.model.backbone.register_forward_hook(lambda *_: passes.append(1))
    plain = decoders.round_to_tokens
    monkeypatch.setattr(decoders, "round_to_tokens", lambda *given: at.append(len(passes)) or plain(*given))
    decoder = replace(_with_chunk(MEAN, chunk_size), token_draw=token_draw, use_cache=use_cache)
    out = write(model, some_ids(2, 2), length=4, seeds=[0, 1], decoder=decoder, trace=True)
    assert out.trace.forwards.tolist() == at[:-1]  # rounded once for each state, and once for the result
    assert int(out.trace.forwards[-1]) == out.forwards == len(passes)
    if not use_cache:
        assert out.trace.forwards.diff().tolist().count(0) == 4 // chunk_size - 1  # new chunks


def test_bins_cover_every_level_once():
    """Catches diagnostics that drop the last level."""
    for timesteps in (1, 3, 4, 32, 33):
        covered = [level for low, high in level_bins(timesteps) for level in range(low, high)]
        assert covered == list(range(timesteps))


def test_few_levels_are_enough():
    """Catches a process that cannot be made for fewer levels than some decoder would take by default."""
    decoder = MatrixDecoder(sampling_timesteps=2)
    for timesteps in (1, 4):
        model = two_stream(diffusion=DiffusionConfig(beta_schedule="cosine", timesteps=timesteps))
        steps = replace(decoder, sampling_timesteps=min(2, timesteps))
        assert write(model, some_ids(1, 1), length=3, seeds=[0], decoder=steps).ids.shape == (1, 4)
