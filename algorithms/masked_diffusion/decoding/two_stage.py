"""Draft and confirm: a token is shown to the network as a draft first, and may still change until it is confirmed.

Source: nathan-barry/tiny-diffusion's two-stage decoder, step for step. R rows, M positions of the chunk.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Number
from algorithms.masked_diffusion.decoding.rules import MaskedDecoder
from algorithms.masked_diffusion.decoding.state import DONE, DRAFT, MASKED, ChunkState, Confidence, Prediction, best_of


@dataclass(frozen=True, config=STRICT)
class TwoStage(MaskedDecoder):
    """Confirms where confidence >= confirm_threshold, drafts masked positions where it is >= draft_threshold.

    A draft is rewritten where confidence is at least draft_threshold and exceeds the one it was written with by more
    than `replace_margin`; it is masked again at the age of `max_draft_age` steps (0: never). With `always_confirm` a
    step that would confirm nothing confirms the most confident open position, so that a chunk never takes more steps
    than tokens; draft_threshold = confirm_threshold with replace_margin 1 is then Threshold.

    always_confirm=false is the reference, and only there the other settings matter. A step that changes nothing drafts
    the best masked position or, if all are drafts, confirms those written with `min_draft_confidence` or more, or else
    masks the weakest. The most confident open position is confirmed by force in such a step, if `max_stall_steps` have
    passed without a confirmation, and in a step with changes from the `max_block_steps`-th of a chunk on.
    """

    per_position: ClassVar[tuple[str, ...]] = ("stored", "age")

    name: Literal["two_stage"] = "two_stage"
    draft_threshold: Number = 0.7
    confirm_threshold: Number = 0.9
    replace_margin: NonNegative = 0.05
    max_draft_age: Natural = 0
    confidence: Confidence = "probability"
    always_confirm: bool = True
    min_draft_confidence: Number = 0.0
    max_stall_steps: Count = 80
    max_block_steps: Count = 2000

    def __post_init__(self) -> None:
        self._check_confidence(self.confidence, "draft_threshold", "confirm_threshold", "min_draft_confidence")
        if self.draft_threshold > self.confirm_threshold:
            raise ValueError(
                f"draft_threshold is {self.draft_threshold}, above confirm_threshold "
                f"({self.confirm_threshold}): lower it to at most that"
            )

    def unused(self) -> dict[str, str]:
        found = super().unused()
        if self.always_confirm:
            fallback = ("min_draft_confidence", "max_stall_steps", "max_block_steps")
            found |= dict.fromkeys(fallback, "always_confirm")
            if self.draft_threshold == self.confirm_threshold:  # nothing is ever a draft
                found |= dict.fromkeys(("replace_margin", "max_draft_age"), "draft_threshold")
        return found

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        per_row = state.tokens.new_zeros(len(state.tokens), 1)
        return {
            "stored": torch.zeros_like(state.tokens, dtype=torch.float64),  # confidence of each draft when written
            "age": torch.zeros_like(state.tokens),  # steps since then
            "stall": per_row,  # steps since the last confirmation
            "steps": per_row,
        }

    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        confidence = prediction.confidence(self.confidence)  # (R, M)
        waiting, draft = state.open, state.status == DRAFT
        stored, age = state.memory["stored"], state.memory["age"] + draft

        confirmed = waiting & (confidence >= self.confirm_threshold)
        likely = (confidence >= self.draft_threshold) & ~confirmed
        drafted = (state.status == MASKED) & likely
        redrafted = draft & likely & (confidence > stored + self.replace_margin)
        written = drafted | redrafted
        stored = torch.where(written, confidence, stored)
        age = age.masked_fill(written, 0)
        hidden = draft & ~confirmed & (age >= self.max_draft_age) if self.max_draft_age > 0 else torch.zeros_like(draft)
        settled = confirmed  # what needs no further token: confirmed above, or a draft that is good as it stands

        confirming = confirmed.any(-1, keepdim=True)  # (R, 1)
        stall, steps = state.memory["stall"], state.memory["steps"] + 1
        if self.always_confirm:
            forced = ~confirming
        else:
            changed = confirming | (written | hidden).any(-1, keepdim=True)
            first, good, weakest = self._fallback(state, confidence, stored, ~changed)
            stored = torch.where(first, confidence, stored)
            age = age.masked_fill(first, 0)
            written, settled, hidden = written | first, settled | good, hidden | weakest
            stall = (stall + 1).masked_fill(confirming, 0)  # drafts confirmed as they stand do not count
            forced = torch.where(changed, steps >= self.max_block_steps, stall >= self.max_stall_steps)
            stall = stall.masked_fill(forced, 0)
        confirmed = confirmed | (best_of(confidence, waiting & ~settled) & forced)

        status = state.status.masked_fill(written, DRAFT).masked_fill(hidden, MASKED)
        tokens = torch.where(written | confirmed, prediction.tokens, state.tokens)
        return replace(
            state,
            tokens=tokens.masked_fill(hidden & ~confirmed, state.mask_id),
            status=status.masked_fill(settled | confirmed, DONE),
            memory={**state.memory, "stored": stored, "age": age, "stall": stall, "steps": steps},
        )

    def _fallback(
        self, state: ChunkState, confidence: Tensor, stored: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For `rows` (R, 1) in which nothing changed: new drafts, drafts to confirm as they stand, and drafts to mask
        again, each (R, M)."""
        masked, draft = state.status == MASKED, state.status == DRAFT
        only_drafts = rows & ~masked.any(-1, keepdim=True)
        good = draft & (stored >= self.min_draft_confidence) & only_drafts
        weakest = best_of(-stored, draft) & only_drafts & ~good.any(-1, keepdim=True)
        return best_of(confidence, masked) & rows, good, weakest
