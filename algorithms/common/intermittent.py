"""A loss of which some parts are computed on every n-th step only: they cost that much less.

On the other steps such a part counts as it last was, so that the logged loss is one curve, and the weights that nothing
else trains rest: without momentum and decay, in one process as in several.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from algorithms.common.base_algorithm import BaseAlgorithm


class Intermittent(BaseAlgorithm):
    """An algorithm whose `draw` asks for the intermittent parts of its loss on some steps and not on others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._latest: dict[str, Tensor] = {}  # intermittent parts of the loss as they last were
        self._resting = False  # whether this step leaves the intermittent weights alone

    @abstractmethod
    def intermittent_parts(self) -> dict[str, float]:
        """Weight in the loss of this step, by name, of every part that other steps may leave out."""

    @abstractmethod
    def intermittent_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that are trained by these parts alone."""

    def loss(self, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        parts, weights = super().loss(ids, generator), self.intermittent_parts()
        computed = {name: self.over_processes(parts[name].detach()) for name in weights if name in parts}
        self._latest |= computed
        self._resting = len(computed) < len(weights)
        latest = {name: value.to(ids.device) for name, value in self._latest.items()}  # a checkpoint's is on the CPU
        if self._resting:
            if self._trainer is not None and self.trainer.world_size > 1:  # DDP waits for every parameter's gradient
                parts["loss"] = parts["loss"] + 0 * sum(p.sum() for p in self.intermittent_parameters())
            parts["loss"] = parts["loss"] + sum(weights[name] * latest[name] for name in weights if name in latest)
        return parts | latest

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._resting:
            for parameter in self.intermittent_parameters():
                parameter.grad = None  # 0 in several processes, where a weight would decay

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["latest_parts"] = {name: float(value) for name, value in self._latest.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        latest = checkpoint.get("latest_parts", {})  # not in what was written before there were any
        self._latest = {name: torch.tensor(value) for name, value in latest.items()}
