"""The reference's flow: a head that regresses velocities of token embeddings, and blends them into the logits.

Source: the diffusion + flow model built on nathan-barry/tiny-diffusion. Its known weaknesses are kept: embeddings of
standard deviation 0.02 against unit noise, so that the target is nearly minus the noise; the time enters behind the
backbone; in decoding the head sees mask embeddings, which it never saw in training. `posterior.py` is without them.
B batch, R rows, T tokens, W window, M positions looked at, C channels, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.backbone import LanguageModel
from algorithms.common.device import exact_product, full_precision
from algorithms.common.fields import STRICT, Count, Natural, Positive
from algorithms.common.randomness import RowRandom, normal
from algorithms.diffusion_flow.decoders import FlowAssisted
from algorithms.diffusion_flow.flow import FlowConfig, Path, draw_progress, interpolate, time_mlp
from algorithms.masked_diffusion.decoding import ChunkState, Predictor
from algorithms.masked_diffusion.masking import mean_where

BLEND_BASE, BLEND_SLOPE, BLEND_MAX = 0.25, 0.55, 0.8  # share of the flow's logits, by the share still masked


@dataclass(frozen=True, config=STRICT)
class VelocityFlowConfig(FlowConfig):
    """`algorithm.flow.name=velocity`: smooth-L1 of velocities, over masked positions (`masked_only`) or all."""

    name: Literal["velocity"] = "velocity"
    max_step: Natural | None = 6000
    noise_scale: Positive = 1.0
    huber_beta: Positive = 0.1
    bottleneck: Count = 128
    masked_only: bool = True

    def unused(self) -> dict[str, str]:
        own = dict.fromkeys(("noise_scale", "huber_beta", "masked_only"), "weight")
        return super().unused() | (own if self.weight == 0 else {})


def velocity_error(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth-L1 of velocities (B, T, C), mean over channels: (B, T)."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").mean(-1)


def assisted_logits(
    logits: Tensor, embedded: Tensor, velocity: Tensor, table: Tensor, remaining: Tensor, decoder: FlowAssisted
) -> Tensor:
    """Logits (R, M, V + 1) blended with those of the embeddings (R, M, C) moved by flow_step along the velocity, read
    off the embedding table (V + 1, C); untouched in rows whose masked share `remaining` (R,) is at most flow_until."""
    blend = (BLEND_BASE + BLEND_SLOPE * remaining).clamp(max=BLEND_MAX) * (remaining > decoder.flow_until)
    flow_logits = exact_product(embedded + decoder.flow_step * velocity, table.T)
    return torch.lerp(full_precision(logits), flow_logits, blend[:, None, None])


class VelocityFlow(nn.Module):
    """A bottleneck head on the backbone's hidden states; the time is added to these."""

    def __init__(self, config: VelocityFlowConfig, model: LanguageModel, mask_id: int) -> None:
        super().__init__()
        self.config = config
        self.mask_id = mask_id
        self.channels = C = model.wte.embedding_dim
        self.head = nn.Sequential(
            nn.Linear(C, config.bottleneck, bias=False), nn.SiLU(), nn.Linear(config.bottleneck, C, bias=False)
        )
        self.time = time_mlp(C)

    def velocity(self, hidden: Tensor, progress: Tensor) -> Tensor:
        """hidden (B, T, C) at progress (B,) -> velocities (B, T, C)."""
        return self.head(hidden + self.time(progress[:, None])[:, None])

    def draw(self, ids: Tensor, total: Tensor, generator: torch.Generator) -> Path:
        """The paths of a step on ids (B, W), of which `total` () are masked."""
        progress = draw_progress(self.config, ids.size(0), generator)
        noise = normal(generator, *ids.shape, self.channels) * self.config.noise_scale
        return Path(progress, noise, total)

    def loss(self, model: LanguageModel, ids: Tensor, x: Tensor, path: Path) -> Tensor:
        """The flow loss of ids (B, W), whose masked form is x (B, W)."""
        clean = model.wte(ids).detach()  # (B, W, C)
        noisy = interpolate(clean, path.noise, path.progress)
        predicted = self.velocity(model.backbone(model.backbone.add_positions(noisy)), path.progress)
        error = velocity_error(predicted, clean - path.noise, self.config.huber_beta)  # (B, W)
        return mean_where(error, x == self.mask_id, path.total) if self.config.masked_only else error.mean()

    def predictor(self, model: LanguageModel, decoder: FlowAssisted, random: RowRandom) -> Predictor:
        """The network with the flow's help in rows of whose window a share above flow_until is masked."""

        def predict(x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
            hidden = state.at(model.hidden(x)[:, chunk])  # (R, M, C)
            logits = model.lm_head(hidden)  # (R, M, V + 1)
            remaining = state.remaining.to(x.device, torch.float32)  # (R,)
            velocity = self.velocity(hidden, 1 - remaining)
            embedded = model.wte(state.tokens.to(x.device))
            logits = assisted_logits(logits, embedded, velocity, model.wte.weight, remaining, decoder)
            return logits[..., : self.mask_id]

        return predict
