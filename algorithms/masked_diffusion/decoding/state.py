"""What a decoder of masked diffusion works on: the state of a chunk, and the network's prediction for it.

R rows still being decoded, K positions of the chunk, W window, V vocabulary without the mask token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from algorithms.common.sampling import filter_logits, largest

MASKED, DRAFT, DONE = 0, 1, 2

Confidence = Literal["probability", "margin", "entropy", "top_k_mass"]


@dataclass(frozen=True)
class ChunkState:
    """Tokens (R, K), mask_id where masked, and the status (R, K) int8 of each position.

    MASKED, DRAFT (shown to the network, but may change) or DONE. `rows` (R,) are the numbers of these rows in the
    batch. `memory` is a rule's or a predictor's own; the first dimension of its tensors is R. `window` is W.
    """

    tokens: Tensor
    status: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    rows: Tensor = field(kw_only=True)
    mask_id: int = field(kw_only=True)
    window: int = field(kw_only=True)

    @classmethod
    def start(cls, tokens: Tensor, given: Tensor, *, mask_id: int, window: int, rows: Tensor | None = None) -> Self:
        """All but the `given` positions (R, K) masked; without `rows` these are the whole batch."""
        if rows is None:
            rows = torch.arange(tokens.size(0), device=tokens.device)
        status = given.to(torch.int8) * DONE
        return cls(tokens.masked_fill(~given, mask_id), status, rows=rows, mask_id=mask_id, window=window)

    @property
    def open(self) -> Tensor:
        """Positions (R, K) that are not decided for good."""
        return self.status != DONE

    @property
    def remaining(self) -> Tensor:
        """Share (R,) of the whole window that this chunk still has to unmask, float64."""
        return (self.status == MASKED).sum(-1).double() / self.window

    def decide(self, where: Tensor, tokens: Tensor) -> Self:
        """Write `tokens` (R, K) at the positions `where` (R, K) for good."""
        return replace(
            self,
            tokens=torch.where(where, tokens, self.tokens),
            status=self.status.masked_fill(where, DONE),
        )

    def select(self, index: Tensor) -> Self:
        """The rows at `index`, a LongTensor, with their memory."""
        return replace(
            self,
            tokens=self.tokens[index],
            status=self.status[index],
            memory={key: value[index.to(value.device)] for key, value in self.memory.items()},
            rows=self.rows[index],
        )


# Window x (R, W) with mask_id where masked, where the chunk lies in it, and its state; returns logits (R, K, V).
Predictor = Callable[[Tensor, slice, ChunkState], Tensor]


@dataclass(frozen=True)
class Prediction:
    """Probabilities (R, K, V) float64 and the tokens (R, K) that a rule may write.

    `ranked` (R, K, top_k) holds the probabilities of the top_k candidates, largest first, where top_k is set.
    """

    probabilities: Tensor
    tokens: Tensor
    ranked: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, tokens: Tensor, top_k: int | None) -> Self:
        """The prediction of tempered logits (R, K, V) for known tokens (R, K)."""
        probabilities = logits.double().softmax(-1)
        return cls(probabilities, tokens, None if top_k is None else probabilities.topk(top_k).values)

    @classmethod
    def draw(
        cls, logits: Tensor, uniform: Tensor, top_k: int | None, *, top_p: float | None = None, greedy: bool
    ) -> Self:
        """Draw tokens from tempered logits (R, K, V) with uniforms (R, K) in [0, 1), by inverse CDF, or take the best.

        With top_k the CDF runs over the candidates from the most probable on: uniform 0 takes the best. What top_p
        leaves out is never drawn, and still counts for the confidences.
        """
        logits = logits.double()
        probabilities = logits.softmax(-1)
        ranked, ids = None, None
        if top_k is not None:
            candidates = probabilities.masked_fill(~largest(logits, top_k), -1.0)
            ranked, ids = candidates.topk(top_k)  # (R, K, top_k)
        if greedy:
            return cls(probabilities, logits.argmax(-1), ranked)
        shares = probabilities if ranked is None else ranked
        if top_p is not None and top_p < 1:
            kept = filter_logits(logits, top_k=top_k, top_p=top_p) > -torch.inf
            shares = shares * (kept if ids is None else kept.gather(-1, ids))
        cdf = shares.cumsum(-1)
        place = torch.searchsorted(cdf, uniform[..., None] * cdf[..., -1:], right=True)  # (R, K, 1)
        tokens = place if ids is None else ids.gather(-1, place)
        return cls(probabilities, tokens.squeeze(-1), ranked)

    def confidence(self, measure: str) -> Tensor:
        """How sure the network is at each position (R, K); larger is surer.

        `probability` of the best token, `margin` to the second, `entropy`: minus the entropy in nats (at most 0),
        `top_k_mass`: the sum over the top_k candidates, the measure of tiny-diffusion.
        """
        if measure == "probability":
            return self.probabilities.amax(-1)
        if measure == "margin":
            best = self.probabilities.topk(2).values
            return best[..., 0] - best[..., 1]
        if measure == "entropy":
            return -torch.special.entr(self.probabilities).sum(-1)
        if self.ranked is None:
            raise ValueError("confidence=top_k_mass needs top_k: set it")
        return self.ranked.sum(-1)


def best_of(values: Tensor, where: Tensor) -> Tensor:
    """The position (R, K) with the largest of `values` among those in `where`, as a mask; none in rows without any."""
    best = values.masked_fill(~where, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(where).scatter_(-1, best, True) & where
