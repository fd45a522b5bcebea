"""Settings of experiment=comparison, checked before any work."""

import re
from dataclasses import dataclass, field
from typing import Any

from experiments.evaluation.config import VisualizeConfig, check_seeds
from experiments.evaluation.settings import expand
from experiments.run.config import ALGORITHMS, LanguageModelingConfig
from experiments.run.errors import near_miss
from experiments.run.folder import CONFIGS

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class MethodConfig:
    """One side of the comparison: `algorithm`, trained here with `overrides` on its command line, or the run `load`.

    `frontier` is the decoder that is swept over temperatures, None the model's own; `decoders` are measured beside it.
    """

    algorithm: str | None = None
    load: str | None = None
    overrides: list[str] = field(default_factory=list)
    frontier: Any = None
    decoders: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class JudgesConfig:
    """GPTs that score texts: runs `load`, or else trained here on the corpus `dataset`, one for each seed; `max_steps`
    None takes those of the methods."""

    load: list[str] = field(default_factory=list)
    dataset: str | None = "shakespeare_other"
    overrides: list[str] = field(default_factory=lambda: ["dataset.tokenizer=byte"])
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_seeds("experiment.judges.seeds", self.seeds)
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"experiment.judges.max_steps is {self.max_steps}: it must be at least 1, or null")


@dataclass(frozen=True)
class ReviewConfig:
    """A blind review of two methods' default settings: `pairs` of texts, in random order from `seed`."""

    methods: list[str]
    pairs: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"experiment.review.pairs is {self.pairs}: it must be at least 1")


@dataclass(frozen=True)
class ComparisonConfig(LanguageModelingConfig):
    """`experiment=comparison`: `training` is each method's, `sampling` the texts of every setting at every seed."""

    name: str = "comparison"
    tasks: list[str] = field(default_factory=lambda: ["training", "likelihood", "sweep", "visualize", "report"])
    title: str = "Ways to train a language model, compared"
    methods: dict[str, MethodConfig] = field(default_factory=lambda: {name: MethodConfig(name) for name in ALGORITHMS})
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    temperatures: list[float] = field(default_factory=lambda: [0.6, 0.8, 1.0])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    likelihood_batches: int | None = None
    workers: int | None = None
    visualize: VisualizeConfig = field(default_factory=VisualizeConfig)
    review: ReviewConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seeds("experiment.seeds", self.seeds)
        if not self.methods:
            raise ValueError("experiment.methods is empty: name at least one, as in {gpt: {algorithm: gpt}}")
        for label, method in self.methods.items():
            self._check_method(label, method)
        if not self.temperatures or min(self.temperatures) <= 0 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(
                f"experiment.temperatures is {self.temperatures}: give different numbers above 0, such as [0.8, 1.0]"
            )
        for key in ("workers", "likelihood_batches"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"experiment.{key} is {value}: it must be at least 1, or null")
        if self.review is not None:
            self._check_review(self.review)

    def _check_method(self, label: str, method: MethodConfig) -> None:
        key = f"experiment.methods.{label}"
        if not LABEL.fullmatch(label):
            raise ValueError(f"experiment.methods holds '{label}': a method's name takes letters, digits, _ . and -")
        if method.algorithm is None and method.load is None:
            raise ValueError(f"{key} has neither algorithm nor load: say {key}.algorithm=gpt, or {key}.load=RUN_FOLDER")
        known = [path.stem for path in (CONFIGS / "algorithm").glob("*.yaml")]
        if method.algorithm is not None and method.algorithm not in known:
            near = near_miss(method.algorithm, known)
            raise ValueError(f"{key}.algorithm is '{method.algorithm}', which is unknown{near}")
        if method.load is not None and method.overrides:
            raise ValueError(f"{key}.overrides are for training, and load= brings weights that are trained: drop one")
        try:
            if method.decoders:
                expand(method.decoders, None)
            if method.frontier is not None and len(expand(method.frontier, None)) != 1:
                raise ValueError("frontier holds several settings: name one decoder, temperatures go beside it")
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error

    def _check_review(self, review: ReviewConfig) -> None:
        if len(review.methods) != 2 or len(set(review.methods)) != 2 or not set(review.methods) <= set(self.methods):
            raise ValueError(f"experiment.review.methods is {review.methods}: name two of {', '.join(self.methods)}")
