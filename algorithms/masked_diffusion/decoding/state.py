"""What a decoder of masked diffusion works on: the state of a chunk, and the network's prediction for it.

R rows still being decoded, K positions of the chunk, M of them that are looked at (all K, until many are decided),
W window, V vocabulary without the mask token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from algorithms.common.sampling import filter_logits, invert, largest

MASKED, DRAFT, DONE = 0, 1, 2

Confidence = Literal["probability", "margin", "entropy", "top_k_mass"]


def take(values: Tensor, index: Tensor) -> Tensor:
    """What values (R, K, C) hold at the positions `index` (R, M): (R, M, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.size(-1)))


@dataclass(frozen=True)
class ChunkState:
    """Tokens (R, M), mask_id where masked, and the status (R, M) int8 of each position that is looked at.

    MASKED, DRAFT (shown to the network, but may change) or DONE. `places` (R, M) are these positions in the chunk; None
    are all K of them, in order, and what is left out is DONE. `rows` (R,), on the CPU, are the numbers of these rows in
    the batch. `memory` is a rule's or a predictor's own; the first dimension of its tensors is R. `window` is W.
    """

    tokens: Tensor
    status: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    rows: Tensor = field(kw_only=True)
    mask_id: int = field(kw_only=True)
    window: int = field(kw_only=True)
    places: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def start(cls, tokens: Tensor, given: Tensor, *, mask_id: int, window: int, rows: Tensor | None = None) -> Self:
        """All but the `given` positions (R, K) masked; without `rows` these are the whole batch."""
        if rows is None:
            rows = torch.arange(tokens.size(0))
        status = given.to(torch.int8) * DONE
        return cls(tokens.masked_fill(~given, mask_id), status, rows=rows, mask_id=mask_id, window=window)

    @property
    def open(self) -> Tensor:
        """Positions (R, M) that are not decided for good."""
        return self.status != DONE

    @property
    def remaining(self) -> Tensor:
        """Share (R,) of the whole window that this chunk still has to unmask, float64."""
        return (self.status == MASKED).sum(-1).double() / self.window

    def at(self, values: Tensor) -> Tensor:
        """What values (R, K, C) of the chunk hold at the positions that are looked at: (R, M, C)."""
        return values if self.places is None else take(values, self.places.to(values.device))

    def decide(self, where: Tensor, tokens: Tensor) -> Self:
        """Write `tokens` (R, M) at the positions `where` (R, M) for good."""
        return replace(
            self,
            tokens=torch.where(where, tokens, self.tokens),
            status=self.status.masked_fill(where, DONE),
        )

    def decide_at(self, index: Tensor, tokens: Tensor) -> Self:
        """The same for tokens (R, n) at the positions `index` (R, n), but for those that are decided already."""
        written = self.tokens.scatter(1, index, tokens)
        return replace(
            self,
            tokens=torch.where(self.status == DONE, self.tokens, written),
            status=self.status.scatter(1, index, DONE),
        )

    def write(self, chunk: Tensor) -> Tensor:
        """Put the tokens where they belong in chunk (R, K), and return it."""
        return chunk.copy_(self.tokens) if self.places is None else chunk.scatter_(1, self.places, self.tokens)

    def select(self, index: Tensor, there: Tensor) -> Self:
        """The rows at `index`, a LongTensor on the CPU, which `there` is on the device, with their memory."""
        return replace(
            self,
            tokens=self.tokens[there],
            status=self.status[there],
            memory={key: value[there.to(value.device)] for key, value in self.memory.items()},
            rows=self.rows[index],
            places=None if self.places is None else self.places[there],
        )

    def narrow(self, index: Tensor, per_position: Sequence[str] = ()) -> Self:
        """The positions at `index` (R, n) alone, with what the memory holds `per_position`."""
        return replace(
            self,
            tokens=self.tokens.gather(1, index),
            status=self.status.gather(1, index),
            memory=self.memory | {key: self.memory[key].gather(1, index) for key in per_position},
            places=index if self.places is None else self.places.gather(1, index),
        )

    def split(self) -> tuple[Self, Self]:
        """The first position of each row and the others, of a state that was narrowed; they share the memory."""
        assert self.places is not None
        parts = zip(
            *((values[:, :1], values[:, 1:]) for values in (self.tokens, self.status, self.places)), strict=True
        )
        first, rest = (replace(self, tokens=t, status=s, places=p) for t, s, p in parts)
        return first, rest

    def open_first(self, count: int) -> Tensor:
        """`count` positions (R, count) of each row, in order, the open ones before any other."""
        return (self.status == DONE).byte().sort(dim=1, stable=True).indices[:, :count]


# Window x (R, W) with mask_id where masked, where the chunk lies in it, and its state; returns the logits (R, M, V) of
# the positions that are looked at, or of the whole chunk (R, K, V).
Predictor = Callable[[Tensor, slice, ChunkState], Tensor]


@dataclass
class Prediction:
    """Probabilities (R, M, V) float64 and the tokens (R, M) that a rule may write.

    `ranked` (R, M, top_k) holds the probabilities of the top_k candidates, largest first, where top_k is set.
    """

    probabilities: Tensor
    tokens: Tensor
    ranked: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, tokens: Tensor, top_k: int | None) -> "Prediction":
        """The prediction of tempered logits (R, M, V) for known tokens (R, M)."""
        probabilities = logits.double().softmax(-1)
        return Prediction(probabilities, tokens, None if top_k is None else probabilities.topk(top_k).values)

    @staticmethod
    def draw(
        logits: Tensor, uniform: Tensor, top_k: int | None, *, top_p: float | None = None, greedy: bool
    ) -> "Prediction":
        """Draw tokens from tempered logits (R, M, V) with uniforms (R, M) in [0, 1), by inverse CDF, or take the best.

        With top_k the CDF runs over the candidates from the most probable on: uniform 0 takes the best. What top_p
        leaves out is never drawn, and still counts for the confidences.
        """
        return Drawn(logits.double(), uniform, top_k, top_p, greedy)

    def tokens_at(self, index: Tensor) -> Tensor:
        """The tokens (R, n) at the positions `index` (R, n)."""
        return self.tokens.gather(1, index)

    def confidence(self, measure: str) -> Tensor:
        """How sure the network is at each position (R, M); larger is surer.

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


class Drawn(Prediction):
    """What is drawn: each part is worked out when a rule asks for it, tokens where it asks for them."""

    def __init__(self, logits: Tensor, uniform: Tensor, top_k: int | None, top_p: float | None, greedy: bool) -> None:
        self.logits = logits  # (R, M, V) float64
        self.uniform = uniform
        self.top_k = top_k
        self.top_p = top_p
        self.greedy = greedy

    @cached_property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def candidates(self) -> tuple[Tensor, Tensor]:
        """Probabilities and ids of the top_k candidates, largest first: (R, M, top_k) each."""
        assert self.top_k is not None
        values, ids = self.probabilities.masked_fill(~largest(self.logits, self.top_k), -1.0).topk(self.top_k)
        return values, ids

    @property
    def ranked(self) -> Tensor | None:
        return None if self.top_k is None else self.candidates[0]

    @cached_property
    def tokens(self) -> Tensor:
        if self.greedy:
            return self.logits.argmax(-1)
        shares, ids = (self.probabilities, None) if self.top_k is None else self.candidates
        if self.top_p is not None and self.top_p < 1:
            kept = filter_logits(self.logits, top_k=self.top_k, top_p=self.top_p) > -torch.inf
            shares = shares * (kept if ids is None else kept.gather(-1, ids))
        place = invert(shares, self.uniform)
        return place if ids is None else ids.gather(-1, place[..., None]).squeeze(-1)

    def tokens_at(self, index: Tensor) -> Tensor:
        uniform = self.uniform.gather(1, index)
        if self.greedy or self.top_k is not None or self.top_p is not None:
            return Drawn(take(self.logits, index), uniform, self.top_k, self.top_p, self.greedy).tokens
        return invert(take(self.probabilities, index), uniform)


def best_of(values: Tensor, where: Tensor) -> Tensor:
    """The position (R, M) with the largest of `values` among those in `where`, as a mask; none in rows without any."""
    best = values.masked_fill(~where, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(where).scatter_(-1, best, True) & where
