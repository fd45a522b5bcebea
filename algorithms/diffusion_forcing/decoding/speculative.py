"""Self-speculative decoding: a noisy window drafts what the same network's next-token head accepts or refuses.

Source: speculative sampling (arXiv:2211.17192); draft and verification in one pass: TiDAR (arXiv:2511.08923). Whatever
the drafts are, the output distribution is that of one token after the other. B batch, L positions, R rows still
unfinished, n drafted tokens, Q = (n + 1)² tokens of a pass, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from algorithms.common.backbone.masks import attention_mask, two_stream_mask, windows_behind
from algorithms.common.decoder import Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, sample_tokens
from algorithms.diffusion_forcing.models import ShiftedDenoiser
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits


def accept(p: Tensor, q: Tensor, drafts: Tensor, limit: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the drafts (R, n) to take, and the token after them, so that all follow p: (R,), (R,).

    p (R, n + 1, V) are the probabilities of the token at every place given the drafts before it, q (R, n, V) those that
    the drafts were drawn by. At most limit (R,) drafts are looked at; uniform (R, n + 1) in [0, 1).
    """
    n = drafts.size(1)
    places = torch.arange(n, device=p.device)
    of_p, of_q = (one[:, :n].gather(-1, drafts[..., None])[..., 0] for one in (p, q))
    taken = (uniform[:, :n] * of_q < of_p) & (places < limit[:, None])
    count = taken.long().cumprod(1).sum(1)  # (R,)
    rows = torch.arange(len(p), device=p.device)
    next_p = p[rows, count]  # (R, V)
    refused = (count < limit)[:, None]
    left = (next_p - q[rows, count.clamp(max=n - 1)]).clamp(min=0)  # what p has more than q: arXiv:2211.17192, eq. 2
    next_p = torch.where(refused & (left.sum(-1, keepdim=True) > 0), left, next_p)
    return count, sample_tokens(next_p.log(), uniform[:, n])


class Speculation:
    """One call for texts of one shape, n below the context: ids (B, L + n) of which lengths[b] are decided, all but the
    last of them in the cache, and the drafts (B, n) behind them with the probabilities q (B, n, V) that they were drawn
    by, None before the first pass. `target` are the logits of the distribution that the text follows, from the
    network's."""

    def __init__(
        self,
        denoiser: ShiftedDenoiser,
        process: GaussianProcess,
        request: Request,
        n: int,
        target: Callable[[Tensor], Tensor],
    ) -> None:
        B, total = request.ids.shape
        self.denoiser, self.n, self.target = denoiser, n, target
        self.backbone = denoiser.model.backbone
        self.block_size = denoiser.block_size
        self.pure_noise = process.alphas_cumprod[-1]
        self.request = request
        self.random = RowRandom(request.seeds)
        ids = request.ids.where(request.given, 0)
        self.ids = torch.cat([ids, ids.new_zeros(B, n)], dim=1)  # the last pass may write beyond L
        self.total = total
        self.lengths = request.prompt_lengths
        self.starts: list[int | None] = [None] * B  # the first token of each row's context
        self.cache = self.backbone.new_row_cache(B)
        positions, begins = windows_behind(n + 1, n, device=ids.device)
        self.sees = two_stream_mask(n + 1, positions, begins)  # (Q, Q)
        self.distance = torch.cat([torch.arange(n + 1, device=ids.device), positions])  # (Q,)
        self.drafts = ids.new_zeros(B, n)
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
            self.ids[:, : self.total],
            self.forwards,
            self.forwards,
            decided,
            self.recorder.trace(),
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
        p = self._probabilities(self.denoiser.model.lm_head(clean))  # (R, n + 1, V)
        here = index.to(p.device)
        uniform = self.random.uniform(2 * n + 1, rows=rows).to(p.device)
        if self.q is None:
            self.q = torch.ones_like(p[:, :n])
            limit = torch.zeros_like(here)
        else:
            limit = torch.tensor([self._limit(row) for row in rows], device=here.device)
        found = accept(p, self.q[here], drafts.to(here.device), limit, uniform[:, : n + 1])
        count, token = (one.to(index.device) for one in found)
        for row, taken, draft, new in zip(rows, count.tolist(), drafts, token, strict=True):
            end = self.lengths[row] + taken
            self.ids[row, self.lengths[row] : end] = draft[:taken]
            self.ids[row, end] = new
            self.lengths[row] = end + 1
        self.cache.keep((count + 1).tolist())
        window = seen.view(len(rows), n + 1, n, -1)[torch.arange(len(rows), device=index.device), count]
        window = self.denoiser.refine(window)
        self.drafts[index], self.q[here] = self._draft(window, token, uniform[:, n + 1 :])

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
            places = torch.arange(known, device=index.device)
            ids = self.ids[index[:, None], begins[:, None] + places]
            sees = attention_mask("causal", known, known, device=index.device)
            self._run(index, self.denoiser.model.wte(ids), sees, places)
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
        abar = self.pure_noise.expand(x.shape[:2])
        noise = denoiser.read_noisy(x, abar, channel_logits(x, abar, table))  # (R, n, n_embd)
        clean = denoiser.model.wte(torch.cat([newest[:, None], drafts], dim=1))
        h = torch.cat([clean, noise.repeat(1, self.n + 1, 1)], dim=1)
        return self._run(index, h, self.sees, self.distance).split([self.n + 1, noise.size(1) * (self.n + 1)], dim=1)

    def _run(self, index: Tensor, h: Tensor, sees: Tensor, distance: Tensor) -> Tensor:
        """The backbone over h (R, Q, n_embd) behind what the rows `index` have in the cache."""
        self.cache.select(index)
        positions = self.cache.positions(distance)  # drafts may come to lie beyond the context: it holds them within
        h = self.backbone.add_positions(h, positions)
        out = self.backbone(h, cache=self.cache, keep=0, mask=self.cache.behind(sees), positions=positions)
        self.forwards += 1
        self.token_forwards += positions.numel()
        for row in index.tolist():
            self.row_forwards[row] += 1
        return out

    def _draft(self, window: Tensor, token: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Drafts (R, n) behind the newest tokens (R,), each given the one before it, and their q (R, n, V)."""
        drafts, found = [token[:, None]], []
        for i in range(self.n):
            left = self.denoiser.left(drafts[-1], torch.ones_like(drafts[-1], dtype=torch.bool))
            q = self._probabilities(self.denoiser.head(window[:, i : i + 1], None, left))
            drafts.append(sample_tokens(q.log(), uniform[:, i : i + 1]).to(token.device))
            found.append(q)
        return torch.cat(drafts[1:], dim=1), torch.cat(found, dim=1)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Distributions to verify or to draft by, in float64."""
        return self.target(logits.to(float64_device(logits.device)).double()).softmax(-1)

    def _record(self) -> None:
        """Keep a state for the trace: levels are 0 decided, 1 not."""
        ids = self.ids[:, : self.total]
        lengths = torch.tensor(self.lengths, device=ids.device)
        open_ = torch.arange(self.total, device=ids.device) >= lengths[:, None]
        self.recorder.add(ids.masked_fill(open_, 0), open_.float(), self.forwards)
