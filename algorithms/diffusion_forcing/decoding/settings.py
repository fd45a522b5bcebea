"""Settings of the decoders of Diffusion Forcing LM: along a scheduling matrix (arXiv:2407.01392, section 4), or
self-speculative (arXiv:2211.17192)."""

from typing import Literal

from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Number, Positive


@dataclass(frozen=True, config=STRICT)
class MatrixDecoderConfig:
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
    level_power: Number = 1.0
    ddim_eta: Number = 1.0
    stabilization_level: Natural = 0
    chunk_size: Count | None = None
    token_draw: Literal["chain", "sample", "last", "mean"] = "sample"
    temperature: Positive = 1.0
    rounding: Literal["nearest", "head"] = "nearest"
    keyword: str | None = None
    guidance_scale: Number = 0.0
    use_cache: bool = True
    sliding: bool = False

    def __post_init__(self) -> None:
        if self.sliding and not self.use_cache:
            raise ValueError("sliding slides a cache: set use_cache=true with it")
        if self.temperature != 1.0 and self.token_draw == "mean":
            raise ValueError("temperature has no effect with token_draw=mean: set it to 1")
        if (self.keyword is None) != (self.guidance_scale == 0):
            raise ValueError("keyword and guidance_scale go together: set both or neither")
        if self.keyword is not None and self.token_draw != "mean":
            raise ValueError("keyword guides by a differentiable prediction: set token_draw=mean")


@dataclass(frozen=True, config=STRICT)
class SpeculativeConfig:
    """`algorithm/decoder=speculative`: every pass verifies `draft_tokens` tokens, and drafts as many for the next."""

    name: Literal["speculative"] = "speculative"
    draft_tokens: Count = 3
    temperature: Positive = 1.0

    def check(self, block_size: int) -> None:
        """Raise ValueError unless a pass fits the context."""
        if self.draft_tokens >= block_size:
            raise ValueError(f"draft_tokens is {self.draft_tokens}: it must be below the context of {block_size}")


AnyDecoder = MatrixDecoderConfig | SpeculativeConfig
