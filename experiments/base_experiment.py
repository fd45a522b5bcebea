"""An experiment is a class whose tasks are its methods, run in the order of `experiment.tasks`.

Here is what any experiment needs: the checks before work, the weights to start from, and the run's summary.
"""

import logging
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.run import transcript, unused
from experiments.run.console import is_rank_zero, print_rank_zero
from experiments.run.errors import near_miss
from experiments.run.files import read_json, write_json
from experiments.run.folder import checkpoint_of
from experiments.run.interrupts import Interrupted
from experiments.run.registry import EXPERIMENTS, look_up
from experiments.run.schema import RunConfig
from experiments.run.summary import describe_machine
from experiments.training import loggers
from experiments.training.checkpoints import Checkpoint, read_checkpoint
from experiments.training.trainer import build_trainer, remarks

OPTIMIZED_METRIC = "val/nll"  # what a sweeper of Hydra gets to see


def run_experiment(run: RunConfig, run_dir: Path, begin: Callable[[], None]) -> float | None:
    """Run the tasks of `run` in `run_dir`; the optimised metric, if a task measured it.

    Nothing is written there before `begin` is called, when all checks have passed.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    experiment = look_up(EXPERIMENTS, run.experiment.name, "experiment.name")(run, run_dir)
    for note in unused.notes(run, unused.OWN_METHOD if experiment.needs_weights else unused.NO_METHOD):
        print_rank_zero(note)
    try:
        experiment.check_processes()
        experiment.prepare()
        begin()
        experiment.begin()
        experiment.run_tasks()
    except Interrupted:
        if not experiment.begun and run.resume is None:
            begin()
        experiment.end_early("interrupted")
        raise
    except Exception:
        if experiment.begun:
            experiment.end_early("failed")
        raise
    return experiment.summary["figures"].get(OPTIMIZED_METRIC)


class BaseExperiment:
    """Runs tasks by name. A subclass sets `config_class` and `tasks` and writes a method for each task.

    Raises ValueError or OSError in one sentence, before any work, on what can be known to be wrong.
    """

    config_class: ClassVar[type]
    tasks: ClassVar[tuple[str, ...]]
    training_tasks: ClassVar[tuple[str, ...]] = ("training",)  # those after which there are weights
    needs_weights: ClassVar[bool] = True  # of one model, by training first or from load= or resume=
    folders: ClassVar[tuple[str, ...]] = ("checkpoints", "samples", "plots")  # of the run folder

    def __init__(self, run: RunConfig, run_dir: Path) -> None:
        self.run = run
        self.config = run.experiment
        self.run_dir = run_dir
        self.source: Path | None = None  # the checkpoint of load= or resume=
        self.checkpoint: Checkpoint | None = None
        self._loggers: list[Logger] | None = None
        self._check_tasks()
        for remark in remarks(run.trainer):
            print_rank_zero(remark)
        given = run.load if run.resume is None else run.resume
        if self.needs_weights and given is not None:
            names = ["last.ckpt"] if self.resumed and self.trains else ["best.ckpt", "last.ckpt"]
            self.source = checkpoint_of(Path(given), names)
        if self.source is not None:
            self.checkpoint = read_checkpoint(self.source)
            if self.resumed and "global_step" not in self.checkpoint:
                raise ValueError(f"{self.source} is another program's: load= takes its weights into a new run")
        self._check_folder()
        self.trainers: list[Trainer] = []  # made so far
        self.begun = False
        self.summary = self._begin_summary()

    @property
    def trains(self) -> bool:
        return any(task in self.training_tasks for task in self.config.tasks)

    @property
    def resumed(self) -> bool:
        return self.run.resume is not None

    @property
    def loggers(self) -> list[Logger]:
        """The run's loggers, made when first needed: none is left behind by a run that fails its checks."""
        if self._loggers is None:
            step = None
            if self.resumed and self.checkpoint:  # training goes on from there; without it every row stays
                step = self.checkpoint["global_step"] if self.trains else sys.maxsize
            self._loggers = loggers.build_loggers(self.run, self.run_dir, step)
        return self._loggers

    @cached_property
    def evaluator(self) -> Trainer:
        """A Trainer that only evaluates: its figures go to the summary and not into the curve."""
        trainer = build_trainer(self.run.trainer, run_dir=self.run_dir, training=self.config.training)
        self.trainers.append(trainer)
        return trainer

    @property
    def device(self) -> torch.device:
        return self.evaluator.strategy.root_device

    def log_media(self, **media: Any) -> None:
        """Tables and files for W&B, where that is on."""
        if self.run.logger.wandb is not None:
            loggers.log_media(self.loggers, self.run_dir, **media)

    def prepare(self) -> None:
        """Build what the tasks share, and check it. Called once, before the first task; writes nothing."""

    def begin(self) -> None:
        """The first to be written, once all checks have passed."""
        self.begun = True
        for name in self.folders:
            (self.run_dir / name).mkdir(parents=True, exist_ok=True)

    def run_tasks(self) -> None:
        """Run each task of the config in turn; the summary is written after each."""
        self.write_summary("running")
        if is_rank_zero():
            transcript.write_to(self.run_dir / "main.log")
        for task in self.config.tasks:
            print_rank_zero(f"--- {task}")
            getattr(self, task)()
            self.write_summary("running")
        self.write_summary("finished")
        if self._loggers is not None:
            kind = {"likelihood_kind": self.summary["likelihood_kind"]} if "likelihood_kind" in self.summary else {}
            loggers.close(self._loggers, self.summary["figures"] | kind)
        print_rank_zero(f"run folder: {self.run_dir}")

    @rank_zero_only
    def write_summary(self, status: str) -> None:
        self.summary["status"] = status
        write_json(self.run_dir / "summary.json", self.summary | describe_machine())

    @rank_zero_only
    def end_early(self, status: str) -> None:
        """Say in the summary that the run is "interrupted" or "failed"."""
        path = self.run_dir / "summary.json"
        with suppress(OSError):  # of a full disk, which is told by the error at hand
            if self.begun or not self.resumed:
                self.write_summary(status)
            else:
                write_json(path, read_json(path) | {"status": status})
        for trainer in self.trainers:
            if status == "interrupted" and isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
                trainer.strategy.launcher.kill(signal.SIGKILL)  # they wait for this one and hold nothing

    def check_processes(self) -> None:
        """ValueError if a resumed training would go on with another number of processes, and so with other batches."""
        before = self.checkpoint.get("processes") if self.resumed and self.trains and self.checkpoint else None
        if before is not None and before != (now := self.evaluator.world_size):
            raise ValueError(
                f"trainer.devices: the run was begun with {before} process{'es' if before > 1 else ''} and would go on "
                f"with {now}, which would be another run (each has batches of its own): take as many, or begin a new "
                f"run, with load={self.run_dir} for its weights"
            )

    def _begin_summary(self) -> dict[str, Any]:
        fresh = {
            "status": "running",
            "seed": self.run.seed,
            "figures": {},
            "kinds": {},  # of the likelihoods among the figures: exact or bound
        }
        stored = read_json(self.run_dir / "summary.json") if self.resumed else {}
        chosen = {group: self.run.chosen(group) for group in ("algorithm", "dataset", "experiment")}
        return chosen | (stored or fresh) | {"overrides": self.run.overrides}

    def _check_tasks(self) -> None:
        tasks = self.config.tasks
        if not tasks:
            raise ValueError(f"experiment.tasks is empty: choose from {', '.join(self.tasks)}")
        for task in tasks:
            if task not in self.tasks:
                raise ValueError(f"experiment.tasks has no task '{task}'{near_miss(task, self.tasks)}")
            if tasks.count(task) > 1:
                raise ValueError(f"experiment.tasks names '{task}' twice: leave one of them out")
        given = self.run.load is not None or self.run.resume is not None
        if self.needs_weights and tasks[0] not in self.training_tasks and not given:
            remedy = "say load=RUN_FOLDER, or put training before it"
            raise ValueError(f"the task '{tasks[0]}' needs trained weights: {remedy}")

    def _check_folder(self) -> None:
        """The run folder takes files. (How much room the checkpoints need is known once the model is.)"""
        probe = self.run_dir / ".probe.tmp"
        probe.write_bytes(b"x")
        probe.unlink(missing_ok=True)

    def check_space(self, parameters: int) -> None:
        """ValueError unless the disk holds best, last and the one being written: weights, two moments, an average."""
        needed = parameters * 4 * 4 * 3
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            raise ValueError(
                f"{self.run_dir} has {free / 1e6:,.0f} MB free, and the checkpoints need {needed / 1e6:,.0f} MB: "
                "free some space, or choose another place with hydra.run.dir="
            )
