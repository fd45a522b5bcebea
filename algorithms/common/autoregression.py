"""One token after the other by a causal language model, with an exact key-value cache: the loop of every method that
writes so.

What the loop needs is on the device before it begins, and nothing is asked of the device inside, but where a text may
end. MPS has no float64, in which tokens are drawn: there every token waits for its way to the CPU and back.
B batch, P prompt tokens, L positions in all, V vocabulary.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from algorithms.common.backbone import KVCache, LanguageModel
from algorithms.common.backbone.one_token import OneToken
from algorithms.common.decoder import Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start

Draw = Callable[[Tensor, Tensor], Tensor]  # logits (B, V), uniforms (B,) -> tokens (B,)
LONG = 32  # tokens from which on a graph is worth its capture
MOST_UNSEEN = 16  # tokens written before it is looked whether the texts have ended


def write_tokens(network: LanguageModel, request: Request, draw: Draw, *, use_cache: bool = True) -> Generation:
    """The texts of a request that are alike in length and prompt length, one forward of the network a step, until each
    has come to its end.

    Beyond block_size tokens the context jumps, by `context_start`, and is read anew; without `use_cache` it is read
    anew for every token, with the same result.
    """
    on_cpu = request.ids.device.type == "cpu"
    with torch.inference_mode() if on_cpu else nullcontext():  # less to do for each of many small operations
        text = _Text(network, request, draw)
        recorder, ends = TraceRecorder(request), Ends(request)
        look = 1
        for step, position in enumerate(range(text.begin, text.end), 1):
            text.write(position, use_cache)
            if recorder:
                recorder.add(text.ids, text.open_behind(position), forwards=step)
            if ends and (step == look or recorder):  # soon after the end, however short the text
                look = step + 1 + min(step // 8, MOST_UNSEEN - 1)
                if not ends.see(text.ids, [position + 1] * len(text.ids)):
                    break
    decided = int((~request.known[:, : text.begin + step]).sum())
    return Generation(text.ids.clone(), step, step, decided, recorder.trace(), token_forwards=text.token_forwards)


class _Text:
    """The state of one call: ids (B, L), and what has been read of them."""

    def __init__(self, network: LanguageModel, request: Request, draw: Draw) -> None:
        self.network, self.backbone, self.draw = network, network.backbone, draw
        self.block_size = network.backbone.config.block_size
        self.ids = request.ids.masked_fill(~request.given, 0)  # (B, L)
        self.begin, self.end = request.prompt_lengths[0], self.ids.size(1)
        self.given = request.given
        self.some_given = request.known.any(0).tolist()  # (L,)
        drawn = RowRandom(request.seeds).uniform(self.end - self.begin)  # (B, L - P), float64, on the CPU
        self.uniforms = drawn.T.contiguous().to(float64_device(self.ids.device)).unbind(0)
        self.cache: KVCache | None = None
        self.one: OneToken | None = None
        self.start = -1  # the first token of the context that has been read
        self.token_forwards = 0

    def write(self, position: int, use_cache: bool) -> None:
        """Decide the tokens at `position`, from the context before them."""
        start = context_start(position, self.block_size)
        if start == self.start and use_cache:
            self.put(position, self.next_logits(position))
        else:
            self.start = start
            self.put(position, self.read(position, use_cache))

    def read(self, position: int, use_cache: bool) -> Tensor:
        """Logits (B, V) by a pass over the whole context before `position`."""
        if use_cache and self.cache is None:
            self.cache = self.backbone.new_cache()
        if self.cache is not None:
            self.cache.clear()
        context = self.ids[:, self.start : position]
        self.token_forwards += context.numel()
        x = self.backbone.add_positions(self.network.wte(context))
        h = self.backbone(x, cache=self.cache)
        if self.cache is not None and self.one is None:
            self.one = OneToken(self.backbone, self.cache)
        return self.network.lm_head(h[:, -1:])[:, -1]

    def next_logits(self, position: int) -> Tensor:
        """The same by a pass over the newest token, behind those that are in the cache."""
        assert self.one is not None
        self.token_forwards += len(self.ids)
        x = self.network.wte(self.ids.narrow(1, position - 1, 1))
        h = self.backbone(self.backbone.add_positions(x, self.one.where), cache=self.one)
        return self.network.lm_head(h)[:, -1]

    def put(self, position: int, logits: Tensor) -> None:
        """Draw the tokens at `position`, but for given ones."""
        new, here = self.draw(logits, self.uniforms[position - self.begin]), self.ids.select(1, position)
        here.copy_(torch.where(self.given[:, position], here, new) if self.some_given[position] else new)

    def open_behind(self, position: int) -> Tensor:
        """Levels (B, L) of a trace: 1 behind `position` where nothing is given, else 0."""
        behind = torch.arange(self.end, device=self.ids.device) > position
        return (behind & ~self.given).float()
