"""Both arms of a training step: they do the same to the weights, and what does not is refused."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.config import DatasetConfig
from datasets.data_module import TextDataModule
from experiments.evaluation.speed import training
from experiments.evaluation.speed.costs import dispatched, flops
from experiments.evaluation.speed.training import Disagreement, Subject, Timed, arms, bare_loop, check_same, framework
from experiments.run.build import compose_run
from experiments.run.composition import composing
from experiments.run.registry import ALGORITHMS, look_up

STEPS = training.WARM_UP + 2
SMALL = ["n_layer=1", "n_head=2", "n_embd=16", "block_size=24"]


def subject_of(method: str, corpus: Path, folder: Path, *overrides: str) -> Subject:
    small = [f"algorithm.backbone.{size}" for size in SMALL]
    with composing():
        run = compose_run([f"algorithm={method}", *small, "trainer=cpu", *overrides])
    data = TextDataModule(
        DatasetConfig(name="text_file", path=str(corpus), cache_dir=str(folder / "cache")),
        block_size=24,
        batch_size=3,
        eval_batch_size=3,
        seed=0,
    ).prepare()
    cls = look_up(ALGORITHMS, method, "algorithm.name")
    return Subject(
        model=cls(run.algorithm, vocabulary_size=data.vocabulary_size, total_steps=100),
        data=data,
        device=torch.device("cpu"),
        dtype=torch.float32,
        context=nullcontext,
        run=run,
        training=replace(run.experiment.training, batch_size=3),
        scratch=folder,
    )


@pytest.mark.parametrize("method", ALGORITHMS)
def test_the_bare_loop_does_what_the_framework_does(method: str, corpus: Path, tmp_path: Path) -> None:
    """Catches an arm that draws other noise, skips a part of the loss, or steps by another learning rate: the weights
    after a few steps are the same, bit for bit, and so are they when an arm is run again."""
    subject = subject_of(method, corpus, tmp_path)
    found = []
    for arm in (framework, bare_loop, framework):
        timed = arm(subject, STEPS)
        assert timed.seconds > 0
        found.append((timed.loss, {name: one.clone() for name, one in subject.model.state_dict().items()}))
    for loss, weights in found[1:]:
        assert loss == found[0][0]
        assert all(torch.equal(one, found[0][1][name]) for name, one in weights.items())


def test_no_checkpoint_is_written_and_nothing_is_validated(corpus: Path, tmp_path: Path) -> None:
    """Catches an arm whose seconds are those of a disk."""
    subject = subject_of("gpt", corpus, tmp_path)
    subject.model.validation_step = lambda *_: pytest.fail("validated")
    framework(subject, 12)
    assert not [*tmp_path.rglob("*.ckpt")] and (tmp_path / "metrics.csv").is_file()


@pytest.mark.parametrize("method", ["gpt", "diffusion_flow"])
def test_arms_are_paired(method: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches medians of one arm over the other's rounds, warm-up steps that count, tokens of a wrong batch, and a part
    of the steps that a method takes in turn."""
    subject = subject_of(method, corpus, tmp_path)
    ours, bare = iter([2.0, 1.0, 4.0]), iter([1.0, 1.0, 1.0, 1.0])  # a trial comes first
    monkeypatch.setattr(training, "framework", lambda *_: Timed(next(ours), 5.0))
    monkeypatch.setattr(training, "bare_loop", lambda *_: Timed(next(bare), 5.0))
    found = arms(subject, 3)
    steps = found["steps"]
    assert steps % subject.model.period == 0 and 2 <= steps <= 4
    assert [a for a, _ in found["rounds"]] == [72 * steps / seconds for seconds in (2, 1, 4)]
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (0.5, 0.25, 1.0)


def test_arms_that_train_otherwise_are_no_timing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a ratio of two trainings that are not the same."""
    subject = subject_of("gpt", corpus, tmp_path)
    monkeypatch.setattr(training, "framework", lambda *_: Timed(1.0, 5.0))
    with pytest.raises(Disagreement, match=r"the framework's loss is 5 and the bare loop's"):
        arms(subject, 1)


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_a_compiled_step_that_computes_otherwise_is_no_timing(wrong: str, corpus: Path, tmp_path: Path) -> None:
    """Catches a fast step whose loss, or whose gradient alone, is not the eager one's."""
    subject = subject_of("gpt", corpus, tmp_path)
    expected: Any = training.losses_and_gradients(subject)
    check_same(subject, expected, "compiled")
    loss = subject.model.loss_of
    weight = subject.model.model.lm_head.weight

    def other(ids: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        parts = loss(ids, draws)
        beside = weight.mean() if wrong == "gradient" else weight.new_tensor(0.1)
        return {**parts, "loss": parts["loss"] + beside - beside.detach() * (wrong == "gradient")}

    subject.model.loss_of = other
    with pytest.raises(Disagreement, match=f"the compiled {wrong} "):
        check_same(subject, expected, "compiled")


def test_operations_of_a_step_are_those_of_its_batch(corpus: Path, tmp_path: Path) -> None:
    """Catches operations of the one window that is counted, and a count that trains the model."""
    subject = subject_of("gpt", corpus, tmp_path)
    before = {name: one.clone() for name, one in subject.model.state_dict().items()}
    whole = flops(lambda: [loss.backward() for step, ids in subject.batches(1) for loss in [subject.loss(step, ids)]])
    assert training.step_flops(subject) == whole
    assert all(torch.equal(one, before[name]) for name, one in subject.model.state_dict().items())


def test_dispatches_are_those_of_a_warm_step(corpus: Path, tmp_path: Path) -> None:
    """Catches the optimiser's first step, which makes its state, and steps that are counted twice."""
    subject = subject_of("gpt", corpus, tmp_path)
    two = dispatched(lambda: bare_loop(subject, 2), subject.device).operations
    warm = training.step_dispatches(subject).operations
    assert two is not None and warm is not None and 50 < warm < two / 2
