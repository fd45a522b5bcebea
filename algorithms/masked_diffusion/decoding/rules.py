"""Decoders of masked diffusion that decide a token once and for all, and ReMDM, which may mask it again.

A decoder is its configuration and a pure commit step; the loop around it is in loop.py. Sources stand at each class.
R rows, K positions of the chunk, W window. Time t runs from 1 (all masked) to 0, alpha_t = 1 - t.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Number, Share
from algorithms.masked_diffusion.decoding.state import (
    DONE,
    DRAFT,
    MASKED,
    ChunkState,
    Confidence,
    Prediction,
    best_of,
)


@dataclass(frozen=True, config=STRICT)
class MaskedDecoder(ABC):
    """What all decoders share.

    Text is decided in chunks of `chunk_len` tokens (None: half of the window, or what the context leaves of it), each
    of which sees `context_len` tokens of its past (None: as many as fit the window beside it). Confidences come from
    the probabilities at `temperature`, and temperature 0 takes the best token with the confidences of temperature 1;
    `top_k` restricts draws alone.
    """

    position_draws: ClassVar[bool] = False  # commit needs uniforms of its own
    order_follows_text: ClassVar[bool] = False  # what is decided when depends on nothing but the text so far

    name: str = ""
    chunk_len: Count | None = None
    context_len: Natural | None = None
    temperature: NonNegative = 1.0
    top_k: Count | None = None

    @property
    def has_likelihood(self) -> bool:
        """Whether the probability of a text under this decoder is a product of the network's conditionals."""
        return self.order_follows_text and self.top_k is None and self.temperature > 0

    def spans(self, window: int) -> tuple[int, int]:
        """chunk_len and context_len in a window of so many tokens."""
        room = window - (self.context_len or 0)
        chunk_len = self.chunk_len or max(1, min(window // 2, room))
        return chunk_len, window - chunk_len if self.context_len is None else self.context_len

    def check(self, vocabulary_size: int, window: int) -> None:
        """Raise ValueError on what does not fit the vocabulary or the network's window."""
        if self.top_k is not None and self.top_k > vocabulary_size:
            raise ValueError(f"top_k is {self.top_k}, above the vocabulary of {vocabulary_size} tokens: lower it")
        chunk_len, context_len = self.spans(window)
        if chunk_len > window:
            raise ValueError(f"chunk_len is {chunk_len}: the window holds {window} tokens, set it to at most that")
        if chunk_len + context_len > window:
            raise ValueError(
                f"context_len is {context_len}: beside a chunk_len of {chunk_len} the window of "
                f"{window} tokens has room for {window - chunk_len}"
            )

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits in float64, divided by the temperature (0 leaves them as they are)."""
        logits = logits.double()
        return logits if self.temperature in (0, 1) else logits / self.temperature

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        """The rule's memory when a chunk starts, from uniforms (R, K) drawn once."""
        return {}

    @abstractmethod
    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        """One step, pure; `uniform` (R, K) is fresh in each step where `position_draws` asks for it."""

    def _check_confidence(self, measure: Confidence, *keys: str) -> None:
        """ValueError unless `measure` has what it needs and the thresholds under `keys` are values that it can take."""
        if measure == "top_k_mass" and self.top_k is None:
            raise ValueError("confidence=top_k_mass needs top_k: set it")
        for key in keys:
            value = getattr(self, key)
            if value is None:
                continue
            if measure == "entropy" and not value <= 0:
                raise ValueError(f"{key} is {value}: with confidence=entropy it is minus an entropy in nats, at most 0")
            if measure != "entropy" and not 0 <= value <= 1:
                raise ValueError(f"{key} is {value}: it must lie in [0, 1]")


@dataclass(frozen=True, config=STRICT)
class Ancestral(MaskedDecoder):
    """Positions are unmasked in random order, as the diffusion process itself does it.

    Each has a time tau ~ U(0, 1). With `steps` S, a step decides the positions of the latest non-empty cell
    floor(tau S): the law of MDLM's sampler on a grid of S steps (arXiv:2406.07524), whose empty steps cost no forward
    as the network is not told the time. Without, the first-hitting sampler (arXiv:2409.02908): one by one, exact.
    """

    name: Literal["ancestral"] = "ancestral"
    steps: Count | None = None

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        return {"time": uniform if self.steps is None else (uniform * self.steps).floor()}

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        time = state.memory["time"].masked_fill(~waiting, -1.0)  # (R, K)
        return state.decide((time == time.amax(-1, keepdim=True)) & waiting, prediction.tokens)


@dataclass(frozen=True, config=STRICT)
class TopConfidence(MaskedDecoder):
    """The `tokens_per_step` most confident positions are decided in each step (MaskGIT, arXiv:2202.04200)."""

    order_follows_text: ClassVar[bool] = True

    name: Literal["top_confidence"] = "top_confidence"
    tokens_per_step: Count = 1
    confidence: Confidence = "probability"

    def __post_init__(self) -> None:
        self._check_confidence(self.confidence)

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        confidence = prediction.confidence(self.confidence).masked_fill(~waiting, -torch.inf)  # (R, K)
        best = confidence.topk(min(self.tokens_per_step, confidence.size(-1))).indices
        return state.decide(torch.zeros_like(waiting).scatter_(-1, best, True) & waiting, prediction.tokens)


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

    def bar(self, state: ChunkState) -> Tensor | float:
        """The confidence that is enough: (R, 1), or one number for all rows."""
        lowest = -torch.inf if self.floor is None else self.floor
        if self.relax == 0:
            return max(lowest, self.threshold)
        return (self.threshold - self.relax * (1 - state.remaining)).clamp(min=lowest)[:, None]

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        waiting = state.open
        confidence = prediction.confidence(self.confidence)  # (R, K)
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
        entropy, order = entropy.masked_fill(~waiting, torch.inf).sort(-1)  # (R, K), rising
        within = entropy.cumsum(-1) - entropy <= self.budget  # what a prefix sums to without its last, largest one
        return state.decide(torch.zeros_like(waiting).scatter_(-1, order, within) & waiting, prediction.tokens)


@dataclass(frozen=True, config=STRICT)
class Remasking(MaskedDecoder):
    """ReMDM (arXiv:2503.00307, rescaled schedule): a token of the chunk may be masked again until the last step.

    From time t to s, sigma_t = eta min(1, (1 - alpha_s) / alpha_t): what is decided is masked with probability sigma_t,
    what is masked is decided with probability (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t). A chunk takes `steps`
    forwards, more of which correct more errors; eta 0 never masks again and has the law of Ancestral.
    """

    position_draws: ClassVar[bool] = True

    name: Literal["remasking"] = "remasking"
    steps: Count = 64
    eta: Share = 0.1

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        return {"step": uniform.new_zeros(uniform.size(0), 1)}

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        assert uniform is not None
        step = state.memory["step"]  # (R, 1)
        alpha_t, alpha_s = step / self.steps, (step + 1) / self.steps
        sigma = self.eta * ((1 - alpha_s) / alpha_t).clamp(max=1)  # alpha_t is 0 at first: 1/0 is clamped to 1
        masked = state.status == MASKED
        chosen = uniform < torch.where(masked, (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t), sigma)  # (R, K)
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
