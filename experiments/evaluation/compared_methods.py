"""The methods of a comparison: models that are given or get trained, each with the settings it is measured at."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.base_algorithm import BaseAlgorithm
from datasets.data_module import TextDataModule
from experiments.evaluation.comparison_config import ComparisonConfig, MethodConfig
from experiments.evaluation.models import Model, load_model
from experiments.evaluation.settings import KEY, ModelSettings, Setting, build_settings
from experiments.run.build import called, compose_run
from experiments.run.errors import sentence
from experiments.run.overrides import key_of, quote
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import LanguageModelingConfig, RunConfig
from experiments.training.child_runs import ChildRun

LOW_TEMPERATURE = 0.2  # of the control that a judge alone would take for the best writer
NOT_PASSED = ("experiment", "algorithm", "name", "load", "resume")
TASKS = "experiment.tasks=[training,validation,test]"


@dataclass
class ComparedMethod:
    """A method: its label, the file of configs/algorithm that it is, where its run is, the child that trains it (None:
    it was given), its model once there is one, and its settings: `frontier` by rising temperature, `speed` at
    temperature 1, `control` at a very low one."""

    label: str
    algorithm: str
    folder: Path
    child: ChildRun | None
    model_settings: ModelSettings
    model: Model | None
    frontier: list[Setting]
    speed: list[Setting]
    control: Setting | None

    @property
    def key(self) -> str:
        return f"experiment.methods.{self.label}"

    @property
    def settings(self) -> list[Setting]:
        """All settings, each once."""
        found = [*self.frontier, *self.speed, *([self.control] if self.control else [])]
        return list({setting.label: setting for setting in found}.values())

    @property
    def default(self) -> Setting:
        """The decoder of the frontier at temperature 1."""
        return self.speed[0]

    def fresh(self, vocabulary_size: int) -> BaseAlgorithm:
        """The algorithm with untrained weights: what can be known to be wrong before training."""
        if self.model is not None:
            return self.model.algorithm
        cls = look_up(ALGORITHMS, self.model_settings.algorithm, f"{self.key}.algorithm")
        return cls(self.default.algorithm, vocabulary_size=vocabulary_size)

    def load(self) -> Model:
        """The trained model, read once."""
        if self.model is None:
            self.model = load_model(str(self.folder), self.key)
        return self.model


def make_compared_method(run: RunConfig, folder: Path, label: str, method: MethodConfig) -> ComparedMethod:
    """The method `label` of a comparison that lives in `folder`, with all that its configuration implies checked.

    Raises ValueError or OSError in one sentence that names its key.
    """
    key = f"experiment.methods.{label}"
    child, model = None, None
    if method.load is not None:
        model = load_model(method.load, f"{key}.load")
        algorithm = model.chosen
        told = "algorithm" in model.choices or method.algorithm in ALGORITHMS  # an older checkpoint knows less
        if told and method.algorithm not in (None, algorithm):
            raise ValueError(f"{key}.load={method.load} holds algorithm={algorithm}: say {key}.algorithm={algorithm}")
        decoder = model.choices.get("algorithm/decoder", "own decoder")
        model_settings = ModelSettings(model.algorithm.name, model.plain, decoder)
        place = Path(method.load).resolve()
    else:
        assert method.algorithm is not None  # as MethodConfig sees to
        algorithm, place = method.algorithm, folder / "methods" / label
        child = ChildRun(label, place, [f"algorithm={algorithm}", *_passed(run), *method.overrides], folder.name)
        model_settings = _composed(child, key)
    config: ComparisonConfig = run.experiment
    autoregressive = look_up(ALGORITHMS, model_settings.algorithm, f"{key}.algorithm").is_autoregressive
    with called(KEY, f"{key}.frontier"):
        frontier = _heated(model_settings, method.frontier, config.temperatures)
        at_one = _heated(model_settings, method.frontier, [1.0]) if 1.0 not in config.temperatures else frontier[-1:]
        control = _heated(model_settings, method.frontier, [LOW_TEMPERATURE])[0] if autoregressive else None
    with called(KEY, f"{key}.decoders"):
        others = build_settings(model_settings, method.decoders, None) if method.decoders else []
    return ComparedMethod(label, algorithm, place, child, model_settings, model, frontier, [*at_one, *others], control)


def judge_runs(run: RunConfig, folder: Path) -> list[ChildRun]:
    """The trainings of judges, as their configuration asks for; none where judges are given or unwanted."""
    judges = run.experiment.judges
    if judges.load or judges.dataset is None:
        return []
    passed = [o for o in _passed(run) if key_of(o).partition(".")[0] not in ("dataset", "seed")]
    own = ["algorithm=gpt", f"dataset={judges.dataset}", *judges.overrides, *passed]
    if judges.max_steps is not None:
        own = [o for o in own if key_of(o) != "experiment.training.max_steps"]
        own.append(f"experiment.training.max_steps={judges.max_steps}")
    children = [
        ChildRun(f"judge {seed}", folder / "judges" / str(seed), [*own, f"seed={seed}"], folder.name)
        for seed in judges.seeds
    ]
    _composed(children[0], "experiment.judges")
    return children


def check_fit(methods: Sequence[ComparedMethod], data: TextDataModule) -> None:
    """Raise ValueError unless all methods predict the same tokens of the same windows."""
    first = methods[0]
    for method in methods:
        sizes = [one.model_settings.plain["backbone"]["block_size"] for one in (first, method)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{first.key} has a context of {sizes[0]} tokens and {method.key} one of {sizes[1]}: windows would "
                "differ; train both with the same algorithm.backbone.block_size"
            )
        if method.model is None:
            continue
        if method.model.tokenizer.state() != data.tokenizer.state():
            raise ValueError(f"{method.key}.load has another vocabulary than dataset={data.config.name}: {_REMEDY}")
        if method.model.dataset is not None and method.model.dataset != data.fingerprint:
            raise ValueError(f"{method.key}.load was not trained on dataset={data.config.name} as it is: {_REMEDY}")


_REMEDY = "say the dataset that it was trained on, or leave it out"


def _heated(model_settings: ModelSettings, frontier: Any, temperatures: Sequence[float]) -> list[Setting]:
    """One decoder at rising temperatures."""
    return build_settings(model_settings, frontier, {"temperature": sorted(temperatures)})


def _passed(run: RunConfig) -> list[str]:
    """What the comparison's command line and its `training` mean for a run that trains."""
    overrides = [o for o in run.overrides if key_of(o).partition(".")[0] not in NOT_PASSED or is_part(o)]
    config, usual = run.experiment, LanguageModelingConfig()
    for group in ("training", "evaluation"):
        for f in dataclasses.fields(getattr(usual, group)):
            value = getattr(getattr(config, group), f.name)
            if value != getattr(getattr(usual, group), f.name):
                overrides.append(f"experiment.{group}.{f.name}={quote(value)}")
    if config.block_size is not None:
        overrides.append(f"experiment.block_size={config.block_size}")
    return [*overrides, "experiment=language_modeling", TASKS]


def is_part(override: str) -> bool:
    """Whether an override sets a part of the algorithm that all methods have, as the backbone."""
    return key_of(override).replace("/", ".").startswith(("algorithm.backbone", "algorithm.optimizer"))


def _composed(child: ChildRun, key: str) -> ModelSettings:
    """The algorithm that a child's command line composes to, once all of it was checked."""
    try:
        run = compose_run(child.overrides)
    except Exception as error:
        raise ValueError(f"{key}: {sentence(error, child.overrides)}") from error
    return ModelSettings(run.algorithm.name, run.plain["algorithm"], run.choices["algorithm/decoder"])
