"""The one contract of all decoders: what is asked for, who does it, and what comes back.

`decoder.check(model, request)` says beforehand what cannot be done, `decoder.generate(model, request)` does it.
Prompts, infilling and free generation differ in the given positions alone. B texts, L positions, P prompt tokens, S
states.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pydantic.dataclasses import dataclass as settings
from torch import Tensor

from algorithms.common.device import now
from algorithms.common.fields import STRICT, Count, NonNegative, PositiveShare
from algorithms.common.sampling import sample_tokens, target_logits

Encode = Callable[[str], Iterable[int]]
Stop = Callable[[Sequence[int]], bool]  # generated ids so far -> whether the text ends with the last of them


@dataclass(frozen=True)
class Request:
    """B texts to be decided where they are not `given`; what row i becomes depends on row i and seeds[i] alone.

    Where a text is longer than the window, its newest tokens are the context.

    Args:
        ids: (B, L) int64; what is not given may hold anything. A row's text is its first lengths[i] positions.
        given: (B, L) bool; a text's first token always is.
        seeds: (B,), one for each row.
        lengths: (B,) positions of each text, prompt and suffix included; by default all L.
        stop: a text ends with the first generated token of which this says so, asked with all that were generated up to
            there.
        rows_at_once: the most texts that are decoded together; by default all that are alike in length.
        trace: record what was done, state by state.
        encode: text -> ids, for decoders that are told text.

    Raises:
        ValueError: in one sentence, where these do not fit together or nothing is to be decided.
    """

    ids: Tensor
    given: Tensor
    seeds: Sequence[int]
    lengths: Sequence[int] = ()
    stop: Stop | None = None
    rows_at_once: int | None = None
    trace: bool = False
    encode: Encode | None = None

    def __post_init__(self) -> None:
        if self.ids.dim() != 2 or self.given.shape != self.ids.shape or self.given.dtype != torch.bool:
            raise ValueError(f"`given` must be bool and of the shape (B, L) of the ids, {tuple(self.ids.shape)}")
        rows, positions = self.ids.shape
        if len(self.seeds) != rows:
            raise ValueError(f"{rows} texts need as many seeds, not {len(self.seeds)}")
        if not self.lengths:
            object.__setattr__(self, "lengths", (positions,) * rows)
        if len(self.lengths) != rows or max(self.lengths, default=0) > positions:
            raise ValueError(f"lengths must be {rows} numbers up to the {positions} positions, not {self.lengths}")
        if positions == 0 or not bool(self.given[:, 0].all()):
            raise ValueError("a prompt needs at least one token: start from the tokenizer's start token")
        if bool((self.given | ~self.inside).all()):
            raise ValueError("all tokens are given: the length to generate must be at least 1")

    @classmethod
    def continuing(
        cls,
        prompts: Tensor | Sequence[Sequence[int]],
        *,
        length: int,
        seeds: Sequence[int],
        suffix: Sequence[int] = (),
        device: torch.device | None = None,
        **options: Any,
    ) -> "Request":
        """`length` tokens after each of the prompts (B, P), which may differ in length, and before `suffix`."""
        if length < 1:
            raise ValueError(f"the length to generate is {length}: it must be at least 1")
        if isinstance(prompts, Tensor):
            device = device or prompts.device
            prompts = prompts.tolist()
        lengths = [len(prompt) + length + len(suffix) for prompt in prompts]
        ids = torch.zeros(len(prompts), max(lengths, default=0), dtype=torch.long)
        given = torch.zeros_like(ids, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            parts = (slice(0, len(prompt)), prompt), (slice(lengths[row] - len(suffix), lengths[row]), suffix)
            for place, known in parts:
                ids[row, place] = torch.tensor(list(known), dtype=torch.long)
                given[row, place] = True
        return cls(ids.to(device), given.to(device), seeds, lengths, **options)

    @property
    def inside(self) -> Tensor:
        """Positions (B, L) that belong to a text, and are not behind its end."""
        ends = torch.tensor(self.lengths, device=self.ids.device)
        return torch.arange(self.ids.size(1), device=self.ids.device) < ends[:, None]

    @cached_property
    def known(self) -> Tensor:
        """`given` (B, L) on the CPU, so that what is to be done is planned without asking the device again."""
        return self.given.cpu()

    @property
    def prompt_lengths(self) -> list[int]:
        """(B,) given tokens at the start of each text."""
        return self.known.long().cumprod(1).sum(1).tolist()

    @property
    def has_suffix(self) -> bool:
        """Whether a text ends with given tokens, which only a decoder that sees to the right can take into account.

        Given tokens further left are seen by every decoder once it has passed them.
        """
        ends = torch.tensor(self.lengths) - 1
        outside = torch.arange(self.known.size(1)) > ends[:, None]
        undecided = ~(self.known | outside).all(1)
        return bool((self.known[torch.arange(len(ends)), ends] & undecided).any())

    def by_shape(self) -> list[tuple[list[int], "Request"]]:
        """The texts of one length and one prompt length together: their rows, and what is asked of these. Left out are
        texts that are given as a whole."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (length, prompt) in enumerate(zip(self.lengths, self.prompt_lengths, strict=True)):
            if prompt < length:
                groups.setdefault((length, prompt), []).append(row)
        most = self.rows_at_once or len(self.seeds)
        parts = [
            (length, rows[begin : begin + most])
            for (length, _), rows in groups.items()
            for begin in range(0, len(rows), most)
        ]
        if parts == [(self.ids.size(1), [*range(len(self.seeds))])]:
            return [(parts[0][1], self)]
        return [
            (
                rows,
                replace(
                    self,
                    ids=self.ids[rows, :length],
                    given=self.given[rows, :length],
                    seeds=[self.seeds[row] for row in rows],
                    lengths=(),
                ),
            )
            for length, rows in parts
        ]


class Ends:
    """Where the texts of a request end by its `stop`, found out as their tokens become final; false where it has none.

    A decoder may leave a text alone once it has ended; what it writes behind the end gets cut off anyway.
    """

    def __init__(self, request: Request) -> None:
        self.stop = request.stop
        self.found: list[int | None] = [None] * len(request.seeds)  # (B,) tokens of each text that has ended
        self._given = request.known.tolist() if self else []
        self._seen = request.prompt_lengths if self else []
        self._generated: list[list[int]] = [[] for _ in request.seeds]

    def __bool__(self) -> bool:
        return self.stop is not None

    def see(self, ids: Tensor, final: Sequence[int]) -> list[int]:
        """Hear that the first final[i] tokens of row i of ids (B, L) stay as they are; the rows that have not ended."""
        if self.stop is not None:
            begin = min(self._seen)
            for row, new in enumerate(ids[:, begin : max(final)].tolist()):
                for position in range(self._seen[row], final[row]):
                    if self.found[row] is None:
                        self._generated[row].append(new[position - begin])
                        if not self._given[row][position] and self.stop(self._generated[row]):
                            self.found[row] = position + 1
                self._seen[row] = max(self._seen[row], final[row])
        return [row for row, end in enumerate(self.found) if end is None]


@dataclass(frozen=True)
class Trace:
    """What a decoder did: in S states the tokens (S, B, L) and each position's level (S, B, L) in [0, 1], 0 for given
    or finished ones; `tokens` of unfinished positions are current best guesses.

    `forwards` (S,), on the CPU, counts the passes of the network up to each state. What the levels mean, the
    algorithm's `trace_scale` tells.
    """

    tokens: Tensor
    levels: Tensor
    forwards: Tensor


class TraceRecorder:
    """Collects the states of a trace, if the request asks for one; false where it does not."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.states: list[tuple[Tensor, Tensor, int]] = []

    def __bool__(self) -> bool:
        return self.request.trace

    def add(self, tokens: Tensor, levels: Tensor, forwards: int) -> None:
        """Keep a state: tokens (B, L), levels (B, L), and the passes so far."""
        self.states.append((tokens.clone(), levels.float().clone(), forwards))

    def trace(self) -> Trace | None:
        """All states; None where none were asked for."""
        if not self:
            return None
        forwards = torch.tensor([state[2] for state in self.states], dtype=torch.long)
        if not self.states:
            nothing = self.request.ids.new_zeros(0, *self.request.ids.shape)
            return Trace(nothing, nothing.float(), forwards)
        return Trace(torch.stack([s[0] for s in self.states]), torch.stack([s[1] for s in self.states]), forwards)


@dataclass(frozen=True)
class Generation:
    """The outcome of one decoder call: ids (B, L) with what was given, and what it cost.

    `steps` are decoding steps, `forwards` passes of the network over the batch, `decided` the tokens that were
    generated over the whole batch, `seconds` wall time. `token_forwards` are the tokens in these passes, over the
    batch (None: not counted), `row_forwards` (B,) the passes that each row needed for itself (None: all of them).
    `lengths` (B,) are the positions of each text, behind which ids hold 0.
    """

    ids: Tensor
    steps: int
    forwards: int
    decided: int
    trace: Trace | None = None
    row_forwards: Tensor | None = None
    token_forwards: int | None = None
    seconds: float = 0.0
    lengths: Sequence[int] = ()

    @property
    def tokens_per_forward(self) -> float:
        """Tokens generated by one pass of the network over one row, on average."""
        passes = self.forwards * self.ids.size(0) if self.row_forwards is None else int(self.row_forwards.sum())
        return self.decided / passes if passes else 0.0

    @property
    def texts(self) -> list[list[int]]:
        """The ids of each text, without what is behind its end."""
        return [row[:length] for row, length in zip(self.ids.tolist(), self.lengths, strict=True)]


class Decoder(ABC):
    """A way to write. A subclass is a frozen dataclass of settings with a `decode` for texts of one shape."""

    name: str

    def sees_right(self, model: Any) -> bool:
        """Whether known text makes a difference to what this writes before it."""
        return False

    def check(self, model: Any, request: Request) -> None:
        """Raise ValueError, in a sentence that names the setting, on what cannot be done with `model`."""
        if request.has_suffix and not self.sees_right(model):
            raise ValueError(
                f"suffix cannot be seen by the decoder {self.name}, which reads from left to right: leave it empty, or "
                "take a method that sees both sides, such as algorithm=masked_diffusion"
            )
        if request.trace and len(request.by_shape()) > 1:
            raise ValueError("a trace needs prompts of one length: ask for one text at a time")

    @torch.no_grad()
    def generate(self, model: Any, request: Request) -> Generation:
        """Decide the texts of `request` with `model`; raises as `check` does."""
        self.check(model, request)
        device = request.ids.device
        began = now(device)
        parts = [(rows, self.decode(model, group)) for rows, group in request.by_shape()]
        found = parts[0][1] if len(parts[0][0]) == len(request.seeds) else _joined(request, parts)
        return _cut(request, replace(found, seconds=now(device) - began))

    @abstractmethod
    def decode(self, model: Any, request: Request) -> Generation:
        """The same for texts that are alike in length and prompt length; what is behind the end of a text gets cut
        off."""


@settings(frozen=True, config=STRICT)
class DrawingDecoder(Decoder):
    """A decoder that draws tokens from what the network says of them.

    `temperature` divides the logits, and 0 takes the most probable token; of what remains `top_k` keeps that many
    tokens, then `top_p` the smallest set of that probability. None keeps all, ties go to the lowest id.
    """

    temperature: NonNegative = 1.0
    top_k: Count | None = None
    top_p: PositiveShare | None = None

    @property
    def restricts(self) -> bool:
        """Whether there are tokens that it never draws."""
        return self.temperature == 0 or self.top_k is not None or (self.top_p or 1.0) < 1.0

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        if self.temperature == 0:
            return {"top_k": "temperature", "top_p": "temperature"}
        return {"temperature": "top_k", "top_p": "top_k"} if self.top_k == 1 else {}

    def target(self, logits: Tensor) -> Tensor:
        """Logits (..., V) of the distribution that tokens follow, from the network's."""
        return target_logits(logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Tokens (...) of that distribution, by uniforms (...) in [0, 1)."""
        return sample_tokens(logits, uniform, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        if self.top_k is not None and self.top_k > model.vocabulary_size:
            raise ValueError(f"top_k is {self.top_k}, above the vocabulary of {model.vocabulary_size} tokens: lower it")


def _joined(request: Request, parts: Sequence[tuple[list[int], Generation]]) -> Generation:
    """The generations of several shapes as one, which were made one after the other."""
    ids = request.ids.masked_fill(~(request.given & request.inside), 0)
    row_forwards = torch.zeros(len(ids), dtype=torch.long)
    for rows, part in parts:
        ids[rows, : part.ids.size(1)] = part.ids
        row_forwards[rows] = part.forwards if part.row_forwards is None else part.row_forwards.cpu()
    counted = [part.token_forwards for _, part in parts]
    return Generation(
        ids,
        steps=sum(part.steps for _, part in parts),
        forwards=sum(part.forwards for _, part in parts),
        decided=sum(part.decided for _, part in parts),
        row_forwards=row_forwards,
        token_forwards=None if None in counted else sum(filter(None, counted)),
    )


def _cut(request: Request, found: Generation) -> Generation:
    """`found` with every text cut where it ends."""
    ends = Ends(request)
    if not ends:
        return replace(found, lengths=tuple(request.lengths))
    ends.see(found.ids, request.lengths)
    lengths = [end or length for end, length in zip(ends.found, request.lengths, strict=True)]
    places = torch.arange(found.ids.size(1), device=found.ids.device)
    behind = places >= torch.tensor(lengths, device=places.device)[:, None]
    decided = int((~request.given & ~behind).sum())
    return replace(found, ids=found.ids.masked_fill(behind, 0), lengths=tuple(lengths), decided=decided)
