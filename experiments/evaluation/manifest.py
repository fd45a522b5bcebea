"""comparison.json: what a report needs to know of a comparison beside its measurements."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.evaluation.compared_methods import ComparedMethod, Trained
from experiments.evaluation.comparison_config import ComparisonConfig
from experiments.run.files import read_json
from experiments.run.folder import run_folder_of
from experiments.run.overrides import key_of
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import RunConfig
from experiments.run.summary import describe_machine
from experiments.training.child_runs import ChildRun

SCHEMA = 1  # of the file; experiments/analysis/report reads it


def describe(
    run: RunConfig,
    folder: Path,
    methods: Sequence[ComparedMethod],
    judge_runs: Sequence[ChildRun],
    modelless: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """The contents for the comparison in `folder`; of runs that are not there yet the figures are None."""
    config: ComparisonConfig = run.experiment
    controls = [{"method": method, "setting": setting} for method, setting in modelless if method == table.CONTROL]
    controls += [{"method": method.label, "setting": method.control.label} for method in methods if method.control]
    judges = [_judge(Path(path).resolve(), folder, None) for path in config.judges.load]
    for seed, child in zip(config.judges.seeds, judge_runs, strict=False):
        judges.append(_judge(child.folder, folder, child) | {"dataset": config.judges.dataset, "seed": seed})
    return {
        "schema": SCHEMA,
        "title": config.title,
        "dataset": run.dataset.name,
        "split": config.evaluation.likelihood_split,
        "seed": run.seed,
        "steps": config.training.max_steps,
        "command": shlex.join(["python", "main.py", *(o for o in run.overrides if key_of(o) != "resume")]),
        "sampling": {
            "n_samples": config.sampling.n_samples,
            "length": config.sampling.length,
            "prompt": config.sampling.prompt,
            "seeds": config.seeds,
        },
        "fps": config.visualize.fps,
        "review": {"methods": config.review.methods} if config.review else None,
        "methods": [_method(method, folder) for method in methods],
        "judges": judges,
        "controls": controls,
    } | describe_machine()


def _method(method: ComparedMethod, folder: Path) -> dict[str, Any]:
    first = method.trainings[0]
    summary = read_json((run_folder_of(first.place) or first.place) / "summary.json")
    cls = look_up(ALGORITHMS, method.model_settings.algorithm, f"{method.key}.algorithm")
    return {
        "label": method.label,
        "algorithm": method.algorithm,
        "description": cls.description,
        **_training(first, folder),
        "trainings": [
            {"name": one.name, "seed": one.seed, "numbered": one.numbered} | _training(one, folder)
            for one in method.trainings
        ],
        "trained_here": first.child is not None,
        "parameters": summary.get("parameters"),
        "likelihood_kind": summary.get("likelihood_kind"),
        "block_size": method.model_settings.plain["backbone"]["block_size"],
        "default": method.default.label,
        "frontier": [setting.label for setting in method.frontier],
        "speed": [setting.label for setting in method.speed],
    }


def _training(one: Trained, folder: Path) -> dict[str, Any]:
    """Where a training is, what makes it, and what it cost."""
    place = run_folder_of(one.place) or one.place
    summary = read_json(place / "summary.json")
    command = one.child.command if one.child else None
    return {"folder": _from(folder, place), "command": command, "training": summary.get("training")}


def _judge(place: Path, folder: Path, child: ChildRun | None) -> dict[str, Any]:
    figures = read_json(place / "summary.json").get("figures", {})
    return {
        "folder": _from(folder, place),
        "command": child.command if child else None,
        "test_nll": figures.get("test/nll"),
        "test_nll_error": figures.get("test/nll_error"),
    }


def _from(folder: Path, place: Path) -> str:
    """`place` as seen from the comparison's folder if it lies inside, so that the folder can be moved."""
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)
