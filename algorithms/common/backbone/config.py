"""The shape of the one backbone that every method trains (Vaswani et al. 2017, arXiv:1706.03762; GPT-2)."""

from typing import Literal

from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, ShareBelowOne


@dataclass(frozen=True, config=STRICT)
class BackboneConfig:
    """Sizes and style of a Backbone.

    `nanogpt`: learned positions, LayerNorm, GELU, head tied to the token embedding (karpathy/nanoGPT).
    `rope`: rotary positions, RMSNorm without gain, QK-norm, ReLU², untied head (arXiv:2104.09864, 2109.08668).

    Raises ValueError, naming the field, on sizes that cannot work together.
    """

    n_layer: Count = 3
    n_head: Count = 4
    n_embd: Count = 96
    block_size: Count = 64
    style: Literal["nanogpt", "rope"] = "rope"
    dropout: ShareBelowOne = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if self.style == "rope" and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"n_embd / n_head is {self.n_embd // self.n_head}: rotary positions need an even head size, "
                "or take style=nanogpt"
            )
        if self.style == "rope" and self.bias:
            raise ValueError("bias=true needs style=nanogpt: the rope style has no biases")
