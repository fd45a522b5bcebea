"""The folder of a run, and what `resume=` and `load=` on the command line mean, settled before Hydra composes.

Imported before anything heavy: only Hydra's parser and small YAML files are read here, and torch only for a
checkpoint that lies outside a run folder.
"""

import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
LATEST = Path("latest-run")
COMPARISON = "comparison.json"  # marks the folder of a comparison, which goes on without a checkpoint of its own
RELOADED = ("algorithm", "dataset")  # what `load=` takes over from the run that wrote the weights

OmegaConf.register_new_resolver("unique_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)


def expand(argv: list[str]) -> list[str]:
    """The command line with `resume=` and `load=` replaced by the overrides they stand for.

    `resume` brings back the run's own overrides and folder; `load` brings back its algorithm and dataset. What
    stands on the command line wins. Raises ValueError or FileNotFoundError in one sentence.
    """
    # Overrides go last: a flag between them is more than argparse can take.
    argv = [a for a in argv if not _is_override(a)] + [a for a in argv if _is_override(a)]
    resume, load = _value(argv, "resume"), _value(argv, "load")
    if resume is None:
        _check_fresh(argv)
    if resume is not None and load is not None:
        raise ValueError("load= and resume= exclude each other: load takes weights only, resume continues a run")
    if resume is not None:
        return _expand_resume(argv, resume)
    if load is not None:
        return _splice(argv, "load", [*_loaded_overrides(argv, Path(load)), f"load={quote(str(load))}"])
    return argv


def run_folder_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose checkpoints/ holds it; None for a file from elsewhere."""
    folder = path if path.is_dir() else path.parent.parent
    return folder if (folder / ".hydra" / "overrides.yaml").is_file() else None


def checkpoint_of(path: Path, names: Iterable[str]) -> Path:
    """`path` itself if it is a file, else the first of `names` under its checkpoints/.

    Raises FileNotFoundError where there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"there is no run folder or checkpoint at {path}: check the path")
    for name in names:
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise FileNotFoundError(
        f"{path} holds no checkpoints/{' or '.join(names)}: the run was stopped before its first checkpoint, "
        "or it did no training; start it anew"
    )


def link_latest(run_dir: Path) -> None:
    """Point the link `latest-run` of the working folder at `run_dir`; file systems without links do without."""
    temporary = LATEST.with_name(f"{LATEST.name}.{os.getpid()}")
    try:
        temporary.symlink_to(os.path.relpath(run_dir))
        temporary.replace(LATEST)
    except OSError:
        temporary.unlink(missing_ok=True)


def is_first_process() -> bool:
    """False in the processes that Lightning starts beside the first one of a data-parallel run."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


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
        body = value.replace("\\'", "\\\\'").replace("'", "\\'")
        trailing = len(body) - len(body.rstrip("\\"))
        return f"'{body}{chr(92) * trailing}'"
    return repr(value)


def key_of(override: str) -> str:
    """The key or group that an override sets: `+a.b=1`, `++a.b=1`, `~a.b` -> `a.b`."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def overrides_in(argv: list[str]) -> list[str]:
    """The overrides of a command line, without flags and without Hydra's own settings."""
    return [a for a in argv if _is_override(a) and not key_of(a).startswith(("hydra.", "hydra/"))]


def is_multirun(argv: list[str]) -> bool:
    return "-m" in argv or "--multirun" in argv or "hydra.mode=MULTIRUN" in argv


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _value(argv: list[str], key: str) -> str | None:
    given = [a for a in argv if key_of(a) == key and "=" in a]
    if not given:
        return None
    override = OverridesParser.create().parse_override(given[-1])
    if override.is_sweep_override():
        return None  # each job of the sweep gets its own value and settles it itself
    value = override.value()
    return None if value is None else str(value)


def _splice(argv: list[str], key: str, replacement: list[str]) -> list[str]:
    """`argv` with `replacement` where `key=` stood."""
    index = next(i for i, a in enumerate(argv) if key_of(a) == key)
    rest = [a for a in argv[index + 1 :] if key_of(a) != key]
    return [*argv[:index], *replacement, *rest]


def _check_fresh(argv: list[str]) -> None:
    """A new run never starts in the folder of another one. (The other processes of a DDP run share theirs.)"""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        given = _value(argv, key)
        if given is None or not is_first_process():
            continue
        for trace in ("metrics.csv", "summary.json", "checkpoints", COMPARISON, "multirun.yaml"):
            found = Path(given) / trace
            if found.is_file() or (found.is_dir() and any(found.iterdir())):
                raise ValueError(f"{given} already holds a run ({trace}): choose another {key}, or resume={given}")


def stored_overrides(folder: Path) -> list[str]:
    """What was said on the command line of a run, but for load= and resume=."""
    stored = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()) or []
    return [o for o in stored if key_of(o) not in ("resume", "load")]


def _expand_resume(argv: list[str], resume: str) -> list[str]:
    if is_multirun(argv):
        raise ValueError("resume= continues one run: for a job of a sweep give its folder, resume=multirun/.../N")
    own = [o for o in overrides_in(argv) if key_of(o) != "resume"]
    if resume == "auto":
        found = _latest(own)
        if found is None:
            print("resume=auto: no run with these overrides has a checkpoint; starting a new one", file=sys.stderr)
            return _splice(argv, "resume", [])
        print(f"resume=auto: continuing {found}", file=sys.stderr)
        path = found
    else:
        path = Path(resume)
        if not (path / COMPARISON).is_file():
            checkpoint_of(path, ["last.ckpt"])
        found = run_folder_of(path)
        if found is None:
            raise ValueError(
                f"{path} does not lie in the folder of a run (RUN/checkpoints/, with RUN/.hydra/): "
                f"resume continues a run in its folder; load={path} takes its weights into a new run"
            )
    keys = {key_of(o) for o in own}
    stored = [o for o in stored_overrides(found) if key_of(o) not in keys]
    place = [] if _value(argv, "hydra.run.dir") else [f"hydra.run.dir={quote(str(found))}"]
    return _splice(argv, "resume", [*stored, *place, f"resume={quote(str(path))}"])


def _latest(own: list[str]) -> Path | None:
    """The newest run with a last.ckpt, or comparison; given overrides, the newest that was begun with the same ones."""
    marks = ("checkpoints/last.ckpt", COMPARISON)
    found = [folder for folder in Path("outputs").glob("*/*") if any((folder / mark).is_file() for mark in marks)]
    folders = sorted(found, key=lambda p: p.parts, reverse=True)
    if not own and any((LATEST / mark).is_file() for mark in marks):
        folders.insert(0, Path(os.path.relpath(LATEST.resolve())))
    for folder in folders:
        if run_folder_of(folder) and (not own or sorted(stored_overrides(folder)) == sorted(own)):
            return folder
    return None


def _loaded_overrides(argv: list[str], path: Path) -> list[str]:
    """Overrides that rebuild the algorithm and the dataset of the run at `path`, as far as not given in argv."""
    given = {key_of(o) for o in overrides_in(argv)}
    config, choices = _stored_config(path, argv, given)
    picked = [
        f"{group}={choice}"
        for group, choice in sorted(choices.items())
        if choice and group.split("/")[0] in config and group not in given
    ]
    composed = _compose([*picked, *overrides_in(argv)])
    if composed is None:  # Hydra itself will say what is wrong with the command line
        return picked
    kept = [key.replace("/", ".") for key in given if key not in RELOADED]
    missing = object()
    for key, value in _leaves(config):
        if any(key == k or key.startswith(f"{k}.") for k in kept):
            continue
        if OmegaConf.select(composed, key, default=missing) != value:
            picked.append(f"++{key}={quote(value)}")
    return picked


def _stored_config(path: Path, argv: list[str], given: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and group choices of the run that wrote `path`, from its folder or from inside the file, less what a
    choice among the keys `given` in argv replaces."""
    file = checkpoint_of(path, ["best.ckpt", "last.ckpt"])
    folder = run_folder_of(path)
    if folder is not None:
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        config = {root: value for root, value in config.items() if root not in given}
        hydra = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text())
        choices = hydra["hydra"]["runtime"]["choices"]
    else:
        from experiments.checkpoint import describe  # torch: only for a file without its run folder

        composed = _compose(overrides_in(argv)) if "algorithm" in given else None
        algorithm: Any = None if composed is None else OmegaConf.to_container(composed.algorithm)
        config, choices = describe(file, given=given, algorithm=algorithm)
    groups = {g.partition("@")[0]: c for g, c in choices.items()}
    config = {root: config[root] for root in RELOADED if root in config}
    return config, {g: c for g, c in groups.items() if g.split("/")[0] in RELOADED}


@contextmanager
def composing() -> Iterator[None]:
    """Lets hydra.compose find the configuration; inside a job of Hydra it does already, by that one's search path."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with (
        nullcontext()
        if GlobalHydra.instance().is_initialized()
        else initialize_config_dir(str(CONFIGS), version_base="1.3")
    ):
        yield


def _compose(overrides: list[str]) -> Any:
    """The config of these overrides, or None where they do not compose."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    try:
        single = [o for o in overrides if not parser.parse_override(o).is_sweep_override()]
        with composing():
            return compose("config", overrides=single)
    except (HydraException, OmegaConfBaseException):
        return None


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
