"""Whole runs through main.py in this process, at the size of debug=smoke."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from datasets import data_module
from experiments.evaluation.models import load_model
from tests.conftest import Main

FIGURES = ["val/nll", "test/nll"]


def summary(folder: str) -> dict:
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def latest() -> Path:
    return Path("latest-run").resolve()


@pytest.mark.parametrize("method", ["gpt", "df_lm"])
def test_a_run_leaves_everything_behind(smoke: Main, method: str) -> None:
    """Catches a task that fails, and an output of a run that is missing or empty."""
    outcome = smoke(f"algorithm={method}")
    assert (outcome.status, outcome.err) == (0, "")
    folder = latest()
    assert folder.parent.parent.name == "outputs"
    expected = ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "summary.json", "samples/samples.txt"]
    expected += ["samples/samples.json", "plots/training_curve.png", ".hydra/config.yaml"]
    expected += ["plots/scheduling_matrix.png", "plots/noise_levels.png"] if method == "df_lm" else []
    assert [name for name in expected if not (folder / name).stat().st_size] == []
    found = summary("latest-run")
    assert found["status"] == "finished" and found["algorithm"] == method
    assert found["likelihood_kind"] in ("exact", "bound")
    assert all(found["kinds"][name] == found["likelihood_kind"] for name in FIGURES)
    assert found["training"]["steps"] == 2 and found["training"]["tokens"] == 2 * 4 * 64
    assert {"seed", "parameters", "versions", "machine", "git_commit", "dataset_fingerprint"} <= found.keys()
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"] and float(rows[-1]["val/nll"]) > 0
    samples = json.loads((folder / "samples" / "samples.json").read_text(encoding="utf-8"))
    assert len(samples["texts"]) == 2 and all(len(text) == 32 for text in samples["texts"])
    assert samples["texts"][0] in outcome.out


@pytest.mark.parametrize("method", ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"])
def test_mixed_precision_runs(smoke: Main, method: str) -> None:
    """Catches what a GPU's default precision would stumble over: clipping beside a fused optimiser, and operations on
    two dtypes."""
    outcome = smoke(f"algorithm={method}", "trainer.precision=bf16-mixed")
    assert (outcome.status, outcome.err) == (0, "")


def test_a_checkpoint_holds_tensors_and_plain_containers(smoke: Main) -> None:
    """Catches a DictConfig, Path or class in a checkpoint, which weights_only=True refuses to load."""
    smoke("experiment.tasks=[training]", "experiment.training.ema_decay=0.5")
    found = torch.load("latest-run/checkpoints/last.ckpt", weights_only=True)
    assert found["algorithm"] == "gpt" and found["config"]["algorithm"]["backbone"]["n_embd"] == 32
    assert found["tokenizer"]["kind"] == "char" and "debug=smoke" in found["overrides"] and found["dataset"]


def test_the_chosen_config_names_a_run(smoke: Main, main: Main) -> None:
    """Catches methods that share `algorithm.name` under one name: of 1.66 and of 2,213 nats in one group of a table."""
    assert (
        "diffusion_flow_reference: "
        in smoke("algorithm=diffusion_flow_reference", "experiment.tasks=[training]", "hydra.run.dir=run").out
    )
    assert (summary("run")["algorithm"], summary("run")["experiment"]) == ("diffusion_flow_reference", "shakespeare")
    traced = ["experiment=decoding", "experiment.tasks=[visualize]", "experiment.visualize.blocks=1"]
    assert main("load=run", *traced, "hydra.run.dir=traced").status == 0
    assert (
        json.loads(next(Path("traced/traces").glob("*.json")).read_text(encoding="utf-8"))["method"]
        == "diffusion_flow_reference"
    )
    other = main("load=run", "algorithm=gpt", "experiment.tasks=[sampling]")
    assert (
        other.status == 1
        and "holds algorithm=diffusion_flow_reference, not gpt: say algorithm=diffusion_flow_reference" in other.err
    )
    older = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert older["algorithm"] == "diffusion_flow"  # of which class it is
    del older["choices"]
    torch.save(older, "older.ckpt")
    model = load_model("older.ckpt", "load")
    assert model.chosen == "diffusion_flow" and load_model("run", "load").chosen == "diffusion_flow_reference"


def test_a_part_of_a_split_is_said_to_be_one(smoke: Main) -> None:
    """Catches a value of two batches that is read as one of the whole split, and val_whole with the value of val."""
    some = smoke("experiment.tasks=[training,validation,test,likelihood]", "hydra.run.dir=some")
    found = summary("some")
    assert re.fullmatch(r"the first 2 of \d+ batches", found["partial"]["val"]) and "test" in found["partial"]
    assert "val_whole/nll" not in found["figures"] and "val_whole is left out" in some.out
    said = [line for line in some.out.splitlines() if line.startswith("test/nll")]
    part = f"partial: {found['partial']['test']})"
    assert said[0].endswith(f" ({part}") and said[1].endswith(f" (exact, {part}") and len(said) == 2
    whole = smoke("load=some", "experiment.tasks=[validation]", "experiment.evaluation.max_batches=null")
    figures = json.loads((folder_of(whole.out) / "summary.json").read_text(encoding="utf-8"))
    assert "partial" not in figures and "partial" not in whole.out
    assert figures["figures"]["val_whole/nll"] != figures["figures"]["val/nll"]


def test_a_large_validation_split_is_limited_while_training(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a limit that is not said, that the final validation keeps, or that its figure still bears the mark of."""
    monkeypatch.setattr(data_module, "VALIDATION_TOKENS", 100)
    automatic = "experiment.evaluation.max_batches=auto"
    trained = smoke("hydra.run.dir=trained", automatic, "experiment.tasks=[training]")
    part = summary("trained")["partial"]["val"]
    assert (
        re.fullmatch(r"the first \d+ of [\d,]+ tokens", part) and trained.out.count(f"while training is of {part}") == 1
    )
    whole = smoke("hydra.run.dir=whole", automatic, "experiment.tasks=[training,validation,test]")
    assert "partial" not in summary("whole") and "val_whole/nll" in summary("whole")["figures"]
    assert summary("whole")["figures"]["val/nll"] != summary("trained")["figures"]["val/nll"]
    assert whole.out.count(part) == 1  # of the figures that follow none
    every = smoke("hydra.run.dir=every", "experiment.evaluation.max_batches=null", "experiment.tasks=[training]")
    assert summary("every")["figures"]["val/nll"] == pytest.approx(summary("whole")["figures"]["val/nll"])
    assert "while training" not in every.out and "partial" not in summary("every")


def test_a_corpus_that_has_no_whole_validation_text(main: Main, corpus: Path) -> None:
    """Catches documents, and plays held out whole, whose val_whole is asked for."""
    Path("documents").mkdir()
    text = corpus.read_text(encoding="utf-8")
    for number in range(20):
        Path(f"documents/{number}.txt").write_text(text[number * 50 : number * 50 + 400], encoding="utf-8")
    data = ["dataset=documents", "dataset.path=documents", "dataset.tokenizer=byte", "dataset.held_out_fraction=0.5"]
    tasks = ["experiment.tasks=[training,validation]", "experiment.evaluation.max_batches=null"]
    outcome = main("hydra.run.dir=run", "debug=smoke", *data, *tasks)
    assert outcome.status == 0, outcome.err
    assert "val/nll" in summary("run")["figures"] and "val_whole" not in outcome.out


def folder_of(out: str) -> Path:
    return Path(out.rpartition("run folder: ")[2].strip())


def test_evaluation_gives_what_training_printed(smoke: Main) -> None:
    """Catches evaluation of other weights (last for best, raw for averaged) or of other data than in training."""
    steps = ["experiment.training.max_steps=4", "algorithm.optimizer.lr=1", "algorithm.optimizer.warmup_steps=0"]
    smoke("hydra.run.dir=run", *steps, "experiment.training.ema_decay=0.5")
    with open("run/metrics.csv", encoding="utf-8") as file:
        values = [float(row["val/nll"]) for row in csv.DictReader(file) if row["val/nll"]]
    assert len(set(values)) == 2
    assert summary("run")["figures"]["val/nll"] == pytest.approx(min(values), abs=1e-6)
    again = smoke("load=run", "hydra.run.dir=again", "experiment.tasks=[validation,test]")
    assert again.status == 0
    assert [summary("again")["figures"][k] for k in FIGURES] == [summary("run")["figures"][k] for k in FIGURES]


def test_sampling_from_a_loaded_run_needs_no_corpus(smoke: Main, main: Main, corpus: Path) -> None:
    """Catches a sampling task that prepares data, or that asks for the method and sizes again."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]", "dataset.cache_dir=cache")
    sampling = ["experiment.tasks=[sampling]", "experiment.sampling.n_samples=1", "experiment.sampling.length=8"]
    gone = ["dataset.path=gone.txt", "dataset.cache_dir=nowhere", "experiment.sampling.prompt='the '"]
    outcome = main("load=run", "hydra.run.dir=sampled", *sampling, *gone)
    assert (outcome.status, outcome.err) == (0, "")
    text = json.loads(Path("sampled/samples/samples.json").read_text(encoding="utf-8"))["texts"][0]
    assert text.startswith("the ") and len(text) == 12
    Path("run/checkpoints/best.ckpt").rename("loose.ckpt")
    outcome = main("load=loose.ckpt", "hydra.run.dir=loose", *sampling, *gone)
    assert json.loads(Path("loose/samples/samples.json").read_text(encoding="utf-8"))["texts"] == [text]


def test_a_finished_run_resumes_with_its_other_tasks(smoke: Main, main: Main) -> None:
    """Catches a finished run that trains again, loses rows or figures, or evaluates last.ckpt for best.ckpt."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]")
    curve = Path("run/metrics.csv").read_text(encoding="utf-8")
    outcome = main("resume=run", "experiment.tasks=[training,test]")
    assert outcome.status == 0 and "training is complete: 2 steps" in outcome.out
    first = summary("run")
    assert first["training"]["steps"] == 2 and "test/nll" in first["figures"]
    assert Path("run/metrics.csv").read_text(encoding="utf-8") == curve
    assert main("resume=run", "experiment.tasks=[validation]").status == 0
    assert summary("run")["figures"].items() > first["figures"].items()
    assert Path("run/metrics.csv").read_text(encoding="utf-8") == curve


def test_more_steps_go_on_in_the_same_curve(smoke: Main, main: Main) -> None:
    """Catches a longer schedule on resume that starts from step 0, or in another file."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]")
    assert main("resume=run", "experiment.training.max_steps=4").status == 0
    with open("run/metrics.csv", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert "experiment.training.max_steps=4" in yaml.safe_load(
        Path("run/.hydra/overrides.yaml").read_text(encoding="utf-8")
    )


def test_a_run_is_of_the_data_it_began_with(smoke: Main, main: Main, corpus: Path) -> None:
    """Catches a resumed run that goes on with another text, a likelihood of one that is reported as the model's, and a
    relative path that leads to another file from another working folder."""
    home = Path.cwd()
    shutil.copy(corpus, "mine.txt")
    assert smoke("dataset.path=mine.txt", "hydra.run.dir=run", "experiment.tasks=[training,test]").status == 0
    measured = summary("run")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text(corpus.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    os.chdir(elsewhere)
    test = [f"load={home}/run", "debug=smoke", "experiment.tasks=[test]"]
    assert main(*test, "hydra.run.dir=same").out.count("note:") == 0
    assert summary("same")["figures"]["test/nll"] == measured["figures"]["test/nll"]
    outcome = main(*test, "dataset.path=mine.txt", "hydra.run.dir=other")
    said = f"{home}/run/checkpoints/best.ckpt was trained on {home}/mine.txt, not on {elsewhere}/mine.txt"
    assert outcome.status == 0 and f"note: {said}; likelihoods here are of the latter\n" in outcome.out
    found = summary("other")
    assert found["weights_dataset_fingerprint"] == measured["dataset_fingerprint"] != found["dataset_fingerprint"]
    outcome = main(f"resume={home}/run", "experiment.training.max_steps=3", "dataset.path=mine.txt")
    assert outcome.status == 1 and outcome.err.startswith(f"error: {said.replace('best', 'last')}: resume= continues")
    (home / "mine.txt").write_text(corpus.read_text(encoding="utf-8").replace("king", "ring"), encoding="utf-8")
    os.chdir(home)
    outcome = smoke("dataset.path=mine.txt", "resume=run")
    assert outcome.status == 1 and f"was trained on {home}/mine.txt as it was before its text" in outcome.err


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_a_model_trains_on_with_its_own_vocabulary(smoke: Main, main: Main, tokenizer: str) -> None:
    """Catches ids that mean other tokens on the new text, and a run begun so that does not resume, load or sample."""
    told = ["experiment.tasks=[training]", f"dataset.tokenizer={tokenizer}", "dataset.vocab_size=280"]
    assert smoke("hydra.run.dir=first", *told).status == 0
    Path("new.txt").write_text("thou art the sword of a foul night\n" * 200, encoding="utf-8")
    own = ["dataset=text_file", "dataset.path=new.txt", "dataset.tokenizer=loaded", "experiment.tasks=[training]"]
    outcome = main("load=first", "debug=smoke", *own, "hydra.run.dir=second")
    assert outcome.status == 0, outcome.err
    first, second = (torch.load(f"{run}/checkpoints/last.ckpt") for run in ("first", "second"))
    assert second["tokenizer"] == first["tokenizer"] and second["dataset"] != first["dataset"]
    resumed = main("resume=second", "experiment.training.max_steps=3", "experiment.tasks=[training,test]")
    assert resumed.status == 0, resumed.err
    assert summary("second")["weights_dataset_fingerprint"] == first["dataset"]
    loaded = main("load=second", "debug=smoke", "experiment.tasks=[test,sampling]", "hydra.run.dir=third")
    assert loaded.status == 0 and "note:" not in loaded.out, loaded.err
    assert summary("third")["figures"]["test/nll"] == summary("second")["figures"]["test/nll"]
    if tokenizer == "char":
        Path("new.txt").write_text("thou Ärt the sword\n" * 200, encoding="utf-8")
        outcome = main("load=first", "debug=smoke", *own)
        assert outcome.status == 1 and "of 21 characters has no 'Ä':" in outcome.err


def test_an_average_is_kept_or_left_on_resume(smoke: Main, main: Main) -> None:
    """Catches averaged weights that silently become the raw ones when the key is changed."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]", "experiment.training.ema_decay=0.5")
    outcome = main("resume=run", "experiment.training.max_steps=4", "experiment.training.ema_decay=null")
    assert outcome.status == 1 and "experiment.training.ema_decay was 0.5" in outcome.err


def test_overfitting_repeats_its_batches(smoke: Main) -> None:
    """Catches debug=overfit on ever new batches: the loss on one batch must fall below what text allows."""
    steps = ["experiment.training.overfit_batches=1", "experiment.training.max_steps=60", "algorithm.optimizer.lr=2e-2"]
    smoke("experiment.tasks=[training]", "experiment.training.batch_size=1", *steps)
    with open("latest-run/metrics.csv", encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 1.5 < losses[0]


def test_wandb_offline_and_tensorboard(smoke: Main, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a logger that needs an account, samples that never reach it, and a resumed run under another id."""
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    outcome = smoke(
        "hydra.run.dir=run", "logger=wandb", "logger.tensorboard=true", "experiment.tasks=[training,sampling]"
    )
    assert outcome.status == 0 and "wandb sync" in outcome.out
    assert list(Path("run/tensorboard").glob("events.*"))
    folder = next(Path("run/wandb").glob("offline-run-*"))
    assert list(folder.rglob("samples*.table.json")) and list(folder.rglob("training_curve*.png"))
    identity = json.loads(Path("run/wandb_id.json").read_text(encoding="utf-8"))["id"]
    assert main("resume=run", "experiment.training.max_steps=3").status == 0
    names = {path.name.rpartition("-")[2] for path in Path("run/wandb").glob("offline-run-*")}
    assert len(list(Path("run/wandb").glob("offline-run-*"))) == 2 and names == {identity}
