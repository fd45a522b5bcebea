"""The shape of the one backbone that every method trains (Vaswani et al. 2017, arXiv:1706.03762; GPT-2)."""

from dataclasses import dataclass

STYLES = ("nanogpt", "rope")


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes and style of a Backbone.

    `nanogpt`: learned positions, LayerNorm, GELU, head tied to the token embedding (karpathy/nanoGPT).
    `rope`: rotary positions, RMSNorm without gain, QK-norm, ReLU², untied head (arXiv:2104.09864, 2109.08668).

    Raises ValueError, naming the key, on a size that cannot work.
    """

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    style: str = "rope"
    dropout: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "block_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"algorithm.backbone.{key} is {getattr(self, key)}: it must be at least 1")
        if self.style not in STYLES:
            raise ValueError(f"algorithm.backbone.style is '{self.style}': choose one of {', '.join(STYLES)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"algorithm.backbone.n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        if self.style == "rope" and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"algorithm.backbone: rotary positions need an even head size, not n_embd / n_head = "
                f"{self.n_embd // self.n_head}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"algorithm.backbone.dropout is {self.dropout}: it must lie in [0, 1)")
        if self.style == "rope" and self.bias:
            raise ValueError("algorithm.backbone.bias=true needs style=nanogpt: the rope style has no biases")
