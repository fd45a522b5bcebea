"""A comparison as plain values: what was compared, and every measurement that is there.

What was not measured is None or not there at all, and is left out of the report.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.analysis.likelihood import BOUND, Windows
from experiments.analysis.paired import bootstrap_interval, t_interval
from experiments.analysis.trace import TraceRecord

Setting = tuple[str, str]  # the label of a method and of one of its settings
REAL: Setting = (table.REAL, table.HELD_OUT)


@dataclass(frozen=True)
class Training:
    """One training of a method: its seed, None where an older file does not tell, the name of its files, its run folder
    if that is there, and what it cost."""

    seed: int | None
    name: str
    folder: Path | None
    command: str | None
    cost: dict[str, Any]
    numbered: bool = False  # the seed is unknown, and its place stands for it

    @property
    def called(self) -> str:
        return f"run {(self.seed or 0) + 1}" if self.numbered else f"training seed {self.seed}"


@dataclass(frozen=True)
class Method:
    """A method of the comparison. `default`, `frontier` and `speed` are labels of its settings."""

    label: str
    algorithm: str
    description: str  # what its network learns, for whoever meets it here first
    trainings: tuple[Training, ...]
    trained_here: bool
    parameters: int | None
    default: str | None
    frontier: tuple[str, ...]
    speed: tuple[str, ...]

    @property
    def first(self) -> Training:
        """The training that is shown where one has to stand for all."""
        return self.trainings[0]

    @property
    def seconds(self) -> float | None:
        """Of a training, the mean over those that tell."""
        known = [one.cost["seconds"] for one in self.trainings if one.cost.get("seconds") is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Likelihood:
    """One likelihood of a method, with its kind; nats per token and bits per character are means over trainings, whose
    nats are `by_seed`. `error` is over windows and of one training."""

    method: str
    split: str
    name: str
    kind: str
    nats: float
    error: float | None
    bits: float | None
    by_seed: dict[int | None, float]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean, over training seeds; None where these are fewer than three."""
        return t_interval([*self.by_seed.values()])

    @property
    def is_bound(self) -> bool:
        return self.kind == BOUND


@dataclass(frozen=True)
class Estimate:
    """Mean of a metric, and its interval where there are seeds enough: Student's over training seeds where there are
    several, else the bootstrap's over sampling seeds."""

    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows. Settings are found under (method, setting)."""

    folder: Path
    about: dict[str, Any]  # comparison.json as it is
    methods: tuple[Method, ...]
    controls: tuple[Setting, ...]
    judges: tuple[dict[str, Any], ...]
    likelihoods: tuple[Likelihood, ...]
    windows: dict[str, Windows]  # by method, the mean over its trainings
    rows: tuple[table.Row, ...]
    groups: dict[Setting, table.Row]
    samples: dict[Setting, dict[int, dict[str, Any]]]  # of the first training -> sampling seed -> record
    flags: dict[Setting, tuple[str, ...]]
    traces: dict[str, TraceRecord]

    @property
    def several(self) -> bool:
        """Whether a method was trained more than once."""
        return any(len(method.trainings) > 1 for method in self.methods)

    def shares_seeds(self, *labels: str) -> bool:
        """Whether trainings of these methods may be paired by seed: none has numbers in the place of seeds."""
        return not any(one.numbered for m in self.methods if m.label in labels for one in m.trainings)

    @property
    def defaults(self) -> list[Setting]:
        """The default setting of every method, in their order."""
        return [(method.label, method.default or "") for method in self.methods]

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two methods that are held against each other: those of the blind review, or the only two."""
        labels = [method.label for method in self.methods]
        chosen = (self.about.get("review") or {}).get("methods") or labels
        return (chosen[0], chosen[1]) if len(chosen) == 2 and {*chosen} <= {*labels} else None

    @property
    def sampling_seeds(self) -> list[int]:
        return sorted({row["seed"] for row in self.rows})

    def estimate(self, setting: Setting, metric: str) -> Estimate | None:
        """A metric of a setting, over the trainings or sampling seeds that have it; None where none has."""
        group = self.groups.get(setting)
        if group is None or group[metric] is None or not math.isfinite(group[metric].mean):
            return None
        interval = t_interval if len(group["training_seeds"]) > 1 else bootstrap_interval
        return Estimate(group[metric].mean, interval(table.over_seeds(self.rows_of(setting), metric)))

    def rows_of(self, setting: Setting) -> list[table.Row]:
        return [row for row in self.rows if (row["method"], row["setting"]) == setting]

    @property
    def numbers(self) -> dict[Setting, int]:
        """What the settings that differ in speed are called in plots: numbers from 1 on."""
        keys = [(method.label, label) for method in self.methods for label in method.speed]
        return {key: number for number, key in enumerate((key for key in keys if key in self.groups), 1)}

    def measured(self, labels: tuple[str, ...], method: str, *metrics: str) -> list[tuple[str, list[Estimate]]]:
        """Those settings of a method that have all metrics, with these."""
        found = [(label, [self.estimate((method, label), name) for name in metrics]) for label in labels]
        return [(label, [e for e in row if e]) for label, row in found if all(row)]

    def temperature(self, setting: Setting) -> float | None:
        """The sampling temperature of a setting; None where its decoder states none."""
        decoder = (self.groups.get(setting) or {}).get("decoder") or {}
        return decoder.get("temperature")
