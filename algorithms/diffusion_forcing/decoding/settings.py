"""Settings of the decoders of Diffusion Forcing LM: along a scheduling matrix (arXiv:2407.01392, section 4), or
self-speculative (arXiv:2211.17192)."""

from dataclasses import dataclass

from algorithms.diffusion_forcing.models.embeddings import ROUNDINGS

SCHEDULES = ("pyramid", "autoregressive", "full_sequence", "trapezoid", "trapezoid_original")
TOKEN_DRAWS = ("chain", "sample", "last", "mean")


@dataclass(frozen=True)
class MatrixDecoderConfig:
    """How noise is taken away, from `sampling_timesteps` levels to none.

    `token_draw=mean` steps towards the mean of each token's posterior, as the original; `sample` towards one token
    drawn from it, which makes every step of one token an exact draw of the reverse process; `chain` draws those of a
    row one after the other, each given the one before it, for a network that can take that; `last` towards the mean,
    and draws a token in its last step. `use_cache` reads a final token once; without it the whole window is computed at
    every row, with the same result. `sliding` never reads a token twice, even where the text outgrows the context.
    """

    name: str = "matrix"
    schedule: str = "autoregressive"
    uncertainty_scale: float = 1.0
    sampling_timesteps: int = 8
    level_power: float = 1.0
    ddim_eta: float = 1.0
    stabilization_level: int = 0
    chunk_size: int | None = 16
    token_draw: str = "sample"
    temperature: float = 1.0
    rounding: str = "nearest"
    keyword: str | None = None
    guidance_scale: float = 0.0
    use_cache: bool = True
    sliding: bool = False

    def __post_init__(self) -> None:
        if self.name != "matrix":
            raise ValueError(
                f"algorithm/decoder={self.name} does not fit algorithm=df_lm: use pyramid, full_sequence, "
                "trapezoid or autoregressive_matrix"
            )
        for key, choices in (("schedule", SCHEDULES), ("token_draw", TOKEN_DRAWS), ("rounding", ROUNDINGS)):
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"algorithm.decoder.{key} is '{getattr(self, key)}': choose one of {', '.join(choices)}"
                )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"algorithm.decoder.chunk_size is {self.chunk_size}: it must be at least 1, or null")
        if self.sliding and not self.use_cache:
            raise ValueError("algorithm.decoder.sliding slides a cache: set use_cache=true with it")
        if self.uncertainty_scale < 0:
            raise ValueError(f"algorithm.decoder.uncertainty_scale is {self.uncertainty_scale}: it cannot be negative")
        if self.temperature <= 0:
            raise ValueError(f"algorithm.decoder.temperature is {self.temperature}: it must be above 0")
        if self.temperature != 1.0 and self.token_draw == "mean":
            raise ValueError("algorithm.decoder.temperature has no effect with token_draw=mean: set it to 1")
        if (self.keyword is None) != (self.guidance_scale == 0):
            raise ValueError("algorithm.decoder.keyword and guidance_scale go together: set both or neither")
        if self.keyword is not None and self.token_draw != "mean":
            raise ValueError("guidance needs a differentiable prediction: set algorithm.decoder.token_draw=mean")


@dataclass(frozen=True)
class SpeculativeConfig:
    """`algorithm/decoder=speculative`: every pass verifies `draft_tokens` tokens, and drafts as many for the next."""

    name: str = "speculative"
    draft_tokens: int = 3
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.draft_tokens < 1:
            raise ValueError(f"algorithm.decoder.draft_tokens is {self.draft_tokens}: it must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"algorithm.decoder.temperature is {self.temperature}: it must be above 0")

    def check(self, block_size: int) -> None:
        """Raise ValueError unless a pass fits the context."""
        if self.draft_tokens >= block_size:
            raise ValueError(f"draft_tokens is {self.draft_tokens}: it must be below the context of {block_size}")


AnyDecoder = MatrixDecoderConfig | SpeculativeConfig
