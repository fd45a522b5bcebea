"""Loss weights: reference values, and the scan against the loop over tokens that it replaces."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.process.gaussian import OBJECTIVES
from algorithms.diffusion_forcing.process.snr_weights import exponential_scan, snr_weights


def slow_weights(snr: Tensor, objective: str, snr_clip: float, decay: float) -> Tensor:
    """The fused-SNR weight as the paper writes it, token after token: (B, T) -> (B, T)."""
    share, clipped = snr / snr_clip, snr.clamp(max=snr_clip) / snr_clip
    average = torch.zeros_like(snr)
    for t in range(snr.shape[1]):
        average[:, t] = clipped[:, 0] if t == 0 else decay * average[:, t - 1] + (1 - decay) * clipped[:, t]
    past = torch.cat([torch.zeros_like(snr[:, :1]), average[:, :-1]], dim=1)
    clipped_fused = 1 - (1 - past * decay) * (1 - clipped)
    fused = 1 - (1 - past * decay) * (1 - share)
    return {
        "pred_noise": clipped_fused / fused,
        "pred_x0": clipped_fused * snr_clip,
        "pred_v": clipped_fused * snr_clip / (fused * snr_clip + 1),
    }[objective]


@pytest.mark.parametrize("case", range(24))
def test_weights_match_the_original(golden, case):
    """Catches an error in any objective's weight, fused or not."""
    meta, data = golden.cases[f"loss_weight/{case}"], golden.batch_first(f"loss_weight/{case}")
    names = ("objective", "use_fused_snr", "cum_snr_decay", "snr_clip", "beta_schedule", "timesteps")
    diffusion = Diffusion(torch.nn.Identity(), **{name: meta[name] for name in names})
    weights = diffusion.compute_loss_weights(data["noise_levels"])
    torch.testing.assert_close(weights, data["weight"], rtol=1e-5, atol=1e-6)


@given(
    st.sampled_from(OBJECTIVES),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.5, 0.95, 0.98, 1.0]),
    st.integers(0, 2**31),
)
def test_scan_equals_loop(objective, tokens, decay, seed):
    """Catches an off-by-one in the scan or the shift, at lengths that are and are not powers of two."""
    snr = torch.randn(3, tokens, generator=torch.Generator().manual_seed(seed)).mul(3).exp()
    fast = snr_weights(snr, objective, snr_clip=5.0, decay=decay)
    slow = slow_weights(snr.double(), objective, 5.0, decay).float()
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_scan_equals_loop_at_the_length_of_training():
    """Catches rounding that builds up along a long sequence."""
    diffusion = Diffusion(torch.nn.Identity())
    levels = torch.randint(32, (16, 1024), generator=torch.Generator().manual_seed(0))
    slow = slow_weights(diffusion.snr[levels], "pred_noise", 5.0, 0.95)
    torch.testing.assert_close(diffusion.compute_loss_weights(levels), slow, rtol=1e-5, atol=1e-6)


def test_scan_of_an_impulse_is_a_power():
    """Catches a scan that leaks backwards or forgets early: the response to one input is known."""
    impulse = torch.eye(9)[2:3]
    response = exponential_scan(impulse, 0.5)
    assert response.tolist() == [[0, 0, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_weights_see_only_the_past(objective):
    """Catches a token's weight that depends on its successors, or on its neighbours in the batch."""
    diffusion = Diffusion(torch.nn.Identity(), objective=objective)
    levels = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(1))
    changed = levels.clone()
    changed[0, 6:] = 31 - changed[0, 6:]
    before, after = diffusion.compute_loss_weights(levels), diffusion.compute_loss_weights(changed)
    assert torch.equal(before[0, :6], after[0, :6])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clean_tokens_weigh_nothing_but_inform(objective):
    """Catches NaN from the infinite SNR of a clean token, and a clean past that is forgotten."""
    diffusion = Diffusion(torch.nn.Identity(), objective=objective, cum_snr_decay=1.0)
    levels = torch.tensor([[-1, -1, 20], [31, 31, 20]])
    weights = diffusion.compute_loss_weights(levels)
    assert weights[0, :2].tolist() == [0, 0]
    assert weights[0, 2] > weights[1, 2] or objective == "pred_noise"  # whose weight is 1 below the clip
    assert weights.isfinite().all()
