"""From the command line to the experiment: Hydra, the run folder, requests to stop, and errors as sentences.

Hydra pickles `job` by name for launchers with workers of their own, so it lives in a module and not in main.py.
"""

import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.analysis.files import write
from experiments.run import errors, interrupts, processes
from experiments.run.command_line import expand
from experiments.run.composition import fresh_folder
from experiments.run.folder import CONFIGS, ROOT, State, clear, command, remove_unused, state_of
from experiments.run.former_names import refuse_flags
from experiments.run.lock import RunLock
from experiments.run.overrides import is_multirun, quote, value_of
from experiments.run.processes import is_first_process
from experiments.run.surroundings import settle_in
from experiments.run.transcript import recorded

_failure: list[BaseException] = []
_begun: list[Path] = []  # the run folder, once it is this run's
_argv: list[str] = []  # as it was given
_notes: list[str] = []  # of the choices made for the user, said once the run begins


def job(cfg: DictConfig) -> float | None:
    """One run, or under --multirun one child process that is the run. Returns the optimised metric."""
    settings = HydraConfig.get()
    run_dir = Path(settings.runtime.output_dir)
    if settings.mode == RunMode.MULTIRUN:
        from experiments.run import sweep

        return sweep.run_child(settings, run_dir)
    try:
        with RunLock(run_dir) if is_first_process() else nullcontext() as lock:
            return _run(cfg, settings, run_dir, lock)
    except Exception as error:  # kept for main(): Hydra would print lines of its own
        _failure.append(error)
        return None
    except interrupts.Interrupted as stop:
        if is_first_process() and interrupts.SILENT not in os.environ:
            print(f"interrupted by {stop}: {_how_to_go_on(run_dir)}", file=sys.stderr)
        raise
    finally:
        if is_first_process() and not _begun:
            remove_unused(run_dir)


def _run(cfg: DictConfig, settings: Any, run_dir: Path, lock: RunLock | None) -> float | None:
    from experiments.base_experiment import run_experiment
    from experiments.run import resume
    from experiments.run.build import build_run

    run = build_run(cfg, choices=settings.runtime.choices, overrides=list(settings.overrides.task))
    notes = [*_notes, *([lock.note] if lock and lock.note else [])]
    if run.resume is not None:
        notes += resume.check(resume.begun_with(Path(run.resume)), run.plain, run_dir)

    def begin() -> None:
        """The folder becomes this run's: it gets .hydra, and loses the curves of one that ended before a checkpoint."""
        if not is_first_process():
            return
        _begun.append(run_dir)
        if run.resume is None:
            clear(run_dir)
        said = {"overrides": settings.overrides.task, "config": cfg, "hydra": HydraConfig.instance().cfg}
        for name, content in said.items():
            write(run_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content))
        for note in notes:
            print(note, file=sys.stderr)

    return run_experiment(run, run_dir, begin)


def _how_to_go_on(folder: Path) -> str:
    if state_of(folder) in (State.BEGUN, State.RESUMABLE):
        return f"{command(f'resume={folder}')} goes on"
    return f"there is nothing to go on from yet; {command(*_argv)} begins again"


@recorded
def main() -> int:
    """Run the command line; the exit status. Mistakes of the user become one line, bugs a traceback."""
    for kept in (_failure, _begun, _notes):
        kept.clear()
    _argv[:] = sys.argv[1:]
    settle_in()
    with interrupts.listening():
        try:
            return _main()
        except interrupts.Interrupted as stop:
            return stop.exit_status if is_first_process() else 0  # Lightning kills the first if another one fails


def _main() -> int:
    full = os.environ.get("HYDRA_FULL_ERROR") == "1" and errors.FULL_ERROR_IS_OURS not in os.environ
    if not full:
        os.environ |= {"HYDRA_FULL_ERROR": "1", errors.FULL_ERROR_IS_OURS: "1"}  # lets exceptions come up to here
    try:
        refuse_flags(_argv)
        launch = processes.find_launch(os.environ)
        sys.argv[1:] = _expand(_argv) if launch is None else _expand_for_all(launch, _argv)
        is_sweep = is_multirun(sys.argv[1:])
        if is_sweep:  # workers of a launcher look `job` up by the name of its module
            path = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])
        with _sweep() if is_sweep else nullcontext():
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
        if _failure:
            raise _failure[0]
    except Exception as error:
        _write_trace(error)
        if full or not errors.can_be_mended(error):
            raise
        if is_first_process():  # the processes of a run fail together, but speak once
            print(f"error: {errors.sentence(error, sys.argv[1:])}", file=sys.stderr)
        return 1
    return 0


def _sweep() -> AbstractContextManager[None]:
    from experiments.run import sweep  # numpy: not for what only shows a configuration

    return sweep.session()


def _expand(argv: list[str]) -> list[str]:
    return expand(argv, _describe, _notes.append)


def _expand_for_all(launch: processes.Launch, argv: list[str]) -> list[str]:
    """The command line of every process that a launcher has started, as the first of them reads it."""
    if is_multirun(argv):
        raise ValueError(
            f"--multirun would run the whole sweep in each of the {launch.world_size} processes of {launch.launcher}: "
            "start it without, as its jobs are processes of their own (docs/clusters.md)"
        )

    def read() -> list[str]:
        words = _expand(argv)
        named = value_of(words, "hydra.run.dir") is not None
        return words if named else [*words, f"hydra.run.dir={quote(fresh_folder())}"]

    return processes.shared_command_line(launch, read)


def _describe(*args: Any, **kwargs: Any) -> Any:
    from experiments.training.checkpoints import describe  # torch: only for a checkpoint without its run folder

    return describe(*args, **kwargs)


def _write_trace(error: BaseException) -> None:
    """The full trace goes to error.log of the run folder, once that is this run's."""
    if _begun:
        with suppress(OSError), (_begun[-1] / "error.log").open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
