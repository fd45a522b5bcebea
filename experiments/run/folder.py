"""Run folders: where they are, what is in them, and which is the latest.

Nothing heavy is imported here.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any

import yaml

from experiments.run.files import read_json
from experiments.run.overrides import key_of, with_absolute_paths

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
LATEST = Path("latest-run")
COMPARISON = "comparison.json"  # marks the folder of a comparison, which goes on without a checkpoint of its own
SWEEP = "multirun.yaml"  # marks the folder of a sweep
TRACES = ("metrics.csv", "summary.json", "checkpoints")  # of a run, beside its configuration


class State(Enum):
    """What a folder is to a run that would live in it."""

    FREE = auto()  # nothing of a run is in it
    BEGUN = auto()  # a run that was stopped before its first checkpoint
    RESUMABLE = auto()  # a run with a checkpoint, or a comparison
    FINISHED = auto()  # a run that trained nothing, and is done
    TAKEN = auto()  # other runs, or something of a run that cannot be told


def state_of(folder: Path) -> State:
    """What is in `folder`, which need not be there."""
    if (folder / COMPARISON).is_file() or (folder / "checkpoints" / "last.ckpt").is_file():
        return State.RESUMABLE
    if is_begun(folder):
        finished = read_json(folder / "summary.json").get("status") == "finished"
        return State.FINISHED if finished else State.BEGUN
    below = [f"{deep}{mark}" for deep in ("", "*/", "*/*/", "*/*/*/") for mark in (".hydra/overrides.yaml", SWEEP)]
    if any(next(folder.glob(pattern), None) for pattern in below):
        return State.TAKEN
    traces = [folder / trace for trace in TRACES]
    taken = any(trace.is_file() or (trace.is_dir() and any(trace.iterdir())) for trace in traces)
    return State.TAKEN if taken else State.FREE


def is_begun(folder: Path) -> bool:
    """Whether a run, or its place in a sweep or a comparison, was begun in `folder`."""
    return (folder / ".hydra" / "overrides.yaml").is_file()


def run_folder_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose checkpoints/ holds it; None for a file from elsewhere."""
    folder = path if path.is_dir() else path.parent.parent
    return folder if is_begun(folder) else None


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
    """Point the link `latest-run` of the working folder at `run_dir`, which has weights.

    A run inside the folder of another one, as a method of a comparison, does not take the link, nor does what is no run
    folder. Where links cannot be made it is a text file with the path, which `pointed` follows.
    """
    if not (run_dir / ".hydra").is_dir() or any((parent / ".hydra").is_dir() for parent in run_dir.parents):
        return
    temporary = LATEST.with_name(f"{LATEST.name}.{os.getpid()}")
    try:
        try:
            temporary.symlink_to(os.path.relpath(run_dir))
        except OSError:
            temporary.write_text(f"{os.path.relpath(run_dir)}\n", encoding="utf-8")
        temporary.replace(LATEST)
    except OSError:
        temporary.unlink(missing_ok=True)


def pointed(path: Path) -> Path:
    """`path`, led on to the run where it goes through a `latest-run` that is a text file."""
    for pointer in (path, *path.parents):
        if pointer.name == LATEST.name and pointer.is_file():
            run = pointer.read_text(encoding="utf-8", errors="replace").strip()
            return pointer.parent / run / path.relative_to(pointer)
    return path


def newest_with_weights() -> Path:
    """The run below outputs/ or multirun/, or at latest-run, whose weights were written last. Raises FileNotFoundError
    where none has any."""
    places = (*Path("outputs").glob("*/*"), *Path("multirun").glob("*/*/*"), pointed(LATEST))
    found = [file for place in places for file in (place / "checkpoints").glob("*.ckpt") if run_folder_of(place)]
    if not found:
        raise FileNotFoundError("load=auto: no run below outputs/ or multirun/ has weights: say load=RUN_FOLDER")
    return max(found, key=lambda file: (file.stat().st_mtime, file)).parent.parent


def clear(folder: Path) -> None:
    """Remove what grows row by row of a run that was stopped before its first checkpoint; the rest is written over."""
    (folder / "metrics.csv").unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def remove_unused(folder: Path) -> None:
    """Remove a run folder in which nothing has begun, and those above it in the working folder that are then empty."""
    here = Path.cwd()
    with suppress(OSError):  # not empty
        for path in (folder, *(above for above in folder.parents if here in above.parents)):
            path.rmdir()


def read_hydra(folder: Path, name: str) -> Any:
    """What .hydra of a run folder holds under `name`: config, hydra or overrides; as plain containers."""
    return yaml.safe_load((folder / ".hydra" / f"{name}.yaml").read_text(encoding="utf-8"))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run; what it is too old to say is what was so then."""
    config = read_hydra(folder, "config")
    config.get("algorithm", {}).get("optimizer", {}).setdefault("name", "adamw")
    return config


def overrides_of(folder: Path) -> list[str]:
    """What was said on the command line of a run; paths of the data as they were meant there."""
    told = read_hydra(folder, "overrides") or []
    return with_absolute_paths(told, working_folder_of(folder))


def stored_overrides(folder: Path) -> list[str]:
    """The same but for load= and resume=."""
    return [o for o in overrides_of(folder) if key_of(o) not in ("resume", "load")]


def working_folder_of(folder: Path) -> Path:
    """Where a run was started: relative paths in its configuration are seen from there."""
    hydra = read_hydra(folder, "hydra") if (folder / ".hydra" / "hydra.yaml").is_file() else {}
    return Path(hydra.get("hydra", {}).get("runtime", {}).get("cwd") or Path.cwd())


def command(*arguments: str) -> str:
    """A command line of main.py that can be pasted into a shell."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return shlex.join([python, sys.argv[0], *arguments])
