"""Autoregressive decoding: one token at a time, with an exact key-value cache.

B batch, P prompt tokens, L positions in all, V vocabulary.
"""

from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from algorithms.common.backbone import KVCache, LanguageModel
from algorithms.common.decoder import Decoder, Generation, Request, TraceRecorder
from algorithms.common.fields import STRICT, Count, NonNegative, PositiveShare
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, sample_tokens


@dataclass(frozen=True, config=STRICT)
class Autoregressive(Decoder):
    """`algorithm/decoder=autoregressive`. temperature 0 is greedy; top_k and top_p of None keep all tokens."""

    name: Literal["autoregressive"] = "autoregressive"
    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: PositiveShare | None = None
    use_cache: bool = True

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        if self.temperature == 0:
            return {"top_k": "temperature", "top_p": "temperature"}
        return {"temperature": "top_k", "top_p": "top_k"} if self.top_k == 1 else {}

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        if self.top_k is not None and self.top_k > model.vocabulary_size:
            raise ValueError(f"top_k is {self.top_k}, above the vocabulary of {model.vocabulary_size} tokens")

    def decode(self, model: Any, request: Request) -> Generation:
        """One forward of the network a step, until every text has met its stop token or its end."""
        network: LanguageModel = model.model
        block_size = network.backbone.config.block_size
        ids = request.ids.masked_fill(~request.given, 0)  # (B, L)
        P, L = request.prompt_lengths[0], ids.size(1)
        draws = RowRandom(request.seeds).uniform(L - P)  # (B, L - P), float64, on the CPU
        running = torch.ones(ids.size(0), dtype=torch.bool, device=ids.device)
        recorder = TraceRecorder(request)
        cache: KVCache | None = None
        start = step = 0
        for step, position in enumerate(range(P, L), 1):
            if self.use_cache and (cache is None or context_start(position, block_size) != start):
                cache = network.backbone.new_cache()
            start = context_start(position, block_size)
            encoded = 0 if cache is None else cache.length
            logits = network(ids[:, start + encoded : position], cache=cache)[:, -1]  # (B, V)
            new = sample_tokens(
                logits, draws[:, step - 1], temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
            )
            ids[:, position] = torch.where(request.given[:, position], ids[:, position], new)
            if recorder:
                behind = torch.arange(L, device=ids.device) > position
                recorder.add(ids, (behind & ~request.given).float(), forwards=step)
            if request.stop_id is not None:
                running &= request.given[:, position] | (new != request.stop_id)
                if not bool(running.any()):
                    break
        return Generation(ids, step, step, decided=int((~request.given[:, : P + step]).sum()), trace=recorder.trace())
