"""What a run may be told, beside its algorithm and its dataset: frozen dataclasses whose types state the checks."""

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, NonNegative, Positive, Seed


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """The training task; intervals are in optimiser steps."""

    max_steps: Count = 1000
    batch_size: Count = 32
    accumulate_grad_batches: Count = 1
    gradient_clip_norm: Positive | None = 1.0
    val_every_steps: Count = 250
    checkpoint_every_steps: Count = 250
    ema_decay: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None
    compile: bool = False
    overfit_batches: Count | None = None


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """Validation, test and likelihood; `max_batches` of None evaluates every token."""

    batch_size: Count = 64
    max_batches: Count | None = None
    likelihood_split: Literal["val", "val_whole", "test"] = "test"


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """Sampling of `n_samples` texts of `length` tokens between `prompt` and `suffix`."""

    n_samples: Count = 4
    length: Count = 256
    prompt: str = ""
    suffix: str = ""


@dataclass(frozen=True, config=STRICT)
class LanguageModelingConfig:
    """`experiment=language_modeling`."""

    name: str = "language_modeling"
    tasks: list[str] = field(default_factory=lambda: ["training", "validation", "test", "sampling"])
    block_size: Count | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    parts_of_tasks: ClassVar[dict[str, tuple[str, ...]]] = {  # what only these tasks look at
        "training": ("training",),
        "evaluation": ("training", "validation", "test", "likelihood"),
        "evaluation.likelihood_split": ("likelihood",),
        "sampling": ("sampling",),
    }

    def unused(self) -> dict[str, str]:
        """Parts for which there is no task."""
        return {part: "tasks" for part, tasks in self.parts_of_tasks.items() if not {*tasks} & {*self.tasks}}

    def unused_beyond(self) -> dict[str, str]:
        """Keys outside of the experiment for which there is no task."""
        of_parts = {"training": "algorithm.optimizer", "evaluation.likelihood_split": "algorithm.masks_per_count"}
        return {key: "tasks" for part, key in of_parts.items() if part in self.unused()}


@dataclass(frozen=True, config=STRICT)
class WandbConfig:
    """Weights & Biases; mode `auto` is online with a login and offline without. `tags` None are method, corpus and
    backbone, `job_type` None is the experiment."""

    project: str = "diffusion-forcing-lm"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: list[str] | None = None
    job_type: str | None = None


@dataclass(frozen=True, config=STRICT)
class LoggerConfig:
    """Where curves go; metrics.csv is always written."""

    log_every_steps: Count = 10
    tensorboard: bool = False
    group: str | None = None
    wandb: WandbConfig | None = None


@dataclass(frozen=True, config=STRICT)
class CallbacksConfig:
    """What is shown while training."""

    progress: bool = True
    line_every_seconds: NonNegative = 10.0

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        return {} if self.progress else {"line_every_seconds": "progress"}


@dataclass(frozen=True, config=STRICT)
class RunKeys:
    """The keys of a whole run, as configs/config.yaml has them; `algorithm`, `dataset` and `experiment` are built."""

    algorithm: Any
    dataset: Any
    experiment: Any
    trainer: dict[str, Any]
    logger: LoggerConfig
    callbacks: CallbacksConfig
    seed: Seed
    name: str | None
    load: str | None
    resume: str | None


@dataclass(frozen=True, config=STRICT)
class RunConfig(RunKeys):
    """A run, converted and checked; `plain` is the same as plain containers, for logs and checkpoints."""

    plain: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]

    def chosen(self, group: str) -> str:
        """The file of configs/`group` that was chosen: what the run is called, as several files may share the `name`
        of a class."""
        return self.choices.get(group) or getattr(self, group).name
