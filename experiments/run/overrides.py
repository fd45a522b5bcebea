"""Overrides of a command line as Hydra writes them: reading, quoting, and telling them from flags."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

DATA_PATHS = ("dataset.path", "dataset.tokenizer_path")  # stored absolute: they say what a run was trained on
NESTED = "experiment.judges.overrides"  # overrides of other runs


def quote(value: Any) -> str:
    """`value` (plain containers and scalars) as the right side of a Hydra override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(quote(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{quote(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return repr(value)


def key_of(override: str) -> str:
    """The key or group that an override sets: `+a.b=1`, `++a.b=1`, `~a.b` -> `a.b`."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def overrides_in(argv: list[str]) -> list[str]:
    """The overrides of a command line, without flags and without Hydra's own settings."""
    return [a for a in argv if is_override(a) and not key_of(a).startswith(("hydra.", "hydra/"))]


def is_multirun(argv: list[str]) -> bool:
    """Whether the command line starts a sweep."""
    return "-m" in argv or "--multirun" in argv or "hydra.mode=MULTIRUN" in argv


def is_override(argument: str) -> bool:
    """Whether a word of the command line is one, and not a flag."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def value_of(argv: list[str], key: str) -> str | None:
    """What the command line says of `key`: None for nothing, null, or a sweep."""
    given = [a for a in argv if key_of(a) == key and "=" in a]
    if not given:
        return None
    override = OverridesParser.create().parse_override(given[-1])
    if override.is_sweep_override():
        return None  # each job of the sweep gets its own value and settles it itself
    value = override.value()
    return None if value is None else str(value)


def with_absolute_paths(overrides: list[str], base: Path) -> list[str]:
    """The same overrides with the paths of the data absolute, seen from the folder `base`; those of a sweep are left
    to its jobs."""
    return [_with_absolute_path(override, base) for override in overrides]


def _with_absolute_path(override: str, base: Path) -> str:
    key, equals, _ = override.partition("=")
    if key_of(override) in DATA_PATHS and (path := value_of([override], key_of(override))):
        return f"{key}={quote(absolute(path, base))}"
    if key_of(override) == NESTED and equals:
        with suppress(HydraException):  # Hydra will say it itself
            parsed = OverridesParser.create().parse_override(override)
            items = None if parsed.is_sweep_override() else parsed.value()
            if isinstance(items, list):
                return f"{key}={quote(with_absolute_paths([str(getattr(i, 'text', i)) for i in items], base))}"
    return override


def absolute(path: str, base: Path) -> str:
    """A path seen from the folder `base` as an absolute one, `~` as the home folder; interpolations are left alone."""
    return path if "${" in path else str(base / os.path.expanduser(path))
