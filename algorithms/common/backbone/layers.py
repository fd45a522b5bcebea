"""Norms, the position-wise network and GPT-2's initialisation. B batch, T tokens, C channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.config import BackboneConfig


class LayerNorm(nn.Module):
    """LayerNorm with gain and an optional bias (torch's own cannot drop only the bias on every backend)."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class RMSNorm(nn.Module):
    """RMSNorm without a learned gain."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])


def make_norm(config: BackboneConfig) -> nn.Module:
    return LayerNorm(config.n_embd, config.bias) if config.style == "nanogpt" else RMSNorm()


class MLP(nn.Module):
    """Position-wise network of width 4C: GELU in the nanogpt style, squared ReLU in the rope style."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gelu = config.style == "nanogpt"
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)  # (B, T, 4C)
        h = F.gelu(h) if self.gelu else h * F.relu(h)  # = relu(h)², several times faster on a CPU than squaring
        return self.dropout(self.c_proj(h))


def init_weights(module: nn.Module) -> None:
    """GPT-2's initialisation: weights N(0, 0.02²), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
