"""From the command line to the experiment: Hydra, the run folder, and errors as sentences.

Hydra pickles `job` by name for launchers with workers of their own, so it lives in a module and not in main.py.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.run import errors, processes
from experiments.run.command_line import expand
from experiments.run.composition import fresh_folder
from experiments.run.folder import CONFIGS, ROOT, is_first_process
from experiments.run.former_names import refuse_flags
from experiments.run.overrides import is_multirun, quote, value_of
from experiments.run.surroundings import settle_in
from experiments.run.transcript import recorded

OURS = "HYDRA_FULL_ERROR_SET_BY_MAIN"  # tells our own HYDRA_FULL_ERROR=1 from one that the user set
_failure: list[BaseException] = []
_run_dir: list[Path] = []


def job(cfg: DictConfig) -> float | None:
    """One run, or under --multirun one child process that is the run. Returns the optimised metric."""
    settings = HydraConfig.get()
    run_dir = Path(settings.runtime.output_dir)
    if settings.mode == RunMode.MULTIRUN:
        from experiments.run import sweep

        return sweep.run_child(settings, run_dir)
    _run_dir.append(run_dir)
    try:
        from experiments.base_experiment import run_experiment
        from experiments.run.build import build_run

        run = build_run(cfg, choices=settings.runtime.choices, overrides=list(settings.overrides.task))
        return run_experiment(run, run_dir)
    except Exception as error:  # kept for main(): Hydra would print lines of its own
        _failure.append(error)
        return None
    except (KeyboardInterrupt, SystemExit):  # the latter is what Lightning makes of the former
        print(f"interrupted: python main.py resume={run_dir} goes on from its last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


@recorded
def main() -> int:
    """Run the command line; the exit status. Mistakes of the user become one line, bugs a traceback."""
    settle_in()
    _failure.clear()
    _run_dir.clear()
    full = os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ
    if not full:
        os.environ |= {"HYDRA_FULL_ERROR": "1", OURS: "1"}  # lets exceptions come up to here
    argv = sys.argv[1:]
    if is_multirun(argv):  # workers of a launcher look `job` up by the name of its module
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])
    try:
        refuse_flags(argv)
        launch = processes.find_launch(os.environ)
        sys.argv[1:] = expand(argv, _describe) if launch is None else _expand_for_all(launch, argv)
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


def _expand_for_all(launch: processes.Launch, argv: list[str]) -> list[str]:
    """The command line of every process that a launcher has started, as the first of them reads it."""
    if is_multirun(argv):
        raise ValueError(
            f"--multirun would run the whole sweep in each of the {launch.world_size} processes of {launch.launcher}: "
            "start it without, as its jobs are processes of their own (docs/clusters.md)"
        )

    def read() -> list[str]:
        words = expand(argv, _describe)
        named = value_of(words, "hydra.run.dir") is not None
        return words if named else [*words, f"hydra.run.dir={quote(fresh_folder())}"]

    return processes.shared_command_line(launch, read)


def _describe(*args: Any, **kwargs: Any) -> Any:
    from experiments.training.checkpoints import describe  # torch: only for a checkpoint without its run folder

    return describe(*args, **kwargs)


def _write_trace(error: BaseException) -> None:
    """The full trace goes to error.log of the run folder, if there is one to write to."""
    if _run_dir:
        try:
            with (_run_dir[-1] / "error.log").open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        except OSError:
            pass  # the error at hand may well be that nothing can be written there
