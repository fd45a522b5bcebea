"""What a resumed run may change: every key has a rule, and the documentation shows them."""

from pathlib import Path

import pytest
import yaml

from experiments.run.composition import leaves
from experiments.run.folder import CONFIGS
from experiments.run.resume import TABLE, Verdict, changes, check, markdown, rule_of

FREE, FROM_NOW_ON, REFUSED = Verdict.FREE, Verdict.FROM_NOW_ON, Verdict.REFUSED
ROOT = Path(__file__).parents[3]


def keys_of(file: Path) -> set[str]:
    """The keys that a file of configs/ contributes to a composed configuration."""
    text = file.read_text(encoding="utf-8")
    body = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key not in ("defaults", "hydra")}
    group = file.parent.relative_to(CONFIGS).as_posix().replace("/", ".")
    prefix = "" if group == "." or "@package _global_" in text else f"{group}."
    return {key for key, _ in leaves(body, prefix)}


def test_every_key_has_a_rule_and_every_rule_a_key() -> None:
    """Catches a key that is added without a decision, and a rule whose key is gone; files make the configuration."""
    keys = {key for file in CONFIGS.rglob("*.yaml") for key in keys_of(file)}
    assert {"algorithm.backbone.n_layer", "experiment.training.max_steps", "experiment.temperatures", "seed"} <= keys
    for key in keys:
        rule_of(key)
    assert {rule.key for rule in TABLE if not any(f"{key}.".startswith(f"{rule.key}.") for key in keys)} == set()


def test_rules_differ_from_what_they_stand_below() -> None:
    """Catches a key that is told twice."""
    told = [rule.key for rule in TABLE]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        ("seed", REFUSED),
        ("algorithm.backbone.n_layer", REFUSED),
        ("algorithm.name", REFUSED),
        ("algorithm.optimizer.beta2", REFUSED),
        ("algorithm.optimizer.lr", FROM_NOW_ON),
        ("algorithm.optimizer.weight_decay", FROM_NOW_ON),
        ("algorithm.decoder.temperature", FREE),
        ("dataset.tokenizer", REFUSED),
        ("experiment.training.batch_size", REFUSED),
        ("experiment.training.accumulate_grad_batches", REFUSED),
        ("experiment.training.ema_decay", REFUSED),
        ("experiment.training.max_steps", FROM_NOW_ON),
        ("experiment.sampling.prompt", FREE),
        ("trainer.precision", FROM_NOW_ON),
        ("trainer.profiler", FREE),
        ("logger.wandb.project", FREE),
    ],
)
def test_verdicts(key: str, verdict: Verdict) -> None:
    """Catches a rule that a shorter one overrides, and a decision that was changed by accident."""
    assert rule_of(key).verdict is verdict


def test_the_documentation_shows_the_table() -> None:
    """Catches a table that has gone out of date: `python -m experiments.run.resume` prints it."""
    assert markdown() in (ROOT / "docs" / "resuming.md").read_text(encoding="utf-8")


def test_changes_are_found_by_key() -> None:
    """Catches a key that was added, taken out, or stands at another depth."""
    found = changes({"a": {"b": 1, "c": None}, "d": [1]}, {"a": {"b": 2}, "d": [1], "e": {"f": 3}})
    assert [(one.key, one.before, one.now) for one in found] == [("a.b", 1, 2), ("e.f", None, 3)]


def test_a_refusal_names_key_values_and_remedy() -> None:
    """Catches a sentence from which the user cannot go on, and a change that takes effect in silence."""
    before = {"seed": 0, "algorithm": {"optimizer": {"lr": 1e-3}}, "name": None}
    with pytest.raises(ValueError, match=r"seed was 0 in a b and is 1 now, .*: leave it out, .* load=a b for its"):
        check(before, before | {"seed": 1}, Path("a b"))
    now = before | {"algorithm": {"optimizer": {"lr": 2e-3}}, "name": "x"}
    assert check(before, now, Path("run")) == ["algorithm.optimizer.lr is 0.002 from now on, it was 0.001"]
