"""The task `likelihood`, and the paired comparison of two runs from their files alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import likelihood
from tests.conftest import Main
from tests.experiments.analysis import comparison_folder


def test_every_likelihood_of_a_masked_model_is_stated_with_its_kind(smoke: Main) -> None:
    """Catches a bound that is called exact, and likelihoods that are not of the windows that a GPT's is of."""
    assert smoke("algorithm=masked_diffusion", "experiment.tasks=[training,likelihood]", "hydra.run.dir=m").status == 0
    assert smoke("experiment.tasks=[training,test,likelihood]", "hydra.run.dir=g").status == 0
    summary = json.loads(Path("m/summary.json").read_text(encoding="utf-8"))
    assert summary["kinds"]["test/any_order"] == "bound"
    assert summary["kinds"]["test/left_to_right"] == "exact for this order"
    gpt = json.loads(Path("g/summary.json").read_text(encoding="utf-8"))
    assert gpt["kinds"]["test/nll"] == "exact"
    masked, exact = likelihood.read_windows(Path("m")), likelihood.read_windows(Path("g"))
    assert np.array_equal(masked.tokens, exact.tokens)
    assert set(masked.nats) == {"any_order", "left_to_right", "duel_margin", "duel_decoder"}
    mean, _ = likelihood.mean_per_token(exact.nats["nll"], exact.tokens)
    assert mean == pytest.approx(gpt["figures"]["test/nll"], abs=1e-6)
    assert (
        Path("m/likelihood.csv")
        .read_text(encoding="utf-8")
        .startswith("split,likelihood,kind,nats_per_token,standard_error")
    )


def test_a_paired_gap_is_that_of_the_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches errors of the two means taken for the error of their difference, which is far smaller."""
    draw = np.random.default_rng(0)
    tokens = np.array([64] * 99 + [10])
    first = draw.normal(100, 20, 100) * tokens / 64
    second = first + 0.05 * tokens + draw.normal(0, 0.1, 100)
    for name, nats in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        likelihood.write_windows(tmp_path / name / likelihood.FILE, likelihood.Windows(tokens, {"nll": nats}))
    assert likelihood.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"A: {tmp_path / 'a'}\nB: {tmp_path / 'b'}\n")
    line = r"B nll \(of unknown kind\) - A nll \(of unknown kind\): \+([\d.]+) ± ([\d.]+) nats per token\n"
    found = re.search(line, said)
    assert found is not None
    assert float(found[1]) == pytest.approx(0.05, abs=0.001) and float(found[2]) < 0.001
    assert likelihood.mean_per_token(first, tokens)[1] > 0.01


def test_likelihoods_of_different_kinds_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a bound that is subtracted from an exact value without a word, and pairs that mean nothing."""
    kinds = {"gpt": {"nll": "exact"}, "masked": {"any_order": "bound", "left_to_right": "exact for this order"}}
    kinds["flow"] = kinds["masked"]
    for name, own in kinds.items():
        write(tmp_path / name, 4, dict.fromkeys(own, 1.0 if name == "gpt" else 1.5), own)
    gpt, masked, flow = (str(tmp_path / name) for name in kinds)
    assert likelihood.main([gpt, masked]) == 0
    bound, order = capsys.readouterr().out.splitlines()[2:]
    assert bound.startswith("B any_order (bound) - A nll (exact): +0.0625")
    assert bound.endswith("a bound minus an exact value: the true gap may lie far below")
    assert order.endswith("of different kinds, which cannot be ranked")
    assert likelihood.main([masked, flow]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(":")[0] for line in lines] == [
        "B any_order (bound) - A any_order (bound)",
        "B left_to_right (exact for this order) - A left_to_right (exact for this order)",
    ]


def test_the_file_of_one_method_of_a_comparison_has_its_kinds(tmp_path: Path) -> None:
    """Catches kinds that are looked for beside the file, or taken from another method."""
    comparison_folder.build(tmp_path / "run")
    a, b = (likelihood.read_recorded(tmp_path / f"run/likelihoods/{name}.csv") for name in ("gpt", "masked"))
    assert a.kinds == {"nll": "exact"} and b.kinds["any_order"] == "bound" and b.split == "test"


def test_standard_error_is_that_of_independent_windows() -> None:
    """Catches a standard deviation given out for the error of the mean."""
    nats = np.random.default_rng(0).normal(100, 20, 10_000)
    mean, error = likelihood.mean_per_token(nats, np.full(10_000, 50))
    assert mean == pytest.approx(2.0, abs=0.02) and error == pytest.approx(20 / 50 / 100, rel=0.05)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, b: None, "run the task likelihood first"),
        (lambda a, b: (write(a, 3), write(b, 4)), "different windows"),
        (lambda a, b: (write(a, 3, split="val"), write(b, 3)), "another split each (val and test)"),
        (lambda a, b: (write(a, 3, dataset="x"), write(b, 3, dataset="y")), "another dataset each (x and y)"),
    ],
)
def test_runs_that_do_not_go_together_are_named(make, sentence: str, tmp_path: Path, capsys) -> None:
    """Catches a traceback, or a gap between other windows."""
    make(tmp_path / "a", tmp_path / "b")
    assert likelihood.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def write(
    folder: Path,
    windows: int,
    nats: dict[str, float] | None = None,
    kinds: dict[str, str] | None = None,
    split: str = "test",
    dataset: str = "",
) -> None:
    """What the task likelihood leaves of `windows` windows of 8 tokens."""
    folder.mkdir()
    values = {name: np.full(windows, value) for name, value in (nats or {"nll": 1.0}).items()}
    likelihood.write_windows(folder / likelihood.FILE, likelihood.Windows(np.full(windows, 8), values))
    rows = "".join(f"{split},{name},{kind}\n" for name, kind in (kinds or {"nll": "exact"}).items())
    (folder / "likelihood.csv").write_text(f"split,likelihood,kind\n{rows}", encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"dataset_fingerprint": dataset}), encoding="utf-8")
