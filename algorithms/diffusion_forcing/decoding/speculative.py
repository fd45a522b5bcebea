"""Self-speculative decoding: a noisy window drafts what the same network's next-token head accepts or refuses.

Source: speculative sampling (arXiv:2211.17192); draft and verification in one pass: TiDAR (arXiv:2511.08923). Whatever
the drafts are, the output distribution is that of one token after the other. What it saves is passes: in time it gains
only where a pass over Q tokens costs little more than one over a single token, as a CPU's does not. B batch, L all
positions, R rows still unfinished, n drafted tokens, Q = (n + 1)² tokens of a pass, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from algorithms.common.backbone.masks import attention_mask, two_stream_mask, windows_behind
from algorithms.common.decoder import Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import context_start, invert
from algorithms.diffusion_forcing.models import ShiftedDenoiser
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess


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
    return count, invert(next_p, uniform[:, n])


class Speculation:
    """One call for texts of one shape, n below the context: ids (B, L + n) of which lengths[b] are decided, all but the
    last of them in the cache, and the drafts (B, n) behind them with the probabilities q (B, n, V) that they were drawn
    by, None before the first pass. `target` are the logits of the distribution that the text follows, from the
    network's.

    Texts and their lengths are on the CPU, drafts and probabilities on the device: a pass is told the one in a copy,
    and what it has decided is read in the one wait of a cycle.
    """

    def __init__(
        self,
        denoiser: ShiftedDenoiser,
        process: GaussianProcess,
        request: Request,
        n: int,
        target: Callable[[Tensor], Tensor],
    ) -> None:
        B, total = request.ids.shape
        self.device = device = request.ids.device
        self.denoiser, self.n, self.target = denoiser, n, target
        self.backbone = denoiser.model.backbone
        self.block_size = denoiser.block_size
        self.request = request
        self.random = RowRandom(request.seeds)
        self.ids = torch.zeros(B, total + n, dtype=torch.long)  # the last pass may write beyond L
        self.ids[:, :total] = request.ids.cpu().where(request.known, 0)
        self.total = total
        self.lengths = request.prompt_lengths
        self.starts: list[int | None] = [None] * B  # the first token of each row's context
        self.cache = self.backbone.new_row_cache(B)
        positions, begins = windows_behind(n + 1, n, device=device)
        self.sees = two_stream_mask(n + 1, positions, begins)  # (Q, Q)
        self.distance = torch.cat([torch.arange(n + 1, device=device), positions])  # (Q,)
        self.noise = self._read_noise(process)  # (B, n, n_embd)
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
        p = self._probabilities(self.denoiser.model.lm_head(clean))  # (R, n + 1, V)
        here, uniform = index.to(p.device), self.random.uniform(2 * n + 1, rows=rows).to(p.device)
        if self.q is None:
            self.q = torch.ones_like(p[:, :n])
        found = accept(p, self.q[here], drafts.to(p.device), limit.to(p.device), uniform[:, : n + 1])
        count, token = (one.to(self.device) for one in found)
        window = seen.view(R, n + 1, n, -1)[torch.arange(R, device=self.device), count]
        window = self.denoiser.refine(window)
        self.drafts[index], self.q[here] = self._draft(window, token, uniform[:, n + 1 :])
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
            start = context_start(self.lengths[row], self.block_size)
            if start != self.starts[row]:
                self.starts[row], self.cache.filled[row] = start, 0
        short = [row for row in rows if self.cache.filled[row] < self._known(row)]
        for known in sorted({self._known(row) for row in short}):
            these = [row for row in short if self._known(row) == known]
            ids = torch.stack([self.ids[row, self.lengths[row] - 1 - known : self.lengths[row] - 1] for row in these])
            places = torch.arange(known, device=self.device)
            sees = attention_mask("causal", known, known, device=self.device)
            self._run(these, self.denoiser.model.wte(ids.to(self.device)), sees, places)
            self.cache.keep(known)

    def _known(self, row: int) -> int:
        """Tokens of a row's context before its newest one."""
        start = self.starts[row]
        assert start is not None
        return self.lengths[row] - 1 - start

    def _limit(self, row: int) -> int:
        """Drafts of a row that are predicted from the context that it has now."""
        at = self.lengths[row]
        return sum(context_start(at + i, self.block_size) == self.starts[row] for i in range(1, self.n + 1))

    def _read_noise(self, process: GaussianProcess) -> Tensor:
        """The noise that every window of a row begins as, (B, n, n_embd) as the backbone reads it: one draw for a whole
        text, as any drafts leave its distribution what it is."""
        denoiser, table = self.denoiser, self.denoiser.table()
        x = self.random.normal(self.n, table.size(1)).to(table)
        abar = process.alphas_cumprod[-1].expand(x.shape[:2])
        return denoiser.read_channel(x, abar, table)

    def _pass(self, rows: list[int], index: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """States (R, n + 1, n_embd) of the newest tokens and the drafts, clean (R, n + 1), and those of the windows of
        noise behind each of them (R, (n + 1) n, n_embd)."""
        n = self.n
        noise = self.noise[index].repeat(1, n + 1, 1)
        h = torch.cat([self.denoiser.model.wte(clean), noise], dim=1)
        return self._run(rows, h, self.sees, self.distance).split([n + 1, noise.size(1)], dim=1)

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

    def _draft(self, window: Tensor, token: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Drafts (R, n) behind the newest tokens (R,), each given the one before it where the network can be told, and
        their q (R, n, V)."""
        if not self.denoiser.chains:
            q = self._probabilities(self.denoiser.head(window))
            return invert(q, uniform).to(token.device), q
        drafts, found = [token[:, None]], []
        for i in range(self.n):
            left = self.denoiser.left(drafts[-1], torch.ones_like(drafts[-1], dtype=torch.bool))
            q = self._probabilities(self.denoiser.head(window[:, i : i + 1], None, left))
            drafts.append(invert(q, uniform[:, i : i + 1]).to(token.device))
            found.append(q)
        return torch.cat(drafts[1:], dim=1), torch.cat(found, dim=1)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Distributions to verify or to draft by, in float64."""
        return self.target(logits.to(float64_device(logits.device)).double()).softmax(-1)

    def _record(self) -> None:
        """Keep a state for the trace: levels are 0 decided, 1 not."""
        ids = self.ids[:, : self.total].to(self.device)
        open_ = torch.arange(self.total) >= torch.tensor(self.lengths)[:, None]
        open_ = open_.to(self.device)
        self.recorder.add(ids.masked_fill(open_, 0), open_.float(), self.forwards)
