"""Settings that make no difference beside others: each config class knows its own, and the command line is told of them
before any work.

A class may have `unused(self)`: its fields, dotted where they lie deeper, that play no part -> the field because of
which; and an experiment's also `unused_beyond(self)`: the same of whole keys outside of it.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from experiments.run.overrides import key_of
from experiments.run.schema import RunConfig

OWN_METHOD = ("dataset", "experiment", "callbacks", "algorithm")  # parts of a run with a method of its own
NO_METHOD = OWN_METHOD[:-1]


def notes(run: RunConfig, parts: Iterable[str] = OWN_METHOD) -> list[str]:
    """A sentence for each key that the command line sets without making a difference. What `load=` brings along, which
    stands behind ++, was not said by anybody now."""
    said = [key_of(override) for override in run.overrides if not override.startswith("++")]
    idle: dict[str, str] = {}
    for part in parts:
        idle |= unused_settings(getattr(run, part), part)
    beyond: dict[str, str] = getattr(run.experiment, "unused_beyond", dict)()
    idle |= {key: _setting(run.experiment, "experiment", cause) for key, cause in beyond.items()}
    if run.name is not None and run.logger.wandb is None:
        idle["name"] = "logger.wandb=null"
    return [sentence(key, idle[found]) for key in dict.fromkeys(said) if (found := _covering(key, idle)) is not None]


def unused_settings(config: Any, where: str) -> dict[str, str]:
    """Keys at and below the config that stands at the key `where` -> the setting because of which they play no part."""
    if not dataclasses.is_dataclass(config):
        return {}
    own: dict[str, str] = getattr(config, "unused", dict)()
    found = {f"{where}.{key}": _setting(config, where, cause) for key, cause in own.items()}
    for field in dataclasses.fields(config):
        found |= unused_settings(getattr(config, field.name), f"{where}.{field.name}")
    return found


def sentence(key: str, cause: str) -> str:
    return f"note: {key} makes no difference with {cause}"


def _setting(config: Any, where: str, key: str) -> str:
    value = functools.reduce(getattr, key.split("."), config)
    shown = f"[{','.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else value
    return f"{where}.{key}={str(shown).lower() if isinstance(value, bool) else shown}"


def _covering(key: str, idle: Iterable[str]) -> str | None:
    """Which of these keys `key` is, or lies below."""
    return next((name for name in idle if key == name or key.startswith(f"{name}.")), None)
