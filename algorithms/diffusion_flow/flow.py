"""What both flows share: the straight path, and when the flow loss is applied.

Source: flow matching (arXiv:2210.02747). Progress s runs from noise (0) to clean (1). B batch, T tokens, D channels.
"""

from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.fields import STRICT, Count, Natural, NonNegative, Number, Share
from algorithms.common.randomness import uniform

# Fields that say when the flow loss is computed, and of what.
OF_THE_LOSS = (
    *("warmup_steps", "interval", "max_step", "min_progress", "max_progress"),
    *("plateau_window", "plateau_patience", "plateau_improvement"),
)


@dataclass(frozen=True, config=STRICT)
class FlowConfig:
    """When the flow loss is added, and how much of it; a subclass says what it is.

    Its weight rises linearly over `warmup_steps`, it is computed on every `interval`-th optimiser step, and it ends at
    `max_step` (None: never) or when it has stopped falling: `plateau_patience` windows of `plateau_window` flow steps
    in a row that improve by less than the share `plateau_improvement` (patience None: never).
    """

    name: str = ""
    weight: NonNegative = 0.1
    warmup_steps: Natural = 1000
    interval: Count = 2
    max_step: Natural | None = None
    plateau_window: Count = 100
    plateau_patience: Count | None = 3
    plateau_improvement: Number = 0.01
    min_progress: Share = 0.02
    max_progress: Share = 0.98

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        if self.weight == 0:
            return dict.fromkeys(OF_THE_LOSS, "weight")
        stops = {"plateau_window": "plateau_patience", "plateau_improvement": "plateau_patience"}
        return stops if self.plateau_patience is None else {}

    def __post_init__(self) -> None:
        if not self.min_progress < self.max_progress:
            raise ValueError(
                f"min_progress ({self.min_progress}) and max_progress ({self.max_progress}) "
                "must lie in [0, 1], the first below the second"
            )


class Path(NamedTuple):
    """Where the rows of a step stand on their paths."""

    progress: Tensor  # (B,)
    noise: Tensor  # (B, W, D), where the paths begin
    total: Tensor  # () masked positions, the mean over the processes of a training


def interpolate(clean: Tensor, noise: Tensor, progress: Tensor) -> Tensor:
    """The straight path (1 - s) noise + s clean at progress s (B,), for clean and noise (B, T, D)."""
    return torch.lerp(noise, clean, progress[:, None, None])


def draw_progress(config: FlowConfig, rows: int, generator: torch.Generator) -> Tensor:
    """One progress a row, uniform between the configured ends: (B,)."""
    return config.min_progress + (config.max_progress - config.min_progress) * uniform(generator, rows)


def warmed_up(weight: float, step: int, warmup_steps: int) -> float:
    """The weight of the flow loss at optimiser step `step`, counted from 0: a linear rise, then constant."""
    return weight * min(1.0, (step + 1) / max(1, warmup_steps))


class PlateauSwitch:
    """Says when the flow loss has stopped falling: `patience` windows in a row that improve on the one before by less
    than `improvement`, relatively. Plain numbers, so that a checkpoint carries them."""

    def __init__(self, window: int, patience: int | None, improvement: float) -> None:
        self.window = window
        self.patience = patience
        self.improvement = improvement
        self.losses: list[Tensor] = []
        self.previous: float | None = None
        self.stale = 0

    @property
    def off(self) -> bool:
        return self.patience is not None and self.stale >= self.patience

    def record(self, loss: Tensor) -> None:
        """Add the loss of a flow step; numbers are read from the device once a window."""
        self.losses.append(loss.detach())
        if len(self.losses) < self.window:
            return
        losses = torch.stack([one.to(loss.device) for one in self.losses])  # those of a checkpoint are on the CPU
        mean = float(losses.mean())
        if self.previous is not None:
            gain = (self.previous - mean) / max(abs(self.previous), 1e-12)
            self.stale = self.stale + 1 if gain < self.improvement else 0
        self.previous, self.losses = mean, []

    def state(self) -> dict:
        return {"losses": [float(x) for x in self.losses], "previous": self.previous, "stale": self.stale}

    def load(self, state: dict) -> None:
        self.losses = [torch.tensor(x) for x in state["losses"]]
        self.previous, self.stale = state["previous"], state["stale"]


def time_mlp(channels: int) -> nn.Sequential:
    """Progress (B, 1) -> (B, C)."""
    return nn.Sequential(nn.Linear(1, channels), nn.SiLU(), nn.Linear(channels, channels))
