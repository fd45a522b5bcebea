"""What every decoder returns, and the random draws they share.

Draws are made per row from that row's own seed, so a batch gives each row what it would get alone, and token
draws are float64: float32 Gumbel noise truncates the tails and cools the samples (arXiv:2409.02908).
B batch, T or L tokens, V vocabulary, S recorded states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class RowRandom:
    """Random numbers for a batch whose row i depends on seeds[i] alone. Drawn on the CPU, the same everywhere."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1): (B, *shape), float64."""
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float64) for g in self._generators])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal: (B, *shape), float32."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators])


@dataclass(frozen=True)
class Trace:
    """What a decoder did: after each of S steps, the tokens (S, B, L) and each position's noise level
    (S, B, L) in [0, 1], 0 for given or finished ones; `tokens` of unfinished positions are current best guesses."""

    tokens: Tensor
    states: Tensor


@dataclass(frozen=True)
class Generation:
    """The outcome of one decoder call: ids (B, L) with the prompt, and what it cost.

    `steps` are decoding steps, `forwards` passes of the network over the batch, `seconds` wall time.
    """

    ids: Tensor
    steps: int
    forwards: int
    seconds: float
    trace: Trace | None = None


def filter_logits(logits: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Set to -inf all but the top_k logits, and all but the smallest set of probability >= top_p (nucleus,
    arXiv:1904.09751). The most probable token always stays."""
    if top_k is not None and top_k < logits.size(-1):
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the strictly more probable tokens
        outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def sample_tokens(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draw one token per position: logits (..., V) and uniforms (...) in [0, 1) give ids (...).

    Inverse-CDF draw in float64; temperature 0 takes the most probable token.
    """
    if temperature == 0:
        return logits.argmax(-1)
    device = logits.device
    if device.type == "mps":  # has no float64
        logits = logits.cpu()
    logits = filter_logits(logits.double() / temperature, top_k=top_k, top_p=top_p)
    cdf = logits.softmax(-1).cumsum(-1)
    target = uniform.to(cdf) * cdf[..., -1]
    return (cdf <= target[..., None]).sum(-1).to(device)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError, naming the key, on sampling options out of range."""
    if temperature < 0:
        raise ValueError(f"algorithm.decoder.temperature is {temperature}: it cannot be negative (0 is greedy)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"algorithm.decoder.top_k is {top_k}: it must be at least 1, or null for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"algorithm.decoder.top_p is {top_p}: it must lie in (0, 1], or be null")


def check_prompt(prompt: Tensor, seeds: Sequence[int], length: int) -> None:
    """Raise ValueError unless prompt is (B, P) with P >= 1, one seed a row, and length is positive."""
    if prompt.dim() != 2 or prompt.size(1) < 1:
        raise ValueError("a prompt needs at least one token: start from the tokenizer's start token")
    if len(seeds) != prompt.size(0):
        raise ValueError(f"{prompt.size(0)} prompts need as many seeds, not {len(seeds)}")
    if length < 1:
        raise ValueError(f"the length to generate is {length}: it must be at least 1")
