"""Settings of experiment=decoding, checked before any work."""

from dataclasses import dataclass, field
from typing import Any

from experiments.config import LanguageModelingConfig
from experiments.decoder_settings import KEY, expand


@dataclass(frozen=True)
class PresetsConfig:
    """The task presets: `length` new tokens after a prompt of `prompt_tokens` of the validation split."""

    length: int = 512
    prompt_tokens: int = 16

    def __post_init__(self) -> None:
        for key in ("length", "prompt_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"experiment.presets.{key} is {getattr(self, key)}: it must be at least 1")


@dataclass(frozen=True)
class DecodingConfig(LanguageModelingConfig):
    """`experiment=decoding`: decoders x grid x seeds, `sampling.n_samples` texts of `sampling.length` tokens each."""

    name: str = "decoding"
    tasks: list[str] = field(default_factory=lambda: ["sweep"])
    decoders: Any = None
    grid: dict[str, Any] | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    judge: str | None = None
    presets: PresetsConfig = field(default_factory=PresetsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(expand(self.decoders, self.grid))
        if "ab" in self.tasks and count != 2:
            raise ValueError(
                f"{KEY} makes {count} setting{'s' if count > 1 else ''}, and the task ab compares two: say "
                f"{KEY}=[A, B], or one decoder with a list of two values"
            )
        if self.sampling.suffix:
            raise ValueError(
                "experiment.sampling.suffix plays no part in a sweep, which continues prompts: leave it empty"
            )
        if not self.seeds:
            raise ValueError("experiment.seeds is empty: give at least one, and three for a spread")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"experiment.seeds is {self.seeds}: give different whole numbers, 0 or above")
