"""What went wrong, in one sentence: Hydra's and OmegaConf's messages with the key, the near miss and the remedy."""

import difflib
import errno
import re
from collections.abc import Iterable

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.run.composition import composing
from experiments.run.folder import CONFIGS
from experiments.run.former_names import hint_among
from experiments.run.overrides import key_of, overrides_in

PLUGINS = {  # choices of Hydra's own groups that come with a package, and what is to be known of it
    "hydra/hydra_logging/colorlog": "hydra-colorlog",
    "hydra/job_logging/colorlog": "hydra-colorlog",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/ray_aws": "hydra-ray-launcher",
    "hydra/launcher/rq": "hydra-rq-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
    "hydra/sweeper/ax": "hydra-ax-sweeper",
    "hydra/sweeper/nevergrad": "hydra-nevergrad-sweeper",
    "hydra/sweeper/optuna": "hydra-optuna-sweeper (its last release, 1.3.0, works with optuna<3 only)",
}
WHOLE_MODELS = (
    "splits a model over devices, which is not supported: trainer=ddp holds it whole, at 16 bytes a parameter (weight, "
    "gradient and two moments in float32, 20 with ema_decay) beside activations: about 4 billion parameters in 80 GB"
)
FULL_ERROR_IS_OURS = "HYDRA_FULL_ERROR_SET_BY_MAIN"  # tells our own HYDRA_FULL_ERROR=1 from one that the user set
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST)
QUOTED = "'KEY=\"A, B\"'"


def near_miss(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """`: did you mean ...?` if something known is close to `word`, else the choices in their order, or `listed`."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f": did you mean '{close[0]}'?"
    listed = known if listed is None else list(listed)
    return f": choose one of {', '.join(listed)}" if 0 < len(listed) <= 30 else ""


def sentence(error: BaseException, argv: list[str]) -> str:
    """One line for `error`, which a run with the command line `argv` raised."""
    text = str(error)
    foreign = isinstance(error, HydraException) or text.startswith(("unknown config key", "Config group override"))
    if foreign and (hint := hint_among(argv)):
        return hint
    if isinstance(error, HydraException) and text.startswith("Ambiguous value"):
        word = text.splitlines()[0].partition("argument ")[2]
        return f"{word} reads as several values: quote it as in {QUOTED}, or add --multirun for a sweep"
    if ran_out_of_memory(error):
        return (
            "there is not enough memory: lower experiment.training.batch_size, experiment.evaluation.batch_size or "
            "experiment.sampling.n_samples, or take a smaller algorithm.backbone"
        )
    if text.startswith("Config group override must be"):
        return _no_choice(argv)
    if isinstance(error, HydraException) and (there := re.search(r"An item is already at '([^']+)'", text)):
        return f"+{there[1]}= adds a key, and there is one already: leave out the +"
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
    unknown = re.search(r"Could not override '([^']+)'|Could not delete from config\. '([^']+)'", text)
    if isinstance(error, HydraException) and unknown:
        return _unknown_key(unknown[1] or unknown[2], argv)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"config key '{error.full_key}': {text.splitlines()[0]}"
    return " ".join(text.split()) or type(error).__name__


def can_be_mended(error: BaseException) -> bool:
    """Whether an error is for the user to mend, and no bug: what checks raise, the system's, and a lack of memory."""
    return isinstance(error, ValueError | OSError | HydraException | OmegaConfBaseException) or ran_out_of_memory(error)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether what failed is a request for memory, of Python's, NumPy's or torch's."""
    words = ("not enough memory", "can't allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _no_choice(argv: list[str]) -> str:
    """What is wrong with a group that is set to a number or null."""
    parser = OverridesParser.create()
    for override in overrides_in(argv):
        group = key_of(override)
        if (CONFIGS / group).is_dir() and not isinstance(parser.parse_override(override).value(), str | list):
            known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
            return f"unknown choice {override}{near_miss(override.partition('=')[2], known)}"
    return "a group of the configuration is set to what is no name: python main.py --help shows all choices"


def _missing_choice(text: str) -> str | None:
    missing = re.search(r"[Cc]ould not find '([^']+)'", text)
    if not missing:
        return None
    group, _, choice = missing[1].rpartition("/")
    if missing[1] in PLUGINS:
        ours = missing[1].removeprefix("hydra/")  # a group of this project's that stands before Hydra's
        key = ours.rpartition("/")[0] if (CONFIGS / f"{ours}.yaml").is_file() else group
        return f"{key}={choice} needs a plugin that is not installed: pip install {PLUGINS[missing[1]]}"
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
