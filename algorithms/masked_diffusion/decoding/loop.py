"""The one decoding loop of masked diffusion: chunk after chunk, each step a forward and a commit of the decoder.

Continuation, infilling and free generation are one call with other given positions; semi-autoregressive chunks as in
LLaDA (arXiv:2502.09992). B batch, L all tokens, R rows still being decoded, K positions of the chunk, W window.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.generation import Generation, RowRandom, Trace
from algorithms.masked_diffusion.decoding.rules import MaskedDecoder
from algorithms.masked_diffusion.decoding.state import MASKED, ChunkState, Prediction, Predictor

STEPS_PER_DRAW = 16  # a generator's call costs more than its numbers


@torch.no_grad()
def decode(
    predict: Predictor,
    ids: Tensor,
    given: Tensor,
    *,
    decoder: MaskedDecoder,
    random: RowRandom,
    mask_id: int,
    vocabulary_size: int,
    window: int,
    first: int = 0,
    trace: bool = False,
) -> Generation:
    """Decide the tokens of ids (B, L) that are not `given` (B, L) bool; before `first` all are given.

    Chunks start at `first` and follow each other; a chunk's window of W tokens starts `context_len` tokens before it,
    shows all that is given or decided in it, and holds masks elsewhere, beyond L too. Rows whose chunk is decided leave
    the batch until the next one, and a row's outcome depends on its own ids, given positions and seed only. Raises
    ValueError on settings that do not fit, and on a mask among the given tokens.
    """
    decoder.check(vocabulary_size, window)
    _check_request(ids, given, first, mask_id)
    began = time.perf_counter()
    home = torch.device("cpu") if ids.device.type == "mps" else ids.device  # mps has no float64
    B, L = ids.shape
    given = given.to(home)
    text = ids.to(home).masked_fill(~given, mask_id)
    chunk_len, context_len = decoder.spans(window)
    row_forwards = torch.zeros(B, dtype=torch.long, device=home)
    recorder = _Recorder(mask_id) if trace else None
    steps = 0
    for begin in range(first, L, chunk_len):
        end = min(begin + chunk_len, L)
        rows = (~given[:, begin:end]).any(-1).nonzero().squeeze(-1)  # (R,)
        if rows.numel() == 0:
            continue
        start = max(0, begin - context_len)
        place = slice(begin - start, end - start)
        x = text[rows, start : start + window]
        x = F.pad(x, (0, window - x.size(1)), value=mask_id)  # (R, W)
        draws = _Uniforms(random, rows, end - begin, 1 + decoder.position_draws)
        state = ChunkState.start(x[:, place], given[rows, begin:end], mask_id=mask_id, window=window, rows=rows)
        state.memory.update(decoder.begin(state, draws.once()))
        used = 0
        while state.rows.numel():
            x[:, place] = state.tokens
            logits = predict(x.to(ids.device), place, state).to(home)  # (R, K, V)
            uniform = draws.next()  # (R, 1 or 2, K)
            prediction = Prediction.draw(decoder.tempered(logits), uniform[:, 0], decoder)
            state = decoder.commit(state, prediction, uniform[:, 1] if decoder.position_draws else None)
            used += 1
            if recorder is not None:
                recorder.add(text, begin, state, prediction, forwards=steps + used)
            running = state.open.any(-1)  # (R,)
            if not bool(running.all()):
                done = (~running).nonzero().squeeze(-1)
                text[state.rows[done], begin:end] = state.tokens[done]
                row_forwards[state.rows[done]] += used
                kept = running.nonzero().squeeze(-1)
                state, x = state.select(kept), x[kept]
                draws.keep(kept)
        steps += used
    return Generation(
        text.to(ids.device),
        steps=steps,
        forwards=steps,
        seconds=time.perf_counter() - began,
        decided=int((~given).sum()),
        trace=None if recorder is None else recorder.trace(text),
        row_forwards=row_forwards,
    )


def _check_request(ids: Tensor, given: Tensor, first: int, mask_id: int) -> None:
    if given.shape != ids.shape or given.dtype != torch.bool:
        raise ValueError(f"`given` must be bool and of the shape {tuple(ids.shape)} of the ids")
    if not bool(given[:, :first].all()):
        raise ValueError(f"all positions before the first chunk at {first} must be given: start the chunks earlier")
    if bool((given & (ids == mask_id)).any()):
        raise ValueError(f"the given tokens hold the mask token (id {mask_id}): leave such positions out of `given`")


class _Uniforms:
    """Uniforms of one chunk, drawn for several steps at once: a row's own seed and steps alone decide what it gets."""

    def __init__(self, random: RowRandom, rows: Tensor, length: int, per_step: int) -> None:
        self.random = random
        self.rows = rows
        self.shape = (per_step, length)
        self.block = torch.empty(0)
        self.taken = STEPS_PER_DRAW

    def once(self) -> Tensor:
        """One number for each position of the chunk: (R, K)."""
        return self._draw(self.shape[1])

    def next(self) -> Tensor:
        """The numbers of the next step: (R, per_step, K)."""
        if self.taken == STEPS_PER_DRAW:
            self.block, self.taken = self._draw(STEPS_PER_DRAW, *self.shape), 0
        self.taken += 1
        return self.block[:, self.taken - 1]

    def keep(self, index: Tensor) -> None:
        """Go on with the rows at `index`."""
        self.rows, self.block = self.rows[index], self.block[index]

    def _draw(self, *shape: int) -> Tensor:
        return self.random.uniform(*shape, rows=self.rows.tolist()).to(self.rows.device)


class _Recorder:
    """Collects the text after each step; a masked position shows its best candidate, one not yet reached id 0."""

    def __init__(self, mask_id: int) -> None:
        self.mask_id = mask_id
        self.tokens: list[Tensor] = []
        self.levels: list[Tensor] = []
        self.forwards: list[int] = []

    def add(self, text: Tensor, begin: int, state: ChunkState, prediction: Prediction, *, forwards: int) -> None:
        chunk = slice(begin, begin + state.tokens.size(1))
        unknown = text == self.mask_id  # (B, L)
        tokens, levels = text.masked_fill(unknown, 0), unknown.float()
        best = prediction.probabilities.argmax(-1)  # (R, K)
        tokens[state.rows, chunk] = torch.where(state.status == MASKED, best, state.tokens)
        levels[state.rows, chunk] = 1 - state.status / 2  # 1 masked, 0.5 draft, 0 done
        self.tokens.append(tokens)
        self.levels.append(levels)
        self.forwards.append(forwards)

    def trace(self, text: Tensor) -> Trace:
        forwards = torch.tensor(self.forwards, dtype=torch.long)
        if not self.tokens:
            nothing = text.new_zeros(0, *text.shape)
            return Trace(nothing, nothing.float(), forwards)
        return Trace(torch.stack(self.tokens), torch.stack(self.levels), forwards)
