"""Decoders of diffusion + flow: commit rules of masked diffusion, with the flow's help while much is masked."""

from dataclasses import dataclass
from typing import ClassVar

from algorithms.masked_diffusion.decoding import Threshold, TopConfidence


@dataclass(frozen=True)
class FlowThreshold(Threshold):
    """`threshold` with the flow: steps of `flow_step` along the velocity while more than the share `flow_until` is
    masked."""

    order_follows_text: ClassVar[bool] = False  # the latents are drawn, and the logits not those of the likelihood

    name: str = "flow_threshold"
    flow_step: float = 1.0
    flow_until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flow(self)


@dataclass(frozen=True)
class FlowTopConfidence(TopConfidence):
    """`top_confidence` with the flow."""

    order_follows_text: ClassVar[bool] = False

    name: str = "flow_top_confidence"
    flow_step: float = 1.0
    flow_until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flow(self)


FlowDecoder = FlowThreshold | FlowTopConfidence


def check_flow(decoder: FlowDecoder) -> None:
    """Raise ValueError, naming the key, on options of the flow out of range."""
    if decoder.flow_step < 0:
        raise ValueError(f"algorithm.decoder.flow_step is {decoder.flow_step}: it cannot be negative")
    if not 0 <= decoder.flow_until <= 1:
        raise ValueError(f"algorithm.decoder.flow_until is {decoder.flow_until}: it must lie in [0, 1]")
