"""The methods of a comparison: trainings that are given or made here, and the settings that each is measured at."""

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.base_algorithm import BaseAlgorithm
from datasets.data_module import TextDataModule
from datasets.tokenizers import Tokenizer
from experiments.evaluation.comparison_config import ComparisonConfig, MethodConfig
from experiments.evaluation.judges.base import fingerprint
from experiments.evaluation.models import Model, load_model
from experiments.evaluation.settings import KEY, ModelSettings, Setting, build_settings, notes_of, without_refused
from experiments.run.build import called, compose_run
from experiments.run.composition import leaves
from experiments.run.errors import sentence
from experiments.run.files import read_json
from experiments.run.folder import is_begun, read_config, run_folder_of
from experiments.run.overrides import key_of, quote, value_of
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.resume import Change, begun_with, changes, changes_training
from experiments.run.schema import LanguageModelingConfig, RunConfig
from experiments.training.child_runs import ChildRun

LOW_TEMPERATURE = 0.2  # of the control that a judge alone would take for the best writer
NOT_PASSED = ("experiment", "algorithm", "name", "load", "resume")
TASKS = "experiment.tasks=[training,validation,test]"


@dataclass(frozen=True)
class Trained:
    """One training of a method: the `name` of its files, its training seed, or its place where it is `numbered`, the
    run folder or checkpoint that has the weights, and the child that makes it, or else, as it was given, what it was
    trained on."""

    name: str
    seed: int
    place: Path
    key: str
    child: ChildRun | None = None
    tokenizer: Tokenizer | None = None
    dataset: str | None = None
    numbered: bool = False

    @property
    def called(self) -> str:
        return f"run {self.seed + 1}" if self.numbered else f"training seed {self.seed}"

    def load(self) -> Model:
        return load_model(str(self.place), self.key)


@dataclass(frozen=True)
class ComparedMethod:
    """A method: its label, the file of configs/algorithm that it is, its trainings, and its settings: `frontier` by
    rising temperature, `speed` at temperature 1, `control` at a very low one."""

    label: str
    algorithm: str
    trainings: list[Trained]
    model_settings: ModelSettings
    frontier: list[Setting]
    speed: list[Setting]
    control: Setting | None
    left_out: list[str]  # a sentence for each decoder that does not go with the method's settings

    @property
    def key(self) -> str:
        return f"experiment.methods.{self.label}"

    @property
    def settings(self) -> list[Setting]:
        """All settings, each once."""
        found = [*self.frontier, *self.speed, *([self.control] if self.control else [])]
        return list({setting.label: setting for setting in found}.values())

    @property
    def notes(self) -> list[str]:
        """What is to be said of the settings before work begins."""
        return [f"{self.key}.decoders: {sentence}" for sentence in self.left_out] + notes_of(self.settings)

    @property
    def default(self) -> Setting:
        """The decoder of the frontier at temperature 1."""
        return self.speed[0]

    def fresh(self, vocabulary_size: int) -> BaseAlgorithm:
        """The algorithm with untrained weights: what can be known to be wrong before training."""
        cls = look_up(ALGORITHMS, self.model_settings.algorithm, f"{self.key}.algorithm")
        return cls(self.default.algorithm, vocabulary_size=vocabulary_size)


def make_compared_method(run: RunConfig, folder: Path, label: str, method: MethodConfig) -> ComparedMethod:
    """The method `label` of a comparison that lives in `folder`, with all that its configuration implies checked.

    Raises ValueError or OSError in one sentence that names its key.
    """
    key = f"experiment.methods.{label}"
    if method.load is not None:
        trainings, model = _given(label, method, f"{key}.load")
        algorithm = model.chosen
        decoder = model.choices.get("algorithm/decoder", "own decoder")
        model_settings = ModelSettings(model.algorithm.name, model.plain, decoder)
    else:
        assert method.algorithm is not None  # as MethodConfig sees to
        algorithm, children = method.algorithm, _trained_here(run, folder, label, method)
        trainings = [Trained(child.folder.name, seed, child.folder, key, child) for seed, child in children.items()]
        model_settings = _composed(next(iter(children.values())), key)
        _check_alike([*children.values()], key)
    config: ComparisonConfig = run.experiment
    autoregressive = look_up(ALGORITHMS, model_settings.algorithm, f"{key}.algorithm").is_autoregressive
    with called(KEY, f"{key}.frontier"):
        frontier = _heated(model_settings, method.frontier, config.temperatures)
        at_one = _heated(model_settings, method.frontier, [1.0]) if 1.0 not in config.temperatures else frontier[-1:]
        control = _heated(model_settings, method.frontier, [LOW_TEMPERATURE])[0] if autoregressive else None
    with called(KEY, f"{key}.decoders"):
        decoders, left_out = without_refused(model_settings, method.decoders) if method.decoders else ([], [])
        others = build_settings(model_settings, decoders, None) if decoders else []
    return ComparedMethod(label, algorithm, trainings, model_settings, frontier, [*at_one, *others], control, left_out)


def _trained_here(run: RunConfig, folder: Path, label: str, method: MethodConfig) -> dict[int, ChildRun]:
    """A child for each training seed; that of the run's own seed is called as the method, and others may be added."""
    asked = run.experiment.training_seeds
    own = value_of(method.overrides, "seed")
    if own is not None and asked is not None:
        raise ValueError(f"experiment.methods.{label}.overrides has seed={own}: leave it to experiment.training_seeds")
    if own is not None and not own.isdecimal():
        raise ValueError(f"experiment.methods.{label}.overrides has seed={own}: say a whole number, from 0 on")
    first = run.seed if own is None else int(own)
    found = {}
    for seed in asked or [first]:
        passed, name, said = _passed(run), label, label
        if seed != first:
            passed, name = [*(o for o in passed if key_of(o) != "seed"), f"seed={seed}"], f"{label}_seed={seed}"
        if asked is not None and len(asked) > 1:
            said = f"{label}, training seed {seed}"
        overrides = [f"algorithm={method.algorithm}", *passed, *method.overrides]
        found[seed] = ChildRun(said, folder / "methods" / name, overrides, folder.name)
    return found


def _check_alike(children: Sequence[ChildRun], key: str) -> None:
    """Raise ValueError where a training that is to be added would differ in more than its seed from one that was begun:
    defaults may have changed since."""
    folder = next((child.folder for child in children if is_begun(child.folder)), None)
    added = [child for child in children if not is_begun(child.folder)]
    if folder is None or not added:
        return
    now = compose_run(added[0].overrides).plain
    for one in _changes_of_training(begun_with(folder), now):
        raise ValueError(
            f"{key} would train {added[0].folder.name} with {one.key}={quote(one.now)}, which was {quote(one.before)} "
            f"in {folder}: start a new comparison for other training seeds"
        )


def _given(label: str, method: MethodConfig, key: str) -> tuple[list[Trained], Model]:
    """The trainings that `load` names, and the first of them.

    Each counts as a training seed: that of its run, or its place where these are unknown or the same. Raises ValueError
    where one is there twice, or differs from the first in how it was trained.
    """
    asked = [method.load] if isinstance(method.load, str) else method.load or []
    found: dict[str, tuple[Path, Model]] = {}  # by fingerprint
    first: tuple[Path, Model] | None = None
    for place, chosen_by_pattern in (each for path in asked for each in _places(path, key)):
        model = load_model(str(place), key)
        told = "algorithm" in model.choices or method.algorithm in ALGORITHMS  # an older checkpoint knows less
        if told and method.algorithm not in (None, model.chosen):
            if chosen_by_pattern:
                continue  # a sweep over methods
            named = f"{key.removesuffix('.load')}.algorithm={model.chosen}"
            raise ValueError(f"{key}={place} holds algorithm={model.chosen}: say {named}")
        first = first or (place, model)
        weights = fingerprint(model.algorithm)
        if weights in found:
            raise ValueError(f"{key} has the same weights twice, in {found[weights][0]} and {place}: leave one out")
        run = run_folder_of(model.file.resolve())
        same = next((one for one, other in found.values() if run and run_folder_of(other.file.resolve()) == run), None)
        if same is not None:
            raise ValueError(f"{key} has {same} and {place}, which are of one training: leave one out")
        if differs := _difference(first[1], model):
            raise ValueError(
                f"{key} has {first[0]} and {place}, which differ in {differs} and not in their seeds alone: give each "
                "a name of its own in experiment.methods"
            )
        found[weights] = place, dataclasses.replace(model, algorithm=first[1].algorithm)  # lets go of its weights
    if first is None:
        raise ValueError(f"{key} matches no run of algorithm={method.algorithm}: check the pattern")
    runs = [run_folder_of(model.file) for _, model in found.values()]
    known: list[Any] = [read_json(one / "summary.json").get("seed") for one in runs if one]
    numbered = None in known or len({*known}) < len(runs)
    seeds: list[int] = [*range(len(runs))] if numbered else known
    trainings = []
    for number, (seed, (place, model)) in enumerate(zip(seeds, found.values(), strict=True)):
        name = f"{label}_seed={seed}" if number else label
        made = Trained(name, seed, place.resolve(), key, None, model.tokenizer, model.dataset, numbered)
        trainings.append(made)
    return trainings, first[1]


def _places(path: str, key: str) -> Iterator[tuple[Path, bool]]:
    """What a path names, and whether by a pattern: then all that holds weights, numbers in their order."""
    if Path(path).exists() or not glob.has_magic(path):
        yield Path(path), False
        return
    matches = [Path(each) for each in glob.glob(os.path.expanduser(path), recursive=True)]
    holding = [each for each in matches if each.suffix == ".ckpt" or any((each / "checkpoints").glob("*.ckpt"))]
    if not holding:
        raise FileNotFoundError(f"{key}: no run folder or checkpoint matches {path}: check the pattern")
    yield from ((each, True) for each in sorted(holding, key=lambda each: (len(str(each)), str(each))))


def _difference(a: Model, b: Model) -> str:
    """The first key that both were trained with, and not alike; blank without one."""
    if a.chosen != b.chosen:
        return "algorithm"
    before, now = ({"algorithm": one.plain, "experiment": {"training": _training_of(one)}} for one in (a, b))
    return next((one.key for one in _changes_of_training(before, now)), "")


def _training_of(model: Model) -> dict[str, Any]:
    """experiment.training of the run that a model is of; nothing of a checkpoint that lies outside of one."""
    run = run_folder_of(model.file)
    return {} if run is None else read_config(run).get("experiment", {}).get("training", {})


def _changes_of_training(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """What both configurations say of how to train, and not alike: an older one says less."""
    both = {*dict(leaves(before))} & {*dict(leaves(now))}
    yield from (one for one in changes(before, now) if one.key in both and changes_training(one.key))


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
        for one in method.trainings:
            if one.tokenizer is not None and one.tokenizer.state() != data.tokenizer.state():
                raise ValueError(
                    f"{one.key}={one.place} has another vocabulary than dataset={data.config.name}: {_REMEDY}"
                )
            if one.dataset is not None and one.dataset != data.fingerprint:
                raise ValueError(
                    f"{one.key}={one.place} was not trained on dataset={data.config.name} as it is: {_REMEDY}"
                )


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
