"""Texts of any length under a network of bounded context: windows that slide, each token read once, texts in batches.

B texts, N tokens of a text, k windows at once, W tokens of a window, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOKENS = 2048  # read at once: on a CPU more are slower again


class Window(NamedTuple):
    """Tokens start .. stop - 1 of a text, of which those from `fresh` on are scored."""

    text: int
    start: int
    stop: int
    fresh: int


def windowed_sums(
    network: Callable[[Tensor], Tensor],
    texts: Sequence[Tensor],
    given: Sequence[int],
    context: int,
    *,
    stride: int | None = None,
    tokens: int = TOKENS,
) -> Tensor:
    """Sums (B, ...), float64, of what a causal network says of texts[i][given[i]:], read in windows of `context` + 1
    tokens, each token scored once.

    Windows advance by `stride`, by default half a context: after the first of them every token has at least
    `context` - `stride` + 1 tokens before it. `network` maps ids (k, W + 1) to values (k, W, ...), one for each token
    but the first; what stands right of a token must not change its value. It gets about `tokens` tokens at once.
    1 <= given[i] <= `context`.
    """
    found = [
        window
        for text, (ids, first) in enumerate(zip(texts, given, strict=True))
        for window in _windows(text, len(ids), first, context, stride or max(1, context // 2))
    ]
    found.sort(key=lambda window: window.start - window.stop)  # the widest first, of like width together
    sums = torch.zeros(len(texts), dtype=torch.float64)
    while found:
        width = found[0].stop - found[0].start
        size = max(1, tokens // width)
        some, found = found[:size], found[size:]
        ids = torch.zeros(len(some), width, dtype=torch.long)
        scored = torch.zeros(len(some), width - 1, dtype=torch.bool)
        for row, (text, start, stop, fresh) in enumerate(some):
            ids[row, : stop - start] = texts[text][start:stop]
            scored[row, fresh - start - 1 : stop - start - 1] = True
        values = network(ids).cpu().double()  # (k, W, ...)
        values[~scored] = 0.0
        if sums.dim() < values.dim() - 1:
            sums = sums[:, None].repeat(1, values.size(-1))  # (B, C)
        sums.index_add_(0, torch.tensor([window.text for window in some]), values.sum(dim=1))
    return sums


def _windows(text: int, length: int, given: int, context: int, stride: int) -> Iterator[Window]:
    width = min(context + 1, length)
    if given >= length:
        return
    fresh = given
    for start in (*range(0, length - width, stride), length - width):
        yield Window(text, start, start + width, fresh)
        fresh = start + width
