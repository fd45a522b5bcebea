"""AdamW with decay groups and a warmup-cosine learning rate that is a pure function of the step.

Source: Loshchilov and Hutter 2019 (arXiv:1711.05101) and 2017 (arXiv:1608.03983), grouped as in nanoGPT.
"""

import math

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from algorithms.common.fields import STRICT, Natural, NonNegative, Positive, Share, ShareBelowOne


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW and its schedule; `min_lr_ratio` is the last learning rate as a share of the peak."""

    lr: Positive = 2e-3
    min_lr_ratio: Share = 0.05
    warmup_steps: Natural = 100
    weight_decay: NonNegative = 0.1
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.99


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Share of the peak learning rate at `step`: a linear rise, then half a cosine down to `min_ratio`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return min_ratio
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices and embeddings decay; gains and biases (fewer than two dimensions) do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def make_adamw(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over the decay groups of `module`."""
    groups = [g for g in decay_groups(module, config.weight_decay) if g["params"]]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    # In mixed precision gradients are unscaled before the step and not in it, so that they can be clipped.
    optimizer._step_supports_amp_scaling = False
    return optimizer
