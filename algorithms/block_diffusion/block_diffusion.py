"""Block diffusion: a text in blocks, masked diffusion inside a block, causal between blocks.

Source: BD3-LM (arXiv:2503.09573); a clean stream that is causal token by token and predicts the first token of every
block as a GPT: Fast-dLLM v2 (arXiv:2509.26328). Blocks of one token are a GPT, one block is masked diffusion. B batch,
T tokens, W = T + 1 the window, C clean and N noisy tokens, H that may be hidden, V vocabulary; the mask is V.
"""

from dataclasses import field, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.block_diffusion.decoding import BlockDrafter, BlockReader
from algorithms.block_diffusion.layout import Layout
from algorithms.block_diffusion.likelihood import any_order_bound, decoder_likelihood, left_to_right
from algorithms.block_diffusion.masking import hide_in_blocks, shares_of_blocks
from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.fields import STRICT, Count, NonNegative, Share
from algorithms.common.head import mean_nats, token_nats
from algorithms.common.likelihood import Likelihood
from algorithms.common.optim import OptimizerConfig
from algorithms.common.randomness import RowRandom, Source, draw_rows
from algorithms.common.speculation import DRAFTS, Speculative, check_drafts
from algorithms.masked_diffusion.decoding import AnyDecoder, MaskedDecoder, TopConfidence
from algorithms.masked_diffusion.masking import stratified_shares


@dataclass(frozen=True, config=STRICT)
class BlockDiffusionConfig:
    """Settings of `algorithm=block_diffusion`.

    `objective`: `any_order` weighs the hidden tokens of a block as the bound does, `masked_mean` all hidden tokens of a
    batch alike; with the first, the whole `mask_range` and no `next_token_weight` the loss is the bound. `mask_range`
    is that of the share of a block that is hidden in training. `next_token_weight` is that of the clean stream's
    cross-entropy of the tokens that do not begin a block, which it could leave to the noisy one. `use_cache` keeps the
    past's keys and values while writing.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    name: Literal["block_diffusion"] = "block_diffusion"
    block_len: Count = 4
    objective: Literal["any_order", "masked_mean"] = "any_order"
    mask_range: list[Share] = field(default_factory=lambda: [0.0, 1.0])
    next_token_weight: NonNegative = 1.0
    validation_masks: Count = 8
    masks_per_count: Count = 1
    use_cache: bool = True
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: Annotated[AnyDecoder | Speculative, Field(discriminator="name")] = field(default_factory=TopConfidence)

    def __post_init__(self) -> None:
        window = self.backbone.block_size + 1
        if self.block_len > window:
            raise ValueError(
                f"block_len is {self.block_len}: the window holds {window} tokens, set it to at most that, or raise "
                "algorithm.backbone.block_size"
            )
        if len(self.mask_range) != 2 or self.mask_range[0] >= self.mask_range[1]:
            raise ValueError(f"mask_range is {self.mask_range}: it must be [low, high] with low below high")
        try:
            if isinstance(self.decoder, Speculative):
                check_drafting(self.decoder.draft_tokens, self)
            else:
                self.decoder.check_blocks(self.block_len)
        except ValueError as error:
            raise ValueError(f"decoder.{error}") from None

    def unused(self) -> dict[str, str]:
        """With at most one hidden token a block there is nothing to choose, and without a clean stream no past; drafts
        are verified with a cache of their own."""
        keys: tuple[str, ...] = ()
        if self.block_len <= 2:
            keys = ("objective", "mask_range", "validation_masks", "masks_per_count")
        if self.block_len in (1, self.backbone.block_size + 1):
            keys += ("next_token_weight",)
        if self.block_len == self.backbone.block_size + 1:
            keys += ("use_cache",)
        found = dict.fromkeys(keys, "block_len")
        return found | ({"use_cache": "decoder.name"} if isinstance(self.decoder, Speculative) else {})


def check_drafting(asked: int | None, config: BlockDiffusionConfig) -> None:
    """ValueError where blocks cannot draft so many tokens, or no clean stream has learned to verify them."""
    L = config.block_len
    check_drafts(asked, L - 2, f"behind its first and the next token a block of block_len={L} has", "block_len")
    untrained = None
    if config.backbone.block_size < L:
        untrained = f"block_len={L} is the whole window, so that none is read causally: train with a smaller one"
    elif config.next_token_weight == 0:
        untrained = "next_token_weight=0 has taught none inside blocks: train with a weight above 0"
    if untrained:
        raise ValueError(f"name is 'speculative', which verifies next tokens, and {untrained}")


class Draws(NamedTuple):
    """What chance decides in a step: hidden tokens of the noisy stream (B, N) bool, and what each token's nats weigh,
    (B, N); None without a noisy stream."""

    masked: Tensor | None = None
    factors: Tensor | None = None


class BlockDiffusion(BaseAlgorithm):
    """A GPT and a masked denoiser of blocks behind its clean past, in one pass and with the same weights.

    Known text to the right is seen inside its block alone, and not by the first token of the block.
    """

    name = "block_diffusion"
    description = "the first token of every block, given the true past, and hidden ones inside a block, given the past"
    config_class: ClassVar[type] = BlockDiffusionConfig
    config: BlockDiffusionConfig

    def __init__(
        self, config: BlockDiffusionConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0
    ) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.mask_id = vocabulary_size
        self.block_len = config.block_len
        self.window = config.backbone.block_size + 1
        longer = replace(config.backbone, block_size=self.window)
        self.model = LanguageModel(longer, vocabulary_size + 1)
        self.layout = Layout(self.window, config.block_len)
        self._shorter: dict[int, Layout] = {}  # those of shorter windows, by their tokens
        self.likelihood_kind = "exact" if config.block_len <= 2 else "bound"
        if config.objective == "masked_mean" and config.block_len > 2:
            self.loss_unit = "nats per next or hidden token"
        if config.next_token_weight > 0 and self.layout.clean > len(self.layout.starts):
            self.loss_unit += " + next-token loss"

    def layout_of(self, ids: Tensor) -> Layout:
        """The layout of windows ids (B, W), which may be shorter than those that the backbone is made for."""
        tokens = ids.size(1)
        if tokens == self.window:
            return self.layout
        layout = self._shorter.get(tokens)
        if layout is None or layout.first.device != ids.device:
            layout = self._shorter[tokens] = Layout(tokens, self.block_len).to(ids.device)
        return layout

    def streams(self, ids: Tensor, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Final hidden states of the clean tokens (B, C, n_embd) of ids (B, W) and of noisy ones x (B, N)."""
        backbone, C, N = self.model.backbone, layout.clean, layout.noisy
        embedded = self.model.wte(torch.cat([ids[:, :C], x], dim=1))
        if C and N:
            clean, noisy = embedded.split([C, N], dim=1)
            where = layout.places, layout.begins, layout.seen
            return backbone.two_streams(clean, noisy, *where, bidirectional=True)
        hidden = backbone(backbone.add_positions(embedded), bidirectional=N > 0)
        return hidden[:, :C], hidden[:, C:]

    def draw(self, ids: Tensor, generator: torch.Generator) -> Draws:
        """What is hidden of ids (B, W): shares are stratified over the batch of all processes."""
        layout = self.layout_of(ids)
        if layout.noisy == 0:
            return Draws()
        share = draw_rows(generator, len(ids), lambda rows, g: stratified_shares(rows, g)[0])  # (B,)
        low, high = self.config.mask_range
        shares = low + (high - low) * shares_of_blocks(share, layout.blocks)
        masked, weight = hide_in_blocks(shares, layout.lengths, layout.block_len - 1, generator)
        if self.config.objective == "masked_mean":
            factors = masked * (len(ids) * len(layout.hidden) / self.over_processes(masked.sum()))
        else:
            factors = masked * weight[..., None]
        return Draws(layout.in_text(masked), layout.in_text(factors))

    def loss_of(self, ids: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The bound per token, or what else is configured, beside the mean over the tokens that the clean stream
        predicts, each by its weight, and that over hidden ones."""
        layout, T = self.layout_of(ids), ids.size(1) - 1
        C, S, H = layout.clean, len(layout.starts), len(layout.hidden)
        shown = ids[:, : layout.noisy]
        if draws.masked is not None:
            shown = shown.masked_fill(draws.masked, self.mask_id)
        clean, noisy = self.streams(ids, shown, layout)
        weight, means, tokens = self.config.next_token_weight, {}, {}
        if C:
            tokens["next_token"] = S + weight * (C - S)
            factors = None
            if weight not in (0, 1) and C > S:
                factors = torch.where(layout.first[1 : C + 1], 1.0, weight) * (C / tokens["next_token"])  # (C,)
                factors = factors.expand(len(ids), -1)
            chosen = layout.starts if weight == 0 else None  # the head need not run on the others
            means["next_token"] = self._mean(clean, ids[:, 1 : C + 1], factors, chosen)
        if draws.factors is not None:
            tokens["hidden"] = H
            means["hidden"] = self._mean(noisy, ids, draws.factors, layout.hidden)
        loss = torch.stack([mean * (tokens[name] / T) for name, mean in means.items()]).sum()
        return {"loss": loss, **{name: mean.detach() for name, mean in means.items()}}

    def _mean(self, states: Tensor, targets: Tensor, factors: Tensor | None, index: Tensor | None) -> Tensor:
        """The mean cross-entropy of targets (B, T), each times its factor, from states (B, T, n_embd); of those at
        `index` alone, where given."""
        if index is not None:
            states, targets = states.index_select(1, index), targets.index_select(1, index)
            factors = None if factors is None else factors.index_select(1, index)
        return mean_nats(states, self.model.lm_head.weight, targets, factors, classes=self.mask_id)

    def states(self, ids: Tensor, x: Tensor) -> Tensor:
        """The states (B, T, n_embd) that the last T tokens of ids (B, W) are predicted from, beside noisy x (B, N)."""
        layout = self.layout_of(ids)
        return torch.cat(self.streams(ids, x, layout), dim=1).index_select(1, layout.sources)

    def logits(self, ids: Tensor, x: Tensor) -> Tensor:
        """Logits (B, T, V) of the same: the mask itself is never predicted."""
        return self.model.lm_head(self.states(ids, x))[..., : self.mask_id]

    def nats(self, ids: Tensor, x: Tensor) -> Tensor:
        """Nats (B, T) of the same."""
        return token_nats(self.states(ids, x), self.model.lm_head.weight, ids[:, 1:], classes=self.mask_id)

    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        return self._bound(1 if self.block_len <= 2 else self.config.validation_masks, ids, generator)

    def likelihoods(self) -> dict[str, Likelihood]:
        """The bound with every number of masks, and exact likelihoods of single orders, the decoder's if it has one;
        with at most one hidden token a block there is one order."""
        if self.block_len <= 2:
            return super().likelihoods()

        def in_order(ids: Tensor, generator: Source) -> Tensor:
            return left_to_right(self.nats, ids, self.layout_of(ids), mask_id=self.mask_id)

        def of_decoder(decoder: MaskedDecoder, ids: Tensor, generator: Source) -> Tensor:
            return decoder_likelihood(self.logits, ids, self.layout_of(ids), mask_id=self.mask_id, decoder=decoder)

        passes = self.config.masks_per_count * (self.block_len - 1)
        found = {
            "any_order": Likelihood("bound", partial(self._bound, passes)),
            "left_to_right": Likelihood("exact for this order", in_order),
            "duel_margin": Likelihood("exact for this order", partial(of_decoder, TopConfidence(confidence="margin"))),
        }
        if isinstance(self.config.decoder, MaskedDecoder) and self.config.decoder.has_likelihood:
            found["duel_decoder"] = Likelihood("exact for this decoder", partial(of_decoder, self.config.decoder))
        return found

    def _bound(self, passes: int, ids: Tensor, generator: Source) -> Tensor:
        layout = self.layout_of(ids)
        return any_order_bound(self.nats, ids, layout, mask_id=self.mask_id, passes=passes, generator=generator)

    def predictor(self, decoder: MaskedDecoder, random: RowRandom) -> BlockReader:
        """The network as the decoding loop reads a text with it."""
        return BlockReader(self.model, block_len=self.block_len, mask_id=self.mask_id, use_cache=self.config.use_cache)

    def drafter(self, drafts: int | None) -> BlockDrafter:
        """The drafter of so many tokens, by default as many as `speculative` says; ValueError where it cannot be."""
        check_drafting(drafts, self.config)
        drafts = drafts or min(DRAFTS, self.block_len - 2)
        return BlockDrafter(self.model, drafts=drafts, mask_id=self.mask_id, context=self.layout.clean)
