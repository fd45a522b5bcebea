"""Noise levels uniform in information: closed forms of the channel, round trips, and tables that move together."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.backbone import BackboneConfig
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from algorithms.diffusion_forcing.process.fitted_levels import (
    CHANNEL_SAMPLES,
    NO_SIGNAL,
    InformationLevels,
    channel_nats,
    uniform_levels,
)
from algorithms.diffusion_forcing.process.row_mixture import RowMixture
from algorithms.diffusion_forcing.process.schedules import process_tables

V = 5


def sampling_error(snr: float, vocabulary_size: int) -> float:
    """What a mean over the fixed draws may be off by: four standard errors of the logit of the true token."""
    return 4 * math.sqrt(2 * snr * 4 * vocabulary_size / CHANNEL_SAMPLES)


# ---- the channel ----


@pytest.mark.parametrize("vocabulary_size", [2, 5, 65])
def test_without_signal_all_is_open_and_with_much_nothing(vocabulary_size):
    """Catches nats in another unit, and a channel that never tells or always tells a token."""
    nats = channel_nats(np.array([0.0, 1e-3, 1.0, 10.0, 1e3]), vocabulary_size)
    assert nats[0] == pytest.approx(math.log(vocabulary_size), abs=1e-6)
    assert (np.diff(nats) < 0).all()
    assert 0 <= nats[-1] < 1e-6


@pytest.mark.parametrize("snr", [0.1, 1.0, 4.0, 12.0])
def test_two_tokens_by_quadrature(snr):
    """Catches noise of another size: of two tokens the logits differ by N(snr, 2 snr)."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    expected = (weights * np.logaddexp(0, -(snr + np.sqrt(2 * snr) * points))).sum() / weights.sum()
    assert abs(channel_nats(np.array([snr]), 2)[0] - expected) < sampling_error(snr, 2)


@pytest.mark.parametrize("vocabulary_size", [5, 65])
def test_little_signal_tells_half_its_variance(vocabulary_size):
    """Catches an SNR of a coordinate taken for that of a token: the slope at 0 is half the variance of a token."""
    snr = 0.2
    told = math.log(vocabulary_size) - channel_nats(np.array([snr]), vocabulary_size)[0]
    assert abs(told - 0.5 * snr * (1 - 1 / vocabulary_size)) < 0.02 * snr + sampling_error(snr, vocabulary_size)


def test_the_slope_is_half_the_squared_error():
    """Catches a curve that is no information: by I-MMSE it falls by half the error of the posterior mean."""
    snr = np.linspace(1.0, 5.0, 21)
    noise = torch.randn(50_000, V, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    truth = torch.eye(V, dtype=torch.double)[0]
    errors = []
    for value in snr.tolist():
        posterior = (value**0.5 * noise + value * truth).softmax(-1)
        errors.append(float((posterior - truth).square().sum(-1).mean()))
    nats = channel_nats(snr, V)
    assert nats[0] - nats[-1] == pytest.approx(0.5 * np.trapezoid(errors, snr), abs=0.01)


# ---- the levels ----


@given(st.integers(1, 64), st.floats(0.05, 8.0), st.floats(0.5, 2.0), st.floats(0.5, 50.0))
def test_levels_of_a_known_curve_hide_equal_nats(levels, total, power, scale):
    """Catches levels uniform in something else: put back into the curve, they hide 1/K, 2/K, ... of all nats."""

    def curve(snr: np.ndarray) -> np.ndarray:
        return total * (1 + snr / scale) ** -power

    points = np.append(np.geomspace(1e8, 1e-6, 20_000), 0.0)
    snr = uniform_levels(points, curve(points), levels)
    assert np.abs(curve(snr) / total - np.arange(1, levels + 1) / levels).max() < 2e-3


@given(
    st.lists(st.floats(0, 5, width=32), min_size=1, max_size=20).filter(any), st.integers(1, 40), st.integers(0, 1000)
)
def test_no_estimate_breaks_the_order(nats, levels, seed):
    """Catches levels that rise again where an estimate falls with the noise, a last level with signal, and one with
    more than twice the signal of any that was seen."""
    snr = np.sort(np.random.default_rng(seed).lognormal(0, 3, len(nats)))[::-1]
    found = uniform_levels(snr, np.array(nats), levels)
    assert found.shape == (levels,)
    assert (np.diff(found) <= 0).all()
    assert found[-1] == NO_SIGNAL and found[0] <= 2 * snr[0] + NO_SIGNAL


@given(st.integers(2, 40), st.integers(0, 1000))
def test_uniform_levels_stay_where_they_are(levels, seed):
    """Catches a fit that drifts: levels that hide equal nats are its fixed point."""
    snr = np.sort(np.random.default_rng(seed).lognormal(0, 2, levels))[::-1].copy()
    snr[-1] = NO_SIGNAL
    again = uniform_levels(snr, 3.0 * np.arange(1, levels + 1) / levels, levels)
    np.testing.assert_allclose(again, snr, rtol=1e-9)


def test_the_first_levels_are_uniform_for_equally_likely_tokens():
    """Catches a first curve read backwards, or one of another vocabulary."""
    for vocabulary_size in (5, 65):
        snr = InformationLevels(16, vocabulary_size).snr.double().numpy()
        open_share = channel_nats(snr, vocabulary_size) / math.log(vocabulary_size)
        assert np.abs(open_share - np.arange(1, 17) / 16).max() < 0.01


@pytest.mark.parametrize("squared_norm", [1.0, 64.0])
def test_betas_give_the_levels_back(squared_norm):
    """Catches an SNR of a token used as that of a coordinate, and products taken in the wrong order."""
    levels = InformationLevels(16, V)
    abar = torch.cumprod(1 - levels.betas(squared_norm), dim=0)
    torch.testing.assert_close(abar / (1 - abar) * squared_norm, levels.snr.double(), rtol=1e-6, atol=0)


# ---- observations ----


def test_observations_are_counted_at_their_levels():
    """Catches a level that is counted once however often it comes, and shapes that are mixed up."""
    levels = InformationLevels(4, V)
    levels.observe(torch.tensor([[0, 2], [2, 3]]), torch.tensor([[0.1, 0.2], [0.4, 0.8]]))
    levels.observe(torch.tensor([2, -1]), torch.tensor([1.0, 9.0]))  # -1 is a clean token
    torch.testing.assert_close(levels.nats, torch.tensor([0.1, 0.0, 1.6, 0.8]))
    assert levels.count.tolist() == [1, 0, 3, 1]


def test_a_fit_moves_the_levels_and_forgets():
    """Catches a fit that goes the wrong way, that mixes new observations with those of other levels, or that divides by
    a count of 0: from a curve unlike the first one, levels soon hide equal nats."""
    levels = InformationLevels(16, 65)
    first = levels.snr.clone()
    levels.observe(torch.arange(15), torch.ones(15))  # the last one has not been seen
    levels.fit()
    assert torch.equal(levels.snr, first) and not levels.count.any() and not levels.nats.any()

    def curve(snr: torch.Tensor) -> torch.Tensor:
        return 1.5 * torch.exp(-snr / 3)

    wanted = 1.5 * torch.arange(1, 17) / 16
    away = [float((curve(levels.snr) - wanted).abs().max())]
    for _ in range(8):
        levels.observe(torch.arange(16).repeat(3), curve(levels.snr).repeat(3))
        levels.fit()
        assert not levels.count.any() and not levels.nats.any()
        away.append(float((curve(levels.snr) - wanted).abs().max()))
    assert away[0] > 0.3 and away[-1] < 0.01
    assert (levels.snr.diff() < 0).all() and levels.snr[-1] == pytest.approx(NO_SIGNAL)


# ---- in the model ----


def informed(parameterisation: str = "two_stream", *, seed: int = 0, **changes) -> DFLM:
    config = DFLMConfig(
        BackboneConfig(1, 2, 16, 24),
        parameterisation=parameterisation,
        embedding=EmbeddingConfig(dim=8),
        diffusion=DiffusionConfig(objective="pred_x0", beta_schedule="information", timesteps=8, fit_every_steps=3),
        **changes,
    )
    return DFLM(config, vocabulary_size=V, seed=seed)


def fitted(monkeypatch: pytest.MonkeyPatch, model: DFLM, steps: int, accumulate: int = 1) -> list[bool]:
    """Train for some steps without an optimiser; whether the levels moved before each of them."""
    trainer = SimpleNamespace(
        accumulate_grad_batches=accumulate, strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums)
    )
    monkeypatch.setattr(DFLM, "trainer", property(lambda self: trainer))
    generator, moved = torch.Generator().manual_seed(0), []
    ids = torch.randint(0, V, (16, 25), generator=generator)
    for step in range(steps):
        before = model.process.levels.snr.clone()
        model.on_train_batch_start(ids, step)
        moved.append(not torch.equal(model.process.levels.snr, before))
        model.loss(ids, generator)
    return moved


@pytest.mark.parametrize("parameterisation", ["two_stream", "shifted"])
def test_levels_are_fitted_every_so_many_steps(monkeypatch, parameterisation):
    """Catches a fit before anything was observed, one for every micro-step, and one that never comes."""
    assert fitted(monkeypatch, informed(parameterisation), 8) == [False, False, False, True, False, False, True, False]
    assert fitted(monkeypatch, informed(parameterisation), 8, accumulate=2) == [False] * 6 + [True, False]


def assert_tables_agree(model: DFLM) -> None:
    """All tables of the process are those of its levels, and what samples has no others."""
    sampler, posterior = MatrixDecoder(sampling_timesteps=4)._posterior(model)
    assert sampler.process is posterior.process is model.process
    expected = process_tables(model.process.levels.betas(8), snr_clip=model.process.snr_clip)
    for name, table in expected.items():
        assert torch.equal(getattr(model.process, name), table)
    torch.testing.assert_close(model.process.snr * 8, model.process.levels.snr, rtol=1e-5, atol=0)


@pytest.mark.parametrize("parameterisation", ["two_stream", "shifted"])
def test_all_tables_move_together_and_travel_in_a_checkpoint(monkeypatch, parameterisation):
    """Catches a sampler, a denoiser or a resumed run with the noise levels of another schedule than the process's."""
    model = informed(parameterisation)
    assert_tables_agree(model)
    first = model.process.alphas_cumprod.clone()
    assert fitted(monkeypatch, model, 4)[-1]
    assert not torch.equal(model.process.alphas_cumprod, first)
    assert_tables_agree(model)
    other = informed(parameterisation, seed=1)
    other.load_state_dict(model.state_dict())
    assert_tables_agree(other)
    assert torch.equal(other.process.alphas_cumprod, model.process.alphas_cumprod)
    assert torch.equal(other.process.levels.nats, model.process.levels.nats) and other.process.levels.count.any()


@pytest.mark.parametrize("parameterisation", ["two_stream", "shifted"])
def test_a_network_that_knows_nothing_observes_the_channel(parameterisation):
    """Catches observations at other levels, of noise of another size or of clean tokens: where all tokens are equally
    likely and orthogonal, the cost at level k is (k + 1) / K of ln V, and the next fit moves nothing."""
    model = informed(parameterisation, rows=RowMixture(independent=1, schedule=0, tail=1, clean=0, together=0))
    with torch.no_grad():
        model.denoiser.table.weight.copy_(torch.eye(V, 8))
        model.denoiser.model.lm_head.weight.zero_()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, V, (600, 25), generator=generator)
    with torch.no_grad():
        model.eval().loss(ids, generator)
        assert not model.process.levels.count.any()  # only training is observed
        for _ in range(10):
            model.train().loss(ids, generator)
    mean, error = model.process.levels.nats / model.process.levels.count, 4.5 / model.process.levels.count.sqrt()
    assert error.max() < 0.15
    assert (
        (mean - math.log(V) * torch.arange(1, 9) / 8).abs() < error
    ).all()  # a token's cost varies by less than a nat


def test_fitted_levels_are_shown():
    """Catches levels drawn against another share of the nats than the one they hide, or left out of the summary."""
    model = informed()
    shown = {one.name: one for one in model.artifacts()}["noise_levels"]
    assert shown.plot == "log_curve" and shown.in_summary
    assert np.array_equal(shown.values, model.process.levels.snr.numpy())
    np.testing.assert_allclose(shown.options["y"], np.arange(1, 9) / 8)
