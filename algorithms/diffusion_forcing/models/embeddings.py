"""The table of token embeddings in which diffusion runs, and the way back from embeddings to tokens.

Sources: fixed norm: Plaid (arXiv:2305.18619), CDCD (arXiv:2211.15089); rounding: Diffusion-LM (arXiv:2205.14217).
B batch, T tokens, C embedding channels, V vocabulary.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.device import exact_product
from algorithms.common.fields import STRICT, Count, Number


@dataclass(frozen=True, config=STRICT)
class EmbeddingConfig:
    """`norm=fixed` gives every token the norm sqrt(dim), so that a coordinate has unit variance and embeddings
    cannot shrink; `free` learns the norm from N(0, 0.02²) times `scale` (None: sqrt(dim)). `dim` None: n_embd."""

    dim: Count | None = 64
    norm: Literal["fixed", "free"] = "fixed"
    scale: Number | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.norm == "fixed":
            raise ValueError("scale works with norm=free only: a fixed norm is sqrt(dim)")


class TokenTable(nn.Module):
    """One embedding per token."""

    def __init__(self, vocabulary_size: int, dim: int, config: EmbeddingConfig) -> None:
        super().__init__()
        self.fixed = config.norm == "fixed"
        self.scale = math.sqrt(dim) if config.scale is None else config.scale
        self.weight = nn.Parameter(torch.empty(vocabulary_size, dim))
        nn.init.normal_(self.weight, 0.0, 0.02)

    @property
    def dim(self) -> int:
        """Channels C."""
        return self.weight.size(1)

    def forward(self) -> Tensor:
        """The table as diffusion sees it: (V, C)."""
        if self.fixed:
            return F.normalize(self.weight, dim=-1) * math.sqrt(self.dim)
        return self.weight * self.scale


def token_logits(x0: Tensor, table: Tensor) -> Tensor:
    """Log-density, up to a constant, of a unit Gaussian around x0 (B, T, C) at each token: (B, T, V)."""
    return exact_product(x0, table.T) - 0.5 * table.square().sum(-1)


def round_to_tokens(x0: Tensor, table: Tensor, rounding: str = "nearest") -> Tensor:
    """Embeddings (B, T, C) to ids (B, T): `nearest` in L2, or `head`: the largest product with the table."""
    if rounding == "head":
        return (x0 @ table.T).argmax(-1)
    return token_logits(x0, table).argmax(-1)
