"""What the tasks of experiment=decoding measure: settings, what they continue and how far, and the rows this makes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.analysis import decoding_table as table
from experiments.config import RunConfig
from experiments.decoder_settings import Setting, build_settings, misfit

PRESETS = ("flow_quality", "flow_balanced", "baseline_fast")  # of tiny-diffusion, files of configs/algorithm/decoder


class Plan(NamedTuple):
    """Settings that continue one prompt by `length` tokens; `text` is the prompt as rows tell it."""

    settings: list[Setting]
    prompt: list[int]  # P ids: those of `text`, or the start token where it is empty
    text: str
    length: int
    key: str  # of the configuration, where a setting that does not fit the model is to blame
    left_out: dict[str, str]  # decoders that might have been expected, and why each is not there


class Job(NamedTuple):
    """One row to be made: its identity, and its setting, None for real text."""

    identity: table.Row
    setting: Setting | None


def jobs_of(plan: Plan, seeds: Sequence[int], shared: dict[str, Any], *, real: bool) -> list[Job]:
    """All rows of a plan: real text if asked for, then every setting at the first seed, at the second, ..."""
    shared = shared | {"length": plan.length, "prompt": plan.text}
    jobs = []
    if real:
        held_out = {"setting": table.HELD_OUT, "options": None, "decoder": None}
        jobs = [Job(held_out | {"seed": seed} | shared, None) for seed in seeds]
    for seed in seeds:
        for setting in plan.settings:
            own = {"setting": setting.label, "options": setting.options, "decoder": setting.plain}
            jobs.append(Job(own | {"seed": seed} | shared, setting))
    return jobs


def preset_settings(run: RunConfig) -> tuple[list[Setting], dict[str, str]]:
    """The presets that fit the run, and for the others why not. Raises ValueError where none fits."""
    left_out = {name: reason for name in PRESETS if (reason := misfit(run, name)) is not None}
    fitting: list[Any] = [name for name in PRESETS if name not in left_out]
    if not fitting:
        raise ValueError(
            f"experiment.tasks: no preset of the task presets fits algorithm={run.algorithm.name}: they are "
            "settings of masked_diffusion and diffusion_flow"
        )
    return build_settings(run, fitting, None), left_out
