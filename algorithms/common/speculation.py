"""Self-speculative decoding: what a network drafts its own next-token head accepts or refuses, in the same pass.

Source: speculative sampling (arXiv:2211.17192); draft and verification in one pass: TiDAR (arXiv:2511.08923). Whatever
the drafts are, the output distribution is that of one token after the other, unless more of them are let through by
`lenience`. What it saves is passes: in time it gains only where a pass over Q tokens costs little more than one over a
single token, as a CPU's does not. Each method drafts in its own way, by a Drafter. B batch, L all positions, R rows
still unfinished, n drafted tokens, W tokens of a window that drafts them, Q = (n + 1) (1 + W) tokens of a pass, V
vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.artifact import Artifact
from algorithms.common.backbone import LanguageModel
from algorithms.common.backbone.masks import attention_mask, two_stream_mask, windows_of
from algorithms.common.decoder import DrawingDecoder, Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.fields import STRICT, Count, PositiveShare
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, invert

DRAFTS = 3  # where no number is asked for, and the method can draft as many
Probabilities = Callable[[Tensor], Tensor]  # logits (..., V) of the network -> what tokens are drawn by, float64


def check_drafts(asked: int | None, most: int, room: str, larger: str) -> None:
    """ValueError unless as many drafts as asked for, or one where none are, are at most `most`, for which there is
    `room`; with a `larger` setting there would be more."""
    if most < (asked or 1):
        told = f"draft_tokens is {asked}" if asked else "name is 'speculative'"
        lower = "lower it, or " if most > 0 else "take another decoder, or "
        raise ValueError(f"{told}: {room} {max(0, most)} drafts: {lower}train with a larger {larger}")


class Drafter(ABC):
    """What drafts n = `drafts` tokens: a window of W = `width` tokens for each token of a text.

    A window begins `offset` places behind its token, sees the text before itself, and is causal, or `bidirectional`.
    The text is read in contexts of `context` tokens.
    """

    network: LanguageModel
    drafts: int
    width: int
    context: int
    offset: int = 1
    bidirectional: bool = False

    @abstractmethod
    def begin(self, random: RowRandom) -> None:
        """Draw what the windows of all rows begin as."""

    @abstractmethod
    def windows(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """The windows of tokens (R, n + 1) of `rows` (R,), as the backbone reads them: (R, (n + 1) width, n_embd)."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits (R, T, V) of final states (R, T, n_embd) of the text's tokens."""

    @abstractmethod
    def draft(
        self, window: Tensor, token: Tensor, uniform: Tensor, probabilities: Probabilities
    ) -> tuple[Tensor, Tensor]:
        """Drafts (R, n) for the places behind `token` (R,), from the states of a window (R, width, n_embd) and uniforms
        (R, n), and the probabilities (R, n, V) that they were drawn by."""


@dataclass(frozen=True, config=STRICT)
class Speculative(DrawingDecoder):
    """`algorithm/decoder=speculative`: every pass verifies `draft_tokens` tokens, and drafts as many for the next.

    None drafts 3, or fewer where a block of block diffusion has room for fewer. With a `lenience` below 1 a draft is
    taken as if it had been drawn with that share of its probability: more of them are, and the texts depart from the
    output distribution (arXiv:2211.17192, A.5).
    """

    name: Literal["speculative"] = "speculative"
    draft_tokens: Count | None = None
    lenience: PositiveShare = 1.0

    def unused(self) -> dict[str, str]:
        """As for any decoder; a single candidate is taken or not, whatever the lenience."""
        found = super().unused()
        return found | ({"lenience": found["top_p"]} if "top_p" in found else {})

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        model.drafter(self.draft_tokens)
        if request.prompt_lengths != request.given.sum(1).tolist():
            raise ValueError(
                "algorithm/decoder=speculative writes from left to right: give no tokens behind those to be written, "
                "or take another decoder"
            )

    def decode(self, model: Any, request: Request) -> Generation:
        """The text follows the output distribution of one token after the other, as temperature, top_k and top_p make
        it, where lenience is 1."""
        return Speculation(model.drafter(self.draft_tokens), request, self.target, self.lenience).run()

    def artifacts(self, window: int) -> list[Artifact]:
        """Nothing to show beforehand."""
        return []


def accept(
    p: Tensor, q: Tensor, drafts: Tensor, limit: Tensor, uniform: Tensor, lenience: float = 1.0
) -> tuple[Tensor, Tensor]:
    """How many of the drafts (R, n) to take, and the token after them, so that all follow p: (R,), (R,).

    p (R, n + 1, V) are the probabilities of the token at every place given the drafts before it, q (R, n, V) those that
    the drafts were drawn by. At most limit (R,) drafts are looked at; uniform (R, n + 1) in [0, 1). With a lenience l
    a draft is taken with probability min(1, p / (l q)).
    """
    n = drafts.size(1)
    places = torch.arange(n, device=p.device)
    of_p, of_q = (one[:, :n].gather(-1, drafts[..., None])[..., 0] for one in (p, q))
    if lenience < 1:
        of_q = lenience * of_q
    taken = (uniform[:, :n] * of_q < of_p) & (places < limit[:, None])
    count = taken.long().cumprod(1).sum(1)  # (R,)
    rows = torch.arange(len(p), device=p.device)
    next_p = p[rows, count]  # (R, V)
    refused = (count < limit)[:, None]
    left = (next_p - q[rows, count.clamp(max=n - 1)]).clamp(min=0)  # what p has more than q: arXiv:2211.17192, eq. 2
    next_p = torch.where(refused & (left.sum(-1, keepdim=True) > 0), left, next_p)
    return count, invert(next_p, uniform[:, n])


class Speculation:
    """One call for texts of one shape, n below the context: ids (B, L + n) of which lengths[b] are decided, all but the
    last of them in the cache, and the drafts (B, n) behind them with the probabilities q (B, n, V) that they were drawn
    by, None before the first pass. `target` are the logits of the distribution that the text follows, from the
    network's.

    Texts and their lengths are on the CPU, drafts and probabilities on the device: a pass is told the one in a copy,
    and what it has decided is read in the one wait of a cycle.
    """

    def __init__(self, drafter: Drafter, request: Request, target: Callable[[Tensor], Tensor], lenience: float) -> None:
        B, total = request.ids.shape
        self.device = device = request.ids.device
        self.drafter, self.target, self.lenience = drafter, target, lenience
        self.n = n = drafter.drafts
        self.network, self.backbone = drafter.network, drafter.network.backbone
        self.request = request
        self.random = RowRandom(request.seeds)
        self.ids = torch.zeros(B, total + n, dtype=torch.long)  # the last pass may write beyond L
        self.ids[:, :total] = request.ids.cpu().where(request.known, 0)
        self.total = total
        self.lengths = request.prompt_lengths
        self.starts: list[int | None] = [None] * B  # the first token of each row's context
        self.cache = self.backbone.new_row_cache(B)
        positions, begins = windows_of(n + 1, drafter.width, offset=drafter.offset, device=device)
        self.sees = two_stream_mask(n + 1, positions, begins, bidirectional=drafter.bidirectional)  # (Q, Q)
        self.distance = torch.cat([torch.arange(n + 1, device=device), positions])  # (Q,)
        drafter.begin(self.random)
        self.drafts = torch.zeros(B, n, dtype=torch.long, device=device)
        self.q: Tensor | None = None
        self.forwards = self.token_forwards = 0
        self.row_forwards = [0] * B
        self.recorder = TraceRecorder(request)

    def run(self) -> Generation:
        decided = sum(self.total - done for done in self.lengths)
        ends = Ends(self.request)
        going = [*range(len(self.lengths))]
        while rows := [row for row in going if self.lengths[row] < self.total]:
            self._cycle(rows)
            going = ends.see(self.ids, [min(done, self.total) for done in self.lengths])
            if self.recorder:
                self._record()
        return Generation(
            self.ids[:, : self.total].to(self.device),
            self.forwards,
            self.forwards,
            decided,
            self.recorder.trace(),
            row_forwards=torch.tensor(self.row_forwards),
            token_forwards=self.token_forwards,
        )

    def _cycle(self, rows: list[int]) -> None:
        """One pass for the unfinished rows: verify their drafts, go on by a token, draft anew."""
        n, R = self.n, len(rows)
        self._move_contexts(rows)
        newest = [int(self.ids[row, self.lengths[row] - 1]) for row in rows]
        limits = [0 if self.q is None else self._limit(row) for row in rows]
        index, newest_ids, limit = torch.tensor([rows, newest, limits]).to(self.device)
        drafts = self.drafts[index]
        clean, seen = self._pass(rows, index, torch.cat([newest_ids[:, None], drafts], dim=1))
        p = self._probabilities(self.drafter.logits(clean))  # (R, n + 1, V)
        here, uniform = index.to(p.device), self.random.uniform(2 * n + 1, rows=rows).to(p.device)
        if self.q is None:
            self.q = torch.ones_like(p[:, :n])
        found = accept(p, self.q[here], drafts.to(p.device), limit.to(p.device), uniform[:, : n + 1], self.lenience)
        count, token = (one.to(self.device) for one in found)
        window = seen.view(R, n + 1, self.drafter.width, -1)[torch.arange(R, device=self.device), count]
        drafted = self.drafter.draft(window, token, uniform[:, n + 1 :], self._probabilities)
        self.drafts[index], self.q[here] = drafted
        self._decide(rows, torch.cat([count[:, None], drafts, token[:, None]], dim=1).tolist())

    def _decide(self, rows: list[int], found: list[list[int]]) -> None:
        """Take up what a pass has decided of each row: how many of its drafts, these drafts, and the token behind."""
        counts = []
        for row, (count, *drafts, token) in zip(rows, found, strict=True):
            end = self.lengths[row] + count + 1
            self.ids[row, self.lengths[row] : end] = torch.tensor([*drafts[:count], token])
            self.lengths[row] = end
            counts.append(count + 1)
        self.cache.keep(counts)

    def _move_contexts(self, rows: list[int]) -> None:
        """Read anew the contexts of rows that have outgrown them, or that have none yet."""
        for row in rows:
            start = context_start(self.lengths[row], self.drafter.context)
            if start != self.starts[row]:
                self.starts[row], self.cache.filled[row] = start, 0
        short = [row for row in rows if self.cache.filled[row] < self._known(row)]
        for known in sorted({self._known(row) for row in short}):
            these = [row for row in short if self._known(row) == known]
            ids = torch.stack([self.ids[row, self.lengths[row] - 1 - known : self.lengths[row] - 1] for row in these])
            places = torch.arange(known, device=self.device)
            sees = attention_mask("causal", known, known, device=self.device)
            self._run(these, self.network.wte(ids.to(self.device)), sees, places)
            self.cache.keep(known)

    def _known(self, row: int) -> int:
        """Tokens of a row's context before its newest one."""
        start = self.starts[row]
        assert start is not None
        return self.lengths[row] - 1 - start

    def _limit(self, row: int) -> int:
        """Drafts of a row that are predicted from the context that it has now."""
        at = self.lengths[row]
        return sum(context_start(at + i, self.drafter.context) == self.starts[row] for i in range(1, self.n + 1))

    def _pass(self, rows: list[int], index: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """States (R, n + 1, n_embd) of the newest tokens and the drafts, clean (R, n + 1), and those of the
        windows of each of them (R, (n + 1) W, n_embd)."""
        windows = self.drafter.windows(index, clean)
        h = torch.cat([self.network.wte(clean), windows], dim=1)
        return self._run(rows, h, self.sees, self.distance).split([clean.size(1), windows.size(1)], dim=1)

    def _run(self, rows: list[int], h: Tensor, sees: Tensor, distance: Tensor) -> Tensor:
        """The backbone over h (R, Q, n_embd) behind what the rows have in the cache."""
        self.cache.select(rows)
        positions = self.cache.positions(distance)  # drafts may come to lie beyond the context: it holds them within
        h = self.backbone.add_positions(h, positions)
        out = self.backbone(h, cache=self.cache, keep=0, mask=self.cache.behind(sees), positions=positions)
        self.forwards += 1
        self.token_forwards += positions.numel()
        for row in rows:
            self.row_forwards[row] += 1
        return out

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Distributions to verify or to draft by, in float64."""
        return self.target(logits.to(float64_device(logits.device)).double()).softmax(-1)

    def _record(self) -> None:
        """Keep a state for the trace: levels are 0 decided, 1 not."""
        ids = self.ids[:, : self.total].to(self.device)
        open_ = torch.arange(self.total) >= torch.tensor(self.lengths)[:, None]
        open_ = open_.to(self.device)
        self.recorder.add(ids.masked_fill(open_, 0), open_.float(), self.forwards)
