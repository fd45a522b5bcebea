"""Run folders: where they are, what is in them, and which is the latest.

Nothing heavy is imported here.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import yaml

from experiments.run.overrides import key_of
from experiments.run.processes import is_first_process as is_first_process

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
LATEST = Path("latest-run")
COMPARISON = "comparison.json"  # marks the folder of a comparison, which goes on without a checkpoint of its own


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
    """Point the link `latest-run` of the working folder at `run_dir`, which has weights.

    A run inside the folder of another one, as a method of a comparison, does not take the link, nor does what is no run
    folder; file systems without links do without.
    """
    if not (run_dir / ".hydra").is_dir() or any((parent / ".hydra").is_dir() for parent in run_dir.parents):
        return
    temporary = LATEST.with_name(f"{LATEST.name}.{os.getpid()}")
    try:
        temporary.symlink_to(os.path.relpath(run_dir))
        temporary.replace(LATEST)
    except OSError:
        temporary.unlink(missing_ok=True)


def stored_overrides(folder: Path) -> list[str]:
    """What was said on the command line of a run, but for load= and resume=."""
    stored = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()) or []
    return [o for o in stored if key_of(o) not in ("resume", "load")]
