"""Settings of experiment=decoding, checked before any work."""

from dataclasses import field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Seed
from experiments.evaluation.settings import KEY, expand
from experiments.run.schema import LanguageModelingConfig


@dataclass(frozen=True, config=STRICT)
class PresetsConfig:
    """The task presets: `length` new tokens after a prompt of `prompt_tokens` of the validation split."""

    length: Count = 512
    prompt_tokens: Count = 16


@dataclass(frozen=True, config=STRICT)
class VisualizeConfig:
    """The task visualize: one text of `blocks` windows of the network, played at `fps` frames a second."""

    blocks: Count = 2
    fps: Annotated[float, Field(ge=0.1, le=50, strict=True)] = 12  # what a GIF can play


@dataclass(frozen=True, config=STRICT)
class DecodingConfig(LanguageModelingConfig):
    """`experiment=decoding`: decoders x grid x seeds, `sampling.n_samples` texts of `sampling.length` tokens each."""

    name: str = "decoding"
    tasks: list[str] = field(default_factory=lambda: ["sweep"])
    decoders: Any = None
    grid: dict[str, Any] | None = None
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    judge: Any = None
    baseline: str | None = None
    presets: PresetsConfig = field(default_factory=PresetsConfig)
    visualize: VisualizeConfig = field(default_factory=VisualizeConfig)

    parts_of_tasks: ClassVar[dict[str, tuple[str, ...]]] = LanguageModelingConfig.parts_of_tasks | {
        "sampling": ("sampling", "sweep", "ab", "presets", "visualize"),
        "sampling.length": ("sampling", "sweep", "ab"),
        "sampling.stop": ("sampling",),
        "sampling.n_samples": ("sampling", "sweep", "ab", "presets"),
        **dict.fromkeys(("decoders", "grid"), ("sweep", "ab", "visualize")),
        "judge": ("sweep", "ab", "presets"),
        "baseline": ("sweep",),
        "presets": ("presets",),
        "visualize": ("visualize",),
    }

    def unused_beyond(self) -> dict[str, str]:
        """With decoders of the experiment's own, that of the algorithm is of the task sampling alone."""
        own = self.decoders is not None and "sampling" not in self.tasks
        return super().unused_beyond() | ({"algorithm.decoder": "decoders"} if own else {})

    @property
    def judges(self) -> list[str]:
        """Paths of the judges: one, several or none were given."""
        return [] if self.judge is None else self.judge if isinstance(self.judge, list) else [self.judge]

    def __post_init__(self) -> None:
        if not all(isinstance(path, str) for path in self.judges):
            raise ValueError(f"judge is {self.judge!r}: give a run folder, a list of them, or null")
        count = len(expand(self.decoders, self.grid))
        if "ab" in self.tasks and count != 2:
            raise ValueError(
                f"{KEY} makes {count} setting{'s' if count > 1 else ''}, and the task ab compares two: say "
                f"{KEY}=[A, B], or one decoder with a list of two values"
            )
        for task in ("sweep", "ab", "presets", "visualize"):
            if task in self.tasks:
                self.sampling.check_single(f"the task {task}")
        if self.sampling.suffix:
            raise ValueError("sampling.suffix plays no part in a sweep, which continues prompts: leave it empty")
        check_seeds(self.seeds)


def check_seeds(seeds: list[int], name: str = "seeds") -> None:
    """Raise ValueError unless there are seeds, all different."""
    if not seeds:
        raise ValueError(f"{name} is empty: give at least one, and three for a spread")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name} is {seeds}: give different ones")
