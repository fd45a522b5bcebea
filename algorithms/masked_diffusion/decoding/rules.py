"""Decoders of masked diffusion that decide a token once and for all, and ReMDM, which may mask it again.

A decoder is its settings and a pure commit step; the loop around it is in loop.py. Sources stand at each class.
R rows, K positions of the chunk, M of them that are looked at, W window.
Time t runs from 1 (all masked) to 0, alpha_t = 1 - t.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.fields import STRICT, Count, NonNegative, Number, Share
from algorithms.masked_diffusion.decoding.loop import MaskedDecoder
from algorithms.masked_diffusion.decoding.state import DONE, DRAFT, MASKED, ChunkState, Confidence, Prediction, best_of


@dataclass(frozen=True, config=STRICT)
class Ancestral(MaskedDecoder):
    """Positions are unmasked in random order, as the diffusion process itself does it.

    Each has a time tau ~ U(0, 1). With `steps` S, a step decides the positions of the latest non-empty cell floor(tau
    S): the distribution of MDLM's sampler on a grid of S steps (arXiv:2406.07524), whose empty steps cost no forward
    as the network is not told the time. Without, the first-hitting sampler (arXiv:2409.02908): one by one, exact.
    """

    per_position: ClassVar[tuple[str, ...]] = ("time",)

    name: Literal["ancestral"] = "ancestral"
    steps: Count | None = None

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        return {"time": self._times(uniform).to(state.tokens.device)}

    def plan(self, open_: Tensor, uniform: Tensor) -> Tensor:
        time = self._times(uniform).masked_fill(~open_, -1.0).sort(-1, descending=True).values  # (R, K)
        turn = torch.zeros_like(time, dtype=torch.long)  # the step of each position, in this order
        turn[:, 1:] = (time[:, 1:] < time[:, :-1]).cumsum(-1)
        decided = torch.zeros_like(turn).scatter_add_(-1, turn, (time >= 0).long())
        left = open_.sum(-1, keepdim=True) - decided.cumsum(-1)  # (R, K)
        return left[:, : int((left > 0).sum(-1).max()) + 1]

    def order(self, state: ChunkState) -> Tensor | None:
        if self.steps is not None:
            return None
        return state.memory["time"].masked_fill(state.status == DONE, -1.0).argsort(-1, descending=True)

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        time = state.memory["time"].masked_fill(~waiting, -1.0)  # (R, M)
        return state.decide((time == time.amax(-1, keepdim=True)) & waiting, prediction.tokens)

    def _times(self, uniform: Tensor) -> Tensor:
        return uniform if self.steps is None else (uniform * self.steps).floor()


@dataclass(frozen=True, config=STRICT)
class TopConfidence(MaskedDecoder):
    """The `tokens_per_step` most confident positions are decided in each step (MaskGIT, arXiv:2202.04200)."""

    order_follows_text: ClassVar[bool] = True

    name: Literal["top_confidence"] = "top_confidence"
    tokens_per_step: Count = 1
    confidence: Confidence = "probability"

    def __post_init__(self) -> None:
        self._check_confidence(self.confidence)

    def unused(self) -> dict[str, str]:
        whole = self.chunk_len is not None and self.tokens_per_step >= self.chunk_len  # all of a chunk in one step
        return super().unused() | ({"confidence": "tokens_per_step"} if whole else {})

    def plan(self, open_: Tensor, uniform: Tensor) -> Tensor:
        left = open_.sum(-1, keepdim=True)  # (R, 1)
        most = int(left.max())
        return (left - torch.arange(self.tokens_per_step, most + self.tokens_per_step, self.tokens_per_step)).clamp(
            min=0
        )

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        confidence = prediction.confidence(self.confidence).masked_fill(state.status == DONE, -torch.inf)  # (R, M)
        # Of equal ones the first, so that what stands beside them makes no difference.
        if self.tokens_per_step == 1:
            best = confidence.argmax(-1, keepdim=True)  # several times as fast as sorting
        else:
            best = confidence.sort(dim=-1, descending=True, stable=True).indices[:, : self.tokens_per_step]
        return state.decide_at(best, prediction.tokens_at(best))


@dataclass(frozen=True, config=STRICT)
class Threshold(MaskedDecoder):
    """Positions at least as confident as a bar are decided, and always the best one (Fast-dLLM, arXiv:2505.22618).

    The bar falls as the text fills: max(floor, threshold - relax (1 - remaining)), where `remaining` is the share of
    the whole window that the chunk has still masked; relax 0.25 and floor 0.6 are tiny-diffusion's flow decoder.
    """

    order_follows_text: ClassVar[bool] = True

    name: Literal["threshold"] = "threshold"
    threshold: Number = 0.9
    confidence: Confidence = "probability"
    relax: NonNegative = 0.0
    floor: Number | None = None

    def __post_init__(self) -> None:
        self._check_confidence(self.confidence, "threshold", "floor")

    def unused(self) -> dict[str, str]:
        found = super().unused()
        if self.floor is not None and self.floor > self.threshold:
            return found | {"threshold": "floor", "relax": "floor"}
        return found | ({"floor": "relax"} if self.relax == 0 else {})

    def bar(self, state: ChunkState) -> Tensor | float:
        """The confidence that is enough: (R, 1), or one number for all rows."""
        lowest = -torch.inf if self.floor is None else self.floor
        if self.relax == 0:
            return max(lowest, self.threshold)
        return (self.threshold - self.relax * (1 - state.remaining)).clamp(min=lowest)[:, None]

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        confidence = prediction.confidence(self.confidence)  # (R, M)
        enough = (confidence >= self.bar(state)) & waiting
        return state.decide(enough | best_of(confidence, waiting), prediction.tokens)


@dataclass(frozen=True, config=STRICT)
class EntropyBound(MaskedDecoder):
    """Positions are decided together while their entropies, without the largest, add up to at most `budget` nats.

    EB-sampler (arXiv:2505.24857): that sum bounds the joint information lost by deciding them independently.
    """

    order_follows_text: ClassVar[bool] = True

    name: Literal["entropy_bound"] = "entropy_bound"
    budget: NonNegative = 0.5

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        entropy = -prediction.confidence("entropy")
        entropy, order = entropy.masked_fill(~waiting, torch.inf).sort(-1)  # (R, M), rising
        within = entropy.cumsum(-1) - entropy <= self.budget  # what a prefix sums to without its last, largest one
        return state.decide(torch.zeros_like(waiting).scatter_(-1, order, within) & waiting, prediction.tokens)


@dataclass(frozen=True, config=STRICT)
class Remasking(MaskedDecoder):
    """ReMDM (arXiv:2503.00307, rescaled schedule): a token of the chunk may be masked again until the last step.

    From time t to s, sigma_t = eta min(1, (1 - alpha_s) / alpha_t): what is decided is masked with probability sigma_t,
    what is masked is decided with probability (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t). A chunk takes `steps`
    forwards, more of which correct more errors; eta 0 never masks again and has the distribution of Ancestral.
    """

    position_draws: ClassVar[bool] = True

    name: Literal["remasking"] = "remasking"
    steps: Count = 64
    eta: Share = 0.1

    def unused(self) -> dict[str, str]:
        return super().unused() | ({"eta": "steps"} if self.steps == 1 else {})

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        return {"step": state.tokens.new_zeros(len(state.tokens), 1, dtype=torch.float64)}

    def plan(self, open_: Tensor, uniform: Tensor) -> Tensor | None:
        if self.eta == 0:
            return None
        left = open_.sum(-1, keepdim=True).repeat(1, self.steps)
        left[:, -1] = 0
        return left

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        assert uniform is not None
        step = state.memory["step"]  # (R, 1)
        alpha_t, alpha_s = step / self.steps, (step + 1) / self.steps
        sigma = self.eta * ((1 - alpha_s) / alpha_t).clamp(max=1)  # alpha_t is 0 at first: 1/0 is clamped to 1
        masked = state.status == MASKED
        chosen = uniform < torch.where(masked, (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t), sigma)  # (R, M)
        last = alpha_s >= 1
        shown = masked & (chosen | last)  # with a single step sigma is 0/0, and nothing chosen
        hidden = (state.status == DRAFT) & chosen
        status = state.status.masked_fill(shown, DRAFT).masked_fill(hidden, MASKED)
        settled = (status == DRAFT) if self.eta == 0 else (status == DRAFT) & last
        return replace(
            state,
            tokens=torch.where(shown, prediction.tokens, state.tokens).masked_fill(hidden, state.mask_id),
            status=status.masked_fill(settled, DONE),
            memory={**state.memory, "step": step + 1},
        )
