"""Settings of experiment=decoding, checked before any work."""

from dataclasses import dataclass, field
from typing import Any

from experiments.evaluation.settings import KEY, expand
from experiments.run.config import LanguageModelingConfig


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
class VisualizeConfig:
    """The task visualize: one text of `blocks` windows of the network, played at `fps` frames a second."""

    blocks: int = 2
    fps: float = 12

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"experiment.visualize.blocks is {self.blocks}: it must be at least 1")
        if not 0.1 <= self.fps <= 50:  # what a GIF can play
            raise ValueError(f"experiment.visualize.fps is {self.fps:g}: it must lie in 0.1 to 50")


@dataclass(frozen=True)
class DecodingConfig(LanguageModelingConfig):
    """`experiment=decoding`: decoders x grid x seeds, `sampling.n_samples` texts of `sampling.length` tokens each."""

    name: str = "decoding"
    tasks: list[str] = field(default_factory=lambda: ["sweep"])
    decoders: Any = None
    grid: dict[str, Any] | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    judge: Any = None
    baseline: str | None = None
    presets: PresetsConfig = field(default_factory=PresetsConfig)
    visualize: VisualizeConfig = field(default_factory=VisualizeConfig)

    @property
    def judges(self) -> list[str]:
        """Paths of the judges: one, several or none were given."""
        return [] if self.judge is None else self.judge if isinstance(self.judge, list) else [self.judge]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(path, str) for path in self.judges):
            raise ValueError(f"experiment.judge is {self.judge!r}: give a run folder, a list of them, or null")
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
        check_seeds("experiment.seeds", self.seeds)


def check_seeds(key: str, seeds: list[int]) -> None:
    """Raise ValueError unless there are seeds, all different and not negative."""
    if not seeds:
        raise ValueError(f"{key} is empty: give at least one, and three for a spread")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"{key} is {seeds}: give different whole numbers, 0 or above")
