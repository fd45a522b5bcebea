"""How a network learns the noise level of each token.

Source: sinusoidal embedding of Vaswani et al. 2017 as used by DDPM (arXiv:2006.11239); `concat_mlp` is the fusion
of Diffusion Forcing (arXiv:2407.01392). B batch, T tokens, C channels.
"""

import math

import torch
from torch import Tensor, nn

FUSIONS = ("add", "concat_mlp")


def sinusoidal_embedding(levels: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of levels (...) at channels / 2 frequencies exp(-i ln(10000) / (channels/2 - 1))."""
    half = channels // 2
    steps = torch.arange(half, device=levels.device)
    frequencies = torch.exp(steps * (-math.log(10000.0) / max(1, half - 1)))
    angles = levels[..., None].float() * frequencies  # (..., C/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class NoiseConditioning(nn.Module):
    """Tell the hidden vectors x (B, T, C) their noise levels (B, T).

    `add`: x + embedding. `concat_mlp`: [x, embedding of C/2] through Linear, ReLU, Linear.
    """

    def __init__(self, channels: int, fusion: str) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"time_fusion is '{fusion}': choose one of {', '.join(FUSIONS)}")
        embedded = channels if fusion == "add" else channels // 2
        if embedded % 2:
            raise ValueError(f"n_embd is {channels}: time_fusion={fusion} needs {embedded} to be even")
        self.channels = embedded
        self.mlp = (
            None
            if fusion == "add"
            else nn.Sequential(nn.Linear(channels + embedded, channels), nn.ReLU(), nn.Linear(channels, channels))
        )

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        embedding = sinusoidal_embedding(levels, self.channels).to(x.dtype)  # (B, T, C) or (B, T, C/2)
        if self.mlp is None:
            return x + embedding
        return self.mlp(torch.cat([x, embedding], dim=-1))
