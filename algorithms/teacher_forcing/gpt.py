"""Teacher forcing: a GPT trained on the next token given the true past.

Source: Radford et al. 2019 (GPT-2), in the shape of karpathy/nanoGPT. Its inputs may be corrupted in training, the
controls of a comparison with diffusion: masked inputs are held to be what makes diffusion learn more from little data
(arXiv:2510.04071), and noising is smoothing (arXiv:1703.02573). B batch, T tokens, C channels, V vocabulary.
"""

from dataclasses import field
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.fields import STRICT, Share, ShareBelowOne
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


def replace_tokens(ids: Tensor, probability: float, vocabulary_size: int, generator: torch.Generator) -> Tensor:
    """Replace each token of ids (B, T) with `probability` by a uniform draw, which may be the same token again."""
    replaced = uniform(generator, *ids.shape) < probability
    return torch.where(replaced, integers(generator, vocabulary_size, *ids.shape), ids)


def noise_rows(x: Tensor, share: float, rms: Tensor, generator: torch.Generator) -> Tensor:
    """Put noise on embeddings x (B, T, C) of root mean square `rms` (); each row is noisy with probability `share`.

    Each token of a noisy row has its own level t, uniform in [0, 1): sqrt(1 - t) x + sqrt(t) rms eps, of the same size.
    """
    noisy = uniform(generator, x.size(0), 1, 1) < share
    t = uniform(generator, *x.shape[:2], 1) * noisy  # (B, T, 1), 0 in clean rows
    eps = normal(generator, *x.shape)  # (B, T, C)
    return ((1 - t).sqrt() * x + t.sqrt() * rms * eps).to(x.dtype)


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

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        logits = self.training_logits(ids[:, :-1], generator)  # (B, T, V)
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())}

    def training_logits(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (B, T, V) of ids (B, T), corrupted as configured; the network is not told where."""
        config, model = self.config, self.model
        if config.token_dropout > 0:
            ids = replace_tokens(ids, config.token_dropout, self.vocabulary_size, generator)
        if config.input_noise == 0:
            return model(ids)
        rms = model.wte.weight.detach().square().mean().sqrt()
        x = noise_rows(model.wte(ids), config.input_noise, rms, generator)  # (B, T, C)
        return model.lm_head(model.backbone(model.backbone.add_positions(x)))

    def nll(self, ids: Tensor, generator: Source) -> Tensor:
        logits = self.model(ids[:, :-1])  # (B, T, V)
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
