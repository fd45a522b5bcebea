"""Configuration of runs: strict conversion of composed YAML into frozen dataclasses, and registries of what can run.

Below this module nobody sees Hydra or a DictConfig.
"""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from experiments.run.composition import composed_group
from experiments.run.errors import near_miss, sentence
from experiments.run.folder import CONFIGS

# Every class that a config or a checkpoint can name. A checkpoint is rebuilt through this table only, so that loading
# one never imports anything else.
ALGORITHMS = {
    "gpt": "algorithms.teacher_forcing.gpt:GPT",
    "df_lm": "algorithms.diffusion_forcing.df_lm:DFLM",
    "masked_diffusion": "algorithms.masked_diffusion.masked_diffusion:MaskedDiffusion",
    "diffusion_flow": "algorithms.diffusion_flow.diffusion_flow:DiffusionFlow",
}
EXPERIMENTS = {
    "language_modeling": "experiments.language_modeling:LanguageModeling",
    "benchmark": "experiments.benchmark:Benchmark",
    "decoding": "experiments.decoding:Decoding",
    "comparison": "experiments.comparison:Comparison",
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
        values: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    except OmegaConfBaseException as error:
        raise ValueError(f"config key '{where}': {str(error).splitlines()[0]}") from error
    return _construct(cls, values, where)


def _construct(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"config key '{where}' has a wrong value: it holds keys of its own, not {values!r}")
    inner = _nested_classes(cls, values, where)
    for key in values:
        if key not in inner:
            known = [f"{where}.{name}" for name in _field_names(cls, values)]
            raise ValueError(f"unknown config key '{where}.{key}'{near_miss(f'{where}.{key}', known)}")
    for f in dataclasses.fields(cls):
        if f.name not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"config key '{where}.{f.name}' has no value: set it")
    made = {
        key: None if value is None else _construct(inner[key], value, f"{where}.{key}")
        for key, value in values.items()
        if inner[key]
    }
    for key, entry in _tables(cls).items():
        if isinstance(values.get(key), dict):
            given = {name: value for name, value in values[key].items() if value is not None}  # null takes one out
            made[key] = {name: _construct(entry, value, f"{where}.{key}.{name}") for name, value in given.items()}
    leaves = {key: value for key, value in values.items() if not inner[key] and key not in made}
    return cls(**_convert(cls, leaves, where), **made)


def _tables(cls: Any) -> dict[str, Any]:
    """Fields of `cls` that hold dataclasses by name, dict[str, D], with their D."""
    return {
        f.name: typing.get_args(f.type)[1]
        for f in dataclasses.fields(cls)
        if typing.get_origin(f.type) is dict and dataclasses.is_dataclass(typing.get_args(f.type)[1])
    }


def _convert(cls: Any, leaves: dict[str, Any], where: str) -> dict[str, Any]:
    """Values of those fields of `cls` that are no dataclasses, converted to the types that these are annotated with."""
    typed = [(f.name, f.type, field(default=MISSING)) for f in dataclasses.fields(cls) if f.name in leaves]
    schema = OmegaConf.structured(dataclasses.make_dataclass(cls.__name__, typed))
    try:
        return typing.cast(dict, OmegaConf.to_container(OmegaConf.merge(schema, leaves), throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise ValueError(f"config key '{where}.{error.full_key}' has no value: set it") from error
    except ValidationError as error:
        reason = (error.msg or str(error)).splitlines()[0]
        raise ValueError(f"config key '{where}.{error.full_key}' has a wrong value: {reason}") from error


def _nested_classes(cls: Any, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The dataclass that each field of `cls` takes, or None.

    Of a union of dataclasses it is the one whose own `name` the values give; ValueError where none has it.
    """
    found = {}
    for f in dataclasses.fields(cls):
        options = {}
        if typing.get_origin(f.type) not in (list, dict):
            members = [t for t in (f.type, *typing.get_args(f.type)) if dataclasses.is_dataclass(t)]
            options = {getattr(t, "name", None): t for t in members}
        given = values.get(f.name)
        if len(options) > 1 and isinstance(given, dict):
            name = given.get("name")
            if name not in options:
                raise ValueError(
                    f"{where}.{f.name}.name is '{name}', which does not fit {where}.name={values.get('name')}: "
                    f"choose one of {', '.join(options)}"
                )
            options = {name: options[name]}
        found[f.name] = next(iter(options.values()), None)
    return found


def _field_names(cls: Any, values: dict[str, Any]) -> list[str]:
    """Dotted names of all fields of a dataclass, nested ones included."""
    names = []
    for name, inner in _nested_classes(cls, values, "").items():
        given = values.get(name)
        names.append(name)
        names += [f"{name}.{n}" for n in _field_names(inner, given if isinstance(given, dict) else {})] if inner else []
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
    """Validation, test and likelihood; `max_batches` of None evaluates every token."""

    batch_size: int = 64
    max_batches: int | None = None
    likelihood_split: str = "test"

    def __post_init__(self) -> None:
        _at_least(self, "experiment.evaluation", 1, "batch_size", "max_batches")
        splits = ("val", "val_whole", "test")
        if self.likelihood_split not in splits:
            raise ValueError(
                f"experiment.evaluation.likelihood_split is '{self.likelihood_split}': choose one of "
                f"{', '.join(splits)}"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of `n_samples` texts of `length` tokens between `prompt` and `suffix`."""

    n_samples: int = 4
    length: int = 256
    prompt: str = ""
    suffix: str = ""

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


def compose_choice(group: str, name: str, where: str) -> dict[str, Any]:
    """What the file `name` of a group of configs/ holds, with what it inherits; ValueError, naming the key `where`."""
    try:
        node: Any = composed_group(f"{group}/{name}")
    except MissingConfigException as error:
        known = [path.stem for path in (CONFIGS / group).glob("*.yaml")]
        raise ValueError(f"{where}: there is no {group.split('/')[-1]} '{name}'{near_miss(name, known)}") from error
    except HydraException as error:
        raise ValueError(f"{where}: {name!r}: {sentence(error, [])}") from error
    for part in group.split("/"):
        node = node[part]
    return node


def compose_run(overrides: list[str]) -> RunConfig:
    """The run that a command line of these overrides stands for, from inside of another run."""
    cfg = compose("config", overrides=overrides, return_hydra_config=True)
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    choices = plain.pop("hydra")["runtime"]["choices"]
    return build_run(OmegaConf.create(plain), choices=choices, overrides=overrides)


def build_run(cfg: DictConfig, *, choices: Mapping[str, Any], overrides: list[str]) -> RunConfig:
    """Convert the composed config; every mistake in it is a ValueError of one sentence, before any work.

    `choices` are those of Hydra's groups, `overrides` what was said on the command line.
    """
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
        choices={group: str(choice) for group, choice in choices.items() if choice is not None},
        overrides=overrides,
    )
