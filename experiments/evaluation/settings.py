"""From `experiment.decoders` on the command line to checked decoder configurations.

An entry is the name of a file of configs/algorithm/decoder, or {name: {option: value}}; a list of values is swept as a
grid. `experiment.grid` holds options for every decoder of the list.
"""

import copy
import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from experiments.run.build import MISFIT, build, compose_choice
from experiments.run.folder import CONFIGS
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.unused import sentence, unused_settings

Options = dict[str, Any]
KEY = "experiment.decoders"
DECODERS = CONFIGS / "algorithm" / "decoder"


class ModelSettings(NamedTuple):
    """The model whose decoders are set: its algorithm, that one's settings as plain containers, and the name of the
    decoder among them."""

    algorithm: str
    plain: Options
    decoder: str


@dataclass(frozen=True)
class Setting:
    """A decoder to be measured: its label, what was said about it, and the algorithm's configuration with it."""

    label: str
    options: Options
    algorithm: Any

    @property
    def decoder(self) -> Any:
        return self.algorithm.decoder

    @property
    def plain(self) -> dict[str, Any]:
        """All options of the decoder as JSON knows them."""
        return json.loads(json.dumps(asdict(self.decoder)))


def expand(decoders: Any, grid: Options | None) -> list[tuple[str | None, Options]]:
    """(name, options) of every setting in order; `decoders` is an entry, a list of them, or None for the run's own
    decoder, whose name is None here.

    Raises ValueError in one sentence on an empty list, an entry that is no decoder, or one that stands twice.
    """
    if decoders is not None and not isinstance(decoders, list):
        decoders = [decoders]
    if decoders == []:
        raise ValueError(f"{KEY} is empty: name decoders, as in {KEY}=[autoregressive], or say null for the run's own")
    shared = _flat(grid or {}, "experiment.grid")
    named: list[tuple[str | None, Options]] = [(None, {})]
    if decoders is not None:
        named = [pair for entry in decoders for pair in _entry(entry)]
    found = []
    for name, own in named:
        axes = shared | _flat(own, f"{KEY}: {name}")
        found += [(name, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    labels = [label(name or "the run's own decoder", options) for name, options in found]
    twice = [text for text in labels if labels.count(text) > 1]
    if twice:
        raise ValueError(f"{KEY} holds '{twice[0]}' twice: leave one of them out")
    return found


def label(name: str, options: Options) -> str:
    """`threshold temperature=0.8 threshold=0.7`: what a setting is called in tables and files."""
    return " ".join([name, *(f"{key}={_shown(value)}" for key, value in options.items())])


def build_settings(model_settings: ModelSettings, decoders: Any, grid: Options | None) -> list[Setting]:
    """The settings of a model, converted and checked.

    Raises ValueError in one sentence on a decoder that is unknown or does not fit the algorithm, and on an option that
    it does not have.
    """
    settings = []
    pairs = expand(decoders, grid)
    own = model_settings.plain["decoder"]
    nodes = {name: _fitting(model_settings, name) if name else own for name in dict.fromkeys(name for name, _ in pairs)}
    for name, options in pairs:
        config = copy.deepcopy(nodes[name])
        for key, value in options.items():
            *groups, last = key.split(".")
            functools.reduce(lambda node, group: node.setdefault(group, {}), groups, config)[last] = value
        text = label(name or model_settings.decoder, options)
        try:
            settings.append(Setting(text, options, _with_decoder(model_settings, config)))
        except ValueError as error:
            raise ValueError(f"{KEY}: {text}: {error}") from error
    return settings


def notes_of(settings: Sequence[Setting]) -> list[str]:
    """A sentence for each option that was given without making a difference to its setting."""
    found = []
    for setting in settings:
        idle = unused_settings(setting.algorithm, "algorithm")
        for option in setting.options:
            if (key := f"algorithm.decoder.{option}") in idle:
                found.append(f"{sentence(option, idle[key])} ({KEY}: {setting.label})")
    return found


def misfit(model_settings: ModelSettings, name: str) -> str | None:
    """Why the decoder of the file `name` cannot be the model's; None if it can."""
    try:
        _with_decoder(model_settings, compose_choice("algorithm/decoder", name, KEY))
    except ValueError as error:
        return str(error)
    return None


def without_refused(model_settings: ModelSettings, decoders: Any) -> tuple[list[Any], list[str]]:
    """Entries of decoders but for those that the algorithm has and that do not go with the model's other settings; for
    these a sentence each."""
    kept, notes = [], []
    for name, options in expand(decoders, None):
        reason = misfit(model_settings, name) if name else None
        if name and reason and MISFIT not in reason:
            notes.append(f"{label(name, options)} is left out: {reason}")
        else:
            kept.append({name: options})
    return kept, notes


def _entry(entry: Any) -> list[tuple[str | None, Options]]:
    pairs = [(entry, {})] if isinstance(entry, str) else list(entry.items()) if isinstance(entry, dict) else []
    if not pairs or not all(isinstance(name, str) and isinstance(own or {}, dict) for name, own in pairs):
        raise ValueError(
            f"{KEY} holds {entry!r}: an entry is a decoder's name, or {{name: {{option: value or list of values}}}}"
        )
    return [(name, own or {}) for name, own in pairs]


def _flat(options: Options, where: str, prefix: str = "") -> dict[str, list[Any]]:
    """Dotted option -> the values it takes."""
    axes: dict[str, list[Any]] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            axes |= _flat(value, where, f"{prefix}{key}.")
        elif value == []:
            raise ValueError(f"{where}: {prefix}{key} has no values: give one or several")
        else:
            axes[f"{prefix}{key}"] = value if isinstance(value, list) else [value]
    return axes


def _fitting(model_settings: ModelSettings, name: str) -> Options:
    """The decoder of the file `name`, which must be there and convert for the model's algorithm as it stands."""
    node = compose_choice("algorithm/decoder", name, KEY)
    try:
        _with_decoder(model_settings, node)
    except ValueError as error:
        if MISFIT not in str(error):  # it is one of the algorithm's decoders
            raise ValueError(f"{KEY}: {name}: {error}") from error
        others = [path.stem for path in sorted(DECODERS.glob("*.yaml")) if misfit(model_settings, path.stem) is None]
        remedy = f"choose from {', '.join(others)}" if others else str(error)
        raise ValueError(f"{KEY}: {name} does not fit algorithm={model_settings.algorithm}: {remedy}") from error
    return node


def _with_decoder(model_settings: ModelSettings, decoder: Any) -> Any:
    """The model's configuration with another decoder: all of its checks run again."""
    cls = look_up(ALGORITHMS, model_settings.algorithm, "algorithm.name")
    return build(cls.config_class, {**model_settings.plain, "decoder": decoder}, "algorithm")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
