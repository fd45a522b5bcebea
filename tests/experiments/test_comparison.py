"""`experiment=comparison`: what it trains, what it refuses, and whole comparisons at the size of debug=smoke."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from algorithms.teacher_forcing.gpt import GPT
from experiments import launch
from experiments.analysis import decoding_table as table
from experiments.evaluation import compared_methods
from experiments.evaluation.comparison_config import ComparisonConfig, MethodConfig, ReviewConfig
from experiments.evaluation.settings import ModelSettings, build_settings, without_refused
from experiments.run.build import build, compose_run
from experiments.run.composition import composed, composing
from experiments.run.overrides import quote
from experiments.training import child_runs as training
from experiments.training.child_runs import ChildRun, train
from tests.conftest import Main

GPT_ONLY = {"gpt": MethodConfig("gpt")}
SIZES = ["experiment.seeds=[0,1]", "experiment.temperatures=[0.5,1.0]", "experiment.sampling.length=40"]
NONE = [f"experiment.methods.{name}=null" for name in ("df_lm", "diffusion_flow", "block_diffusion")]
FEW = ["experiment.methods.masked_diffusion.decoders=[{top_confidence: {tokens_per_step: 8}}]"]


def command(corpus: Path, *more: str) -> list[str]:
    data = ["dataset=text_file", f"dataset.path={corpus}", "experiment.judges.dataset=text_file"]
    judged = f"experiment.judges.overrides={quote(['dataset.tokenizer=byte', f'dataset.path={corpus}'])}"
    return ["experiment=comparison", "debug=smoke", *data, judged, *SIZES, *NONE, *FEW, *more]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The folder of a comparison that trained a GPT, a masked diffusion and a judge, and was stopped in its sweep."""
    folder = tmp_path_factory.mktemp("compared")
    calls, generate = 0, GPT.generate

    def stopping(self: GPT, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return generate(self, *arguments, **options)

    words = command(corpus, "experiment.judges.seeds=[3]", f"hydra.run.dir={folder}/run", "trainer=cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(GPT, "generate", stopping)
        patch.setattr(sys, "argv", ["main.py", *words])
        assert launch.main() == 130
    return folder / "run"


@pytest.fixture
def stopped(compared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(compared, tmp_path / "run"))


# --- whole comparisons


def test_a_stopped_comparison_goes_on_and_reports(stopped: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row that is lost or measured twice, a training that is begun again, and a file that is not written."""
    before = table.read_rows(stopped / "results.csv")
    logs = {path: path.stat().st_mtime_ns for path in stopped.glob("*/*.log")}
    assert [path.name for path in sorted(logs)] == ["3.log", "gpt.log", "masked_diffusion.log"]
    calls, generate = [], GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda *a, **k: calls.append(a[1].seeds[0]) or generate(*a, **k))
    outcome = main(f"resume={stopped}", f"hydra.run.dir={stopped}")
    assert (outcome.status, outcome.err) == (0, "")
    rows = table.read_rows(stopped / "results.csv")
    assert rows[: len(before)] == before and len({table.identity(row) for row in rows}) == len(rows)
    gpt = [row for row in rows if row["method"] == "gpt"]
    done = sum(row["method"] == "gpt" for row in before)
    assert len(gpt) == 2 * 3 and len(calls) == 1 + len(gpt) - done + 1  # a warm-up, rows, and the trace
    assert logs == {path: path.stat().st_mtime_ns for path in logs}
    settings = {(row["method"], row["setting"]) for row in rows}
    assert settings == {
        *[("gpt", f"autoregressive temperature={heat}") for heat in (0.2, 0.5, 1.0)],
        *[("masked_diffusion", f"top_confidence temperature={heat}") for heat in (0.5, 1.0)],
        ("masked_diffusion", "top_confidence tokens_per_step=8"),
        *[(table.CONTROL, name) for name in ("unigram noise", "tiled phrase", "tiled phrases", "training copier")],
        *[(table.REAL, name) for name in (table.TRAINING_TEXT, table.HELD_OUT)],
    }
    assert all(row["judge_nll"] > 0 for row in rows)
    for name in ("report.html", "report.md", "summary.json", "results.json", "samples.jsonl", "results.md"):
        assert (stopped / name).stat().st_size > 0, name
    manifest = json.loads((stopped / "comparison.json").read_text(encoding="utf-8"))
    assert [one["label"] for one in manifest["methods"]] == ["gpt", "masked_diffusion"]
    assert manifest["methods"][0]["description"] == getattr(GPT, "description", "gpt")
    assert manifest["methods"][0]["folder"] == "methods/gpt" and manifest["methods"][0]["training"]["steps"] == 2
    assert manifest["judges"][0]["seed"] == 3 and manifest["judges"][0]["test_nll"] > 0
    likelihoods = (stopped / "likelihood.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[3] for line in likelihoods if line.startswith("gpt,")] == ["exact"]
    assert "bound" in [line.split(",")[3] for line in likelihoods if line.startswith("masked_diffusion,")]
    flags = {one["setting"]: one["flags"] for one in json.loads((stopped / "flags.json").read_text(encoding="utf-8"))}
    assert "copy_rate" in flags["training copier"] and table.HELD_OUT not in flags
    assert {path.stem for path in (stopped / "traces").iterdir()} == {"gpt", "masked_diffusion"}
    figures = json.loads((stopped / "summary.json").read_text(encoding="utf-8"))["figures"]
    mean = sum(row["judge_nll"] for row in gpt if row["setting"].endswith("=1.0")) / 2
    assert figures["gpt/autoregressive temperature=1.0/judge_nll"] == pytest.approx(mean)
    again = main(f"resume={stopped}")
    assert again.status == 0 and f"{len(rows)} of {len(rows)} rows are there already" in again.out


def test_a_comparison_is_not_continued_with_other_settings(stopped: Path, main: Main) -> None:
    """Catches a model of another budget that is reported as one of this."""
    outcome = main(f"resume={stopped}", "experiment.training.max_steps=3")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "methods/gpt was begun with other settings (experiment.training.max_steps=2" in outcome.err
    assert "experiment.training.max_steps=3): start a new comparison" in outcome.err


def test_trained_runs_are_taken_as_they_are(stopped: Path, main: Main, corpus: Path) -> None:
    """Catches a given run that is trained again, and a review whose texts are not the methods' own."""
    gpt, masked = stopped / "methods" / "gpt", stopped / "methods" / "masked_diffusion"
    outcome = main(
        *command(corpus, f"experiment.methods.gpt.load={gpt}", f"experiment.methods.masked_diffusion.load={masked}"),
        *("experiment.judges.dataset=null", "hydra.run.dir=given", "experiment.tasks=[sweep,report]"),
        *("experiment.review={methods: [gpt, masked_diffusion], pairs: 3}", "experiment.sampling.prompt='the '"),
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert not Path("given/methods").exists() and not Path("given/judges").exists()
    rows = table.read_rows(Path("given/results.csv"))
    assert {row["judge_nll"] for row in rows} == {None} and {row["prompt"] for row in rows} == {"the "}
    assert Path("given/blind_samples.csv").is_file() and Path("given/blind_key.csv").is_file()
    assert Path("given/report.html").is_file()


def test_training_seeds_are_added_and_brought_along(stopped: Path, main: Main, corpus: Path) -> None:
    """Catches a seed that is trained again, rows of the first that are made anew or lost, a second training under the
    name of the first, a pattern that takes another method's runs, and weights that count twice."""
    few = ["experiment.seeds=[0]", "experiment.tasks=[training,likelihood,sweep,report]"]
    assert main(f"resume={stopped}", *few, "experiment.sampling.n_samples=2").status == 0
    before = table.read_rows(stopped / "results.csv")
    outcome = main(f"resume={stopped}", *few, "experiment.training_seeds=[0,1]")
    assert (outcome.status, outcome.err) == (0, "")
    trained = outcome.out.partition("--- likelihood")[0]
    assert "gpt, training seed 1: test/nll" in trained and "training seed 0" not in trained
    rows = table.read_rows(stopped / "results.csv")
    assert rows[: len(before)] == before and {row["training_seed"] for row in rows} == {None, 0, 1}
    added = [row for row in rows[len(before) :]]
    assert {row["training_seed"] for row in added} == {1} and len(added) == 3 + 3  # settings of both methods
    likelihoods = (stopped / "likelihood.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[-1] for line in likelihoods if line.startswith("gpt,")] == ["0", "1"]
    (manifest,) = [one for one in json.loads((stopped / "comparison.json").read_bytes())["methods"][:1]]
    assert [(one["name"], one["seed"], one["folder"]) for one in manifest["trainings"]] == [
        ("gpt", 0, "methods/gpt"),
        ("gpt_seed=1", 1, "methods/gpt_seed=1"),
    ]
    figures = json.loads((stopped / "summary.json").read_text(encoding="utf-8"))["figures"]
    assert figures["gpt/test/nll_seed_sd"] > 0 and figures["gpt/test/nll_error"] > 0
    assert "trained with 2 seeds" in (stopped / "report.md").read_text(encoding="utf-8")

    given = f"experiment.methods.gpt.load={stopped}/methods/*"
    one = f"experiment.methods.masked_diffusion.load={stopped}/methods/masked_diffusion"
    words = command(corpus, given, one, "experiment.judges.dataset=null", "hydra.run.dir=given", few[0])
    outcome = main(*words, "experiment.tasks=[likelihood,report]")
    assert (outcome.status, outcome.err) == (0, "")
    rows = [line.split(",") for line in Path("given/likelihood.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows if row[2] in ("nll", "any_order")] == [
        *(("gpt", "0"), ("gpt", "1")),
        ("masked_diffusion", "0"),
    ]
    twice = [str(stopped / "methods" / "gpt" / part) for part in (".", "checkpoints/best.ckpt")]
    outcome = main(*command(corpus, f"experiment.methods.gpt.load={quote(twice)}"))
    assert outcome.status == 1 and "experiment.methods.gpt.load has the same weights twice" in outcome.err


def test_the_runs_own_seed_trains_where_a_single_one_would(corpus: Path) -> None:
    """Catches a folder of before training seeds that is trained again or refused, and a seed that is said twice."""
    folder, make = Path("run").resolve(), compared_methods._trained_here
    with composing():
        run = compose_run([*command(corpus), "seed=7", "experiment.training_seeds=[7,8]"])
        single = compose_run([*command(corpus), "seed=7"])
    first, second = make(run, folder, "gpt", MethodConfig("gpt")).values()
    (alone,) = make(single, folder, "gpt", MethodConfig("gpt")).values()
    assert (first.folder, first.overrides) == (alone.folder, alone.overrides)
    assert alone.folder == folder / "methods/gpt" and second.folder == folder / "methods/gpt_seed=8"
    assert [word for word in second.overrides if word.startswith("seed=")] == ["seed=8"]
    assert {*second.overrides} ^ {*first.overrides} == {"seed=7", "seed=8"}
    assert [*make(single, folder, "gpt", MethodConfig("gpt", overrides=["seed=3"]))] == [3]
    with pytest.raises(ValueError, match=r"overrides has seed=3: leave it to experiment\.training_seeds"):
        make(run, folder, "gpt", MethodConfig("gpt", overrides=["seed=3"]))


def test_trainings_that_differ_in_more_than_their_seeds_are_refused(stopped: Path, main: Main, corpus: Path) -> None:
    """Catches a sweep over learning rates whose spread is reported as that of seeds."""
    gpt = stopped / "methods" / "gpt" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(gpt, weights_only=True)
    algorithm = checkpoint["config"]["algorithm"]
    faster = algorithm | {"optimizer": algorithm["optimizer"] | {"lr": 0.5}}
    checkpoint["state_dict"] = {key: value + 1 for key, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint | {"config": checkpoint["config"] | {"algorithm": faster}}, "faster.ckpt")
    outcome = main(*command(corpus, f"experiment.methods.gpt.load=[{gpt},faster.ckpt]"))
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "which differ in algorithm.optimizer.lr and not in their seeds alone" in outcome.err
    other = Path(shutil.copytree(stopped / "methods" / "gpt", "other"))
    torch.save(checkpoint, other / "checkpoints" / "best.ckpt")
    stored = other / ".hydra" / "config.yaml"
    config = stored.read_text(encoding="utf-8")
    method = MethodConfig("gpt", load=[str(gpt), "other"])
    for name, told in (("max_steps", True), ("batch_size", True), ("val_every_steps", False)):
        changed = re.sub(rf"( {name}): \d+", r"\1: 9", config)
        assert changed != config
        stored.write_text(changed, encoding="utf-8")
        if told:
            with pytest.raises(ValueError, match=rf"which differ in experiment\.training\.{name} and not in"):
                compared_methods._given("gpt", method, "experiment.methods.gpt.load")
        else:
            assert len(compared_methods._given("gpt", method, "experiment.methods.gpt.load")[0]) == 2
    torch.save(checkpoint, gpt.with_name("last.ckpt"))
    method = MethodConfig("gpt", load=[str(gpt), str(gpt.with_name("last.ckpt"))])
    with pytest.raises(ValueError, match="which are of one training: leave one out"):
        compared_methods._given("gpt", method, "experiment.methods.gpt.load")


def test_a_seed_is_not_added_under_other_defaults(stopped: Path, main: Main) -> None:
    """Catches a training of today's defaults that is averaged with one of former ones."""
    stored = stopped / "methods" / "gpt" / ".hydra" / "config.yaml"
    text = stored.read_text(encoding="utf-8")
    stored.write_text(re.sub(r"warmup_steps: \d+", "warmup_steps: 77", text), encoding="utf-8")
    outcome = main(f"resume={stopped}", "experiment.training_seeds=[0,1]")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and not (stopped / "methods" / "gpt_seed=1").exists()
    assert "would train gpt_seed=1 with algorithm.optimizer.warmup_steps=" in outcome.err
    assert f", which was 77 in {stopped}/methods/gpt: start a new comparison" in outcome.err


def test_checkpoints_that_do_not_fit_together_are_refused(stopped: Path, main: Main, corpus: Path) -> None:
    """Catches windows, vocabularies or corpora that differ between the methods, and a run of another method."""
    gpt = stopped / "methods" / "gpt" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(gpt, weights_only=True)

    def refused(**changed: Any) -> str:
        torch.save(checkpoint | changed, "changed.ckpt")
        words = command(corpus, "experiment.methods.gpt.load=changed.ckpt", "hydra.run.dir=refused")
        outcome = main(*words)
        assert outcome.status == 1 and outcome.err.count("\n") == 1 and "--- training" not in outcome.out
        return outcome.err

    algorithm = checkpoint["config"]["algorithm"]
    shorter = algorithm | {"backbone": algorithm["backbone"] | {"block_size": 32}}
    found = refused(config=checkpoint["config"] | {"algorithm": shorter})
    assert (
        "experiment.methods.gpt has a context of 32 tokens and experiment.methods.masked_diffusion one of 64" in found
    )
    characters = checkpoint["tokenizer"]["characters"]
    found = refused(tokenizer=checkpoint["tokenizer"] | {"characters": "".join(sorted(characters.replace("a", "Σ")))})
    changed = Path("changed.ckpt").resolve()
    assert f"experiment.methods.gpt.load={changed} has another vocabulary than dataset=text_file" in found
    assert "was not trained on dataset=text_file as it is" in refused(dataset="another")
    masked = stopped / "methods" / "masked_diffusion"
    outcome = main(*command(corpus, f"experiment.methods.gpt.load={masked}"))
    assert f"experiment.methods.gpt.load={masked} holds algorithm=masked_diffusion: say" in outcome.err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "experiment.methods.gpt.algorithm=gtp",
            "experiment.methods.gpt.algorithm is 'gtp', which is unknown: did you",
        ),
        (
            "experiment.methods.gpt.decoders=[pyramid]",
            "experiment.methods.gpt.decoders: pyramid does not fit",
        ),
        ("experiment.methods.gpt.overrides=['algorithm.nonsense=1']", "experiment.methods.gpt: unknown config key"),
        ("experiment.methods.gpt.overrides=['seed=abc']", "experiment.methods.gpt.overrides has seed=abc: say a whole"),
        ("experiment.methods.gpt.load=nowhere", "experiment.methods.gpt.load: there is no run folder or checkpoint"),
        ("experiment.judges.load=[nowhere]", "experiment.judges.load: there is no run folder or checkpoint at nowhere"),
        (
            "experiment.judges.overrides=['dataset.tokenizer=qqq']",
            "experiment.judges: dataset.tokenizer is 'qqq': choose one of ",
        ),
        ("algorithm=gpt", "algorithm= chooses one method: a comparison has experiment.methods"),
        (
            "experiment.methods.gpt.load='no*where'",
            "experiment.methods.gpt.load: no run folder or checkpoint matches no*wh",
        ),
        ("experiment.tasks=[report]", "gpt is not trained yet: put training first in experiment.tasks"),
        ("experiment.sampling.prompt='Σ'", "experiment.sampling.prompt: the vocabulary of"),
        (
            "experiment.methods.masked_diffusion.decoders=[{threshold: {top_k: 99}}]",
            "threshold top_k=99: algorithm.deco",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(main: Main, corpus: Path, override: str, sentence: str) -> None:
    """Catches a mistake that is found after the trainings."""
    outcome = main(*command(corpus, override))
    assert outcome.status == 1 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert sentence in outcome.err and "--- training" not in outcome.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": {}}, "experiment.methods is empty"),
        ({"methods": {"a b": MethodConfig("gpt")}}, "holds 'a b': a method's name takes letters"),
        ({"methods": {"a": {}}}, "experiment.methods.a.algorithm and load are both missing: say"),
        (
            {"methods": {"a": {"load": "x", "overrides": ["seed=1"]}}},
            "experiment.methods.a.overrides are for training, and load= brings weights that are trained",
        ),
        (
            {"methods": {"a": {"algorithm": "gpt", "frontier": ["b", "c"]}}},
            "experiment.methods.a.frontier holds several settings",
        ),
        ({"temperatures": [0.0, 1.0]}, "experiment.temperatures is [0.0, 1.0]"),
        ({"temperatures": []}, "experiment.temperatures is []"),
        ({"seeds": []}, "experiment.seeds is empty"),
        ({"training_seeds": []}, "experiment.training_seeds is empty"),
        ({"training_seeds": [1, 1]}, "experiment.training_seeds is [1, 1]: give different ones"),
        ({"methods": {"a": {"load": []}}}, "experiment.methods.a.load is empty"),
        ({"sampling": {"suffix": "end"}}, "experiment.sampling.suffix is not seen by every method"),
        ({"workers": 0}, "experiment.workers is 0"),
        ({"review": ReviewConfig(["gpt", "b"])}, "experiment.review.methods is ['gpt', 'b']: name two of gpt"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict, sentence: str) -> None:
    """Catches a comparison of nothing, or of something else than was meant."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build(ComparisonConfig, {"methods": GPT_ONLY} | options, "experiment")


# --- trainings in processes of their own

STUB = """
import json, os, pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words.get("hydra.run.dir", words.get("resume")).strip("'"))
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
print("error: out of luck" if words.get("fail") else f"threads {os.environ['OMP_NUM_THREADS']}", flush=True)
record = {"status": "failed" if words.get("fail") else "finished", "figures": {"test/nll": 1.5}, "words": sys.argv[1:]}
(folder / "summary.json").write_text(json.dumps(record))
sys.exit(1 if words.get("fail") else 0)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A main.py that writes what a run would, in no time."""
    (tmp_path / "main.py").write_text(STUB, encoding="utf-8")
    monkeypatch.setattr(training, "ROOT", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS")
    return tmp_path


def child(folder: Path, name: str, *words: str) -> ChildRun:
    return ChildRun(name, folder / "methods" / name, list(words), "group")


def words_of(one: ChildRun) -> list[str]:
    return json.loads((one.folder / "summary.json").read_text(encoding="utf-8"))["words"]


def test_children_are_begun_resumed_or_left_alone(stub: Path) -> None:
    """Catches a finished training that runs again, and a stopped one that begins anew."""
    new, stopped, done = (child(stub, name, "seed=1") for name in ("new", "stopped", "done"))
    (stopped.folder / ".hydra").mkdir(parents=True)
    (stopped.folder / ".hydra" / "overrides.yaml").write_text("[seed=1]", encoding="utf-8")
    done.folder.mkdir(parents=True)
    (done.folder / "summary.json").write_text('{"status": "finished"}', encoding="utf-8")
    said: list[str] = []
    train([new, stopped, done], workers=2, report=said.append, every=100.0)
    assert words_of(new) == ["seed=1", "logger.group='group'", f"hydra.run.dir='{new.folder}'"]
    assert words_of(stopped) == [f"resume='{stopped.folder}'"]
    assert "words" not in json.loads((done.folder / "summary.json").read_text(encoding="utf-8"))
    assert sorted(said) == [f"{name}: test/nll 1.5000" for name in ("new", "stopped")]
    assert new.command == "python main.py seed=1" and "threads" in new.log.read_text(encoding="utf-8")


def test_a_comparison_folder_may_be_renamed(stub: Path) -> None:
    """Catches a moved comparison that is refused for the name its curves are logged under."""
    moved = child(stub, "moved", "seed=1")
    (moved.folder / ".hydra").mkdir(parents=True)
    (moved.folder / ".hydra" / "overrides.yaml").write_text("[seed=1, logger.group=before]", encoding="utf-8")
    moved.check()
    with pytest.raises(ValueError, match=r"was begun with other settings \(seed=1, seed=2\)"):
        child(stub, "moved", "seed=2").check()


def test_a_failed_training_is_named(stub: Path) -> None:
    """Catches a comparison that goes on without one of its methods, or stops with a trace."""
    good, bad = child(stub, "good"), child(stub, "bad", "fail=1")
    with pytest.raises(ValueError, match=r"the training of 'bad' failed \(out of luck\): see .*bad\.log"):
        train([good, bad], workers=1, report=lambda text: None, every=100.0)
    assert good.finished and not bad.finished


def test_decoders_that_do_not_go_with_a_methods_settings_are_left_out() -> None:
    """Catches defaults of a comparison that refuse a variant of its method, and one that hides a decoder of another."""
    plain = OmegaConf.to_container(
        composed(["algorithm=block_diffusion", "algorithm.block_len=2"]).algorithm, resolve=True
    )
    model = ModelSettings("block_diffusion", plain, "top_confidence")
    kept, notes = without_refused(model, ["speculative", {"top_confidence": {"tokens_per_step": [1, 2]}}, "pyramid"])
    assert kept == [
        {"top_confidence": {"tokens_per_step": 1}},
        {"top_confidence": {"tokens_per_step": 2}},
        {"pyramid": {}},
    ]
    assert len(notes) == 1 and notes[0].startswith("speculative is left out: algorithm.decoder.name is 'speculative'")
    with pytest.raises(ValueError, match=r"speculative: algorithm\.decoder\.name is 'speculative': behind its first"):
        build_settings(model, ["speculative"], None)
