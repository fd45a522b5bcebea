"""From composed YAML to the frozen dataclasses of a run: strict, and every mistake one sentence with the full key.

Below this module nobody sees Hydra or a DictConfig.
"""

import dataclasses
import functools
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from experiments.run.composition import composed_group
from experiments.run.errors import near_miss, sentence
from experiments.run.folder import CONFIGS
from experiments.run.registry import ALGORITHMS, EXPERIMENTS, look_up
from experiments.run.schema import RunConfig, RunKeys

MISFIT = "which does not fit"  # said of the name of a part that is none of those which can stand there
# Pydantic's words for what is wrong with a value, and ours.
WORDS = {
    "Input should be a dictionary or an instance of .*": "it must hold keys of its own",
    "Input should": "it must",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}
TYPE = re.compile(r"str|bool|constrained-int|literal\[.*\]|list\[.*\]")  # of a union's members, as pydantic names them


def build(cls: Any, config: DictConfig | dict[str, Any], where: str) -> Any:
    """The dataclass `cls` from a config node that stands at the key `where` ("" for the root).

    Raises ValueError in one sentence on an unknown key, a wrong type or value, or whatever the checks of the dataclass
    object to.
    """
    values = _plain(config, where) if isinstance(config, DictConfig) else config
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: (_rank(found), -len(found["loc"])))
        raise ValueError(_sentence(first, values, where, known_keys(cls, values, where))) from error


@contextmanager
def keys_below(where: str, config: Any) -> Iterator[None]:
    """What is raised inside about a field of `config`, which stands at the key `where`, names its full key."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own
            raise
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        known = known_keys(type(config), dataclasses.asdict(config), where)
        raise kind(located(str(error), where, known)) from error


@contextmanager
def called(theirs: str, ours: str) -> Iterator[None]:
    """What is raised inside about the key `theirs` is about the key `ours`: for code that serves several keys."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(str(error).replace(theirs, ours)) from error


def located(message: str, where: str, known: Iterable[str]) -> str:
    """`message`, which may begin with a field's name, with the full key in its place, or else behind `where`."""
    word = re.match(r"[\w.-]*", message)[0]  # type: ignore[index]
    if f"{word}.".startswith(f"{where}."):
        return message
    known = list(known)
    own = [key for key in known if key == f"{where}.{word}"] or [key for key in known if key.endswith(f".{word}")]
    return own[0] + message.removeprefix(word) if len(own) == 1 else f"{where}: {message}"


def known_keys(kind: Any, given: Any, where: str) -> list[str]:
    """The dotted keys that a config of the type `kind` has at and below the key `where`.

    Of a union of classes those count whose `name` the values `given` have, or all where they have none.
    """
    values = given if isinstance(given, dict) else {}
    if typing.get_origin(kind) is dict:
        entry = typing.get_args(kind)[1]
        entries = {_joined(where, key): value for key, value in values.items()}
        return [found for key, value in entries.items() for found in [key, *known_keys(entry, value, key)]]
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        name = values.get("name")
        members = [m for m in typing.get_args(kind) if name is None or getattr(m, "name", name) == name]
        return [key for member in members for key in known_keys(member, given, where)]
    keys = []
    for field in dataclasses.fields(kind):
        key = _joined(where, field.name)
        keys += [key, *known_keys(field.type, values.get(field.name), key)]
    return keys


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _plain(config: DictConfig, where: str) -> Any:
    """The node at the key `where` as plain containers."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"config key '{_joined(where, key)}' has no value: set it")
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"config key '{error.full_key or where}': {str(error).splitlines()[0]}") from error


def _rank(error: Any) -> int:
    """What is said first: a part of another kind, whose keys are then unknown, and an unknown key, which then lacks."""
    return 0 if _is_misfit(error) else 1 if error["type"] == "unexpected_keyword_argument" else 2


def _is_misfit(error: Any) -> bool:
    """Whether the `name` of a part is none that can stand there."""
    return error["type"] == "union_tag_invalid" or (error["type"] == "literal_error" and error["loc"][1:] == ("name",))


def _sentence(error: Any, values: Any, where: str, known: list[str]) -> str:
    """What pydantic says of the config `values`, in our words."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    key = _key(error["loc"], values, where)
    if kind == "value_error":  # of a class's own checks
        return located(str(context["error"]), key, known)
    if kind == "unexpected_keyword_argument":
        parent = key.rpartition(".")[0]
        inside = [name for name in known if name.startswith(parent)]
        beside = [name for name in inside if name.rpartition(".")[0] == parent]
        return f"unknown config key '{key}'{near_miss(key, inside, beside)}"
    if kind in ("missing", "union_tag_not_found"):
        return f"config key '{key}{'.name' if kind != 'missing' else ''}' has no value: set it"
    expected = context.get("expected_tags", context.get("expected", ""))
    choices = [text or truth.lower() for text, truth in re.findall(r"'([^']*)'|\b(True|False)\b", expected)]
    if _is_misfit(error):
        key, name = key.removesuffix(".name"), context.get("tag", given)
        owner = f"{key.rpartition('.')[0]}.name={values.get('name')}"
        return f"{key}.name is '{name}', {MISFIT} {owner}{_files(key, choices) or near_miss(str(name), choices)}"
    if kind == "literal_error":
        return f"{key} is '{given}'{near_miss(str(given), choices)}"
    reason = error["msg"].partition(",")[0]
    for theirs, ours in WORDS.items():
        reason = re.sub(theirs, ours, reason)
    if kind.startswith(("greater", "less", "finite")):
        return f"{key} is {given}: {reason}"
    return f"config key '{key}' has a wrong value: {reason}, not {'null' if given is None else repr(given)}"


def _files(key: str, names: Iterable[str]) -> str:
    """The choices of the group at `key` whose `name` is one of `names`; nothing where the key is no group."""
    group, names = key.replace(".", "/"), set(names)
    fitting = [file for file, name in _names_in(group).items() if name in names]
    return f": choose {group}={'|'.join(fitting)}" if fitting else ""


@functools.cache
def _names_in(group: str) -> dict[str, str | None]:
    """What every file of a group of configs/ gives as its `name`."""
    files = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    return {file: compose_choice(group, file, group).get("name") for file in files}


def _key(path: Iterable[str | int], values: Any, where: str) -> str:
    """The dotted key of pydantic's path into `values`, which also tells the member of a union, by its name or type."""
    parts, is_told = [where] if where else [], False
    for part in path:
        is_told = not is_told and isinstance(values, dict) and values.get("name") == part
        is_type = isinstance(part, str) and TYPE.fullmatch(part)
        if not is_told and not is_type:
            parts.append(str(part))
            values = values.get(part) if isinstance(values, dict) else values[part] if isinstance(part, int) else None
    return ".".join(parts)


def compose_choice(group: str, name: str, where: str) -> dict[str, Any]:
    """What the file `name` of a group of configs/ holds, with what it inherits; ValueError, naming the key `where`."""
    try:
        node: Any = composed_group(f"{group}/{name}")
    except MissingConfigException as error:
        known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
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

    plain = _plain(cfg, "")
    built = {}
    for group in ("algorithm", "dataset", "experiment"):
        node = plain.get(group)
        if not isinstance(node, dict):
            raise ValueError(f"config key '{group}' has no value: set it")
        cls = DatasetConfig
        if group != "dataset":
            registry = ALGORITHMS if group == "algorithm" else EXPERIMENTS
            if node.get("name") is None:
                raise ValueError(f"config key '{group}.name' has no value: set it")
            cls = look_up(registry, str(node["name"]), f"{group}.name").config_class
        built[group] = build(cls, node, group)
    plain["dataset"] = dataclasses.asdict(built["dataset"])  # with absolute paths, for whoever stores it
    keys = build(RunKeys, plain | built, "")
    return RunConfig(
        **vars(keys),
        plain=plain,
        choices={group: str(choice) for group, choice in choices.items() if choice is not None},
        overrides=overrides,
    )
