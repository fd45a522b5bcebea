"""A resume that is refused changes nothing, and one that is not does what it says."""

import csv
import hashlib
from pathlib import Path

import pytest
import torch

from tests.conftest import Main

REFUSED = [
    ("seed=1", "seed was 0 in "),
    ("experiment.training.accumulate_grad_batches=2", "experiment.training.accumulate_grad_batches was 1 in"),
    ("algorithm.optimizer.beta2=0.5", "algorithm.optimizer.beta2 was 0.99 in"),
    ("algorithm/optimizer=adamw", "algorithm.optimizer.name was 'muon' in"),
    ("algorithm=df_lm", "algorithm.name was 'gpt' in"),
    ("experiment.training.max_steps=1", "max_steps is 1, and the run has done 2 steps"),
    ("trainer=ddp_sim", "trainer.devices: the run was begun with 1 process and would go on with 2"),
    ("experiment.training.max_steps=x", "has a wrong value"),
    ("algorithm/backbone=huge", "unknown choice algorithm/backbone=huge"),
    ("trainer.accelerator=mps", "trainer.accelerator=mps"),
    ("dataset.path=other.txt", "resume= continues a run on the data that it began with"),
]


def tree(folder: str) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nothing_changes(smoke: Main, main: Main) -> None:
    """Catches a refusal that comes after .hydra was written, so that every later resume and load of the run fails."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]")
    Path("other.txt").write_text("the king and the queen\n" * 900, encoding="utf-8")
    before = tree("run")
    for override, sentence in REFUSED:
        outcome = main("resume=run", override)
        assert outcome.status == 1 and sentence in outcome.err and outcome.err.count("\n") == 1, override
        assert tree("run") == before, override
    assert main("resume=run").status == 0


def rates(folder: str) -> list[float]:
    with Path(folder, "metrics.csv").open(encoding="utf-8") as file:
        return [float(row["train/lr"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("optimizer", "groups"), [("adamw", 1), ("muon", 2)])  # no gains, no biases
def test_what_applies_from_now_on_does(smoke: Main, main: Main, optimizer: str, groups: int) -> None:
    """Catches a learning rate or a weight decay that is recorded and ignored, and a schedule that jumps in silence or a
    step too late."""
    settings = ("lr=2e-3", "warmup_steps=0", "min_lr_ratio=0")
    chosen = [f"algorithm/optimizer={optimizer}", *(f"algorithm.optimizer.{one}" for one in settings)]
    smoke("hydra.run.dir=run", "experiment.tasks=[training]", *chosen)
    longer = ["experiment.training.max_steps=4", "algorithm.optimizer.lr=4e-3", "algorithm.optimizer.weight_decay=0.3"]
    outcome = main("resume=run", *longer)
    assert outcome.status == 0, outcome.err
    for line in ("max_steps is 4 from now on, it was 2", "lr is 0.004 from now on, it was 0.002"):
        assert line in outcome.err
    assert "the learning rate goes from 0 to 0.002 at step 2" in outcome.out
    assert rates("run") == pytest.approx([2e-3, 1e-3, 2e-3, 4e-3 * (1 - 0.5**0.5) / 2])
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in saved] == [0.3] * groups
    assert len({group["lr"] for group in saved}) == 1


def test_a_folder_is_kept_only_where_something_began(smoke: Main) -> None:
    """Catches a failed start that leaves a folder behind, and one that takes a folder of the user's along."""
    Path("kept").mkdir()
    assert smoke("seed=x").status == 1 and smoke("algorithm.decoder.top_k=1000", "hydra.run.dir=kept/a/b").status == 1
    assert sorted(path.name for path in Path().iterdir() if path.name != "data") in ([], ["kept"])


def test_a_run_without_a_checkpoint_starts_again(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches curves of two beginnings in one file."""
    from experiments.training import checkpoints

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.torch, "save", full)
        assert smoke("hydra.run.dir=run").status == 1
    outcome = smoke("resume=auto", "hydra.run.dir=run", "experiment.tasks=[training]")
    assert outcome.status == 0 and "stopped before its first checkpoint" in outcome.err
    assert len(rates("run")) == 2
