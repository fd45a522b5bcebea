"""Loss weights by signal-to-noise ratio (SNR): min-SNR (arXiv:2303.09556) and fused SNR (arXiv:2407.01392).

Fused SNR adds to a token's own signal that of the tokens before it, as an exponential moving average.
Shapes: B batch, T tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def exponential_scan(x: Tensor, decay: float) -> Tensor:
    """y_t = decay y_{t-1} + x_t along the last axis, (..., T) -> (..., T), in log2(T) doublings."""
    span = 1  # y_t holds the sum of the last `span` inputs
    while span < x.shape[-1]:
        x = x + decay**span * F.pad(x[..., :-span], (span, 0))
        span *= 2
    return x


def past_signal(clipped: Tensor, decay: float) -> Tensor:
    """Moving average of the clipped SNR (B, T), as shares of snr_clip, over the tokens before each one."""
    average = exponential_scan(torch.cat([clipped[:, :1], (1 - decay) * clipped[:, 1:]], dim=1), decay)
    return F.pad(average[:, :-1], (1, 0))


def snr_weights(snr: Tensor, objective: str, *, snr_clip: float, decay: float | None) -> Tensor:
    """Weight of each token's squared error from its SNR, (B, T) -> (B, T); decay None is min-SNR."""
    signal = snr / snr_clip
    clipped = signal.clamp(max=1.0)
    past = torch.zeros_like(snr) if decay is None else decay * past_signal(clipped, decay)
    fused = past + (1 - past) * signal  # = 1 - (1 - past)(1 - signal), without the cancellation
    clipped_fused = past + (1 - past) * clipped
    if objective == "pred_noise":
        return clipped_fused / fused
    if objective == "pred_x0":
        return clipped_fused * snr_clip
    return clipped_fused * snr_clip / (fused * snr_clip + 1)  # pred_v
