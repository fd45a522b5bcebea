"""Overrides of keys that hold text: taken as they are written, where Hydra would read numbers, lists and operators.

Nothing heavy is imported here, so that the keys are listed; a test holds the list against the config classes.
"""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from experiments.run.folder import newest_with_weights, pointed
from experiments.run.overrides import is_multirun, is_override, key_of, quote

SAMPLING = "experiment.sampling."
PROMPTS = (f"{SAMPLING}prompt", f"{SAMPLING}suffix", f"{SAMPLING}stop")  # in which \n is a line break
PATHS = (  # in which ~ is the home folder, and latest-run may be a text file that names a run
    "load",
    "resume",
    "dataset.cache_dir",
    "dataset.path",
    "dataset.tokenizer_path",
    "experiment.judge",
    "experiment.judges.load",
    "experiment.methods.*.load",
    f"{SAMPLING}prompt_file",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
WORDS = ("dataset.cache_dir", "dataset.text_column", "experiment.title", "logger.wandb.project")
NEVER_NULL = (*PROMPTS, *WORDS)  # in which null is a word
SWITCHES = (f"{SAMPLING}stop",)  # that may also be true or false
LISTS = (  # one text or several
    f"{SAMPLING}prompt",
    "experiment.judge",
    "experiment.judges.load",
    "experiment.methods.*.load",
    "logger.wandb.tags",
)
NULLABLE = ("name", "algorithm.decoder.keyword", "dataset.encoding", "experiment.baseline", "logger.group")
TEXTS = (*PROMPTS, *PATHS, *WORDS, *LISTS, *NULLABLE, "logger.wandb.*")
SWEEP = re.compile(r"(choice|glob|shuffle|sort|tag)\(.*\)|\[.*\]\s*,\s*\[.*\]", re.DOTALL)  # that Hydra reads itself
ITEM = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]*?)\s*(?:,|$)""", re.DOTALL)
_parser = OverridesParser.create()


def as_written(argv: list[str]) -> list[str]:
    """The command line with the values of text keys quoted wherever Hydra would read something else.

    Quotes around a whole value, Hydra's backslashes before its own signs, and `${...}` outside of prompts are read as
    ever; under --multirun commas sweep.
    """
    return [_written(a, is_multirun(argv)) if is_override(a) and is_in(key_of(a), TEXTS) else a for a in argv]


def is_in(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the keys `patterns`, in which * is a name, is `key`."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _written(override: str, sweeps: bool) -> str:
    head, equals, text = override.partition("=")
    key = key_of(override)
    if not equals or (sweeps and SWEEP.fullmatch(text)):
        return override
    if is_in(key, LISTS) and text.startswith("[") and text.endswith("]"):
        return f"{head}=[{','.join(_item(key, item) for item in _split(text[1:-1]))}]"
    items = _split(text) if sweeps else []
    return f"{head}={','.join(_item(key, item) for item in items) if len(items) > 1 else _item(key, text)}"


def _split(text: str) -> list[str]:
    """What commas outside of quotes part."""
    return [found[1] for found in ITEM.finditer(f"{text},")][:-1] if text.strip() else []


def _item(key: str, given: str) -> str:
    """One value as Hydra is to get it: as it stands where that gives the text that is meant, else quoted."""
    if (given == "null" and not is_in(key, NEVER_NULL)) or (given in ("true", "false") and is_in(key, SWITCHES)):
        return given
    text = _text(given)
    if is_in(key, PROMPTS):
        text = re.sub(r"(?<!\\)\$\{", r"\\${", text.replace("\\n", "\n"))  # ${ is text, which OmegaConf would look up
    if key == "load" and text == "auto":
        text = str(newest_with_weights())
    if is_in(key, PATHS):
        path = pointed(Path(expanded := os.path.expanduser(text)))
        text = expanded if path == Path(expanded) else str(path)
    else:  # bytes that the locale of this process could not read
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return given if _parsed(given) == text else quote(text)


def _text(given: str) -> str:
    """The text that is meant: without quotes around all of it, and without backslashes of Hydra's."""
    parsed = _parsed(given)
    return parsed if isinstance(parsed, str) and (parsed != given.strip() or parsed == given) else given


def _parsed(given: str) -> object:
    """What Hydra reads in a value, None where it cannot."""
    try:
        return _parser.parse_override(f"key={given}").value()
    except HydraException:
        return None
