"""Autoregressive decoding: one token at a time, with an exact key-value cache.

B batch, P prompt tokens, L positions in all, V vocabulary.
"""

from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from algorithms.common.backbone import KVCache, LanguageModel
from algorithms.common.decoder import DrawingDecoder, Ends, Generation, Request, TraceRecorder
from algorithms.common.fields import STRICT
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start


@dataclass(frozen=True, config=STRICT)
class Autoregressive(DrawingDecoder):
    """`algorithm/decoder=autoregressive`."""

    name: Literal["autoregressive"] = "autoregressive"
    use_cache: bool = True

    def decode(self, model: Any, request: Request) -> Generation:
        """One forward of the network a step, until every text has come to its end."""
        network: LanguageModel = model.model
        block_size = network.backbone.config.block_size
        ids = request.ids.masked_fill(~request.given, 0)  # (B, L)
        P, L = request.prompt_lengths[0], ids.size(1)
        draws = RowRandom(request.seeds).uniform(L - P)  # (B, L - P), float64, on the CPU
        recorder, ends = TraceRecorder(request), Ends(request)
        cache: KVCache | None = None
        start = step = 0
        for step, position in enumerate(range(P, L), 1):
            if self.use_cache and (cache is None or context_start(position, block_size) != start):
                cache = network.backbone.new_cache()
            start = context_start(position, block_size)
            encoded = 0 if cache is None else cache.length
            logits = network(ids[:, start + encoded : position], cache=cache)[:, -1]  # (B, V)
            new = self.draw(logits, draws[:, step - 1])
            ids[:, position] = torch.where(request.given[:, position], ids[:, position], new)
            if recorder:
                behind = torch.arange(L, device=ids.device) > position
                recorder.add(ids, (behind & ~request.given).float(), forwards=step)
            if ends and not ends.see(ids, [position + 1] * len(ids)):
                break
        return Generation(ids, step, step, decided=int((~request.given[:, : P + step]).sum()), trace=recorder.trace())
