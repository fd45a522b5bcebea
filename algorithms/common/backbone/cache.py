"""Keys and values of the tokens already encoded, so that a pass computes new tokens alone.

A backbone knows the protocol `Cache` and not which one it was given. B batch, R rows of a pass, T new tokens, S keys
seen (cached and new), nh heads, hs head size.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from algorithms.common.backbone.masks import attention_mask
from algorithms.common.device import working_dtype

Pair = tuple[Tensor, Tensor]  # keys and values


def check_fits(length: int, context: int) -> None:
    """Raise ValueError unless so many tokens fit into the context."""
    if length > context:
        raise ValueError(
            f"{length} tokens do not fit into the context of {context}: "
            "shorten the input or raise algorithm.backbone.block_size"
        )


class Cache(Protocol):
    """What a backbone asks of a cache in a pass: `begin`, `mask`, `append` for each layer, then `keep`."""

    def begin(self, tokens: int) -> slice | Tensor:
        """Make room for new tokens; returns where they stand in their text, a slice or places (R, T)."""

    def mask(self, tokens: int, device: torch.device) -> Tensor | None:
        """What new tokens see, (T, S) or (R, 1, T, S); None: all that is cached, and new ones up to themselves."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        """Put new k and v (R, nh, T, hs) behind the cached ones; returns all that they see (R, nh, S, hs)."""

    def keep(self, tokens: int) -> None:
        """The first so many new tokens stay; the others are overwritten by the next pass."""


class KVCache:
    """A Cache whose rows are equally long, in one buffer that is seldom allocated; `length` tokens have been kept.

    Under causal attention the result is the one of a pass over the whole sequence. With a `window` a query sees the
    last `window` tokens, itself among them, and older keys are dropped; that needs positions that count from anywhere,
    as rotary ones do. `capacity` tokens fit, without a window; then the buffer stays where it is, and begins anew with
    `clear`.
    """

    def __init__(self, n_layer: int, capacity: int, *, window: int | None = None) -> None:
        self.length = 0
        self.n_layer = n_layer
        self.capacity = capacity
        self.window = window
        self.buffer: Tensor | None = None  # (n_layer, 2, B, nh, slots, hs): keys and values
        self._dropped = 0  # tokens before the first in the buffer

    @property
    def first(self) -> int:
        """The first token that the next one sees."""
        return 0 if self.window is None else max(0, self.length + 1 - self.window)

    def clear(self) -> None:
        """Forget all tokens."""
        self.length = self._dropped = 0

    def begin(self, tokens: int) -> slice:
        end = self.length + tokens
        if self.window is None:
            check_fits(end, self.capacity)
        old = self.buffer
        if old is not None and end - self._dropped > old.size(-2):  # drop what no query will see any more
            seen = old[..., self.first - self._dropped : self.length - self._dropped, :]
            self.buffer = old.new_zeros(*old.shape[:-2], self._slots(tokens), old.size(-1))
            self.buffer[..., : seen.size(-2), :] = seen
            self._dropped = self.first
        return slice(self.length, end)

    def mask(self, tokens: int, device: torch.device) -> Tensor | None:
        if tokens == 1 or (self.length == 0 and (self.window is None or self.window >= tokens)):
            return None
        keys = self.length + tokens - self.first  # those that the first query or a later one sees
        return attention_mask("causal", tokens, keys, window=self.window, device=device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        if self.buffer is None:
            B, nh, T, hs = k.shape
            shape = (self.n_layer, 2, B, nh, self._slots(T), hs)
            self.buffer = k.new_zeros(shape, dtype=working_dtype(k))
        keys, values = self.buffer[layer].unbind(0)
        begin, start = self.first - self._dropped, self.length - self._dropped
        end = start + k.size(2)
        keys[:, :, start:end] = k.detach()
        values[:, :, start:end] = v.detach()
        if torch.is_grad_enabled() and k.requires_grad:  # gradients reach the new tokens, and need no buffer later
            return torch.cat([keys[:, :, begin:start], k], dim=2), torch.cat([values[:, :, begin:start], v], dim=2)
        return keys[:, :, begin:end], values[:, :, begin:end]

    def keep(self, tokens: int) -> None:
        self.length += tokens

    def _slots(self, tokens: int) -> int:
        return self.capacity if self.window is None else max(2 * self.capacity, self.capacity + tokens)


class RowCache:
    """A Cache in which every row has its own number of tokens, `filled`, in `slots`; a pass is for the rows selected.

    `keep` may also come after the pass, and say what stays row by row: a decoder that drafts knows only then. What is
    kept is known on the CPU, and told to the device once a pass.
    """

    def __init__(self, n_layer: int, rows: int, slots: int) -> None:
        self.filled = [0] * rows
        self.n_layer = n_layer
        self.slots = slots
        self.select(range(rows))
        self._kept: Tensor | None = None  # (n_layer, 2, B, nh, slots, hs): keys and values
        self._new: list[Tensor] = []  # (2, R, nh, T, hs) of each layer

    def select(self, rows: Iterable[int]) -> None:
        """The rows (R,) of the next pass."""
        self._rows = [int(row) for row in rows]
        self._told: Tensor | None = None  # (2, R) on the device: the rows, and what each has kept

    def positions(self, distance: Tensor) -> Tensor:
        """Places (R, T) in the text of tokens at a distance (T,) from the first new one, held within the slots."""
        return (self._state(distance.device)[1][:, None] + distance).clamp(max=self.slots - 1)

    def behind(self, sees: Tensor) -> Tensor:
        """Mask (R, 1, T, slots + T) of new tokens that see all of their row's cached ones, and new ones by `sees`
        (T, T)."""
        counts = self._state(sees.device)[1]
        full = torch.arange(self.slots, device=sees.device) < counts[:, None, None]  # (R, 1, slots)
        return torch.cat([full.expand(-1, len(sees), -1), sees.expand(len(full), -1, -1)], dim=2)[:, None]

    def begin(self, tokens: int) -> Tensor:
        self._new = []
        device = torch.device("cpu") if self._told is None else self._told.device
        return self.positions(torch.arange(tokens, device=device))

    def mask(self, tokens: int, device: torch.device) -> Tensor:
        return self.behind(attention_mask("causal", tokens, tokens, device=device))

    def append(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        if self._kept is None:
            shape = (self.n_layer, 2, len(self.filled), k.size(1), self.slots, k.size(3))
            self._kept = k.new_zeros(shape, dtype=working_dtype(k))
        kept = self._kept[layer]
        if len(self._rows) < len(self.filled) or self._rows != [*range(len(self.filled))]:
            kept = kept.index_select(1, self._state(k.device)[0])
        new = torch.stack([k, v]).to(kept.dtype)
        self._new.append(new)
        keys, values = torch.cat([kept, new], dim=-2).unbind(0)
        return keys, values

    def keep(self, tokens: int | Sequence[int]) -> None:
        counts = [tokens] * len(self._rows) if isinstance(tokens, int) else tokens
        taken = [(i, r, n, self.filled[r] + n) for i, r in enumerate(self._rows) for n in range(counts[i])]
        if taken:
            assert self._kept is not None
            new = torch.stack(self._new)  # (n_layer, 2, R, nh, T, hs)
            source, row, token, slot = torch.tensor(taken).T.to(new.device)
            self._kept[:, :, row, :, slot] = new[:, :, source, :, token]
        for row_number, count in zip(self._rows, counts, strict=True):
            self.filled[row_number] += count
        self._told = None

    def _state(self, device: torch.device) -> Tensor:
        if self._told is None or self._told.device != device:
            self._told = torch.tensor([self._rows, [self.filled[row] for row in self._rows]]).to(device)
        return self._told
