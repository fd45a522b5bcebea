"""Teacher forcing: a GPT trained on the next token given the true past.

Source: Radford et al. 2019 (GPT-2), in the shape of karpathy/nanoGPT. Its inputs may be corrupted in training, the
controls of a comparison with diffusion: masked inputs are held to be what makes diffusion learn more from little data
(arXiv:2510.04071), and noising is smoothing (arXiv:1703.02573). B batch, T tokens, C channels, V vocabulary.
"""

from dataclasses import field
from typing import Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.fields import STRICT, Share, ShareBelowOne
from algorithms.common.head import mean_nats
from algorithms.common.optim import OptimizerConfig
from algorithms.common.randomness import Source, integers, normal, uniform
from algorithms.teacher_forcing.decoding import Autoregressive


@dataclass(frozen=True, config=STRICT)
class GPTConfig:
    """Settings of `algorithm=gpt`.

    `token_dropout` is the probability with which an input token is replaced in training, `input_noise` the share of
    the rows whose embeddings get noise; targets and evaluation stay clean.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    name: Literal["gpt"] = "gpt"
    token_dropout: ShareBelowOne = 0.0
    input_noise: Share = 0.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: Autoregressive = field(default_factory=Autoregressive)


class Corruption(NamedTuple):
    """What chance does to the inputs (B, T) of a step: tokens to be put in, where, and noise on the embeddings."""

    replaced: Tensor | None = None  # (B, T) bool
    tokens: Tensor | None = None  # (B, T)
    levels: Tensor | None = None  # (B, T, 1) in [0, 1), 0 in rows that stay clean
    noise: Tensor | None = None  # (B, T, C)


def add_noise(x: Tensor, levels: Tensor, rms: Tensor, noise: Tensor) -> Tensor:
    """Embeddings x (B, T, C) of root mean square `rms` () with unit `noise` (B, T, C) at levels t (B, T, 1):
    sqrt(1 - t) x + sqrt(t) rms eps, of the same size."""
    return ((1 - levels).sqrt() * x + levels.sqrt() * rms * noise).to(x.dtype)


class GPT(BaseAlgorithm):
    """A causal language model; its likelihood is exact."""

    name = "gpt"
    description = "teacher forcing: the next token, given the true past"
    config_class = GPTConfig
    is_autoregressive = True
    config: GPTConfig

    def __init__(self, config: GPTConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.model = LanguageModel(config.backbone, vocabulary_size)

    def draw(self, ids: Tensor, generator: torch.Generator) -> Corruption:
        """The corruption of the inputs: each token replaced with probability `token_dropout`, by a uniform draw, which
        may be the same token again; each row noisy with probability `input_noise`, its tokens at levels of their own,
        uniform in [0, 1)."""
        config, (B, T) = self.config, ids[:, :-1].shape
        replaced = tokens = levels = noise = None
        if config.token_dropout > 0:
            replaced = uniform(generator, B, T) < config.token_dropout
            tokens = integers(generator, self.vocabulary_size, B, T)
        if config.input_noise > 0:
            noisy = uniform(generator, B, 1, 1) < config.input_noise
            levels = uniform(generator, B, T, 1) * noisy
            noise = normal(generator, B, T, config.backbone.n_embd)
        return Corruption(replaced, tokens, levels, noise)

    def loss_of(self, ids: Tensor, draws: Corruption) -> dict[str, Tensor]:
        hidden = self.corrupted_hidden(ids[:, :-1], draws)  # (B, T, C)
        return {"loss": mean_nats(hidden, self.model.lm_head.weight, ids[:, 1:])}

    def corrupted_hidden(self, ids: Tensor, draws: Corruption) -> Tensor:
        """Final hidden states (B, T, C) of ids (B, T), corrupted as drawn; the network is not told where."""
        model = self.model
        if draws.replaced is not None and draws.tokens is not None:
            ids = torch.where(draws.replaced, draws.tokens, ids)
        if draws.levels is None or draws.noise is None:
            return model.hidden(ids)
        rms = model.wte.weight.detach().square().mean().sqrt()
        x = add_noise(model.wte(ids), draws.levels, rms, draws.noise)  # (B, T, C)
        return model.backbone(model.backbone.add_positions(x))

    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        return self.model.nats(ids[:, :-1], ids[:, 1:])
