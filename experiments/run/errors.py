"""What went wrong, in one sentence: Hydra's and OmegaConf's messages with the key, the near miss and the remedy."""

import difflib
import errno
import re
from collections.abc import Iterable

from hydra import compose
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.run.composition import composing
from experiments.run.folder import CONFIGS
from experiments.run.overrides import key_of, overrides_in

PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
WHOLE_MODELS = (
    "splits a model over devices, which is not supported: trainer=ddp holds it whole, at 16 bytes a parameter (weight, "
    "gradient and two moments in float32, 20 with ema_decay) beside activations: about 4 billion parameters in 80 GB"
)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR)
QUOTED = "'experiment.sampling.prompt=\"To be\"'"


def near_miss(word: str, known: Iterable[str]) -> str:
    """`: did you mean ...?` if something known is close to `word`, else the choices in their order."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f": did you mean '{close[0]}'?"
    return f": choose one of {', '.join(known)}" if len(known) <= 30 else ""


def sentence(error: BaseException, argv: list[str]) -> str:
    """One line for `error`, which a run with the command line `argv` raised."""
    text = str(error)
    if isinstance(error, HydraException) and text.startswith("Ambiguous value"):
        word = text.splitlines()[0].partition("argument ")[2]
        return f"{word} reads as several values: quote it as in {QUOTED}, or add --multirun for a sweep"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        remedy = "; give a place that can be written to, such as hydra.run.dir=FOLDER"
        return f"{error.strerror}{where}{remedy if error.errno in UNWRITABLE else ''}"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value, quoted as in {QUOTED}"
    if isinstance(error, MissingConfigException):
        found = _missing_choice(text)
        if found:
            return found
    unknown = re.search(r"Could not override '([^']+)'", text)
    if isinstance(error, HydraException) and unknown:
        return _unknown_key(unknown[1], argv)
    return " ".join(text.split()) or type(error).__name__


def _missing_choice(text: str) -> str | None:
    missing = re.search(r"[Cc]ould not find '([^']+)'", text)
    if not missing:
        return None
    group, _, choice = missing[1].rpartition("/")
    if group == "hydra/launcher":
        package = PLUGINS.get(choice, f"hydra-{choice}-launcher")
        return f"launcher={choice} needs a plugin that is not installed: pip install {package}"
    if group == "trainer" and choice in ("fsdp", "deepspeed"):
        return f"trainer={choice} {WHOLE_MODELS}"
    listed = text.partition("Available options in")[2].partition("Config search path")[0]
    options = [line.strip() for line in listed.splitlines()[1:] if line.strip()]
    return f"unknown choice {group}={choice}{near_miss(choice, options)}"


def _unknown_key(key: str, argv: list[str]) -> str:
    known = _known_keys(argv)
    message = f"unknown config key '{key}'"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not close:  # the right name in the wrong place, or a slip in one part of a long key
        tail = key.rpartition(".")[2]
        tails = difflib.get_close_matches(tail, {k.rpartition(".")[2] for k in known}, n=1, cutoff=0.75)
        close = [k for k in known if tails and k.rpartition(".")[2] == tails[0]][:1]
    return f"{message}: did you mean '{close[0]}'?" if close else f"{message}: python main.py --cfg job shows all keys"


def _known_keys(argv: list[str]) -> list[str]:
    """All keys and groups of the config that the group choices of `argv` compose to."""
    groups = [o for o in overrides_in(argv) if (CONFIGS / key_of(o)).is_dir()]
    with composing():
        try:
            config = compose("config", overrides=groups)
        except (HydraException, OmegaConfBaseException):
            config = compose("config")
    nested = [str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*") if p.is_dir()]
    return [*_keys(config), *(g for g in nested if "/" in g)]


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in node:
        name = prefix + str(key)
        keys.append(name)
        child = OmegaConf.select(node, str(key), throw_on_missing=False)
        if isinstance(child, DictConfig):
            keys += _keys(child, f"{name}.")
    return keys
