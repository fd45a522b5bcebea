"""`experiment=benchmark`: what it times, keeps and refuses. How fast anything is gets measured by it, not by tests."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.files import read_table
from experiments.evaluation.benchmark_config import BenchmarkConfig, Size
from experiments.evaluation.speed import decoding, training
from experiments.evaluation.speed.training import Disagreement
from experiments.run.build import build
from tests.conftest import Main, Outcome

FEW = ["experiment.rounds=1", "experiment.sampling.length=8", "experiment.texts=[1,2]", "hydra.run.dir=run"]
TRAINING_ALONE = "experiment.tasks=[training_speed]"


@pytest.fixture
def timed(main: Main, corpus: Path) -> Any:
    """Runs a benchmark at the size of debug=smoke; further overrides win."""

    def run(*more: str) -> Outcome:
        data = ["dataset=text_file", f"dataset.path={corpus}", "trainer=cpu"]
        return main("experiment=benchmark", "debug=smoke", *data, *FEW, *more)

    return run


def rows(folder: str = "run") -> list[dict[str, Any]]:
    return json.loads(Path(folder, "benchmark.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.slow
def test_every_method_is_timed(timed: Any) -> None:
    """Catches a method or decoder that is left out, and figures that reach no file, table or plot."""
    outcome = timed()
    assert outcome.status == 0, outcome.err
    found = rows()
    assert {row["status"] for row in found} == {"measured"}
    trained = [row for row in found if row["task"] == "training_speed"]
    methods = ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"]
    assert [(row["method"], row["backbone"], row["mode"], row["batch"]) for row in trained] == [
        (method, "smoke", "eager", 4) for method in methods
    ]
    assert all(row["mfu"] > 0 and row["ratio"] > 0 and row["operations"] > 50 for row in trained)
    decoders = list(dict.fromkeys((row["method"], row["decoder"]) for row in found if row["decoder"]))
    assert decoders == [
        *(
            ("gpt", "autoregressive"),
            ("df_lm", "autoregressive_matrix"),
            ("df_lm", "pyramid"),
            ("df_lm", "speculative"),
        ),
        *(("masked_diffusion", "top_confidence"), ("diffusion_flow", "flow_top_confidence")),
        *(("block_diffusion", "top_confidence"), ("block_diffusion", "speculative")),
    ]
    assert [row["batch"] for row in found if row["method"] == "gpt" and row["decoder"]] == [1, 2]
    assert len(read_table(Path("run/benchmark.csv"))[1]) == len(found)
    figures = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))["figures"]
    assert figures["benchmark/gpt/smoke/eager/tokens_per_second"] == trained[0]["tokens_per_second"]
    assert all(Path(f"run/plots/benchmark_{name}.png").is_file() for name in ("training", "decoding"))
    assert "tokens/forward" in outcome.out and "a matrix product measured in this run" in outcome.out
    assert not Path("run/scratch").exists()


def test_a_cell_that_fails_is_a_row_and_costs_no_other(timed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a figure in the place of a failed check, figures that are lost with it, and a run that ends well."""
    arms = training.arms

    def of_masked_alone(subject: Any, rounds: int) -> Any:
        if subject.model.name == "gpt":
            raise Disagreement("the framework's loss is 5 and the bare loop's 4")
        return arms(subject, rounds)

    monkeypatch.setattr(training, "arms", of_masked_alone)
    outcome = timed("experiment.methods=[gpt,masked_diffusion]", TRAINING_ALONE)
    assert outcome.status == 1
    failed, measured = rows()
    assert (failed["status"], failed["tokens_per_second"]) == ("failed", None)
    assert failed["reason"] == "the framework's loss is 5 and the bare loop's 4"
    assert measured["status"] == "measured"
    assert "gpt/smoke/eager failed, for the reasons in" in outcome.err
    assert "Disagreement" in Path("run/error.log").read_text(encoding="utf-8")
    assert json.loads(Path("run/summary.json").read_text(encoding="utf-8"))["status"] == "failed"


def test_what_was_measured_outlives_an_interrupt(timed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches cells that are written at the end alone."""
    texts = decoding.timed_texts

    def stopping(*arguments: Any, **options: Any) -> Any:
        if options["texts"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return texts(*arguments, **options)

    monkeypatch.setattr(decoding, "timed_texts", stopping)
    assert timed("experiment.methods=[gpt]").status == 130
    assert [(row["decoder"], row["batch"]) for row in rows()] == [("autoregressive", 1)]


def test_time_is_kept_to(timed: Any) -> None:
    """Catches a cell that is begun when the time is up, and one that is left out without a word."""
    outcome = timed("experiment.methods=[gpt]", "experiment.minutes=1e-6")
    assert outcome.status == 0, outcome.err
    assert {row["status"] for row in rows()} == {"left out"}
    assert "left out, as experiment.minutes=1e-06 are too few: gpt/smoke/eager" in outcome.out


def test_slow_texts_are_left_out(timed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a batch that is begun although the smaller ones say how long it takes."""
    monkeypatch.setattr(decoding, "PATIENCE", 0.0)
    outcome = timed(
        "experiment.methods=[gpt]",
        "experiment.tasks=[decoding_speed]",
        "experiment.texts=[1,2,3]",
        "experiment.sampling.n_samples=3",
    )
    assert outcome.status == 0, outcome.err
    assert [row["status"] for row in rows()] == ["measured", "measured", "left out"]
    assert "a round would take about" in rows()[2]["reason"]


def test_a_cache_is_timed_beside_none(timed: Any) -> None:
    """Catches options of a decoder that are dropped."""
    decoders = "experiment.decoders=[{autoregressive: {use_cache: [true,false]}}]"
    outcome = timed("experiment.methods=[gpt]", "experiment.tasks=[decoding_speed]", "experiment.texts=[2]", decoders)
    assert outcome.status == 0, outcome.err
    labels = [row["decoder"] for row in rows()]
    assert labels == ["autoregressive", "autoregressive use_cache=true", "autoregressive use_cache=false"]


@pytest.mark.slow
def test_every_method_is_timed_compiled(timed: Any) -> None:
    """Catches a loss that compiled code computes otherwise, in the compiler's own code."""
    outcome = timed("experiment.modes=[eager,compiled]", TRAINING_ALONE)
    assert outcome.status == 0, outcome.err
    found = {(row["method"], row["mode"]): row for row in rows()}
    for method in ("gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"):
        assert found[method, "compiled"]["operations"] < found[method, "eager"]["operations"]
        assert found[method, "compiled"]["compile_seconds"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algorithm=gpt"], "algorithm=gpt chooses one method, and a benchmark has experiment.methods: name it there"),
        (
            ["algorithm.mse_weight=1"],
            "algorithm.mse_weight is of one method, and a benchmark has several: leave it out",
        ),
        (
            ["experiment.modes=[graphs]"],
            "experiment.modes holds graphs, which are CUDA's, and this is cpu: leave it out",
        ),
        (
            ["algorithm.backbone.n_embd=20", "experiment.backbones={baby: {batch_size: 2}}"],
            "experiment.methods: gpt: algorithm.backbone.n_embd (20) must be a multiple of n_head (6)",
        ),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(overrides: list[str], said: str, timed: Any) -> None:
    """Catches a choice that is dropped without a word, and work that is begun before it is refused."""
    outcome = timed(*overrides)
    assert outcome.status == 1 and said in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not Path("run/benchmark.json").exists()


def test_weights_of_one_model_are_not_taken(timed: Any, smoke: Main) -> None:
    """Catches load=, which says what else is to be trained, where nothing is."""
    assert smoke("experiment.tasks=[training]", "hydra.run.dir=trained").status == 0
    outcome = timed("load=trained")
    assert outcome.status == 1 and "load= is for one model" in outcome.err


def test_without_a_compiler_nothing_is_compiled(timed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error after the eager cells, where torch.compile finds no compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcome = timed("experiment.modes=[compiled]")
    assert "experiment.modes holds compiled, for which there is no no-such-compiler: leave it out" in outcome.err
    outcome = timed("experiment.training.max_steps=20", "experiment.methods=[gpt]", "experiment.minutes=1e-6")
    assert outcome.status == 0 and "note: nothing is timed compiled" in outcome.out
    assert [row["mode"] for row in rows() if row["mode"]] == ["eager"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ["gpt", "gtp"]}, "methods holds 'gtp', which is unknown: did you mean 'gpt'?"),
        ({"methods": []}, "methods is []: name at least one, and each once"),
        ({"methods": ["gpt", "gpt"]}, "methods is ['gpt', 'gpt']: name at least one, and each once"),
        ({"backbones": {}}, "backbones is empty: name at least one with its batch"),
        ({"backbones": {"gpt3": {"batch_size": 2}}}, "backbones holds 'gpt3', which is unknown"),
        ({"backbones": {"tiny": {}}}, "config key 'experiment.backbones.tiny.batch_size' has no value: set it"),
        ({"modes": ["fast"]}, "experiment.modes.0 is 'fast'"),
        ({"decoders": ["piramid"]}, "decoders holds 'piramid', which is unknown: did you mean 'pyramid'?"),
        ({"texts": [0]}, "experiment.texts.0 is 0: it must be at least 1"),
        ({"texts": [512]}, "texts is [512], and sampling.n_samples is 256: raise that"),
    ],
)
def test_a_bad_setting_is_one_sentence(options: dict[str, Any], said: str) -> None:
    """Catches a setting that fails minutes later, or with the words of a library."""
    with pytest.raises(ValueError) as error:
        build(BenchmarkConfig, options, "experiment")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_backbones_have_batches_of_their_own() -> None:
    """Catches a vocabulary that is asked for and not taken."""
    config = build(BenchmarkConfig, {"backbones": {"gpt2": {"batch_size": 16, "vocabulary_size": 50257}}}, "experiment")
    assert config.backbones == {"gpt2": Size(16, 50257)}
