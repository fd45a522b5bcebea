"""One token after the other by a causal language model, with an exact key-value cache: the loop of every method that
writes so.

What the loop needs is on the device before it begins, and nothing is asked of the device inside, but where a text may
end. On CUDA a token of a long text is one graph. MPS has no float64, in which tokens are drawn: there every token waits
for its way to the CPU and back.
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
LONG = 64  # tokens from which on a graph is worth its capture, and on a CPU the weights a copy
WARM_UP = 3  # steps before that, in which libraries choose their kernels
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
        captures = use_cache and takes_graphs(request.ids) and text.end - text.begin >= LONG
        for step, position in enumerate(range(text.begin, text.end), 1):
            text.write(position, use_cache, captures)
            if recorder:
                recorder.add(text.ids, text.open_behind(position), forwards=step)
            if ends and (step == look or recorder):  # soon after the end, however short the text
                look = step + 1 + min(step // 8, MOST_UNSEEN - 1)
                if not ends.see(text.ids, [position + 1] * len(text.ids)):
                    break
    decided = int((~request.known[:, : text.begin + step]).sum())
    return Generation(text.ids.clone(), step, step, decided, recorder.trace(), token_forwards=text.token_forwards)


def takes_graphs(ids: Tensor) -> bool:
    """Whether what is done with ids can be captured as a CUDA graph."""
    return ids.is_cuda


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
        self.uniforms = drawn.T.contiguous().to(float64_device(self.ids.device))  # (L - P, B)
        self.each_uniform = self.uniforms.unbind(0)
        self.cache: KVCache | None = None
        self.one: OneToken | None = None
        self.fixed: FixedToken | None = None
        self.start = -1  # the first token of the context that has been read
        self.token_forwards = 0

    def write(self, position: int, use_cache: bool, captures: bool) -> None:
        """Decide the tokens at `position`, from the context before them."""
        start = context_start(position, self.block_size)
        if start != self.start or not use_cache:
            self.start = start
            self.put(position, self.read(position, use_cache))
            if self.fixed is not None:
                self.fixed.move(position + 1, start)
        elif captures:
            if self.fixed is None:
                self.fixed = FixedToken(self)
                self.fixed.capture(position)
            self.token_forwards += len(self.ids)
            self.fixed.run()
        else:
            self.put(position, self.next_logits(position))

    def read(self, position: int, use_cache: bool) -> Tensor:
        """Logits (B, V) by a pass over the whole context before `position`."""
        if use_cache and self.cache is None:
            self.cache = self.backbone.new_cache()
        if self.cache is not None:
            self.cache.clear()
        context = self.ids[:, self.start : position]
        self.token_forwards += context.numel()
        h = self.network.hidden(context, cache=self.cache)
        return self.network.lm_head(h[:, -1:])[:, -1]

    def next_logits(self, position: int) -> Tensor:
        """The same by a pass over the newest token, behind those that are in the cache."""
        if self.one is None:
            assert self.cache is not None
            is_long = self.end - self.begin >= LONG
            self.one = OneToken(self.backbone, self.cache, lay_out=is_long and self.ids.device.type == "cpu")
        self.token_forwards += len(self.ids)
        x = self.network.wte(self.ids.narrow(1, position - 1, 1))
        h = self.backbone(self.backbone.add_positions(x, self.one.where), cache=self.one)
        return self.network.lm_head(h)[:, -1]

    def put(self, position: int, logits: Tensor) -> None:
        """Draw the tokens at `position`, but for given ones."""
        new, here = self.draw(logits, self.each_uniform[position - self.begin]), self.ids.select(1, position)
        here.copy_(torch.where(self.given[:, position], here, new) if self.some_given[position] else new)

    def open_behind(self, position: int) -> Tensor:
        """Levels (B, L) of a trace: 1 behind `position` where nothing is given, else 0."""
        behind = torch.arange(self.end, device=self.ids.device) > position
        return (behind & ~self.given).float()


class FixedToken:
    """`_Text.put` of `next_logits` as a function of tensors that stay where they are, which moves itself on: the same
    kernels on the same addresses at every token, so that a CUDA graph can replay them."""

    def __init__(self, text: _Text) -> None:
        assert text.cache is not None
        self.text = text
        self.column = torch.zeros(1, dtype=torch.long, device=text.ids.device)  # the position that is written next
        self.place = torch.zeros_like(self.column)  # in the context, of the token before it
        self.one = OneToken(text.backbone, text.cache, self.place)
        self.graph: torch.cuda.CUDAGraph | None = None

    def move(self, position: int, start: int) -> None:
        """Go on at `position`, in a context that begins at `start` and is in the cache but for its newest token."""
        self.column.fill_(position)
        self.place.fill_(position - 1 - start)

    def step(self) -> None:
        """Write the next tokens."""
        text, column = self.text, self.column
        x = text.network.wte(text.ids.index_select(1, column - 1))
        h = text.backbone(text.backbone.add_positions(x, self.place), cache=self.one)
        logits = text.network.lm_head(h)[:, -1]
        new = text.draw(logits, text.uniforms.index_select(0, column - text.begin)[0])[:, None]
        if any(text.some_given[text.begin :]):
            new = torch.where(text.given.index_select(1, column), text.ids.index_select(1, column), new)
        text.ids.index_copy_(1, column, new)
        column.add_(1)
        self.place.add_(1)

    def capture(self, position: int) -> None:
        """Make `step` a graph, and leave all as it was before `position`: what a step writes, the next one there does
        again."""
        start = self.text.start
        self.move(position, start)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.step()
                self.move(position, start)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run(self) -> None:
        if self.graph is None:
            self.step()
        else:
            self.graph.replay()
