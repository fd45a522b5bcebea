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
    compile: Literal["auto", True, False, "graphs"] = "auto"
    overfit_batches: Count | None = None


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """Validation, test and likelihood; `max_batches` of None evaluates every token."""

    batch_size: Count = 64
    max_batches: Count | None = None
    likelihood_split: Literal["val", "val_whole", "test"] = "test"


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """Sampling of `n_samples` texts of `length` tokens between each `prompt` and `suffix`.

    Prompts are one text or several, or the lines of `prompt_file`. A text ends early where it comes to `stop`: a text,
    or with true the tokenizer's end of a document.
    """

    n_samples: Count = 4
    length: Count = 256
    prompt: str | list[str] = ""
    prompt_file: str | None = None
    suffix: str = ""
    stop: Annotated[bool, Field(strict=True)] | str = True

    def __post_init__(self) -> None:
        if self.prompt == []:
            raise ValueError("prompt is an empty list: give a text, or several as in [A, B]")
        if self.prompt_file is not None and self.prompt != "":
            raise ValueError("prompt_file and prompt exclude each other: give one of them")
        if self.stop == "":
            raise ValueError("stop is an empty text: give the text to stop at, or true or false")
        if self.suffix and isinstance(self.stop, str):
            raise ValueError("stop ends a text early, and suffix stands at its end: give one of them")

    def check_single(self, what: str) -> None:
        """Raise ValueError unless there is one prompt, for `what` continues one."""
        if self.prompt_file is not None or not isinstance(self.prompt, str):
            key = "prompt" if self.prompt_file is None else "prompt_file"
            raise ValueError(
                f"sampling.{key} gives several texts, which the task sampling continues, and {what} continues one: "
                "give sampling.prompt=TEXT"
            )


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
        "evaluation.batch_size": ("training", "validation", "test", "likelihood", "sampling"),
        "evaluation.max_batches": ("training", "validation", "test", "likelihood"),
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
