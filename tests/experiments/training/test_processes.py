"""Two and three processes over gloo train and evaluate as one with the same global batch."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datasets.config import DatasetConfig
from datasets.data_module import TextDataModule
from experiments.run.build import build
from experiments.run.composition import composed
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import TrainingConfig
from experiments.training.checkpoints import read_checkpoint
from experiments.training.loggers import StepsDoneCsv
from experiments.training.trainer import build_trainer, training_callbacks
from tests.processes import forks, in_processes, ranks

SMALL = ["n_layer=1", "n_head=2", "n_embd=16", "block_size=24"]
METHODS = {
    "gpt": ["algorithm=gpt", "algorithm.input_noise=0.5", "algorithm.token_dropout=0.1"],
    "df_lm": ["algorithm=df_lm", "algorithm.diffusion.fit_every_steps=1", "algorithm.diffusion.timesteps=4"],
    "df_lm_intermittent": ["algorithm=df_lm", "algorithm.streams.interval=2", "algorithm.mse_weight=0.1"],
    "df_lm_shifted": ["algorithm=df_lm_shifted", "algorithm.self_conditioning=0.5"],
    "df_lm_faithful": ["algorithm=df_lm_faithful"],
    "masked_diffusion": ["algorithm=masked_diffusion"],
    "masked_bound": ["algorithm=masked_diffusion", "algorithm.objective=continuous_time"],
    "block_diffusion": ["algorithm=block_diffusion"],
    "diffusion_flow": ["algorithm=diffusion_flow", "algorithm.flow.interval=2"],
    "velocity": ["algorithm=diffusion_flow_reference", "algorithm.flow.interval=1"],
}
CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "strategy": "auto"}


def make(overrides: list[str], vocabulary_size: int) -> Any:
    config = composed([*overrides, *(f"algorithm.backbone.{size}" for size in SMALL)])
    cls = look_up(ALGORITHMS, config.algorithm.name, "algorithm.name")
    built = build(cls.config_class, config.algorithm, "algorithm")
    return cls(built, vocabulary_size=vocabulary_size, total_steps=4)


def train(text: Path, out: Path, overrides: list[str], batch_size: int) -> dict[str, torch.Tensor]:
    """Train for 3 steps of 2 micro-batches with clipping and an average; the weights of this process."""
    torch.manual_seed(0)
    dataset = DatasetConfig(name="text_file", path=str(text), cache_dir=str(text.parent / "cache"))
    data = TextDataModule(dataset, block_size=24, batch_size=batch_size, eval_batch_size=2, seed=0).prepare()
    model = make(overrides, data.vocabulary_size)
    training = TrainingConfig(max_steps=3, val_every_steps=3, accumulate_grad_batches=2, ema_decay=0.5)
    run: Any = SimpleNamespace(
        logger=SimpleNamespace(log_every_steps=3), callbacks=SimpleNamespace(progress=False, line_every_seconds=1.0)
    )
    out.mkdir(exist_ok=True)
    trainer = build_trainer(
        CPU,
        run_dir=out,
        training=training,
        watchers=training_callbacks(run, training, out, {"algorithm": model.name, "config": {}}),
        loggers=[StepsDoneCsv(out / "metrics.csv")],
        log_every_steps=3,
    )
    trainer.fit(model, data)
    trainer.strategy.barrier()
    return {name: value.clone() for name, value in model.state_dict().items()}


def train_all(text: Path, out: Path, methods: list[str], batch_size: int) -> dict[str, dict[str, torch.Tensor]]:
    return {name: train(text, out / name, METHODS[name], batch_size) for name in methods}


@forks
@pytest.mark.parametrize(
    ("methods", "numbers"),
    [(["df_lm", "masked_diffusion"], [3]), pytest.param([*METHODS], [2, 3], marks=pytest.mark.slow)],
    ids=["three", "all"],
)
def test_processes_train_what_one_trains(tmp_path: Path, methods: list[str], numbers: list[int]) -> None:
    """Catches noise, windows, statistics of levels, means over masked tokens, logged losses or averaged weights that
    depend on how many processes share a batch, and an evaluation that needs as many batches as processes: here the
    split has two windows for three of them."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} speak, hear me speak.\n" for number in range(40)), encoding="utf-8")
    results = {}
    for number in (1, *numbers):
        out = tmp_path / str(number)
        out.mkdir()
        places = ranks(number) if number > 1 else [{}]
        results[number] = in_processes(places, train_all, text, out, methods, 6 // number)
    (alone,) = results[1]
    for number in numbers:
        for rank, found in enumerate(results[number]):
            for name, weights in alone.items():
                for key, value in weights.items():
                    about = f"{name}: {key} in process {rank} of {number}"
                    torch.testing.assert_close(found[name][key], value, rtol=1e-3, atol=2e-5, msg=about)
        for name in methods:
            one, several = (rows(tmp_path / str(count) / name / "metrics.csv") for count in (1, number))
            assert one.keys() == several.keys()
            for column in [c for c in one if c.startswith(("val/", "train/")) and "second" not in c]:
                assert several[column] == pytest.approx(one[column], rel=2e-4), (name, column, number)
            saved, kept = (
                read_checkpoint(tmp_path / str(count) / name / "checkpoints" / "last.ckpt") for count in (1, number)
            )
            assert saved.keys() == kept.keys() and saved["state_dict"].keys() == kept["state_dict"].keys()


def rows(path: Path) -> dict[str, float]:
    """All values of a metrics.csv whose columns each have one."""
    with path.open(encoding="utf-8") as file:
        return {key: float(value) for row in csv.DictReader(file) for key, value in row.items() if value}
