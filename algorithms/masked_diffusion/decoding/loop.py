"""The one decoding loop of masked diffusion: chunk after chunk, each step a forward and a commit of the decoder.

Continuation, infilling and free generation are one call with other given positions; semi-autoregressive chunks as in
LLaDA (arXiv:2502.09992). B batch, L all positions, R rows still being decoded, K positions of the chunk, W window.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.decoder import DrawingDecoder, Ends, Generation, Request, TraceRecorder
from algorithms.common.device import float64_device
from algorithms.common.fields import STRICT, Count, Natural
from algorithms.common.randomness import RowRandom, StepUniforms
from algorithms.common.sampling import COLDEST
from algorithms.masked_diffusion.decoding.state import MASKED, ChunkState, Confidence, Prediction, Predictor


@dataclass(frozen=True, config=STRICT)
class MaskedDecoder(DrawingDecoder):
    """What all decoders of masked diffusion share: the loop, in which `commit` decides what each step makes of a chunk.

    Text is decided in chunks of `chunk_len` tokens (None: half of the window, or what the context leaves of it), each
    of which sees `context_len` tokens of its past (None: as many as fit the window beside it). Confidences come from
    the probabilities at `temperature`, and temperature 0 takes the best token with the confidences of temperature 1;
    `top_k` and `top_p` restrict draws alone.
    """

    position_draws: ClassVar[bool] = False  # commit needs uniforms of its own
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

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        window = model.window
        if bool((request.given & (request.ids == model.mask_id)).any()):
            raise ValueError(
                f"the given tokens hold the mask token (id {model.mask_id}): leave such positions out of `given`"
            )
        chunk_len, context_len = self.spans(window)
        if chunk_len > window:
            raise ValueError(f"chunk_len is {chunk_len}: the window holds {window} tokens, set it to at most that")
        if chunk_len + context_len > window:
            raise ValueError(
                f"context_len is {context_len}: beside a chunk_len of {chunk_len} the window of "
                f"{window} tokens has room for {window - chunk_len}"
            )

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits in float64, divided by the temperature (0 leaves them as they are)."""
        logits = logits.double()
        return logits if self.temperature in (0, 1) else logits / max(self.temperature, COLDEST)

    def begin(self, state: ChunkState, uniform: Tensor) -> dict[str, Tensor]:
        """The rule's memory when a chunk starts, from uniforms (R, K) drawn once."""
        return {}

    @abstractmethod
    def commit(self, state: ChunkState, prediction: Prediction, uniform: Tensor | None = None) -> ChunkState:
        """One step, pure; `uniform` (R, K) is fresh in each step where `position_draws` asks for it."""

    def decode(self, model: Any, request: Request) -> Generation:
        """Decide what is not given, from each text's first open position on.

        `model` has a mask_id, a vocabulary_size, a window of W tokens, and a `predictor(decoder, random)`.
        """
        random, recorder = RowRandom(request.seeds), TraceRecorder(request)
        return self.fill(
            model.predictor(self, random),
            request.ids,
            request.given,
            random=random,
            mask_id=model.mask_id,
            window=model.window,
            first=request.prompt_lengths[0],
            recorder=recorder,
            ends=Ends(request),
        )

    def fill(
        self,
        predict: Predictor,
        ids: Tensor,
        given: Tensor,
        *,
        random: RowRandom,
        mask_id: int,
        window: int,
        first: int = 0,
        recorder: TraceRecorder | None = None,
        ends: Ends | None = None,
    ) -> Generation:
        """The loop: decide the tokens of ids (B, L) that are not `given` (B, L) bool; before `first` all are given.

        Chunks start at `first` and follow each other; a chunk's window of W tokens starts `context_len` tokens before
        it, shows all that is given or decided in it, and holds masks elsewhere, beyond L too. Rows whose chunk is
        decided leave the batch until the next one, and for good once `ends` says that their text has ended.
        """
        home = float64_device(ids.device)
        B, L = ids.shape
        given = given.to(home)
        text = ids.to(home).masked_fill(~given, mask_id)
        chunk_len, context_len = self.spans(window)
        row_forwards = torch.zeros(B, dtype=torch.long, device=home)
        steps = 0
        for begin in range(first, L, chunk_len):
            end = min(begin + chunk_len, L)
            open_ = ~given[:, begin:end]  # (B, K)
            if ends:
                open_[[row for row, found in enumerate(ends.found) if found is not None]] = False
            rows = open_.any(-1).nonzero().squeeze(-1)  # (R,)
            if rows.numel() == 0:
                continue
            start = max(0, begin - context_len)
            place = slice(begin - start, end - start)
            x = text[rows, start : start + window]
            x = F.pad(x, (0, window - x.size(1)), value=mask_id)  # (R, W)
            draws = StepUniforms(random, rows, end - begin, 1 + self.position_draws)
            state = ChunkState.start(x[:, place], given[rows, begin:end], mask_id=mask_id, window=window, rows=rows)
            state.memory.update(self.begin(state, draws.once()))
            used = 0
            while state.rows.numel():
                x[:, place] = state.tokens
                logits = self.tempered(predict(x.to(ids.device), place, state).to(home))  # (R, K, V)
                uniform = draws.next()  # (R, 1 or 2, K)
                prediction = Prediction.draw(
                    logits, uniform[:, 0], self.top_k, top_p=self.top_p, greedy=self.temperature == 0
                )
                state = self.commit(state, prediction, uniform[:, 1] if self.position_draws else None)
                used += 1
                if recorder:
                    recorder.add(*_shown(text, begin, state, prediction), forwards=steps + used)
                running = state.open.any(-1)  # (R,)
                if not bool(running.all()):
                    done = (~running).nonzero().squeeze(-1)
                    text[state.rows[done], begin:end] = state.tokens[done]
                    row_forwards[state.rows[done]] += used
                    kept = running.nonzero().squeeze(-1)
                    state, x = state.select(kept), x[kept]
                    draws.keep(kept)
            steps += used
            if ends:
                ends.see(text, [end] * B)
        return Generation(
            text.masked_fill(text == mask_id, 0).to(ids.device),  # masks are left in texts that have ended
            steps=steps,
            forwards=steps,
            decided=int((~given).sum()),
            trace=recorder.trace() if recorder else None,
            row_forwards=row_forwards,
        )

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


def _shown(text: Tensor, begin: int, state: ChunkState, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Tokens and levels (B, L) after a step: a masked position shows its best candidate, one not yet reached id 0."""
    chunk = slice(begin, begin + state.tokens.size(1))
    unknown = text == state.mask_id  # (B, L)
    tokens, levels = text.masked_fill(unknown, 0), unknown.float()
    best = prediction.probabilities.argmax(-1)  # (R, K)
    tokens[state.rows, chunk] = torch.where(state.status == MASKED, best, state.tokens)
    levels[state.rows, chunk] = 1 - state.status / 2  # 1 masked, 0.5 draft, 0 done
    return tokens, levels
