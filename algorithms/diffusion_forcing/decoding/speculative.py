"""Self-speculative decoding: a noisy window drafts what the same network's next-token head accepts or refuses.

Source: speculative sampling (arXiv:2211.17192); draft and verification in one pass: TiDAR (arXiv:2511.08923). Whatever
the drafts are, the law of the text is that of one token after the other. B batch, R rows still unfinished, n drafted
tokens, Q = (n + 1)² tokens of a pass, S slots of the cache, V vocabulary, hs head size, nh heads.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from algorithms.common.generation import Generation, RowRandom, Trace, check_prompt, context_start, sample_tokens
from algorithms.diffusion_forcing.decoding.settings import SpeculativeConfig
from algorithms.diffusion_forcing.likelihood import channel_logits
from algorithms.diffusion_forcing.models import ShiftedDenoiser


class RowCache:
    """Keys and values of every row's own number of tokens; what a pass computes is kept only where it is accepted.

    Stands in for a KVCache in the backbone, which is told by a mask and positions what is where.
    """

    window, first = None, 0

    def __init__(self, rows: int, layers: int, slots: int) -> None:
        self.filled = [0] * rows  # tokens of each row
        self.slots = slots
        self.length = 0
        self.active: Tensor = torch.arange(rows)  # (R,), the rows of the next pass
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers  # (B, nh, S, hs), twice
        self._new: list[tuple[Tensor, Tensor]] = []

    def make_room(self, tokens: int, capacity: int) -> None:
        self._new = []

    def append(self, layer: int, k: Tensor, v: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """k, v (R, nh, Q, hs) behind the slots of the active rows: (R, nh, S + Q, hs)."""
        kept = self._kept[layer]
        if kept is None:
            shape = (len(self.filled), k.size(1), self.slots, k.size(3))
            kept = (k.new_zeros(shape), v.new_zeros(shape))
            self._kept[layer] = kept
        self._new.append((k, v))
        return torch.cat([kept[0][self.active], k], dim=2), torch.cat([kept[1][self.active], v], dim=2)

    def keep(self, counts: Sequence[int]) -> None:
        """Keep the first counts[r] tokens of the last pass for each active row r."""
        rows = self.active.tolist()
        which = torch.tensor([(i, row, s) for i, row in enumerate(rows) for s in range(counts[i])])  # (N, 3)
        if len(which):
            source, row, token = which.to(self._new[0][0].device).T
            slot = torch.tensor([self.filled[r] + s for i, r in enumerate(rows) for s in range(counts[i])]).to(row)
            for kept, new in zip(self._kept, self._new, strict=True):
                assert kept is not None
                for buffer, fresh in zip(kept, new, strict=True):
                    buffer[row, :, slot] = fresh[source, :, token]
        for i, r in enumerate(rows):
            self.filled[r] += counts[i]


def pass_layout(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of the n + 1 clean tokens of a pass and the windows of n noisy ones behind each of them: what each sees (Q, Q),
    and its distance (Q,) from the first."""
    clean = torch.arange(n + 1, device=device)
    window, index = clean.repeat_interleave(n), torch.arange(n, device=device).repeat(n + 1)
    of = torch.cat([clean, window])  # the last clean token that each one sees
    sees_clean = clean <= of[:, None]  # (Q, n + 1)
    inside = (window == window[:, None]) & (index <= index[:, None])
    sees_noisy = torch.cat([inside.new_zeros(n + 1, len(window)), inside])  # (Q, (n + 1) n)
    return torch.cat([sees_clean, sees_noisy], dim=1), torch.cat([clean, window + 1 + index])


def accept(p: Tensor, q: Tensor, drafts: Tensor, limit: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the drafts (R, n) to take, and the token after them, so that all follow p: (R,), (R,).

    p (R, n + 1, V) are the probabilities of the token at every place given the drafts before it, q (R, n, V) those that
    the drafts were drawn by. At most limit (R,) drafts are looked at; uniform (R, n + 1) in [0, 1).
    """
    n = drafts.size(1)
    places = torch.arange(n, device=p.device)
    of_p, of_q = (law[:, :n].gather(-1, drafts[..., None])[..., 0] for law in (p, q))
    taken = (uniform[:, :n] * of_q < of_p) & (places < limit[:, None])
    count = taken.long().cumprod(1).sum(1)  # (R,)
    rows = torch.arange(len(p), device=p.device)
    law = p[rows, count]  # (R, V)
    refused = (count < limit)[:, None]
    left = (law - q[rows, count.clamp(max=n - 1)]).clamp(min=0)  # what p has more than q: arXiv:2211.17192, eq. 2
    law = torch.where(refused & (left.sum(-1, keepdim=True) > 0), left, law)
    return count, sample_tokens(law.log(), uniform[:, n])


@torch.no_grad()
def speculate(
    denoiser: ShiftedDenoiser,
    prompt: Tensor,
    *,
    length: int,
    seeds: Sequence[int],
    config: SpeculativeConfig,
    trace: bool = False,
) -> Generation:
    """Continue prompt (B, P) by `length` tokens, by the law of one token after the other at config.temperature.

    Raises ValueError on an empty prompt or a length below 1.
    """
    check_prompt(prompt, seeds, length)
    return _Speculation(denoiser, prompt, length, seeds, config, trace).run()


class _Speculation:
    """The state of one call: ids (B, L) of which lengths[b] are decided, all but the last of them in the cache, and the
    drafts (B, n) behind them with the laws q (B, n, V) that they were drawn by, None before the first pass."""

    def __init__(
        self,
        denoiser: ShiftedDenoiser,
        prompt: Tensor,
        length: int,
        seeds: Sequence[int],
        config: SpeculativeConfig,
        trace: bool,
    ) -> None:
        B, P = prompt.shape
        self.denoiser, self.temperature, self.n = denoiser, config.temperature, config.draft_tokens
        self.backbone = denoiser.model.backbone
        self.block_size = self.backbone.config.block_size
        self.random = RowRandom(seeds)
        self.ids = torch.cat([prompt, prompt.new_zeros(B, length + self.n)], dim=1)  # the last pass may write beyond L
        self.total = P + length
        self.lengths = [P] * B
        self.starts: list[int | None] = [None] * B  # the first token of each row's context
        self.cache = RowCache(B, self.backbone.config.n_layer, self.block_size)
        self.sees, self.distance = pass_layout(self.n, prompt.device)
        self.drafts = prompt.new_zeros(B, self.n)
        self.q: Tensor | None = None
        self.forwards = self.token_forwards = 0
        self.row_forwards = [0] * B
        self.states: list[tuple[Tensor, Tensor, Tensor]] | None = [] if trace else None

    def run(self) -> Generation:
        began = time.perf_counter()
        decided = sum(self.total - done for done in self.lengths)
        while rows := [row for row, done in enumerate(self.lengths) if done < self.total]:
            self._cycle(rows)
            if self.states is not None:
                self.states.append(self._state())
        return Generation(
            self.ids[:, : self.total],
            self.forwards,
            self.forwards,
            time.perf_counter() - began,
            decided,
            None if self.states is None else Trace(*(torch.stack(part) for part in zip(*self.states, strict=True))),
            row_forwards=torch.tensor(self.row_forwards),
            token_forwards=self.token_forwards,
        )

    def _cycle(self, rows: list[int]) -> None:
        """One pass for the unfinished rows: verify their drafts, go on by a token, draft anew."""
        n = self.n
        self._move_contexts(rows)
        index = torch.tensor(rows, device=self.ids.device)
        drafts = self.drafts[index]
        clean, seen = self._pass(index, drafts)
        p = self._law(self.denoiser.model.lm_head(clean))  # (R, n + 1, V)
        uniform = self.random.uniform(2 * n + 1, rows=rows).to(p.device)
        if self.q is None:
            self.q = torch.ones_like(p[:, :n])
            limit = torch.zeros_like(index)
        else:
            limit = torch.tensor([self._limit(row) for row in rows], device=index.device)
        count, token = accept(p, self.q[index], drafts, limit, uniform[:, : n + 1])
        for row, taken, draft, new in zip(rows, count.tolist(), drafts, token, strict=True):
            end = self.lengths[row] + taken
            self.ids[row, self.lengths[row] : end] = draft[:taken]
            self.ids[row, end] = new
            self.lengths[row] = end + 1
        self.cache.keep((count + 1).tolist())
        window = seen.view(len(rows), n + 1, n, -1)[torch.arange(len(rows), device=index.device), count]
        places = torch.arange(n, device=index.device)
        window = self.denoiser.refine(window, places, torch.zeros_like(places))
        self.drafts[index], self.q[index] = self._draft(window, token, uniform[:, n + 1 :])

    def _move_contexts(self, rows: list[int]) -> None:
        """Read anew the contexts of rows that have outgrown them, or that have none yet."""
        for row in rows:
            start = context_start(self.lengths[row], self.block_size)
            if start != self.starts[row]:
                self.starts[row], self.cache.filled[row] = start, 0
        short = [row for row in rows if self.cache.filled[row] < self._known(row)]
        for known in sorted({self._known(row) for row in short}):
            index = torch.tensor([row for row in short if self._known(row) == known], device=self.ids.device)
            begins = torch.tensor([self.starts[row] for row in index.tolist()], device=index.device)
            ids = self.ids[index[:, None], begins[:, None] + torch.arange(known, device=index.device)]
            sees = torch.ones(known, known, dtype=torch.bool, device=index.device).tril()
            self._run(index, self.denoiser.model.wte(ids), sees, torch.arange(known, device=index.device))
            self.cache.keep([known] * len(index))

    def _known(self, row: int) -> int:
        """Tokens of a row's context before its newest one."""
        start = self.starts[row]
        assert start is not None
        return self.lengths[row] - 1 - start

    def _limit(self, row: int) -> int:
        """Drafts of a row that are predicted from the context that it has now."""
        at = self.lengths[row]
        return sum(context_start(at + i, self.block_size) == self.starts[row] for i in range(1, self.n + 1))

    def _pass(self, index: Tensor, drafts: Tensor) -> tuple[Tensor, Tensor]:
        """States (R, n + 1, n_embd) of the newest tokens and the drafts, and (R, (n + 1) n, n_embd) of the windows of
        noise behind each of them."""
        denoiser, rows = self.denoiser, index.tolist()
        newest = self.ids[index, torch.tensor(self.lengths, device=index.device)[index] - 1]
        table = denoiser.table()
        x = self.random.normal(self.n, table.size(1), rows=rows).to(table)
        abar = denoiser.alphas_cumprod[-1].expand(x.shape[:2])
        noise = denoiser.read_noisy(x, abar, channel_logits(x, abar, table))  # (R, n, n_embd)
        clean = denoiser.model.wte(torch.cat([newest[:, None], drafts], dim=1))
        h = torch.cat([clean, noise.repeat(1, self.n + 1, 1)], dim=1)
        return self._run(index, h, self.sees, self.distance).split([self.n + 1, noise.size(1) * (self.n + 1)], dim=1)

    def _run(self, index: Tensor, h: Tensor, sees: Tensor, distance: Tensor) -> Tensor:
        """The backbone over h (R, Q, n_embd) behind what the rows `index` have in the cache."""
        rows = index.tolist()
        filled = torch.tensor([self.cache.filled[row] for row in rows], device=h.device)
        slots = torch.arange(self.cache.slots, device=h.device) < filled[:, None, None]  # (R, 1, S)
        mask = torch.cat([slots.expand(-1, len(sees), -1), sees.expand(len(rows), -1, -1)], dim=2)
        positions = (filled[:, None] + distance).clamp(max=self.block_size - 1)  # drafts may come to lie beyond
        self.cache.active = index
        if self.backbone.wpe is not None:
            h = h + self.backbone.wpe(positions)
        out = self.backbone(h, cache=self.cache, mask=mask[:, None], positions=positions)
        self.forwards += 1
        self.token_forwards += positions.numel()
        for row in rows:
            self.row_forwards[row] += 1
        return out

    def _draft(self, window: Tensor, token: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Drafts (R, n) behind the newest tokens (R,), each given the one before it, and their laws (R, n, V)."""
        drafts, laws = [token[:, None]], []
        for i in range(self.n):
            left = self.denoiser.left(drafts[-1], torch.ones_like(drafts[-1], dtype=torch.bool))
            law = self._law(self.denoiser.head(window[:, i : i + 1], None, left))
            drafts.append(sample_tokens(law.log(), uniform[:, i : i + 1]))
            laws.append(law)
        return torch.cat(drafts[1:], dim=1), torch.cat(laws, dim=1)

    def _law(self, logits: Tensor) -> Tensor:
        """Probabilities in float64."""
        if logits.device.type == "mps":  # has no float64
            logits = logits.cpu()
        return (logits.double() / self.temperature).softmax(-1)

    def _state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, levels (0 decided, 1 not) and passes so far, for a trace."""
        ids = self.ids[:, : self.total]
        lengths = torch.tensor(self.lengths, device=ids.device)
        open_ = torch.arange(self.total, device=ids.device) >= lengths[:, None]
        return ids.masked_fill(open_, 0), open_.float(), torch.tensor(self.forwards)
