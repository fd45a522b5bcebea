"""Token ids in, logits out: embedding, backbone and head, for the methods that work on tokens.

B batch, T tokens, C channels, V vocabulary.
"""

from torch import Tensor, nn

from algorithms.common.backbone.cache import KVCache
from algorithms.common.backbone.config import BackboneConfig
from algorithms.common.backbone.transformer import Backbone, init_weights
from algorithms.common.head import token_nats


class LanguageModel(nn.Module):
    """A backbone between a token embedding and a head; the head is tied to the embedding in the nanogpt style."""

    def __init__(self, config: BackboneConfig, vocabulary_size: int, *, attention: str = "causal") -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary_size, config.n_embd)
        self.backbone = Backbone(config, attention=attention)
        self.lm_head = nn.Linear(config.n_embd, vocabulary_size, bias=False)
        init_weights(self.wte)
        init_weights(self.lm_head)
        if config.style == "nanogpt":
            self.lm_head.weight = self.wte.weight

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """ids (B, T) -> final hidden states (B, T, C); with `cache`, the ids follow the tokens already encoded."""
        x = self.wte(ids)  # (B, T, C)
        x = self.backbone.add_positions(x, 0 if cache is None else cache.length)
        return self.backbone(x, cache=cache)

    def forward(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V)."""
        return self.lm_head(self.hidden(ids, cache=cache))

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies (B, T) of targets (B, T) for ids (B, T), without logits where these would be many."""
        return token_nats(self.hidden(ids), self.lm_head.weight, targets)
