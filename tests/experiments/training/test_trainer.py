"""The trainer's settings, and the callbacks that watch it, on a module of one weight."""

import csv
import gc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from algorithms.common.base_algorithm import BaseAlgorithm
from experiments.run.interrupts import Interrupted
from experiments.run.schema import TrainingConfig
from experiments.training import callbacks, trainer
from experiments.training.callbacks import ExponentialMovingAverage, FrozenGarbage, NanGuard, Pace, ProgressLine, Speed
from experiments.training.checkpoint_callback import Checkpoints
from experiments.training.loggers import StepsDoneCsv
from experiments.training.trainer import build_trainer, check_settings, remarks

CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
CONFIGS = Path(__file__).parents[3] / "configs" / "trainer"


class Line(LightningModule):
    """One weight; its loss is NaN from the given micro-step on, and its validation figures are the given ones."""

    def __init__(self, *, nan_at: int = -1, values: list[float] | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.nan_at = nan_at
        self.values = list(values or [1.0] * 99)
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.weight.square().sum()
        return loss * float("nan") if batch_idx == self.nan_at else loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.trainer.global_step)
        self.log("val/nll", torch.tensor(self.values.pop(0)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Endless:
    def __iter__(self):
        while True:
            yield torch.zeros(2, 5, dtype=torch.int64)


def fit(model: Line, folder: Path, *, progress: bool = False, log_every: int = 2, **training: Any) -> Checkpoints:
    config = TrainingConfig(**training)
    keep = Checkpoints(
        folder,
        every=config.checkpoint_every_steps,
        val_every=config.val_every_steps,
        max_steps=config.max_steps,
        extra={"algorithm": "line", "config": {}},
    )
    watchers = [NanGuard(log_every), Speed(log_every)]
    watchers += [ProgressLine(max_steps=config.max_steps, line_every_seconds=0)] if progress else []
    trainer = build_trainer(
        CPU,
        run_dir=folder,
        training=config,
        watchers=[*watchers, keep],
        loggers=[StepsDoneCsv(folder / "metrics.csv")],
        log_every_steps=log_every,
    )
    trainer.fit(model, Endless(), [torch.zeros(1)])
    return keep


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_intervals_count_optimiser_steps(tmp_path: Path) -> None:
    """Catches intervals in micro-batches, and a last step that is never validated or is validated twice."""
    model = Line()
    fit(model, tmp_path, max_steps=7, val_every_steps=3, checkpoint_every_steps=2, accumulate_grad_batches=2)
    assert model.validated == [3, 6, 7]
    assert step_of(tmp_path / "last.ckpt") == 7


def test_best_follows_the_validation(tmp_path: Path) -> None:
    """Catches best.ckpt that is merely the newest, or survives a better one; NaN never wins."""
    keep = fit(Line(values=[3.0, 1.0, float("nan"), 2.0]), tmp_path, max_steps=8, val_every_steps=2)
    assert (keep.best, keep.best_step) == (1.0, 4)
    assert (step_of(tmp_path / "best.ckpt"), step_of(tmp_path / "last.ckpt")) == (4, 8)


def test_a_first_validation_of_nan_is_replaced(tmp_path: Path) -> None:
    """Catches a NaN that no later figure is ever below."""
    keep = fit(Line(values=[float("nan"), 2.0]), tmp_path, max_steps=4, val_every_steps=2)
    assert (keep.best, keep.best_step) == (2.0, 4)


def test_training_stops_at_a_loss_of_nan(tmp_path: Path) -> None:
    """Catches a run that goes on with NaN, names the wrong step, or writes it over the good checkpoint."""
    sizes = {"max_steps": 40, "val_every_steps": 2, "accumulate_grad_batches": 2}
    with pytest.raises(ValueError, match=r"not finite at step 7 with learning rate 0.01; try a lower") as caught:
        fit(Line(nan_at=12), tmp_path, log_every=4, **sizes)
    assert "\n" not in str(caught.value)
    weight = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["weight"]
    assert step_of(tmp_path / "last.ckpt") == 6 and weight.isfinite().all()


def test_a_weight_of_nan_is_not_written(tmp_path: Path) -> None:
    """Catches a finite loss whose gradient ruined the weights just before a checkpoint."""

    class Ruined(Line):
        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            if self.trainer.global_step == 3:
                self.weight.data.fill_(float("inf"))

    with pytest.raises(ValueError, match="not finite at step"):
        fit(Ruined(), tmp_path, max_steps=40, checkpoint_every_steps=3, log_every=100, gradient_clip_norm=None)
    assert not (tmp_path / "last.ckpt").exists() or step_of(tmp_path / "last.ckpt") < 4


def test_speed_and_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches tokens that are miscounted, and a flood of control characters in a log file."""
    fit(Line(), tmp_path, max_steps=4, accumulate_grad_batches=2, progress=True)
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert row["step"] == "4" and row["train/tokens"] == str(4 * 2 * 2 * 4)
    assert row["train/lr"] == "0.01" and float(row["train/grad_norm"]) > 0
    out = capsys.readouterr().out
    assert "step 4/4  val/nll 1.0000" in out and "tokens/s" in out and "\r" not in out and "\x1b" not in out


@pytest.mark.parametrize("stop", [None, ValueError, Interrupted])
def test_garbage_is_frozen_while_training_alone(tmp_path: Path, stop: type[BaseException] | None) -> None:
    """Catches full collections between steps, and objects that are never freed after a training or its failure."""

    class Watched(Line):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            frozen.append(gc.get_freeze_count())
            if stop is not None and batch_idx == 1:
                raise stop(15)
            return super().training_step(batch, batch_idx)

    frozen: list[int] = []
    steps = TrainingConfig(max_steps=3, val_every_steps=9)
    trainer = build_trainer(CPU, run_dir=tmp_path, training=steps, watchers=[FrozenGarbage()])
    with nullcontext() if stop is None else pytest.raises(stop):
        trainer.fit(Watched(), Endless())
    assert min(frozen) > 100_000 and gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([1] * 40 + [3] * 12, [52]),  # a third of the speed for longer than three spans of ten seconds
        ([1] * 40 + [2] * 60, []),  # half, as beside one busy process
        ([1] * 40 + [500] + [1] * 40, []),  # a pause
        (([1] * 20 + [25]) * 5, []),  # a slow step now and then, as one with a checkpoint
        ([300] + [1] * 60, []),  # compilation
        ([1] * 40 + [3] * 30 + [1] * 40 + [3] * 30, [52]),  # once is enough
        ([20] * 5 + [60] * 5, [8]),  # steps longer than a span
    ],
)
def test_a_machine_that_becomes_busy_is_told_once(seconds: list[float], told: list[int]) -> None:
    """Catches an alarm at a pause, a checkpoint or a compilation, none where the machine is busy, and one a span."""
    pace = Pace()
    found = [number for number, each in enumerate(seconds, start=1) if pace.add(100, each) is not None]
    assert found == told


def test_time_of_validation_is_not_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an alarm for steps between which there are long validations, and one that is not printed at all."""
    model, now = Line(), [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def pass_time(batch: torch.Tensor, batch_idx: int) -> None:
        now[0] += 6.0 if batch_idx < 20 else 30.0

    model.on_train_batch_start = pass_time
    monkeypatch.setattr(model, "on_validation_start", lambda: now.__setitem__(0, now[0] + 500.0))
    fit(model, tmp_path, max_steps=20, val_every_steps=2, progress=True)
    assert "busy" not in capsys.readouterr().out
    fit(model, tmp_path, max_steps=30, val_every_steps=2, progress=True)
    assert capsys.readouterr().out.count("the machine is busy: 0 tokens/s, where there were 1\n") == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_trainer_config_is_accepted_or_names_its_device(path: Path) -> None:
    """Catches a key that lightning.Trainer does not know, and a missing device that is no sentence."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIGS.parent), version_base="1.3"):
        settings = OmegaConf.to_container(compose("config", overrides=[f"trainer={path.stem}"]).trainer)
    assert isinstance(settings, dict)
    accelerator = settings["accelerator"]
    missing = {"gpu": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(accelerator):
        with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}, but"):
            check_settings(settings)
    else:
        assert check_settings(settings)["precision"] in ("32-true", "bf16-mixed")


def test_what_lightning_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback of Lightning for settings that pass our checks and not its own."""

    def refuse(**arguments: Any) -> None:
        raise RuntimeError("no such\n thing")

    monkeypatch.setattr(trainer, "Trainer", refuse)
    with pytest.raises(ValueError, match=r"the trainer cannot be built \(no such thing\): try trainer=cpu"):
        build_trainer(CPU, run_dir=tmp_path, training=TrainingConfig())


# ---- several processes ----


def launched(monkeypatch: pytest.MonkeyPatch, world_size: int, local: int) -> None:
    """The environment of the first of so many processes, `local` of them on each node."""
    for key, value in {"RANK": 0, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": local}.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.mark.parametrize("asked", [{}, {"devices": 2}, {"num_nodes": 3}, {"devices": 2, "num_nodes": 3}])
def test_a_launcher_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch, asked: dict) -> None:
    """Catches a launch of six processes that the trainer takes for one."""
    launched(monkeypatch, 6, 2)
    settings = check_settings(CPU | asked)
    assert (settings["devices"], settings["num_nodes"]) == (2, 3)


@pytest.mark.parametrize(
    ("launch", "settings", "sentence"),
    [
        (
            (6, 2),
            {"devices": 4},
            "trainer.devices=4 on trainer.num_nodes=1, but torchrun started 2 processes on each of 3",
        ),
        ((2, 2), {"num_nodes": 2}, "but torchrun started 2 processes on each of 1 nodes"),
        (None, {"num_nodes": 2}, "trainer.num_nodes is 2, but this process was started alone"),
        (None, {"strategy": "ddp_spawn"}, "trainer.strategy is 'ddp_spawn': choose one of auto, ddp"),
        (None, {"strategy": "fsdp2"}, "splits a model over devices, which is not supported"),
    ],
)
def test_processes_that_do_not_fit_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, launch: tuple[int, int] | None, settings: dict, sentence: str
) -> None:
    """Catches a run that waits for processes that nobody started."""
    if launch:
        launched(monkeypatch, *launch)
    with pytest.raises(ValueError, match=sentence):
        check_settings(CPU | settings)


def test_more_processes_than_cores_are_remarked_on() -> None:
    """Catches processes that wait for each other's core in silence."""
    (said,) = remarks(CPU | {"devices": 1000})
    assert "trainer.devices=1000" in said and "CPU cores" in said
    assert remarks(CPU) == []


def test_buffers_stay_those_of_the_process(tmp_path: Path) -> None:
    """Catches a copy of the first process's buffers at every forward: what others have observed would be lost."""
    strategy = build_trainer(CPU | {"devices": 2}, run_dir=tmp_path, training=TrainingConfig()).strategy
    assert isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs["broadcast_buffers"]


def test_the_average_follows_the_module_to_its_device() -> None:
    """Catches an average that stays on the CPU: every step would copy all weights there."""
    model, average = Line(), ExponentialMovingAverage(0.9)
    average.setup(SimpleNamespace(), model, "fit")
    average.on_fit_start(SimpleNamespace(), model.to("meta"))
    assert {p.device.type for p in average._average_model.parameters()} == {"meta"}


def test_the_logged_loss_is_the_mean_of_its_micro_batches(tmp_path: Path) -> None:
    """Catches the loss of the last micro-batch given out for that of the step."""

    class Batches(BaseAlgorithm):
        """Its loss is the first id of a batch, and a weight's square."""

        def __init__(self) -> None:
            super().__init__(None, vocabulary_size=9, total_steps=9, seed=0)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def draw(self, ids: torch.Tensor, generator: torch.Generator) -> None:
            return None

        def loss_of(self, ids: torch.Tensor, draws: None) -> dict[str, torch.Tensor]:
            return {"loss": ids[0, 0] + self.weight.square().sum(), "part": ids[0, 0].float()}

        def nll(self, ids: torch.Tensor, generator: Any) -> torch.Tensor:
            return torch.ones(ids[:, 1:].shape)

        configure_optimizers = Line.configure_optimizers

    class Numbered:
        def __iter__(self):
            return (torch.full((1, 2), number) for number in range(12))

    trainer = build_trainer(
        CPU,
        run_dir=tmp_path,
        training=TrainingConfig(max_steps=4, val_every_steps=9, accumulate_grad_batches=3),
        loggers=[StepsDoneCsv(tmp_path / "metrics.csv")],
        log_every_steps=2,
    )
    trainer.fit(Batches(), Numbered())
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        logged = [(row["step"], float(row["train/loss"]), float(row["train/part"])) for row in csv.DictReader(file)]
    assert logged == [("2", 4.0, 4.0), ("4", 10.0, 10.0)]
