"""Decoders of diffusion + flow: commit rules of masked diffusion, with the flow's help while much is masked."""

from dataclasses import dataclass
from typing import ClassVar

from algorithms.masked_diffusion.decoding import MaskedDecoder, Threshold, TopConfidence


@dataclass(frozen=True)
class FlowAssisted(MaskedDecoder):
    """What the flow adds to a commit rule.

    `flow_step` is how far the flow goes: with flow.name=posterior the progress of the latents at the end of a chunk,
    with flow.name=velocity the length of the step along the velocity. It helps while more than the share `flow_until`
    is masked.
    """

    order_follows_text: ClassVar[bool] = False  # the latents are drawn, and the logits not those of the likelihood

    flow_step: float = 0.5
    flow_until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.flow_step <= 1:
            raise ValueError(f"algorithm.decoder.flow_step is {self.flow_step}: it must lie in [0, 1]")
        if not 0 <= self.flow_until <= 1:
            raise ValueError(f"algorithm.decoder.flow_until is {self.flow_until}: it must lie in [0, 1]")


@dataclass(frozen=True)
class FlowTopConfidence(FlowAssisted, TopConfidence):
    """`top_confidence` with the flow."""

    name: str = "flow_top_confidence"
    tokens_per_step: int = 4


@dataclass(frozen=True)
class FlowThreshold(FlowAssisted, Threshold):
    """`threshold` with the flow."""

    name: str = "flow_threshold"
