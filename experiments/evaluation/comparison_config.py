"""Settings of experiment=comparison, checked before any work."""

import re
from dataclasses import field
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Seed
from experiments.evaluation.config import VisualizeConfig, check_seeds
from experiments.evaluation.settings import KEY, expand
from experiments.run.build import called
from experiments.run.errors import near_miss
from experiments.run.folder import CONFIGS
from experiments.run.schema import LanguageModelingConfig, SamplingConfig, TrainingConfig

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, config=STRICT)
class MethodConfig:
    """One side of the comparison: `algorithm`, trained here with `overrides` on its command line, or the runs `load`:
    one or several run folders, checkpoints and patterns of these, each a training of the method.

    `frontier` is the decoder that is swept over temperatures, None the model's own; `decoders` are measured beside it.
    """

    algorithm: str | None = None
    load: str | list[str] | None = None
    overrides: list[str] = field(default_factory=list)
    frontier: Any = None
    decoders: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.algorithm is None and self.load is None:
            raise ValueError("algorithm and load are both missing: say algorithm=gpt, or load=RUN_FOLDER")
        known = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))
        if self.algorithm is not None and self.algorithm not in known:
            raise ValueError(f"algorithm is '{self.algorithm}', which is unknown{near_miss(self.algorithm, known)}")
        if self.load is not None and not self.load:
            raise ValueError("load is empty: name a run folder or checkpoint, or several, or say null")
        if self.load is not None and self.overrides:
            raise ValueError("overrides are for training, and load= brings weights that are trained: drop one")
        if self.decoders:
            with called(KEY, "decoders"):
                expand(self.decoders, None)
        if self.frontier is None:
            return
        with called(KEY, "frontier"):
            settings = expand(self.frontier, None)
        if len(settings) != 1:
            raise ValueError("frontier holds several settings: name one decoder, temperatures go beside it")


def _without_null(methods: Any) -> Any:
    """null takes a method out."""
    return {k: v for k, v in methods.items() if v is not None} if isinstance(methods, dict) else methods


@dataclass(frozen=True, config=STRICT)
class JudgesConfig:
    """GPTs that score texts: runs `load`, or else trained here on the corpus `dataset`, one for each seed; `max_steps`
    None takes those of the methods."""

    load: list[str] = field(default_factory=list)
    dataset: str | None = "shakespeare_other"
    overrides: list[str] = field(default_factory=lambda: ["dataset.tokenizer=byte"])
    seeds: list[Seed] = field(default_factory=lambda: [0, 1])
    max_steps: Count | None = None

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        of_training = ("overrides", "seeds", "max_steps")
        if self.load:
            return dict.fromkeys(("dataset", *of_training), "load")
        return dict.fromkeys(of_training, "dataset") if self.dataset is None else {}


@dataclass(frozen=True, config=STRICT)
class ReviewConfig:
    """A blind review of two methods' default settings: `pairs` of texts, in random order from `seed`."""

    methods: list[str]
    pairs: Count = 24
    seed: Seed = 0


@dataclass(frozen=True, config=STRICT)
class ComparisonConfig(LanguageModelingConfig):
    """`experiment=comparison`: `training` is each method's, once for each of `training_seeds` (None: the run's `seed`);
    `sampling` the texts of every setting at each of the sampling `seeds`."""

    name: str = "comparison"
    tasks: list[str] = field(default_factory=lambda: ["training", "likelihood", "sweep", "visualize", "report"])
    title: str = "Ways to train a language model, compared"
    methods: Annotated[dict[str, MethodConfig], BeforeValidator(_without_null)] = field(kw_only=True)
    training_seeds: list[Seed] | None = None
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    temperatures: list[float] = field(default_factory=lambda: [0.6, 0.8, 1.0])
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    likelihood_batches: Count | None = 5
    workers: Count | None = None
    visualize: VisualizeConfig = field(default_factory=VisualizeConfig)
    review: ReviewConfig | None = None
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=3000, val_every_steps=500, checkpoint_every_steps=500)
    )
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n_samples=16, length=128))

    parts_of_tasks: ClassVar[dict[str, tuple[str, ...]]] = {
        "training": ("training",),
        "evaluation.likelihood_split": ("likelihood",),
        "likelihood_batches": ("likelihood",),
        **dict.fromkeys(("sampling.length", "sampling.n_samples"), ("sweep",)),
        "sampling.prompt": ("sweep", "visualize"),
        "sampling.stop": (),
        "review": ("report",),
        "title": ("report",),
    }

    def __post_init__(self) -> None:
        self.sampling.check_single("a comparison")
        if self.sampling.suffix:
            raise ValueError("sampling.suffix is not seen by every method: leave it empty")
        check_seeds(self.seeds)
        if self.training_seeds is not None:
            check_seeds(self.training_seeds, "training_seeds")
        if not self.methods:
            raise ValueError("methods is empty: name at least one, as in {gpt: {algorithm: gpt}}")
        for label in self.methods:
            if not LABEL.fullmatch(label):
                raise ValueError(f"methods holds '{label}': a method's name takes letters, digits, _ . and -")
        if not self.temperatures or min(self.temperatures) <= 0 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures is {self.temperatures}: give different numbers above 0, such as [0.8, 1.0]")
        if self.review is not None:
            chosen = self.review.methods
            if len(chosen) != 2 or len(set(chosen)) != 2 or not set(chosen) <= set(self.methods):
                raise ValueError(f"review.methods is {chosen}: name two of {', '.join(self.methods)}")
