"""Beta schedules and process tables: reference values, ends, monotony, identities between the tables."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diffusion_forcing.process.schedules import BETA_SCHEDULES, beta_schedule, process_tables

SETTINGS = [(name, timesteps) for name in BETA_SCHEDULES for timesteps in (32, 100, 1000)]


@pytest.mark.parametrize(("name", "timesteps"), SETTINGS)
def test_tables_match_the_original(golden, name, timesteps):
    """Catches a wrong constant, a float32 computation or a misnamed buffer in any schedule."""
    tables = process_tables(beta_schedule(name, timesteps), snr_clip=5.0)
    expected = golden.names(f"schedule/{name}/{timesteps}/")
    assert len(expected) == 9
    for table in expected:
        reference = golden.raw(f"schedule/{name}/{timesteps}/{table}")
        torch.testing.assert_close(tables[table], reference, rtol=1e-5, atol=1e-6, msg=table)


@pytest.mark.parametrize(("name", "timesteps"), SETTINGS)
def test_signal_falls_from_almost_one_to_almost_nothing(name, timesteps):
    """Catches a reversed schedule and one that never reaches noise."""
    abar = process_tables(beta_schedule(name, timesteps), snr_clip=5.0)["alphas_cumprod"]
    assert (abar.diff() < 0).all()
    assert abar[0] > 0.9
    assert 0 < abar[-1] < 0.01


@pytest.mark.parametrize(("name", "timesteps"), SETTINGS)
def test_tables_agree_with_each_other(name, timesteps):
    """Catches a table computed from the wrong one: each is recomputed here by another road."""
    t = {k: v.double() for k, v in process_tables(beta_schedule(name, timesteps), snr_clip=5.0).items()}
    abar, betas = t["alphas_cumprod"], t["betas"]
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(t["alphas_cumprod_prev"] * (1 - betas), abar, **close)
    torch.testing.assert_close(t["sqrt_alphas_cumprod"] ** 2, abar, **close)
    torch.testing.assert_close(t["sqrt_one_minus_alphas_cumprod"] ** 2, 1 - abar, **close)
    torch.testing.assert_close(t["log_one_minus_alphas_cumprod"].exp(), 1 - abar, **close)
    torch.testing.assert_close(
        t["sqrt_recip_alphas_cumprod"] * t["sqrt_alphas_cumprod"], torch.ones_like(abar), **close
    )
    torch.testing.assert_close(t["sqrt_recipm1_alphas_cumprod"] ** 2, 1 / t["snr"], **close)
    torch.testing.assert_close(t["clipped_snr"], t["snr"].clamp(max=5.0), **close)
    # On the noiseless path x_k = sqrt(abar_k) x0 the posterior's mean is sqrt(abar_{k-1}) x0.
    mean = t["posterior_mean_coef1"] + t["posterior_mean_coef2"] * t["sqrt_alphas_cumprod"]
    torch.testing.assert_close(mean, t["alphas_cumprod_prev"].sqrt(), **close)
    positive = t["posterior_variance"][1:]
    torch.testing.assert_close(t["posterior_log_variance_clipped"][1:].exp(), positive, **close)
    assert t["posterior_variance"][0] == 0


@given(st.sampled_from(BETA_SCHEDULES), st.integers(21, 200), st.floats(-8, 8))
def test_shift_adds_to_the_log_snr(name, timesteps, shift):
    """Catches a shift of the wrong sign or unit, and betas that no longer belong to the shifted abar."""
    betas = beta_schedule(name, timesteps)
    plain = process_tables(betas, snr_clip=5.0)
    shifted = process_tables(betas, snr_clip=5.0, log_snr_shift=shift)
    torch.testing.assert_close(
        shifted["snr"].log() - plain["snr"].log(), torch.full((timesteps,), shift), rtol=0, atol=1e-4
    )
    product = torch.cumprod(1 - shifted["betas"].double(), 0)
    torch.testing.assert_close(product.float(), shifted["alphas_cumprod"], rtol=2e-3, atol=1e-6)


def test_no_shift_leaves_every_bit():
    """Catches a shift of 0 that passes through logit and sigmoid and rounds."""
    betas = beta_schedule("cosine", 32)
    plain, shifted = process_tables(betas, snr_clip=5.0), process_tables(betas, snr_clip=5.0, log_snr_shift=0.0)
    assert all(torch.equal(plain[name], shifted[name]) for name in plain)
    assert all(table.dtype == torch.float32 for table in plain.values())


@pytest.mark.parametrize("shift", [60.0, -200.0, float("nan"), float("inf")])
def test_a_shift_beyond_float32_is_an_error(shift):
    """Catches infinite or NaN tables that would only show as a NaN loss."""
    with pytest.raises(ValueError, match="log_snr_shift"):
        process_tables(beta_schedule("cosine", 32), snr_clip=5.0, log_snr_shift=shift)


@pytest.mark.parametrize(
    ("name", "timesteps", "words"),
    [
        ("cosin", 32, "did you mean cosine"),
        ("x", 32, "choose one of"),
        ("cosine", 0, "timesteps"),
        ("linear", 20, "21"),
    ],
)
def test_bad_schedules_are_named(name, timesteps, words):
    """Catches a misspelt schedule that falls through to another, and betas of 1 or more (linear, few timesteps)."""
    with pytest.raises(ValueError, match=words):
        beta_schedule(name, timesteps)
