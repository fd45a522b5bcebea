"""Masked diffusion: a bidirectional backbone that restores hidden tokens, any number of them at once.

Source: MDLM (arXiv:2406.07524); nathan-barry/tiny-diffusion for `objective=reference`. The network is not told the
time, which the masks tell (arXiv:2406.03736). B batch, T tokens, W = T + 1 the window, V vocabulary; the mask is V.
"""

from dataclasses import field, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.fields import STRICT, Count
from algorithms.common.head import mean_nats
from algorithms.common.likelihood import Likelihood
from algorithms.common.optim import OptimizerConfig
from algorithms.common.randomness import RowRandom, Source, draw_rows
from algorithms.masked_diffusion.decoding import AnyDecoder, ChunkState, MaskedDecoder, Predictor, TopConfidence
from algorithms.masked_diffusion.likelihood import any_order_bound, chain_rule, decoder_likelihood
from algorithms.masked_diffusion.masking import Masks, counted_masks, hide, independent_masks, stratified_shares

MEANS = ("masked_mean", "reference")  # objectives whose loss is a mean over masked tokens
CPU_ROWS = 8  # rows of a forward while decoding: the activations of more fall out of a CPU's cache


@dataclass(frozen=True, config=STRICT)
class MaskedDiffusionConfig:
    """Settings of `algorithm=masked_diffusion`.

    `objective`: `masked_mean` is the mean over all masked tokens of a batch, which is no likelihood and trains a lower
    bound than the bound itself; `continuous_time` is that bound with independent masks and the weight 1/p, `any_order`
    the same with a drawn number of masks, `reference` the mean with the mask among the classes.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    name: Literal["masked_diffusion"] = "masked_diffusion"
    objective: Literal["masked_mean", "continuous_time", "any_order", "reference"] = "masked_mean"
    validation_masks: Count = 8
    masks_per_count: Count = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: Annotated[AnyDecoder, Field(discriminator="name")] = field(default_factory=TopConfidence)


class MaskedDiffusion(BaseAlgorithm):
    """A denoiser of masked text; its likelihood is an upper bound, exact only for a chosen order.

    Its windows hold block_size + 1 tokens, the first of them given: those that a GPT of the same context sees and
    predicts. There is no key-value cache: under bidirectional attention none is exact.
    """

    name = "masked_diffusion"
    description = "hidden tokens, given the others on both sides; a text is decided in any order, or in parallel"
    config_class: ClassVar[type] = MaskedDiffusionConfig
    likelihood_kind = "bound"
    config: MaskedDiffusionConfig

    def __init__(
        self, config: MaskedDiffusionConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0
    ) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.mask_id = vocabulary_size
        self.window = config.backbone.block_size + 1
        longer = replace(config.backbone, block_size=self.window)
        self.model = LanguageModel(longer, vocabulary_size + 1, attention="bidirectional")
        self.takes_mean = config.objective in MEANS
        if self.takes_mean:
            self.loss_unit = "nats per masked token"

    def logits(self, x: Tensor) -> Tensor:
        """ids with masks (B, W) -> logits (B, W, V): the mask itself is never predicted."""
        return self.model(x)[..., : self.mask_id]

    def draw(self, ids: Tensor, generator: torch.Generator) -> Masks:
        """Which of the last T tokens of ids (B, T + 1) are hidden; shares are stratified over the batch of all
        processes."""
        B, T = ids.size(0), ids.size(1) - 1
        share = draw_rows(generator, B, lambda rows, g: stratified_shares(rows, g)[0])  # (B,)
        draw = counted_masks if self.config.objective == "any_order" else independent_masks
        masked, weight = draw(share, T, generator)
        total = self.over_processes(masked.sum()) if self.takes_mean else None
        return Masks(masked, weight, total)

    def loss_of(self, ids: Tensor, draws: Masks) -> dict[str, Tensor]:
        hidden = self.model.hidden(hide(ids, draws.masked, self.mask_id))[:, 1:]  # (B, T, C)
        return {"loss": self.restoration_loss(hidden, ids[:, 1:], draws)}

    def restoration_loss(self, hidden: Tensor, targets: Tensor, draws: Masks) -> Tensor:
        """The configured objective of final hidden states (B, T, C), in nats per token, or per masked token."""
        if draws.total is None:
            factors = draws.masked * draws.weight[:, None]
        else:
            share = draws.total.clamp(min=1e-6) / targets.numel()  # of the tokens of all processes, as in mean_where
            factors = draws.masked / share
        classes = None if self.config.objective == "reference" else self.mask_id
        return mean_nats(hidden, self.model.lm_head.weight, targets, factors, classes=classes)

    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        passes = self.config.validation_masks
        return any_order_bound(self.logits, ids, mask_id=self.mask_id, passes=passes, generator=generator)

    def likelihoods(self) -> dict[str, Likelihood]:
        """The bound with every number of masks, and exact likelihoods of single orders, the decoder's if it has one."""

        def bound(ids: Tensor, generator: Source) -> Tensor:
            passes = self.config.masks_per_count * (ids.size(1) - 1)
            return any_order_bound(self.logits, ids, mask_id=self.mask_id, passes=passes, generator=generator)

        def left_to_right(ids: Tensor, generator: Source) -> Tensor:
            return chain_rule(self.logits, ids, mask_id=self.mask_id)

        def of_decoder(decoder: MaskedDecoder, ids: Tensor, generator: Source) -> Tensor:
            return decoder_likelihood(self.logits, ids, mask_id=self.mask_id, decoder=decoder)

        margin = TopConfidence(confidence="margin")
        found = {
            "any_order": Likelihood("bound", bound),
            "left_to_right": Likelihood("exact for this order", left_to_right),
            "duel_margin": Likelihood("exact for this order", partial(of_decoder, margin)),
        }
        if self.config.decoder.has_likelihood:
            found["duel_decoder"] = Likelihood("exact for this decoder", partial(of_decoder, self.config.decoder))
        return found

    def predictor(self, decoder: MaskedDecoder, random: RowRandom) -> Predictor:
        """The network as a decoder asks for it: the head runs on what is looked at alone."""

        def predict(x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
            if x.device.type == "cpu":
                hidden = torch.cat([self.model.hidden(part)[:, chunk] for part in x.split(CPU_ROWS)])  # (R, K, C)
            else:
                hidden = self.model.hidden(x)[:, chunk]
            return self.model.lm_head(state.at(hidden))[..., : self.mask_id]

        return predict
