"""Sizes that cannot fit into the memory of this machine, refused before any work.

What is counted is less than what is used, so that nothing is refused that might fit.
"""

import os

import torch

from algorithms.common.backbone import BackboneConfig
from experiments.run.schema import LanguageModelingConfig

COPIES = 3  # of a weight in training: itself, its gradient and a moment (Muon has one, AdamW two)
KEPT = 8  # numbers for the way back, of each channel of a layer: q, k, v, what attention gives, and the MLP's four
HALF, FLOAT, INTEGER = 2, 4, 8  # bytes


def check_memory(backbone: BackboneConfig, config: LanguageModelingConfig, *, trains: bool, samples: bool) -> None:
    """Raise ValueError, with the key, if the weights, a batch of training or the texts of sampling cannot fit."""
    there = memory()
    if there is None:
        return
    training, sampling = config.training, config.sampling
    weights = 4 * backbone.n_layer * backbone.n_embd**2  # of attention alone
    tokens = training.batch_size * (config.block_size or backbone.block_size)
    checks = [
        ("algorithm.backbone.n_embd", backbone.n_embd, FLOAT * weights * (COPIES if trains else 1)),
        ("experiment.training.batch_size", training.batch_size, activations(backbone, tokens) * trains),
        ("experiment.sampling.n_samples", sampling.n_samples, INTEGER * sampling.n_samples * samples),
        ("experiment.sampling.length", sampling.length, INTEGER * sampling.n_samples * sampling.length * samples),
    ]
    for key, value, size in checks:
        if size > there:
            raise ValueError(
                f"{key} is {value}, for which {size / 1e9:,.0f} GB of memory would not be enough, and there are "
                f"{there / 1e9:,.0f}: lower it"
            )


def activations(backbone: BackboneConfig, tokens: int) -> int:
    """Bytes that a step on so many tokens keeps for the way back, at least: of its layers, in 16 bits. Logits are no
    part of it, which are computed in chunks where they are many."""
    return HALF * KEPT * tokens * backbone.n_layer * backbone.n_embd


def memory() -> int | None:
    """Bytes of the largest memory here, a GPU's or the machine's; None where that is unknown."""
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(sizes, default=None)
