"""Where curves go: metrics.csv always, Weights & Biases and TensorBoard on request. None needs an account.

All count optimiser steps done: the row of step n is what was measured after n steps.
"""

import importlib.util
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.analysis.files import read_table, table_text, write
from experiments.run.console import is_rank_zero
from experiments.run.files import read_json, write_json
from experiments.run.schema import LoggerConfig, RunConfig

Table = tuple[list[str], list[list[Any]]]  # names of columns, rows
COMPARED = ("val/nll", "test/nll")  # on TensorBoard's page HPARAMS
SKIPPED = ("epoch",)  # one endless epoch


class CsvLogger(Logger):
    """metrics.csv with one row per step. Rows are appended; the file is written anew only when a column is added.

    `resume_step`: keep the rows of the file up to that step and continue it; None starts a new file.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._row: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._offset = 0  # where the row of the current step begins
        if resume_step is not None and path.is_file() and is_rank_zero():
            self._cut(resume_step)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run folder holds the config already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._row and self._row["step"] != step:
            self.save()
            self._offset = self.path.stat().st_size
            self._row = {}
        self._row |= {"step": step, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Write the row of the current step, over its earlier version if it has grown since."""
        if not self._row or self._row == self._written:
            return
        new = [k for k in self._row if k not in self._columns]
        if new or not self.path.is_file():
            self._columns += new
            rows = read_table(self.path)[1] if self.path.is_file() else []
            self._rewrite([r for r in rows if r["step"] != str(self._row["step"])])
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self._offset)
            file.write(table_text([self._row.get(k, "") for k in self._columns], []))
            file.truncate()
        self._written = dict(self._row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _cut(self, step: int) -> None:
        header, rows = read_table(self.path)
        self._columns = header or self._columns
        # A line cut short by a kill has no readable step of its own; all of them lie beyond the checkpoint.
        kept = [r for r in rows if None not in r.values() and r["step"].isdigit() and int(r["step"]) <= step]
        self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        write(self.path, table_text(self._columns, ([row.get(k) or "" for k in self._columns] for row in rows)))
        self._offset = self.path.stat().st_size


class StepsDone:
    """Mixin for Lightning's loggers: rows count steps done, where Lightning passes the index of a step, and carry the
    tokens seen, so that any curve can be drawn against either. The trainer is attached when it is built."""

    trainer: Trainer | None = None
    tokens: int | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {k: v for k, v in metrics.items() if k not in SKIPPED}
        if not metrics:
            return
        if self.tokens is not None:
            metrics["train/tokens"] = self.tokens
        done = self.trainer.global_step if self.trainer is not None else step
        super().log_metrics(metrics, done)  # type: ignore[misc]


class StepsDoneCsv(StepsDone, CsvLogger):
    """metrics.csv of a run."""


class StepsDoneWandb(StepsDone, WandbLogger):  # type: ignore[misc]  # Lightning's loggers name arguments differently
    """A run of Weights & Biases."""


class StepsDoneTensorBoard(StepsDone, TensorBoardLogger):  # type: ignore[misc]
    """TensorBoard event files. Its page HPARAMS shows the settings of a finished run beside its likelihoods."""

    _settings: dict[str, Any] | None = None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Kept until there are figures: TensorBoard takes both at once."""
        self._settings = params

    def log_figures(self, figures: Mapping[str, Any]) -> None:
        """Write the settings with those of the final figures that runs are compared by."""
        if self._settings is not None:
            super().log_hyperparams(self._settings, {key: figures[key] for key in COMPARED if key in figures})


def build_loggers(run: RunConfig, run_dir: Path, resume_step: int | None) -> list[Logger]:
    """The loggers of a run; ValueError in one sentence where a package is missing."""
    loggers: list[Logger] = [StepsDoneCsv(run_dir / "metrics.csv", resume_step)]
    if run.logger.tensorboard:
        if not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")):
            raise ValueError("logger=tensorboard needs a package that is not installed: pip install tensorboard")
        loggers.append(StepsDoneTensorBoard(save_dir=str(run_dir), name="tensorboard", version=""))
    if run.logger.wandb is not None:
        loggers.append(_wandb(run, run.logger, run_dir))
    return loggers


def _wandb(run: RunConfig, config: LoggerConfig, run_dir: Path) -> WandbLogger:
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("logger=wandb needs a package that is not installed: pip install wandb")
    settings = config.wandb
    assert settings is not None
    if not is_rank_zero():
        return StepsDoneWandb(offline=True)  # never asked for anything
    import wandb

    stored = run_dir / "wandb_id.json"  # a resumed run continues the same one
    run_id = read_json(stored).get("id") or secrets.token_hex(4)
    write_json(stored, {"id": run_id})
    offline = settings.mode == "offline" or (settings.mode == "auto" and not _logged_in())
    if offline:
        print(f"W&B: offline; send the run later with: wandb sync {run_dir / 'wandb'}/offline-run-*")
    try:
        experiment = wandb.init(
            project=settings.project,
            entity=settings.entity,
            **filed_under(run),
            id=run_id,
            dir=str(run_dir),
            mode="offline" if offline else "online",
            resume=None if offline else "allow",
            config=run.plain | {"choices": run.choices},
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"W&B cannot start ({reason}): logger.wandb.mode=offline needs no network") from error
    experiment.define_metric("trainer/global_step")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return StepsDoneWandb(experiment=experiment, save_dir=str(run_dir))


def filed_under(run: RunConfig) -> dict[str, Any]:
    """Name, group, job type and tags of a run in W&B: those of the configuration, or what the run is."""
    method, corpus, backbone = (run.chosen("algorithm"), run.chosen("dataset"), run.choices.get("algorithm/backbone"))
    settings = run.logger.wandb
    assert settings is not None
    return {
        "name": run.name or f"{method}-{corpus}-seed{run.seed}",
        "group": run.logger.group or f"{method}-{corpus}",
        "job_type": settings.job_type or run.chosen("experiment"),
        "tags": list(filter(None, (method, corpus, backbone))) if settings.tags is None else settings.tags,
    }


def _logged_in() -> bool:
    """Whether W&B would find a key: in its variable, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        path = Path(os.path.expanduser(name)) if name else None  # as it stands where nobody has a home
        if path is not None and path.is_file():
            try:
                return netrc.netrc(str(path)).authenticators(host) is not None
            except (netrc.NetrcParseError, OSError):
                return False
    return False


def log_media(
    loggers: list[Logger], run_dir: Path, *, tables: Mapping[str, Table] | None = None, files: Sequence[Path] = ()
) -> None:
    """Tables by name, and files of the run folder as pictures, animations or pages, where W&B is on."""
    for logger in loggers:
        if not isinstance(logger, WandbLogger) or not is_rank_zero():
            continue
        for name, (columns, rows) in (tables or {}).items():
            logger.log_table(name, columns=columns, data=rows)
        for file in files:
            key = file.relative_to(run_dir).with_suffix("").as_posix()
            if file.suffix == ".html":
                import wandb

                logger.experiment.log({key: wandb.Html(file.read_text(encoding="utf-8"))})
            elif file.suffix == ".gif":
                logger.log_video(key, [str(file)], format=["gif"])
            else:
                logger.log_image(key, [str(file)])


def close(loggers: list[Logger], figures: dict[str, Any]) -> None:
    """Write the final figures to W&B's summary and end its run, so that the next one in this process is a new one."""
    for logger in loggers:
        if isinstance(logger, StepsDoneTensorBoard):
            logger.log_figures(figures)
        if not isinstance(logger, WandbLogger):
            logger.finalize("success")
        elif is_rank_zero():
            import wandb

            logger.experiment.summary.update(figures)
            wandb.finish()
