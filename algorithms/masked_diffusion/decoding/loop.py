"""The one decoding loop of masked diffusion: chunk after chunk, each step a forward and a commit of the decoder.

Continuation, infilling and free generation are one call with other given positions. What the chunks are, and what the
network sees of a text, a Reader tells: by default semi-autoregressive chunks in a window, as in LLaDA
(arXiv:2502.09992). B batch, L all positions, R rows still being decoded, K positions of the chunk, M of them that are
looked at, W window.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.decoder import DrawingDecoder, Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.fields import STRICT, Count, Natural
from algorithms.common.randomness import RowRandom, StepUniforms
from algorithms.common.sampling import COLDEST
from algorithms.masked_diffusion.decoding.reader import Reader, SlidingWindow
from algorithms.masked_diffusion.decoding.state import MASKED, ChunkState, Confidence, Prediction, Predictor

NARROWED = 32  # positions of a chunk from which on it pays to leave out those that are decided


@dataclass(frozen=True, config=STRICT)
class MaskedDecoder(DrawingDecoder):
    """What all decoders of masked diffusion share: the loop, in which `commit` decides what each step makes of a chunk.

    Text is decided in chunks of `chunk_len` tokens (None: half of the window, or what the context leaves of it), each
    of which sees `context_len` tokens of its past (None: as many as fit the window beside it). Confidences come from
    the probabilities at `temperature`, and temperature 0 takes the best token with the confidences of temperature 1;
    `top_k` and `top_p` restrict draws alone.
    """

    position_draws: ClassVar[bool] = False  # commit needs uniforms of its own
    per_position: ClassVar[tuple[str, ...]] = ()  # what of its memory is (R, M)
    order_follows_text: ClassVar[bool] = False  # what is decided when depends on nothing but the text so far

    name: str = ""
    chunk_len: Count | None = None
    context_len: Natural | None = None

    @property
    def has_likelihood(self) -> bool:
        """Whether the probability of a text under this decoder is a product of the network's conditionals."""
        return self.order_follows_text and not self.restricts

    def unused(self) -> dict[str, str]:
        counts = {"temperature"}  # for the confidences
        if getattr(self, "confidence", None) == "top_k_mass":
            counts.add("top_k")
        return {key: cause for key, cause in super().unused().items() if key not in counts}

    def spans(self, window: int) -> tuple[int, int]:
        """chunk_len and context_len in a window of so many tokens."""
        room = window - (self.context_len or 0)
        chunk_len = self.chunk_len or max(1, min(window // 2, room))
        return chunk_len, window - chunk_len if self.context_len is None else self.context_len

    def sees_right(self, model: Any) -> bool:
        return True

    def check_blocks(self, block_len: int) -> None:
        """ValueError unless this decoder leaves it to a model's blocks which tokens are decided together."""
        for key in ("chunk_len", "context_len"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is {getattr(self, key)}: a text is decided in blocks of block_len={block_len}, which see "
                    "the whole context: set it to null"
                )

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        window = model.window
        if bool((request.given & (request.ids == model.mask_id)).any()):
            raise ValueError(
                f"the given tokens hold the mask token (id {model.mask_id}): leave such positions out of `given`"
            )
        if (block_len := block_len_of(model)) is not None:
            self.check_blocks(block_len)
            self._check_suffix(model, request, block_len)
        chunk_len, context_len = self.spans(window)
        if chunk_len > window:
            raise ValueError(f"chunk_len is {chunk_len}: the window holds {window} tokens, set it to at most that")
        if chunk_len + context_len > window:
            raise ValueError(
                f"context_len is {context_len}: beside a chunk_len of {chunk_len} the window of "
                f"{window} tokens has room for {window - chunk_len}"
            )

    def _check_suffix(self, model: Any, request: Request, block_len: int) -> None:
        """ValueError if the last token before a suffix does not see it: the suffix begins a block, or that token, which
        is then drawn from its past alone, does."""
        for _, group in request.by_shape():
            reader = model.predictor(self, RowRandom(group.seeds))
            chunks = [*reader.chunks(group.prompt_lengths[0], group.ids.size(1))]
            for given in group.known:
                last = int((~given).nonzero().max())
                seen = any(chunk.start < last < chunk.end - 1 for chunk in chunks)
                if bool(given[-1]) and not seen:
                    raise ValueError(
                        f"suffix is seen inside its own block of block_len={block_len} alone, and not by the first "
                        "token of it, so that nothing here would see it: change the length, raise algorithm.block_len, "
                        "or take algorithm=masked_diffusion"
                    )

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits in float64, divided by the temperature (0 leaves them as they are)."""
        logits = logits.double()
        return logits if self.temperature in (0, 1) else logits / max(self.temperature, COLDEST)

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        """The rule's memory when a chunk starts, from uniforms (R, K) drawn once, on the CPU."""
        return {}

    def plan(self, open_: Tensor, uniform: Tensor) -> Tensor | None:
        """How many of the positions open_ (R, K) each step leaves open, (R, S) and 0 at last, where the network has no
        say in it; `uniform` is what `begin` gets. All on the CPU: with a plan nobody waits for the device."""
        return None

    def order(self, state: ChunkState) -> Tensor | None:
        """The positions of a chunk (R, K) as they are decided, one a step and the open ones first, where that is known
        before the network is asked."""
        return None

    @abstractmethod
    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        """One step, pure; `uniform` (R, M) is fresh in each step where `position_draws` asks for it."""

    def decode(self, model: Any, request: Request) -> Generation:
        """Decide what is not given, from each text's first open position on.

        `model` has a mask_id, a vocabulary_size, a window of W tokens, and a `predictor(decoder, random)`: a Reader, or
        a Predictor, which is shown a sliding window.
        """
        random, recorder = RowRandom(request.seeds), TraceRecorder(request)
        predictor, window = model.predictor(self, random), model.window
        if not isinstance(predictor, Reader):
            predictor = SlidingWindow(predictor, window, *self.spans(window))
        return self.write(
            predictor,
            request.ids,
            request.given,
            random=random,
            mask_id=model.mask_id,
            first=request.prompt_lengths[0],
            recorder=recorder,
            ends=Ends(request),
        )

    def write(
        self,
        reader: Reader,
        ids: Tensor,
        given: Tensor,
        *,
        random: RowRandom,
        mask_id: int,
        first: int = 0,
        recorder: TraceRecorder | None = None,
        ends: Ends | None = None,
    ) -> Generation:
        """The loop: decide the tokens of ids (B, L) that are not `given` (B, L) bool; before `first` all are given.

        Rows whose chunk is decided leave the batch until the next one, and for good once `ends` says that their text is
        over.
        """
        home = float64_device(ids.device)
        B, L = ids.shape
        known, given = given.cpu(), given.to(home)
        text = ids.to(home).masked_fill(~given, mask_id)
        row_forwards = torch.zeros(B, dtype=torch.long)
        steps = forwards = 0
        for chunk in reader.chunks(first, L):
            here = slice(chunk.begin, chunk.end)
            left = ~known[:, chunk.begin :]  # (B, L - begin)
            if ends:
                left[[row for row, found in enumerate(ends.found) if found is not None]] = False
            open_ = left[:, : chunk.end - chunk.begin]  # (B, K)
            rows = open_.any(-1).nonzero().squeeze(-1)  # (R,)
            if rows.numel() == 0:
                continue
            fresh = open_[:, 0].nonzero().squeeze(-1)  # (F,)
            passes, logits = reader.enter(chunk, text, left.any(-1).nonzero().squeeze(-1).tolist(), fresh.tolist())
            row_forwards[rows] += passes
            forwards += passes
            final = given[:, here]
            if logits is not None:
                uniforms = random.uniform(rows=fresh.tolist()).to(home)  # (F,)
                text[_there(fresh, B, home), chunk.begin] = self.draw(logits.to(home), uniforms)
                final = torch.cat([torch.ones_like(final[:, :1]), final[:, 1:]], dim=1)
                open_[:, 0] = False
                rows = open_.any(-1).nonzero().squeeze(-1)
                steps += 1
                if recorder:
                    unknown = text == mask_id
                    recorder.add(text.masked_fill(unknown, 0), unknown.float(), forwards=forwards)
            if rows.numel() > 0:
                there = _there(rows, B, home)
                x, place = chunk.window(text[there], mask_id), chunk.place  # (R, W)
                draws = StepUniforms(random, rows, chunk.end - chunk.begin, 1 + self.position_draws, home)
                once = draws.once()  # (R, K)
                state = ChunkState.start(x[:, place], final[there], mask_id=mask_id, window=reader.width, rows=rows)
                state.memory.update(self.begin(state, once))
                told = partial(_record, recorder, text=text, begin=chunk.begin, before=forwards) if recorder else None
                text[there, here], counts = self._decide(
                    reader, x, place, state, draws, self.plan(open_[rows], once), device=ids.device, record=told
                )
                row_forwards[rows] += counts
                steps += int(counts.max())
                forwards += int(counts.max())
            if ends:
                ends.see(text, [chunk.end] * B)
        return Generation(
            text.masked_fill(text == mask_id, 0).to(ids.device),  # masks are left in texts that have ended
            steps=steps,
            forwards=forwards,
            decided=int((~known).sum()),
            trace=recorder.trace() if recorder else None,
            row_forwards=row_forwards,
            token_forwards=reader.token_forwards,
        )

    def _decide(
        self,
        predict: Predictor,
        x: Tensor,
        place: slice,
        state: ChunkState,
        draws: StepUniforms,
        plan: Tensor | None,
        *,
        device: torch.device,
        record: Callable | None,
    ) -> tuple[Tensor, Tensor]:
        """One chunk of windows x (R, W), which are written to: its tokens (R, K), and the forwards (R,) of each row.

        Whether rows or positions may be left out is told by the plan, or else by a look at the device after each step.
        """
        decided = x[:, place].clone()
        running, forwards = list(range(len(x))), [0] * len(x)
        numbers = torch.arange(len(x), device=x.device)  # those that are running, on the device
        planned = None if plan is None else plan.T.tolist()
        # A trace shows the best candidate everywhere, not only where something is decided.
        order = None if record else self.order(state)
        if order is not None:
            state = state.narrow(order)
        for step in itertools.count():
            looked, rest = (state, None) if order is None else state.split()
            prediction, uniforms = self._ask(predict, x, place, looked, draws, device)
            if rest is None:
                written = state = self.commit(state, prediction, *uniforms)
            else:
                written, state = replace(looked, tokens=prediction.tokens), rest
            written.write(x[:, place])
            if record:
                record(x[:, place], state, prediction, step + 1)
            # (R,) positions that are still open, which without a plan the device has to be asked for
            left = state.open.sum(-1).tolist() if planned is None else [planned[step][row] for row in running]
            most = max(left)
            if min(left) == 0:
                decided[numbers] = x[:, place]
                for row, count in zip(running, left, strict=True):
                    forwards[row] = step + 1 if count == 0 else 0
                if most == 0:
                    break
                kept = [one for one, count in enumerate(left) if count]
                running = [running[one] for one in kept]
                index = torch.tensor(kept)
                there = index.to(x.device)
                numbers, x, state = numbers[there], x[there], state.select(index, there)
                draws.keep(index, there)
            if order is None and NARROWED <= state.tokens.size(1) >= 2 * most:
                state = state.narrow(state.open_first(most), self.per_position)
        return decided, torch.tensor(forwards)

    def _ask(
        self, predict: Predictor, x: Tensor, place: slice, state: ChunkState, draws: StepUniforms, device: torch.device
    ) -> tuple[Prediction, list[Tensor]]:
        """What the network says of the positions that are looked at, with tokens drawn by the first uniforms of the
        step, and its other uniforms: [] or [(R, M)]."""
        logits = predict(x.to(device), place, state)
        if logits.size(1) > state.tokens.size(1):
            logits = state.at(logits)
        uniforms = draws.next().unbind(1)  # drawn behind what a predictor draws in the first step
        drawn, *others = (state.at(one[..., None]).squeeze(-1) for one in uniforms)  # (R, M) each
        logits = self.tempered(logits.to(x.device))
        greedy = self.temperature == 0
        return Prediction.draw(logits, drawn, self.top_k, top_p=self.top_p, greedy=greedy), others

    def _check_confidence(self, measure: Confidence, *keys: str) -> None:
        """ValueError unless `measure` has what it needs and the thresholds under `keys` are values that it can take."""
        if measure == "top_k_mass" and self.top_k is None:
            raise ValueError("confidence=top_k_mass needs top_k: set it")
        for key in keys:
            value = getattr(self, key)
            if value is None:
                continue
            if measure == "entropy" and not value <= 0:
                raise ValueError(f"{key} is {value}: with confidence=entropy it is minus an entropy in nats, at most 0")
            if measure != "entropy" and not 0 <= value <= 1:
                raise ValueError(f"{key} is {value}: it must lie in [0, 1]")


def block_len_of(model: Any) -> int | None:
    """The length of the blocks in which a model decides a text; None where it has none."""
    return getattr(model, "block_len", None)


def _there(rows: Tensor, B: int, device: torch.device) -> Tensor | slice:
    """The `rows` (R,) of a batch of B as an index on the device."""
    return slice(None) if len(rows) == B else rows.to(device)


def _record(
    recorder: TraceRecorder,
    chunk: Tensor,
    state: ChunkState,
    prediction: Prediction,
    forwards: int,
    *,
    text: Tensor,
    begin: int,
    before: int,
) -> None:
    """Add the tokens and levels (B, L) after a step: a masked position shows its best candidate, one not yet reached id
    0. `text` (B, L) gets the rows of chunk (R, K) that are done, as they leave the state."""
    here = slice(begin, begin + chunk.size(1))
    unknown = text == state.mask_id  # (B, L)
    tokens, levels = text.masked_fill(unknown, 0), unknown.float()
    best = prediction.probabilities.argmax(-1)  # (R, M)
    shown = replace(state, tokens=torch.where(state.status == MASKED, best, state.tokens))
    tokens[state.rows, here] = shown.write(chunk.clone())
    level = replace(state, tokens=1 - state.status / 2)  # 1 masked, 0.5 draft, 0 done
    levels[state.rows, here] = level.write(torch.zeros_like(chunk, dtype=torch.float32))
    recorder.add(tokens, levels, forwards=before + forwards)
    done = (~state.open.any(-1)).cpu()
    text[state.rows[done], here] = chunk[done]
