"""Settings of the decoders of Diffusion Forcing LM along a scheduling matrix (arXiv:2407.01392, section 4)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from algorithms.common.artifact import Artifact
from algorithms.common.autoregression import write_tokens
from algorithms.common.decoder import DrawingDecoder, Ends, Generation, Request, TraceRecorder
from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Number, Positive, Share
from algorithms.common.randomness import RowRandom
from algorithms.common.speculation import Speculative
from algorithms.diffusion_forcing.decoding.guidance import guidance_from_loss, keyword_loss
from algorithms.diffusion_forcing.decoding.posterior import Posterior, make_posterior
from algorithms.diffusion_forcing.decoding.sampling import sample
from algorithms.diffusion_forcing.decoding.scheduling_matrix import scheduling_matrix
from algorithms.diffusion_forcing.models.embeddings import round_to_tokens
from algorithms.diffusion_forcing.process.gaussian import Sampler


@dataclass(frozen=True, config=STRICT)
class MatrixDecoder(DrawingDecoder):
    """How noise is taken away, from `sampling_timesteps` levels to none.

    `token_draw=mean` steps towards the mean of each token's posterior, as the original; `sample` towards one token
    drawn from it, which makes every step of one token an exact draw of the reverse process; `chain` draws those of a
    row one after the other, each given the one before it, for a network that can take that; `last` towards the mean,
    and draws a token in its last step. `use_cache` reads a final token once; without it the whole window is computed at
    every row, with the same result. `sliding` never reads a token twice, even where the text outgrows the context.
    """

    name: Literal["matrix"] = "matrix"
    schedule: Literal["pyramid", "autoregressive", "full_sequence", "trapezoid", "trapezoid_original"] = (
        "autoregressive"
    )
    uncertainty_scale: NonNegative = 1.0
    sampling_timesteps: Count = 1
    level_power: Positive = 1.0
    ddim_eta: Share = 1.0
    stabilization_level: Natural = 0
    chunk_size: Count | None = None
    token_draw: Literal["chain", "sample", "last", "mean"] = "sample"
    rounding: Literal["nearest", "head"] = "nearest"
    keyword: str | None = None
    guidance_scale: Number = 0.0
    use_cache: bool = True
    sliding: bool = False

    def __post_init__(self) -> None:
        if self.sliding and not self.use_cache:
            raise ValueError("sliding slides a cache: set use_cache=true with it")
        if self.token_draw == "mean":
            unused = {"temperature": self.temperature != 1, "top_k": self.top_k, "top_p": (self.top_p or 1) < 1}
            for key in (key for key, is_set in unused.items() if is_set):
                raise ValueError(
                    f"{key} has no effect with token_draw=mean, which draws no tokens: leave it out, or take "
                    "token_draw=last"
                )
        if (self.keyword is None) != (self.guidance_scale == 0):
            raise ValueError("keyword and guidance_scale go together: set both or neither")
        if self.keyword is not None and self.token_draw != "mean":
            raise ValueError("keyword guides by a differentiable prediction: set token_draw=mean")

    def unused(self) -> dict[str, str]:
        found = super().unused()
        if self.schedule in ("autoregressive", "full_sequence"):
            found["uncertainty_scale"] = "schedule"
        if self.sampling_timesteps == 1:  # from noise to clean at once
            found |= dict.fromkeys(("level_power", "ddim_eta"), "sampling_timesteps")
        return found

    def sees_right(self, model: Any) -> bool:
        return model.denoiser.reads_right > 0

    def writes_as_gpt(self, model: Any, request: Request) -> bool:
        """Whether this is a GPT's decoding: at one level one token at a time is drawn, given the clean tokens before it
        alone, in the same context."""
        total, prompts = request.ids.size(1), request.prompt_lengths
        one_by_one = self.schedule == "autoregressive" or (self.schedule == "pyramid" and self.uncertainty_scale >= 1)
        draws = model.denoiser.predicts_tokens and self.token_draw != "mean" and self.stabilization_level == 0
        reads_left = model.denoiser.reads_right == 0 or prompts == request.known.sum(1).tolist()
        in_context = not self.sliding or total <= model.block_size
        return self.sampling_timesteps == 1 and one_by_one and draws and reads_left and in_context

    def matrix(self, horizon: int) -> Tensor:
        """The scheduling matrix (rows, horizon)."""
        return scheduling_matrix(self.schedule, horizon, self.sampling_timesteps, self.uncertainty_scale)

    def check(self, model: Any, request: Request) -> None:
        super().check(model, request)
        denoiser, style = model.denoiser, model.config.backbone.style
        if self.token_draw != "mean" and not denoiser.predicts_tokens:
            raise ValueError(
                f"token_draw={self.token_draw} needs token probabilities: "
                "set token_draw=mean, or parameterisation=two_stream"
            )
        if self.token_draw == "chain" and not denoiser.chains:
            raise ValueError(
                "token_draw=chain needs a network trained for it: set token_draw=sample, or train "
                "with parameterisation=two_stream and streams.chain above 0"
            )
        if self.sliding and style != "rope":
            raise ValueError(
                "sliding needs rotary positions: set it to false, or train with algorithm.backbone.style=rope"
            )
        if self.writes_as_gpt(model, request):
            return
        posterior = self._posterior(model)[1]
        horizons: dict[int, None] = {}  # in their order
        for length, prompt in zip(request.lengths, request.prompt_lengths, strict=True):
            rest = length - prompt
            chunk = min(self.chunk_size or rest, rest)
            if rest:
                horizons |= dict.fromkeys((chunk, rest % chunk or chunk))  # the last chunk may be shorter
        for horizon in horizons:
            posterior.check(self.matrix(horizon))
        self._guidance(request, denoiser.table())

    def decode(self, model: Any, request: Request) -> Generation:
        """Given tokens behind others are taken into account once they are in the window, by a network that reads it
        from right to left, too.

        One token after the other at one level is written by the GPT's loop: a draw from pure noise is one from the
        prediction alone. Its trace, too, has a state for each token, and none of the noise before.
        """
        if self.writes_as_gpt(model, request):
            return write_tokens(model.denoiser.model, request, self.draw, use_cache=self.use_cache)
        ids, given, table = request.ids, request.given, model.denoiser.table()
        sampler, posterior = self._posterior(model)
        recorder, ends = TraceRecorder(request), Ends(request)

        def written(x: Tensor) -> Tensor:
            return torch.where(given, ids, round_to_tokens(x, table, self.rounding))

        def record(x: Tensor, levels: Tensor, forwards: int) -> None:
            recorder.add(written(x), levels / self.sampling_timesteps, forwards)

        text = ids.clone()

        def all_ended(x: Tensor, final: int) -> bool:
            new = slice(final - x.size(1), final)
            text[:, new] = torch.where(given[:, new], ids[:, new], round_to_tokens(x, table, self.rounding))
            return not ends.see(text, [final] * len(text))

        sampled = sample(
            sampler,
            posterior,
            F.embedding(ids.where(given, 0), table),
            given,
            matrix=self.matrix,
            random=RowRandom(request.seeds),
            chunk_size=self.chunk_size,
            guidance_fn=self._guidance(request, table),
            on_row=record if recorder else None,
            is_over=all_ended if ends else None,
        )
        return Generation(
            written(sampled.x),
            sampled.steps,
            posterior.forwards,
            decided=int((~request.known).sum()),
            trace=recorder.trace(),
            token_forwards=posterior.token_forwards,
        )

    def artifacts(self, window: int) -> list[Artifact]:
        """The scheduling matrix of a first chunk in a window of so many tokens."""
        values = self.matrix(min(self.chunk_size or window, window)).numpy()
        labels = {"x_label": "position in the horizon (left: near, right: far)", "y_label": "sampling step (downwards)"}
        options = {"top": self.sampling_timesteps, **labels, "value_label": "noise level, 0 = clean"}
        return [Artifact("scheduling_matrix", values, "map", options)]

    def _posterior(self, model: Any) -> tuple[Sampler, Posterior]:
        """The steps back from noise, and what says where to; for one call."""
        sampler = Sampler(
            model.process, self.sampling_timesteps, self.level_power, self.ddim_eta, self.stabilization_level
        )
        return sampler, make_posterior(model.denoiser, sampler, self)

    def _guidance(self, request: Request, table: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The score that pulls samples towards the keyword, if there is one."""
        if self.keyword is None:
            return None
        if request.encode is None:
            raise ValueError("keyword needs a tokenizer: set `encode` of the request")
        try:
            keyword = [int(token) for token in request.encode(self.keyword)]
            return guidance_from_loss(keyword_loss(table, keyword), self.guidance_scale)
        except ValueError as error:
            raise ValueError(f"keyword: {error}") from error


AnyDecoder = MatrixDecoder | Speculative
