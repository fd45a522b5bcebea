"""Configuration of runs: strict conversion of composed YAML into frozen dataclasses, and registries of what can run.

Below this module nobody sees Hydra or a DictConfig.
"""

import dataclasses
import functools
import importlib
import typing
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from experiments.errors import near_miss

# Every class that a config or a checkpoint can name. A checkpoint is rebuilt through this table only, so that loading
# one never imports anything else.
ALGORITHMS = {
    "gpt": "algorithms.teacher_forcing.gpt:GPT",
    "df_lm": "algorithms.diffusion_forcing.df_lm:DFLM",
}
EXPERIMENTS = {
    "language_modeling": "experiments.language_modeling:LanguageModeling",
    "benchmark": "experiments.benchmark:Benchmark",
}


def look_up(registry: dict[str, str], name: str, where: str) -> Any:
    """The class registered under `name`; ValueError with the near miss otherwise."""
    if name not in registry:
        raise ValueError(f"{where} is '{name}', which is unknown{near_miss(str(name), registry)}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(cls: Any, config: DictConfig | dict[str, Any], where: str) -> Any:
    """The dataclass `cls` from a config node that stands at the key `where`.

    Raises ValueError in one sentence on an unknown key, a wrong type, a missing value, or whatever the checks of the
    dataclass object to.
    """
    try:
        merged = OmegaConf.to_container(
            OmegaConf.merge(OmegaConf.structured(_mutable(cls)), config), throw_on_missing=True
        )
        return _construct(cls, merged)
    except ConfigKeyError as error:
        key = f"{where}.{error.full_key}"
        known = [f"{where}.{k}" for k in _field_names(cls)]
        raise ValueError(f"unknown config key '{key}'{near_miss(key, known)}") from error
    except MissingMandatoryValue as error:
        raise ValueError(f"config key '{where}.{error.full_key}' has no value: set it") from error
    except ValidationError as error:
        reason = (error.msg or str(error)).splitlines()[0]
        key = f"{where}.{error.full_key}" if error.full_key else where
        raise ValueError(f"config key '{key}' has a wrong value: {reason}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"config key '{where}': {str(error).splitlines()[0]}") from error


def _nested(annotation: Any) -> Any:
    """The dataclass that a field is annotated with, be it optional; None for other fields."""
    options = [t for t in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(t)]
    return options[0] if options and typing.get_origin(annotation) not in (list, dict) else None


@functools.cache
def _mutable(cls: Any) -> Any:
    """`cls` without `frozen` and without checks: OmegaConf cannot merge into frozen dataclasses."""
    fields = []
    for f in dataclasses.fields(cls):
        inner = _nested(f.type)
        if inner is None:
            default = field(default=f.default, default_factory=f.default_factory)
            fields.append((f.name, f.type, default))
        elif f.type is inner:
            default = field()
            if f.default_factory is not dataclasses.MISSING:
                default = field(default_factory=functools.partial(_as_mutable, f.default_factory))
            fields.append((f.name, _mutable(inner), default))
        else:
            fields.append((f.name, _mutable(inner) | None, field(default=None)))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True)


def _as_mutable(default_factory: Any) -> Any:
    """What `default_factory` makes, as an instance of the mutable twin of its class."""
    value = default_factory()
    own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    twins = {k: _as_mutable(lambda v=v: v) if dataclasses.is_dataclass(v) else v for k, v in own.items()}
    return _mutable(type(value))(**twins)


def _construct(cls: Any, values: Any) -> Any:
    inner = {f.name: _nested(f.type) for f in dataclasses.fields(cls)}
    return cls(**{k: _construct(inner[k], v) if inner[k] and v is not None else v for k, v in values.items()})


def _field_names(cls: type) -> list[str]:
    """Dotted names of all fields of a dataclass, nested ones included."""
    names = []
    for f in dataclasses.fields(cls):
        names.append(f.name)
        inner = _nested(f.type)
        names += [f"{f.name}.{name}" for name in _field_names(inner)] if inner else []
    return names


def _at_least(owner: Any, where: str, minimum: float, *keys: str) -> None:
    for key in keys:
        value = getattr(owner, key)
        if value is not None and value < minimum:
            raise ValueError(f"{where}.{key} is {value}: it must be at least {minimum}")


@dataclass(frozen=True)
class TrainingConfig:
    """The training task; intervals are in optimiser steps."""

    max_steps: int = 1000
    batch_size: int = 32
    accumulate_grad_batches: int = 1
    gradient_clip_norm: float | None = 1.0
    val_every_steps: int = 250
    checkpoint_every_steps: int = 250
    ema_decay: float | None = None
    compile: bool = False
    overfit_batches: int | None = None

    def __post_init__(self) -> None:
        where = "experiment.training"
        _at_least(self, where, 1, "max_steps", "batch_size", "accumulate_grad_batches", "val_every_steps")
        _at_least(self, where, 1, "checkpoint_every_steps", "overfit_batches")
        if self.gradient_clip_norm is not None and not self.gradient_clip_norm > 0:
            raise ValueError(f"{where}.gradient_clip_norm is {self.gradient_clip_norm}: give a positive norm or null")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"{where}.ema_decay is {self.ema_decay}: it must lie in (0, 1), or be null")


@dataclass(frozen=True)
class EvaluationConfig:
    """Validation and test; `max_batches` of None evaluates every token."""

    batch_size: int = 64
    max_batches: int | None = None

    def __post_init__(self) -> None:
        _at_least(self, "experiment.evaluation", 1, "batch_size", "max_batches")


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of `n_samples` texts of `length` tokens after `prompt`."""

    n_samples: int = 4
    length: int = 256
    prompt: str = ""

    def __post_init__(self) -> None:
        _at_least(self, "experiment.sampling", 1, "n_samples", "length")


@dataclass(frozen=True)
class LanguageModelingConfig:
    """`experiment=language_modeling`."""

    name: str = "language_modeling"
    tasks: list[str] = field(default_factory=lambda: ["training", "validation", "test", "sampling"])
    block_size: int | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        _at_least(self, "experiment", 1, "block_size")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; mode `auto` is online with a login and offline without."""

    project: str = "diffusion-forcing-lm"
    entity: str | None = None
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline"):
            raise ValueError(f"logger.wandb.mode is '{self.mode}': choose one of auto, online, offline")


@dataclass(frozen=True)
class LoggerConfig:
    """Where curves go; metrics.csv is always written."""

    log_every_steps: int = 10
    tensorboard: bool = False
    group: str | None = None
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        _at_least(self, "logger", 1, "log_every_steps")


@dataclass(frozen=True)
class CallbacksConfig:
    """What is shown while training."""

    progress: bool = True
    line_every_seconds: float = 10.0


@dataclass(frozen=True)
class RunConfig:
    """A whole run, converted and checked; `plain` is the same as plain containers, for logs and checkpoints."""

    algorithm: Any
    dataset: Any
    experiment: Any
    trainer: dict[str, Any]
    logger: LoggerConfig
    callbacks: CallbacksConfig
    seed: int
    name: str | None
    load: str | None
    resume: str | None
    plain: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]


def build_run(cfg: DictConfig, *, choices: dict[str, str], overrides: list[str]) -> RunConfig:
    """Convert the composed config; every mistake in it is a ValueError of one sentence, before any work."""
    from datasets.config import DatasetConfig

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(plain.get("seed"), int) or plain["seed"] < 0:
        raise ValueError(f"seed is {plain.get('seed')!r}: it must be a whole number, 0 or above")
    known = {f.name for f in dataclasses.fields(RunConfig)} - {"plain", "choices", "overrides"}
    for key in plain:
        if key not in known:
            raise ValueError(f"unknown config key '{key}'{near_miss(str(key), known)}")
    algorithm = look_up(ALGORITHMS, cfg.algorithm.get("name"), "algorithm.name")
    experiment = look_up(EXPERIMENTS, cfg.experiment.get("name"), "experiment.name")
    return RunConfig(
        algorithm=build(algorithm.config_class, cfg.algorithm, "algorithm"),
        dataset=build(DatasetConfig, cfg.dataset, "dataset"),
        experiment=build(experiment.config_class, cfg.experiment, "experiment"),
        trainer=plain["trainer"],
        logger=build(LoggerConfig, cfg.logger, "logger"),
        callbacks=build(CallbacksConfig, cfg.callbacks, "callbacks"),
        seed=plain["seed"],
        name=plain["name"],
        load=plain["load"],
        resume=plain["resume"],
        plain=plain,
        choices=choices,
        overrides=overrides,
    )
