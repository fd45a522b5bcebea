"""Decoders of diffusion + flow: commit rules of masked diffusion, with the flow's help while much is masked."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Share
from algorithms.masked_diffusion.decoding import MaskedDecoder, Threshold, TopConfidence


@dataclass(frozen=True, config=STRICT)
class FlowAssisted(MaskedDecoder):
    """What the flow adds to a commit rule.

    `flow_step` is how far the flow goes: with flow.name=posterior the progress of the latents at the end of a chunk,
    with flow.name=velocity the length of the step along the velocity. It helps while more than the share `flow_until`
    is masked.
    """

    order_follows_text: ClassVar[bool] = False  # the latents are drawn, and the logits not those of the likelihood

    flow_step: Share = 0.5
    flow_until: Share = 0.0

    def unused(self) -> dict[str, str]:
        return super().unused() | ({"flow_step": "flow_until"} if self.flow_until == 1 else {})


@dataclass(frozen=True, config=STRICT)
class FlowTopConfidence(FlowAssisted, TopConfidence):
    """`top_confidence` with the flow."""

    name: Literal["flow_top_confidence"] = "flow_top_confidence"  # type: ignore[assignment]
    tokens_per_step: Count = 4


@dataclass(frozen=True, config=STRICT)
class FlowThreshold(FlowAssisted, Threshold):
    """`threshold` with the flow."""

    name: Literal["flow_threshold"] = "flow_threshold"  # type: ignore[assignment]
