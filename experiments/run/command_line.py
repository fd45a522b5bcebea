"""What `resume=` and `load=` on the command line mean, settled before Hydra composes.

Imported before anything heavy: only Hydra's parser and small YAML files are read here. Reading a checkpoint that lies
outside a run folder takes torch, so that it is handed in as `describe`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from experiments.run.composition import composed, leaves
from experiments.run.folder import (
    COMPARISON,
    LATEST,
    checkpoint_of,
    is_first_process,
    pointed,
    run_folder_of,
    stored_overrides,
    working_folder_of,
)
from experiments.run.overrides import (
    DATA_PATHS,
    absolute,
    is_multirun,
    is_override,
    key_of,
    overrides_in,
    quote,
    value_of,
    with_absolute_paths,
)
from experiments.run.texts import as_written

RELOADED = ("algorithm", "dataset")  # what `load=` takes over from the run that wrote the weights
Describe = Callable[..., tuple[dict[str, Any], dict[str, str]]]  # config and group choices of a checkpoint file


def expand(argv: list[str], describe: Describe) -> list[str]:
    """The command line with `resume=` and `load=` replaced by the overrides they stand for.

    `resume` brings back the run's own overrides and folder; `load` brings back its algorithm and dataset. What
    stands on the command line wins, and paths become absolute: `latest-run` is the run that it leads to now.
    `describe(file, given=, algorithm=)` reads what a checkpoint outside a run folder says. Raises ValueError or
    FileNotFoundError in one sentence.
    """
    argv = as_written(argv)
    # Overrides go last: a flag between them is more than argparse can take.
    overrides = with_absolute_paths([a for a in argv if is_override(a)], Path.cwd())
    argv = [a for a in argv if not is_override(a)] + overrides
    resume, load = value_of(argv, "resume"), value_of(argv, "load")
    if resume is None:
        _check_fresh(argv)
    if resume is not None and load is not None:
        raise ValueError("load= and resume= exclude each other: load takes weights only, resume continues a run")
    if resume is not None:
        return _expand_resume(argv, resume)
    if load is not None:
        path = Path(load)
        return _splice(argv, "load", [*_loaded_overrides(argv, path, describe), f"load={quote(str(path.resolve()))}"])
    return argv


def _splice(argv: list[str], key: str, replacement: list[str]) -> list[str]:
    """`argv` with `replacement` where `key=` stood."""
    index = next(i for i, a in enumerate(argv) if key_of(a) == key)
    rest = [a for a in argv[index + 1 :] if key_of(a) != key]
    return [*argv[:index], *replacement, *rest]


def _check_fresh(argv: list[str]) -> None:
    """A new run never starts in the folder of another one. (The other processes of a DDP run share theirs.)"""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        given = value_of(argv, key)
        if given is None or not is_first_process():
            continue
        for trace in ("metrics.csv", "summary.json", "checkpoints", COMPARISON, "multirun.yaml"):
            found = Path(given) / trace
            if found.is_file() or (found.is_dir() and any(found.iterdir())):
                raise ValueError(f"{given} already holds a run ({trace}): choose another {key}, or resume={given}")


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
    place = [] if value_of(argv, "hydra.run.dir") else [f"hydra.run.dir={quote(str(found.resolve()))}"]
    return _splice(argv, "resume", [*stored, *place, f"resume={quote(str(path.resolve()))}"])


def _latest(own: list[str]) -> Path | None:
    """The run with a last.ckpt, or comparison, that was started last; given overrides, of those begun with the same."""
    folders = {folder.resolve() for folder in (*Path("outputs").glob("*/*"), pointed(LATEST)) if run_folder_of(folder)}
    marks = ("checkpoints/last.ckpt", COMPARISON)
    found = [folder for folder in folders if any((folder / mark).is_file() for mark in marks)]
    same = [folder for folder in found if not own or sorted(stored_overrides(folder)) == sorted(own)]
    return max(same, key=lambda f: ((f / ".hydra" / "overrides.yaml").stat().st_mtime, f.parts), default=None)


def _loaded_overrides(argv: list[str], path: Path, describe: Describe) -> list[str]:
    """Overrides that rebuild the algorithm and the dataset of the run at `path`, as far as not given in argv."""
    given = {key_of(o) for o in overrides_in(argv)}
    config, choices = _stored_config(path, argv, given, describe)
    picked = [
        f"{group}={choice}"
        for group, choice in sorted(choices.items())
        if choice and group.split("/")[0] in config and group not in given
    ]
    config_now = composed([*picked, *overrides_in(argv)])
    if config_now is None:  # Hydra itself will say what is wrong with the command line
        return picked
    kept = [key.replace("/", ".") for key in given if key not in RELOADED]
    missing = object()
    base = working_folder_of(folder) if (folder := run_folder_of(path)) else Path.cwd()
    for key, value in leaves(config):
        if key in DATA_PATHS and value:
            value = absolute(value, base)
        if any(key == k or key.startswith(f"{k}.") for k in kept):
            continue
        if OmegaConf.select(config_now, key, default=missing) != value:
            picked.append(f"++{key}={quote(value)}")
    return picked


def _stored_config(
    path: Path, argv: list[str], given: set[str], describe: Describe
) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and group choices of the run that wrote `path`, from its folder or from inside the file, less what a
    choice among the keys `given` in argv replaces."""
    file = checkpoint_of(path, ["best.ckpt", "last.ckpt"])
    folder = run_folder_of(path)
    if folder is not None:
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
        config = {root: value for root, value in config.items() if root not in given}
        hydra = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))
        choices = hydra["hydra"]["runtime"]["choices"]
    else:
        asked = composed(overrides_in(argv)) if "algorithm" in given else None
        algorithm: Any = None if asked is None else OmegaConf.to_container(asked.algorithm)
        config, choices = describe(file, given=given, algorithm=algorithm)
    groups = {g.partition("@")[0]: c for g, c in choices.items()}
    config = {root: config[root] for root in RELOADED if root in config}
    return config, {g: c for g, c in groups.items() if g.split("/")[0] in RELOADED}
