"""Arguments of Lightning's Trainer: taken, decided by another key, or refused before any work."""

import inspect
from dataclasses import fields
from typing import Any

import pytest
import torch
from lightning import Trainer

from experiments.training.trainer_settings import DECIDED, WITHOUT_USE, TrainerArguments, check_arguments

CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}


def test_every_argument_is_taken_or_refused() -> None:
    """Catches an argument of a newer Lightning that nobody has decided about, and one that stands in two places."""
    taken, known = {field.name for field in fields(TrainerArguments)}, inspect.signature(Trainer.__init__).parameters
    assert len(taken) + len(DECIDED) + len(WITHOUT_USE) == len(known) - 1
    assert taken | DECIDED.keys() | WITHOUT_USE.keys() == known.keys() - {"self"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"acelerator": "cpu"}, "unknown config key 'trainer.acelerator': did you mean 'trainer.accelerator'"),
        ({"accelerator": "cup"}, "trainer.accelerator is 'cup': did you mean 'cpu'"),
        ({"accelerator": "tpu"}, "trainer.accelerator is 'tpu': did you mean 'gpu'"),
        ({"max_steps": 3}, "trainer.max_steps is decided by experiment.training.max_steps"),
        ({"fast_dev_run": True}, "trainer.fast_dev_run is decided by debug=smoke"),
        ({"limit_train_batches": 3}, "trainer.limit_train_batches is decided by experiment.training.max_steps"),
        ({"num_sanity_val_steps": 2}, "trainer.num_sanity_val_steps has no use here"),
        ({"plugins": []}, "trainer.plugins has no use here"),
        ({"precision": 17}, "trainer.precision is '17': choose one of auto, 32-true"),
        ({"precision": "32-ture"}, "trainer.precision is '32-ture': did you mean '32-true'"),
        ({"precision": "16-mixed"}, "trainer.precision is 16-mixed, which a CPU does not mix"),
        ({"accelerator": "mps", "precision": 64}, "trainer.precision is 64, which Apple's GPUs do not have"),
        ({"strategy": "dpp"}, "trainer.strategy is 'dpp': did you mean 'ddp'"),
        ({"strategy": "ddp_spawn"}, "trainer.strategy is 'ddp_spawn'"),
        ({"devices": 0}, "trainer.devices is 0: give how many"),
        ({"devices": -2}, "trainer.devices is -2: give how many"),
        ({"devices": None}, "trainer.devices is None: give how many"),
        ({"devices": 1.5}, "trainer.devices is 1.5: give how many"),
        ({"devices": "many"}, "trainer.devices is 'many': give how many"),
        ({"devices": -1}, "trainer.devices is -1, all GPUs, and this is a CPU"),
        ({"devices": "0,1"}, "trainer.devices is '0,1', and only GPUs have indices"),
        ({"devices": [0, 1]}, "only GPUs have indices: say how many"),
        ({"accelerator": "mps", "devices": 2}, "trainer.devices is 2, and an Apple machine has one GPU"),
        ({"num_nodes": 0}, "trainer.num_nodes is 0: it must be at least 1"),
        ({"profiler": "simpel"}, "trainer.profiler is 'simpel': did you mean 'simple'"),
        ({"deterministic": "wran"}, "trainer.deterministic is 'wran': did you mean 'warn'"),
        ({"benchmark": 7}, "'trainer.benchmark' has a wrong value"),
        ({"max_time": "an hour"}, "trainer.max_time is 'an hour': write DAYS:HOURS:MINUTES:SECONDS"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    """Catches an argument that fights with a key of ours, or is found out by Lightning after the data is prepared."""
    with pytest.raises(ValueError) as caught:
        check_arguments(CPU | settings)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "fits"), [([0, 1], True), ("0,1", True), ([1, 1], False), ("2,", False), ([], False)]
)
def test_indices_are_of_gpus_that_are_here(devices: Any, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a GPU that is not there, or stands twice, and is missed only by CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = {"accelerator": "gpu", "devices": devices}
    if fits:
        check_arguments(settings)
    else:
        with pytest.raises(ValueError, match="give different ones of the GPUs here, 0, 1"):
            check_arguments(settings)


def test_what_lightning_can_do_is_taken() -> None:
    """Catches a check that refuses more than it must."""
    check_arguments(CPU | {"deterministic": "warn", "max_time": "00:00:30:00", "benchmark": True, "precision": 64})
    check_arguments(CPU | {"devices": 2, "strategy": "ddp", "profiler": "advanced", "num_nodes": 2})
