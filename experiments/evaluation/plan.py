"""What is measured: the settings of each method, what they continue and how far, and the rows this makes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.analysis import decoding_table as table
from experiments.evaluation.measurement import Assignment
from experiments.evaluation.settings import ModelSettings, Setting, build_settings, misfit

PRESETS = ("flow_quality", "flow_balanced", "baseline_fast")  # of tiny-diffusion, files of configs/algorithm/decoder


class Plan(NamedTuple):
    """Settings by method, all asked for the same."""

    settings: dict[str, list[Setting]]
    assignment: Assignment
    left_out: Mapping[str, str] = MappingProxyType({})  # decoders that might be expected -> why they are not there


class Job(NamedTuple):
    """One row to be made: its identity, and its setting and training seed, None for real text and controls."""

    identity: table.Row
    setting: Setting | None
    training_seed: int | None = None


def jobs_of(
    plan: Plan,
    seeds: Sequence[int],
    *,
    weights: dict[str, str],
    judge: str | None,
    modelless: Sequence[tuple[str, str]],
    training_seeds: Mapping[str, int],
) -> list[Job]:
    """All rows of a plan: those of `modelless` (method, setting), then every setting at the first seed, at the
    second, ...: what slows the machine down for a while slows all methods. `weights` are fingerprints by method,
    `training_seeds` whose they are, where that is told."""
    assignment = plan.assignment
    shared = {"n_samples": assignment.n_samples, "length": assignment.length, "prompt": assignment.text, "judge": judge}
    jobs = []
    for method, name in modelless:
        own: table.Row = {"method": method, "setting": name, "options": None, "decoder": None, "weights": None}
        jobs += [Job(own | shared | {"seed": seed}, None) for seed in seeds]
    for seed in seeds:
        for method, settings in plan.settings.items():
            for setting in settings:
                own = {"method": method, "setting": setting.label, "options": setting.options}
                own |= {"decoder": setting.plain, "weights": weights[method], "seed": seed}
                jobs.append(Job(own | shared, setting, training_seeds.get(method)))
    return jobs


def preset_settings(model_settings: ModelSettings) -> tuple[list[Setting], dict[str, str]]:
    """The presets that fit a model, and for the others why not. Raises ValueError where none fits."""
    left_out = {name: reason for name in PRESETS if (reason := misfit(model_settings, name)) is not None}
    fitting: list[Any] = [name for name in PRESETS if name not in left_out]
    if not fitting:
        raise ValueError(
            f"experiment.tasks: no preset of the task presets fits algorithm={model_settings.algorithm}: they are "
            "settings of masked_diffusion and diffusion_flow"
        )
    return build_settings(model_settings, fitting, None), left_out
