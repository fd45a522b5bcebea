"""Flow matching whose velocity follows from the token posterior: masked positions carry noisy codes of their tokens.

Sources: variational flow matching (arXiv:2406.04843); continuous states at masked positions as in CANDI
(arXiv:2510.22510). In training and in decoding the backbone sees the same: the mask, a noisy code, its progress.
B batch, R rows, T tokens, W window, K chunk, C channels, D code channels, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.backbone import LanguageModel
from algorithms.common.device import exact_product
from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Positive
from algorithms.common.randomness import RowRandom, normal
from algorithms.diffusion_flow.decoders import FlowAssisted
from algorithms.diffusion_flow.flow import FlowConfig, Path, draw_progress, interpolate, time_mlp
from algorithms.masked_diffusion.decoding import ChunkState, Predictor
from algorithms.masked_diffusion.likelihood import nats_of_logits
from algorithms.masked_diffusion.masking import mean_where


@dataclass(frozen=True, config=STRICT)
class PosteriorFlowConfig(FlowConfig):
    """`algorithm.flow.name=posterior`: cross-entropy of the masked tokens, given noisy codes of them."""

    name: Literal["posterior"] = "posterior"
    weight: NonNegative = 0.5
    warmup_steps: Natural = 100
    plateau_patience: Count | None = None
    code_dim: Count = 32
    code_norm: Positive = 2.0


class PosteriorFlow(nn.Module):
    """What a masked position shows beside the mask: a noisy code of its token, and how far it has come.

    Codes have a fixed norm and cannot shrink. The norm of 2 leaves a code's identity open over most of the path: the
    signal-to-noise ratio (s norm / (1 - s))² at which half of what there is to know about one of 65 tokens is known,
    3.7, lies at s = 0.49.
    """

    def __init__(self, config: PosteriorFlowConfig, model: LanguageModel, mask_id: int) -> None:
        super().__init__()
        self.config = config
        self.mask_id = mask_id
        C = model.wte.embedding_dim
        self.weight = nn.Parameter(torch.randn(mask_id, config.code_dim))
        self.project = nn.Linear(config.code_dim, C, bias=False)
        self.time = time_mlp(C)
        for layer in (self.project, self.time[-1]):  # at first the backbone sees plain masks
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def codes(self) -> Tensor:
        """The code of every token: (V, D)."""
        return F.normalize(self.weight, dim=-1) * self.config.code_norm

    def logits(
        self, model: LanguageModel, x: Tensor, latents: Tensor, progress: Tensor, follows: Tensor | None = None
    ) -> Tensor:
        """Masked ids x (R, W) with latents (R, W, D) at progress (R,) -> logits (R, W, V); plain ones in rows that are
        not among those that follow the flow, `follows` (R,)."""
        s = progress[:, None, None]
        scale = ((1 - s).square() + (s * self.config.code_norm).square() / latents.size(-1)).rsqrt()
        shown = self.project(latents * scale) + self.time(progress[:, None])[:, None]  # (R, W, C)
        where = x == self.mask_id if follows is None else (x == self.mask_id) & follows[:, None]
        embedded = model.wte(x) + shown * where[..., None]
        logits = model.lm_head(model.backbone(model.backbone.add_positions(embedded)))[..., : self.mask_id]
        evidence = s / (1 - s).clamp(min=1e-2).square()
        if follows is not None:
            evidence = evidence * follows[:, None, None]
        return logits + evidence * exact_product(latents, self.codes().T)  # a position's own latent, by Bayes' rule

    def draw(self, ids: Tensor, total: Tensor, generator: torch.Generator) -> Path:
        """The paths of a step on ids (B, W), of which `total` () are masked."""
        progress = draw_progress(self.config, ids.size(0), generator)
        return Path(progress, normal(generator, *ids.shape, self.config.code_dim), total)

    def loss(self, model: LanguageModel, ids: Tensor, x: Tensor, path: Path) -> Tensor:
        """The flow loss of ids (B, W), whose masked form is x (B, W): nats per masked token."""
        latents = interpolate(F.embedding(ids, self.codes()), path.noise, path.progress)
        logits = self.logits(model, x, latents, path.progress)  # (B, W, V)
        return mean_where(nats_of_logits(logits, ids), x == self.mask_id, path.total)

    def step(self, latents: Tensor, posterior: Tensor, progress: Tensor, following: Tensor) -> Tensor:
        """Move latents (R, W, D) along the velocity (E[code] - z) / (1 - s) of the token posterior (R, W, V), from
        progress to following (R,)."""
        share = ((following - progress) / (1 - progress).clamp(min=1e-6))[:, None, None]
        return torch.lerp(latents, exact_product(posterior, self.codes()), share)

    def predictor(self, model: LanguageModel, decoder: FlowAssisted, random: RowRandom) -> Predictor:
        """Latents start as noise with each chunk and follow the flow while its tokens are decided, to flow_step at its
        end. Once the share left of a row is at or below flow_until, its masked positions are plain masks again."""

        def predict(x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
            memory, left = state.memory, state.open.sum(1).to(x.device, torch.float32)  # (R,)
            if "latents" not in memory:
                rows = state.rows.tolist()
                memory["latents"] = random.normal(x.size(1), self.config.code_dim, rows=rows).to(x.device)
                memory["progress"] = torch.zeros_like(left)
                memory["total"] = left
            share = left / memory["total"]  # (R,) still to be decided
            progress = decoder.flow_step * (1 - share)
            if "posterior" in memory:
                memory["latents"] = self.step(memory["latents"], memory["posterior"], memory["progress"], progress)
            follows = share > decoder.flow_until if decoder.flow_until > 0 else None
            logits = self.logits(model, x, memory["latents"], progress, follows)  # (R, W, V)
            memory["posterior"], memory["progress"] = logits.softmax(-1), progress
            return state.at(logits[:, chunk])

        return predict
