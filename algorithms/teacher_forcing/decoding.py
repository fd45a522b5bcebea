"""Autoregressive decoding: one token at a time, with an exact key-value cache.

B batch, P prompt tokens, L tokens in all, V vocabulary.
"""

import time
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.backbone import KVCache, LanguageModel
from algorithms.common.fields import STRICT, Count, NonNegative, PositiveShare
from algorithms.common.generation import (
    Generation,
    RowRandom,
    Trace,
    check_prompt,
    context_start,
    sample_tokens,
)


@dataclass(frozen=True, config=STRICT)
class AutoregressiveConfig:
    """`algorithm/decoder=autoregressive`. temperature 0 is greedy; top_k and top_p of None keep all tokens."""

    name: Literal["autoregressive"] = "autoregressive"
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: PositiveShare | None = None
    use_cache: bool = True

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError if top_k is above the number of tokens."""
        if self.top_k is not None and self.top_k > size:
            raise ValueError(f"top_k is {self.top_k}, above the vocabulary of {size} tokens")


def decode(
    model: LanguageModel,
    prompt: Tensor,
    *,
    length: int,
    seeds: Sequence[int],
    config: AutoregressiveConfig,
    trace: bool = False,
) -> Generation:
    """Continue prompt (B, P) by `length` tokens; each step is one forward of the network.

    Raises ValueError on an empty prompt, a length below 1, or a top_k above the vocabulary.
    """
    check_prompt(prompt, seeds, length)
    config.check_vocabulary(model.lm_head.out_features)
    block_size = model.backbone.config.block_size
    began = time.perf_counter()
    draws = RowRandom(seeds).uniform(length)  # (B, length), float64, on the CPU
    P = prompt.size(1)
    ids = torch.cat([prompt, prompt.new_zeros(prompt.size(0), length)], dim=1)  # (B, L)
    cache: KVCache | None = None
    start = 0
    for step in range(length):
        position = P + step
        if config.use_cache and (cache is None or context_start(position, block_size) != start):
            cache = model.backbone.new_cache()
        start = context_start(position, block_size)
        encoded = 0 if cache is None else cache.length
        logits = model(ids[:, start + encoded : position], cache=cache)[:, -1]  # (B, V)
        ids[:, position] = sample_tokens(
            logits,
            draws[:, step],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
    seconds = time.perf_counter() - began
    decided = length * ids.size(0)
    return Generation(ids, length, length, seconds, decided, _trace(ids, P) if trace else None)


def _trace(ids: Tensor, P: int) -> Trace:
    """States after each step, which is one pass: positions up to the newest are done (0), the rest unknown (1)."""
    L = ids.size(1)
    done = torch.arange(L, device=ids.device) < torch.arange(P + 1, L + 1, device=ids.device)[:, None]  # (S, L)
    states = (~done).float()[:, None].expand(-1, ids.size(0), -1)  # (S, B, L)
    return Trace(torch.where(states == 0, ids, 0), states, forwards=torch.arange(1, L - P + 1))
