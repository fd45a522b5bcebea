"""What a resumed run may do: every key of the configuration is free, applies from now on, or is refused.

A key that is refused would make the run another one: its first part and what follows would have no common meaning.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.run.composition import composed, leaves
from experiments.run.folder import read_config, run_folder_of, stored_overrides
from experiments.run.overrides import quote


class Verdict(StrEnum):
    """What becomes of a key that is given another value with resume=."""

    FREE = "free"  # training does not see it
    FROM_NOW_ON = "from now on"  # it takes effect with the next step, and is said in a line
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """The verdict on a key and all keys below it, but for those with a rule of their own; `why` completes 'because'."""

    key: str
    verdict: Verdict
    why: str


FREE, FROM_NOW_ON, REFUSED = Verdict.FREE, Verdict.FROM_NOW_ON, Verdict.REFUSED
METHOD = "it is part of what is trained"
DATA = "it decides which text is seen in which step"
AFTER = "it is used after training only"
TABLE = (
    Rule("algorithm", REFUSED, METHOD),
    Rule("algorithm.decoder", FREE, AFTER),
    Rule("algorithm.masks_per_count", FREE, AFTER),
    Rule("algorithm.use_cache", FREE, AFTER),
    Rule("algorithm.validation_masks", FROM_NOW_ON, "it decides how exactly val/nll is measured"),
    Rule("algorithm.optimizer", REFUSED, "the optimiser's state was gathered with it"),
    Rule("algorithm.optimizer.lr", FROM_NOW_ON, "the schedule is a function of the step alone"),
    Rule("algorithm.optimizer.min_lr_ratio", FROM_NOW_ON, "the schedule is a function of the step alone"),
    Rule("algorithm.optimizer.warmup_steps", FROM_NOW_ON, "the schedule is a function of the step alone"),
    Rule("algorithm.optimizer.weight_decay", FROM_NOW_ON, "it enters each step by itself"),
    Rule("dataset", REFUSED, "it decides what the text and its tokens are"),
    Rule("dataset.path", FREE, "the text itself is compared, wherever it lies"),
    Rule("dataset.tokenizer_path", FREE, "the tokenizer itself is compared, wherever it lies"),
    Rule("dataset.cache_dir", FREE, "it is a place"),
    Rule("experiment", FREE, AFTER),
    Rule("experiment.name", REFUSED, "its tasks leave other files"),
    Rule("experiment.block_size", REFUSED, DATA),
    Rule("experiment.methods", FREE, "each method that was begun is compared with what it was begun with"),
    Rule("experiment.training_seeds", FREE, "each training is one of its own, and those that are missing are made"),
    Rule("experiment.judges", FREE, "each judge that was begun is compared with what it was begun with"),
    Rule("experiment.training", REFUSED, METHOD),
    Rule("experiment.training.batch_size", REFUSED, DATA),
    Rule("experiment.training.accumulate_grad_batches", REFUSED, DATA),
    Rule("experiment.training.overfit_batches", REFUSED, DATA),
    Rule("experiment.training.ema_decay", REFUSED, "the average of the weights was gathered with it"),
    Rule("experiment.training.max_steps", FROM_NOW_ON, "the schedule of the learning rate is stretched to it"),
    Rule("experiment.training.gradient_clip_norm", FROM_NOW_ON, "it enters each step by itself"),
    Rule("experiment.training.val_every_steps", FROM_NOW_ON, "it decides which weights can become best.ckpt"),
    Rule("experiment.training.checkpoint_every_steps", FREE, "it decides what a kill can cost"),
    Rule("experiment.training.compile", FROM_NOW_ON, "it rounds in another way, and draws other dropout"),
    Rule("experiment.evaluation.batch_size", FREE, "every window is measured by itself"),
    Rule("experiment.evaluation.max_batches", FROM_NOW_ON, "it decides how exactly val/nll is measured"),
    Rule("trainer", FROM_NOW_ON, "the machine is another one, and rounds in another way"),
    Rule("trainer.devices", FROM_NOW_ON, "the machine is another one; the number of processes must stay"),
    Rule("trainer.profiler", FREE, "it only looks"),
    Rule("logger", FREE, "it only looks"),
    Rule("callbacks", FREE, "it only looks"),
    Rule("seed", REFUSED, "it decides every draw"),
    Rule("name", FREE, "it is what loggers call the run"),
    Rule("load", FREE, "it is read when a run begins"),
    Rule("resume", FREE, "it is what resumes"),
)

ALIKE_TRAINED = ("experiment.training.val_every_steps", "experiment.training.compile")  # whatever their values


@dataclass(frozen=True)
class Change:
    """A key whose value is another one than the run was begun with; None stands for a key that is not there."""

    key: str
    before: Any
    now: Any


def rule_of(key: str) -> Rule:
    """The rule with the longest key that `key` is or lies below. Raises KeyError where none covers it."""
    covering = [rule for rule in TABLE if f"{key}.".startswith(f"{rule.key}.")]
    if not covering:
        raise KeyError(key)
    return max(covering, key=lambda rule: len(rule.key))


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """What differs between two configurations, flat or nested, by dotted key."""
    old, new = dict(leaves(before)), dict(leaves(now))
    keys = [*new, *(key for key in old if key not in new)]
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def begun_with(checkpoint: Path) -> dict[str, Any]:
    """The configuration of the run that `resume=checkpoint` continues, of the keys of today; what it does not say is
    today's default."""
    folder = run_folder_of(checkpoint)
    assert folder is not None  # resume= was expanded
    today = composed(stored_overrides(folder))
    stored = _flat(OmegaConf.create(read_config(folder)))
    if today is None:
        return stored
    usual = _flat(today)
    return usual | {key: value for key, value in stored.items() if key in usual}


def changes_training(key: str) -> bool:
    """Whether two trainings with different values of this key differ in more than seed, machine and what looks on."""
    if key.partition(".")[0] != "algorithm" and not key.startswith(("dataset.", "experiment.training.")):
        return False
    return rule_of(key).verdict is not FREE and key not in ALIKE_TRAINED


def _flat(config: Any) -> dict[str, Any]:
    return dict(leaves(OmegaConf.to_container(config, resolve=True)))  # type: ignore[arg-type]


def check(before: dict[str, Any], now: dict[str, Any], folder: Path) -> list[str]:
    """A line for every change that applies from now on. Raises ValueError in one sentence on one that is refused."""
    found = changes(before, now)
    for change in found:
        rule = rule_of(change.key)
        if rule.verdict is REFUSED:
            raise ValueError(
                f"{change.key} was {quote(change.before)} in {folder} and is {quote(change.now)} now, which would be "
                f"another run ({rule.why}): leave it out, or begin a new run, with load={folder} for "
                "its weights"
            )
    return [
        f"{change.key} is {quote(change.now)} from now on, it was {quote(change.before)}"
        for change in found
        if rule_of(change.key).verdict is FROM_NOW_ON
    ]


def markdown(rules: Iterable[Rule] = TABLE) -> str:
    """The table as docs/resuming.md shows it."""
    rows = [f"| `{rule.key}` | {rule.verdict} | {rule.why} |" for rule in rules]
    return "\n".join(["| key, with those below it | with `resume=` | because |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
