"""Small models in blocks, with weights large enough that what they read makes a difference. V vocabulary."""

import torch

from algorithms.block_diffusion.block_diffusion import BlockDiffusion, BlockDiffusionConfig
from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm

V, T = 5, 12


def lively(model: BaseAlgorithm) -> BaseAlgorithm:
    """The model in float64 and evaluation, with all matrices drawn anew from N(0, 0.3²)."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=draw)
    return model.double().eval()


def backbone(style: str = "rope", block_size: int = T) -> BackboneConfig:
    return BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=block_size, style=style)


def blocks(block_len: int, *, style: str = "rope", block_size: int = T, vocabulary: int = V, **settings):
    """A lively BlockDiffusion whose loss is the bound alone, unless told otherwise."""
    settings = {"next_token_weight": 0.0} | settings
    config = BlockDiffusionConfig(backbone(style, block_size), block_len=block_len, **settings)
    return lively(BlockDiffusion(config, vocabulary_size=vocabulary))


def ids(rows: int = 4, tokens: int = T + 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (rows, tokens), generator=torch.Generator().manual_seed(seed))
