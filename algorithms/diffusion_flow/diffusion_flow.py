"""Diffusion + flow: masked diffusion with a flow-matching loss beside it, and decoding along the flow.

Sources: see velocity.py (the reference's recipe) and posterior.py (the default). With weight 0 it is masked diffusion,
to the bit. B batch, T tokens, W = T + 1 the window.
"""

from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.fields import STRICT
from algorithms.common.intermittent import Intermittent
from algorithms.common.randomness import RowRandom
from algorithms.diffusion_flow.decoders import FlowAssisted, FlowThreshold, FlowTopConfidence
from algorithms.diffusion_flow.flow import Path, PlateauSwitch, warmed_up
from algorithms.diffusion_flow.posterior import PosteriorFlow, PosteriorFlowConfig
from algorithms.diffusion_flow.velocity import VelocityFlow, VelocityFlowConfig
from algorithms.masked_diffusion.decoding import AnyDecoder, MaskedDecoder, Predictor
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.masked_diffusion.masking import Masks, hide


@dataclass(frozen=True, config=STRICT)
class DiffusionFlowConfig(MaskedDiffusionConfig):
    """Settings of `algorithm=diffusion_flow`: those of masked diffusion, and the flow's."""

    name: Literal["diffusion_flow"] = "diffusion_flow"  # type: ignore[assignment]
    flow: Annotated[PosteriorFlowConfig | VelocityFlowConfig, Field(discriminator="name")] = field(
        default_factory=PosteriorFlowConfig
    )
    decoder: Annotated[AnyDecoder | FlowTopConfidence | FlowThreshold, Field(discriminator="name")] = field(
        default_factory=FlowTopConfidence
    )


class Draws(NamedTuple):
    """What chance and the step decide: a step with flow and one without are two graphs."""

    masks: Masks
    path: Path | None = None  # None on a step without flow
    weight: Tensor | float = 0.0  # () of the flow loss; a number that rises would make a graph of each step


class DiffusionFlow(Intermittent, MaskedDiffusion):
    """Masked diffusion with a second pass through the backbone on flow steps: the loss is CE + weight · flow loss."""

    name = "diffusion_flow"
    description = "masked diffusion with a flow that hidden positions follow while the text is decided"
    config_class = DiffusionFlowConfig
    shape_keys = (*MaskedDiffusion.shape_keys, "flow.bottleneck", "flow.code_dim")
    config: DiffusionFlowConfig

    def __init__(
        self, config: DiffusionFlowConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0
    ) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.flow: PosteriorFlow | VelocityFlow
        if isinstance(config.flow, PosteriorFlowConfig):
            self.flow = PosteriorFlow(config.flow, self.model, self.mask_id)
        else:
            self.flow = VelocityFlow(config.flow, self.model, self.mask_id)
        self.plateau = PlateauSwitch(
            config.flow.plateau_window, config.flow.plateau_patience, config.flow.plateau_improvement
        )
        if config.flow.weight > 0:
            self.loss_unit += " + flow loss"

    def flow_weight(self, step: int) -> float:
        """The weight of the flow loss at optimiser step `step`; 0 once it has ended."""
        flow = self.config.flow
        ended = (flow.max_step is not None and step >= flow.max_step) or self.plateau.off
        return 0.0 if ended else warmed_up(flow.weight, step, flow.warmup_steps)

    @property
    def period(self) -> int:
        return self.config.flow.interval

    def intermittent_parts(self) -> dict[str, float]:
        return {"flow": self.flow_weight(self.step)}

    def intermittent_parameters(self) -> Iterable[nn.Parameter]:
        return self.flow.parameters()

    def draw(self, ids: Tensor, generator: torch.Generator) -> Draws:
        """The masks, and on a step with flow its paths."""
        masks, share = super().draw(ids, generator), self.flow_weight(self.step)
        if share == 0 or self.step % self.config.flow.interval > 0:
            return Draws(masks)
        path = self.flow.draw(ids, self.over_processes(masks.masked.sum()), generator)
        return Draws(masks, path, torch.full((), share, device=ids.device))

    def loss_of(self, ids: Tensor, draws: Draws) -> dict[str, Tensor]:
        x = hide(ids, draws.masks.masked, self.mask_id)
        loss = self.restoration_loss(self.model.hidden(x)[:, 1:], ids[:, 1:], draws.masks)
        parts = {"masked": loss.detach()}
        if draws.path is not None:
            flow = self.flow.loss(self.model, ids, x, draws.path)
            loss, parts["flow"] = loss + draws.weight * flow, flow.detach()
        return {"loss": loss, **parts}

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        share = self.flow_weight(self.step)
        parts = super().loss(ids, generator)
        if not self._resting and self._trainer is not None:
            self.plateau.record(self._latest["flow"])  # of all processes, so that they switch off together
        return parts | {"flow_weight": torch.tensor(share), "flow_active": torch.tensor(float(share > 0))}

    def predictor(self, decoder: MaskedDecoder, random: RowRandom) -> Predictor:
        if isinstance(decoder, FlowAssisted) and decoder.flow_until < 1:
            return self.flow.predictor(self.model, decoder, random)
        return super().predictor(decoder, random)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["flow"] = {"plateau": self.plateau.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.plateau.load(checkpoint["flow"]["plateau"])
