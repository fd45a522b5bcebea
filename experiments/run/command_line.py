"""What `resume=` and `load=` on the command line mean, settled before Hydra composes.

Imported before anything heavy: only Hydra's parser and small YAML files are read here. Reading a checkpoint that lies
outside a run folder takes torch, so that it is handed in as `describe`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from experiments.run.composition import composed, leaves
from experiments.run.folder import (
    COMPARISON,
    CONFIGS,
    LATEST,
    SWEEP,
    State,
    checkpoint_of,
    overrides_of,
    pointed,
    read_config,
    read_hydra,
    run_folder_of,
    state_of,
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
from experiments.run.processes import is_first_process
from experiments.run.texts import as_written

METHODS = "experiment.methods"  # by names that are free
RELOADED = ("algorithm", "dataset")  # what `load=` takes over from the run that wrote the weights
Describe = Callable[..., tuple[dict[str, Any], dict[str, str]]]  # config and group choices of a checkpoint file


def expand(argv: list[str], describe: Describe, say: Callable[[str], None] = print) -> list[str]:
    """The command line with `resume=` and `load=` replaced by the overrides they stand for.

    `resume` brings back the run's own overrides and folder, or a sweep's command line; `load` brings back its algorithm
    and dataset. What stands on the command line wins, and paths become absolute: `latest-run` is the run that it leads
    to now. `describe(file, given=, algorithm=)` reads what a checkpoint outside a run folder says; `say` gets what the
    user should know of the choice. Raises ValueError or FileNotFoundError in one sentence.
    """
    argv = as_written(argv)
    # Overrides go last: a flag between them is more than argparse can take.
    overrides = with_absolute_paths([a for a in argv if is_override(a)], Path.cwd())
    argv = [a for a in argv if not is_override(a)] + overrides
    for key in ("load", "resume", "hydra.run.dir", "hydra.sweep.dir"):
        if value_of(argv, key) == "":  # as of a variable of the shell that is not set
            raise ValueError(f"{key} is empty: give a path, or leave it out")
    resume, load = value_of(argv, "resume"), value_of(argv, "load")
    if resume is not None and load is not None and resume != "auto":
        raise ValueError("load= and resume= exclude each other: load takes weights only, resume continues a run")
    if resume == "auto":
        return _expand_auto(argv, describe, say)
    if resume is not None:
        return _expand_resume(argv, Path(resume), say)
    _check_fresh(argv)
    return _expand_load(argv, describe)


def _expand_load(argv: list[str], describe: Describe) -> list[str]:
    load = value_of(argv, "load")
    if load is None:
        return argv
    path = Path(load)
    return _splice(argv, "load", [*_loaded_overrides(argv, path, describe), f"load={quote(str(path.resolve()))}"])


def _splice(argv: list[str], key: str, replacement: list[str]) -> list[str]:
    """`argv` with `replacement` where `key=` stood."""
    index = next(i for i, a in enumerate(argv) if key_of(a) == key)
    rest = [a for a in argv[index + 1 :] if key_of(a) != key]
    return [*argv[:index], *replacement, *rest]


def _check_fresh(argv: list[str]) -> None:
    """A new run never starts in the folder of another one. (The other processes of a DDP run share theirs.)"""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        folder = _place(argv, key)
        if folder is None or not is_first_process() or (state := state_of(folder)) is State.FREE:
            continue
        if state is State.TAKEN:
            raise ValueError(f"{folder} holds other runs, or parts of one: choose another {key}")
        remedy = f"choose another {key}"
        if state is not State.FINISHED:
            remedy += f", or resume={folder}"
        raise ValueError(f"{folder} already holds a run: {remedy}")


def _place(argv: list[str], key: str) -> Path | None:
    """The folder that the command line gives under `key`, if it does."""
    given = value_of(argv, key)
    if given is None or "${" not in given:
        return None if given is None else Path(given)
    config = composed([a for a in argv if is_override(a)], with_hydra=True)
    return None if config is None else Path(str(OmegaConf.select(config, key)))


def _expand_auto(argv: list[str], describe: Describe, say: Callable[[str], None]) -> list[str]:
    """Go on in the folder that the command line names, or else in the latest run of these overrides; or begin."""
    if is_multirun(argv):
        raise ValueError("resume=auto continues one run: a sweep goes on with resume=multirun/DATE/TIME")
    anew = _splice(argv, "resume", [])
    again = [a for a in argv if key_of(a) != "load"]
    place = _place(argv, "hydra.run.dir")
    found = _latest([o for o in overrides_in(again) if key_of(o) != "resume"]) if place is None else place
    if found is None:
        say("resume=auto: no run with these overrides has a checkpoint; starting a new one")
        return _expand_load(anew, describe)
    state = state_of(found)
    if state is State.RESUMABLE:
        say(f"resume=auto: continuing {found}")
        return _expand_resume(again, found, say)
    if state is State.FREE:
        say(f"resume=auto: {found} holds no run yet; starting one there")
    elif state is State.BEGUN:
        say(f"resume=auto: the run in {found} was stopped before its first checkpoint; starting it again there")
    else:
        _check_fresh(anew)
    return _expand_load(anew, describe)


def _expand_resume(argv: list[str], path: Path, say: Callable[[str], None]) -> list[str]:
    if (path / SWEEP).is_file():
        return _expand_sweep(argv, path)
    if is_multirun(argv):
        raise ValueError("resume= continues one run: for a job of a sweep give its folder, resume=multirun/.../N")
    found = run_folder_of(path)
    state = state_of(path)
    if state is State.FINISHED:
        raise ValueError(f"{path} is finished, and trained nothing to go on from: begin a new run")
    if state is not State.BEGUN and not (path / COMPARISON).is_file():
        checkpoint_of(path, ["last.ckpt"])
    if found is None:
        raise ValueError(
            f"{path} does not lie in the folder of a run (RUN/checkpoints/, with RUN/.hydra/): "
            f"resume continues a run in its folder; load={path} takes its weights into a new run"
        )
    given = _place(argv, "hydra.run.dir")
    if given is not None and given.resolve() != found.resolve():
        raise ValueError(f"resume={path} goes on in its own folder: leave out hydra.run.dir={given}")
    own = [o for o in overrides_in(argv) if key_of(o) != "resume"]
    keys = {key_of(o) for o in own}
    stored = [o for o in overrides_of(found) if key_of(o) not in {*keys, "resume"}]
    place = [] if given else [f"hydra.run.dir={quote(str(found.resolve()))}"]
    if state is State.BEGUN:
        say(f"{found} was stopped before its first checkpoint: starting it again")
        return _splice(argv, "resume", [*stored, *place])
    stored = [o for o in stored if key_of(o) != "load"]
    before = [*stored, *_drifted(found, stored, keys)]
    return _splice(argv, "resume", [*before, *place, f"resume={quote(str(path.resolve()))}"])


def _drifted(folder: Path, stored: list[str], given: set[str]) -> list[str]:
    """Overrides that bring back what today's defaults would change in a run of former ones, as far as not given."""
    now = composed(stored)
    if now is None:
        return []
    config = read_config(folder)
    known = {key for key, _ in leaves(OmegaConf.to_container(now))}  # type: ignore[arg-type]
    said = {key_of(o) for o in stored if not (CONFIGS / key_of(o)).is_dir()}
    kept = {*given, *said, "resume", "load"}
    added = [f"{key}=null" for key in _added_entries(config, now) if not any(_covers(k, key) for k in kept)]
    return [*(o for o in _differing(config, now, kept) if key_of(o) in known), *added]


def _added_entries(config: dict[str, Any], now: Any) -> list[str]:
    """Entries of today's defaults that a stored configuration lacks, where their names are free."""
    before = config.get("experiment", {}).get("methods")
    if not isinstance(before, dict):
        return []
    return [f"{METHODS}.{name}" for name in OmegaConf.select(now, METHODS, default=None) or {} if name not in before]


def _covers(given: str, entry: str) -> bool:
    """Whether a key that is given is the entry, a part of it, or what holds it."""
    return f"{given}.".startswith(f"{entry}.") or f"{entry}.".startswith(f"{given}.")


def _expand_sweep(argv: list[str], folder: Path) -> list[str]:
    """The command line that a sweep was begun with, in its folder."""
    config = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))["hydra"]
    own = [a for a in argv if key_of(a) != "resume" and is_override(a)]
    if any(key_of(o) != "launcher" and not key_of(o).startswith("hydra.launcher.") for o in own):
        raise ValueError(f"resume={folder} goes on with the jobs of a sweep as they are: only launcher= can be changed")
    sweeper = config["runtime"]["choices"].get("hydra/sweeper")
    if sweeper != "basic":
        raise ValueError(f"{folder} is a sweep by {sweeper}, which chooses its jobs as it goes: begin a new one")
    keys = {*(key_of(o) for o in own), "hydra.sweep.dir", "hydra.mode"}
    stored = [o for o in (*config["overrides"]["task"], *config["overrides"]["hydra"]) if key_of(o) not in keys]
    return ["--multirun", *stored, *own, f"hydra.sweep.dir={quote(str(folder.resolve()))}"]


def _latest(own: list[str]) -> Path | None:
    """The run that can go on and was started last; given overrides, of those begun with the same."""
    folders = {folder.resolve() for folder in (*Path("outputs").glob("*/*"), pointed(LATEST)) if run_folder_of(folder)}
    found = [folder for folder in folders if state_of(folder) is State.RESUMABLE]
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
    now = composed([*picked, *overrides_in(argv)])
    if now is None:  # Hydra itself will say what is wrong with the command line
        return picked
    base = working_folder_of(folder) if (folder := run_folder_of(path)) else Path.cwd()
    for key in DATA_PATHS:
        group, _, name = key.partition(".")
        if config.get(group, {}).get(name):
            config[group][name] = absolute(config[group][name], base)
    return picked + _differing(config, now, {key for key in given if key not in RELOADED})


def _differing(config: dict[str, Any], now: Any, kept: set[str]) -> list[str]:
    """Overrides that give the composed config `now` the values of `config`, but for the keys and groups `kept`."""
    kept = {key.replace("/", ".") for key in kept}
    missing = object()
    return [
        f"++{key}={quote(value)}"
        for key, value in leaves(config)
        if not any(key == k or key.startswith(f"{k}.") for k in kept)
        and OmegaConf.select(now, key, default=missing) != value
    ]


def _stored_config(
    path: Path, argv: list[str], given: set[str], describe: Describe
) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and group choices of the run that wrote `path`, from its folder or from inside the file, less what a
    choice among the keys `given` in argv replaces."""
    file = checkpoint_of(path, ["best.ckpt", "last.ckpt"])
    folder = run_folder_of(path)
    if folder is not None:
        config = read_config(folder)
        config = {root: value for root, value in config.items() if root not in given}
        choices = read_hydra(folder, "hydra")["hydra"]["runtime"]["choices"]
    else:
        asked = composed(overrides_in(argv)) if "algorithm" in given else None
        algorithm: Any = None if asked is None else OmegaConf.to_container(asked.algorithm)
        config, choices = describe(file, given=given, algorithm=algorithm)
    groups = {g.partition("@")[0]: c for g, c in choices.items()}
    config = {root: config[root] for root in RELOADED if root in config}
    return config, {g: c for g, c in groups.items() if g.split("/")[0] in RELOADED}
