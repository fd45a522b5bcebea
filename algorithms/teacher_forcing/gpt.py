"""Teacher forcing: a GPT trained on the next token given the true past.

Source: Radford et al. 2019 (GPT-2), in the shape of karpathy/nanoGPT. B batch, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.generation import Generation
from algorithms.common.optim import OptimizerConfig
from algorithms.teacher_forcing.decoding import AutoregressiveConfig, decode


@dataclass(frozen=True)
class GPTConfig:
    """Settings of `algorithm=gpt`."""

    backbone: BackboneConfig
    name: str = "gpt"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)


class GPT(BaseAlgorithm):
    """A causal language model; its likelihood is exact."""

    name = "gpt"
    config_class = GPTConfig
    config: GPTConfig

    def __init__(self, config: GPTConfig, *, vocabulary_size: int, total_steps: int = 1, seed: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, total_steps=total_steps, seed=seed)
        self.model = LanguageModel(config.backbone, vocabulary_size)

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        logits = self.model(ids[:, :-1])  # (B, T, V)
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())}

    def nll(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(ids[:, :-1])  # (B, T, V)
        return F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")

    def check_generation(self, length: int, *, prompt_length: int = 1) -> None:
        self.config.decoder.check_vocabulary(self.vocabulary_size)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        *,
        length: int,
        seeds: Sequence[int],
        decoder: AutoregressiveConfig | None = None,
        trace: bool = False,
    ) -> Generation:
        return decode(
            self.model, prompt, length=length, seeds=seeds, config=decoder or self.config.decoder, trace=trace
        )
