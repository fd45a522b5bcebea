"""torch.compile of the loss that a training minimises: where it pays, what it needs, and what fails in one sentence.

Forward and backward become one graph for the one shape of a training's batches. Evaluation and sampling, whose lengths
vary, stay as they are.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters

from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm, LossOf
from experiments.run.console import print_rank_zero
from experiments.run.errors import ran_out_of_memory

KEY = "experiment.training.compile"
COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch asks for, elsewhere g++
WORTH_COMPILING = 200.0  # seconds of training on a CPU core, of which a third is saved; compiling takes 20 to 80
CORE_FLOPS = 3e10  # a second: what a core makes of a step that is not compiled
Choice = bool | Literal["auto", "graphs"]


def missing_compiler() -> str | None:
    """The C++ compiler that torch.compile asks for on a CPU, if it is not there."""
    name = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    return name if shutil.which(name) is None else None


def check_choice(choice: Choice, device: torch.device, micro_batches: int = 1) -> None:
    """Raise ValueError, before any work, where a training on `device` cannot be compiled as asked for, in steps of so
    many micro-batches."""
    if choice == "graphs" and device.type != "cuda":
        raise ValueError(f"{KEY}=graphs records CUDA graphs, and training is on {device.type}: say {KEY}=auto")
    if choice == "graphs" and micro_batches > 1:
        raise ValueError(
            f"{KEY}=graphs writes the gradients of every micro-batch to one place, and a step has {micro_batches} of "
            f"them: say {KEY}=true, or experiment.training.accumulate_grad_batches=1"
        )
    if choice is True and device.type == "cpu" and (name := missing_compiler()):
        raise ValueError(
            f"{KEY} needs a C++ compiler, and there is no {name}: install it, name another by the variable CXX, or say "
            f"{KEY}=false"
        )


def pays(device: torch.device, backbone: BackboneConfig, *, parameters: int, tokens: int, steps: int) -> bool:
    """What `compile=auto` decides for `steps` optimiser steps of `tokens` each.

    On a CUDA GPU it always pays, on other devices but a CPU nobody has measured it. On a CPU it does for backbones of
    the style rope, whose norms, rotations and ReLU² are many passes over memory that become few (the fused kernels of
    the style nanogpt leave nothing to gain), in a training that takes longer than compiling: 6 floating-point
    operations for each parameter and token, at CORE_FLOPS. Nothing is timed and the whole training counts, not what is
    left of it: a run that is resumed has to be decided as it was begun.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    return backbone.style == "rope" and 6 * parameters * tokens * steps >= WORTH_COMPILING * CORE_FLOPS


@contextmanager
def compiled(algorithm: BaseAlgorithm, choice: Choice) -> Iterator[None]:
    """The training steps of `algorithm` are compiled while entered, unless `choice` is False.

    Where this fails, `auto` goes on without; otherwise it is a ValueError of one sentence.
    """
    if choice is False:
        yield
        return
    options: dict[str, Any] = {}
    if hasattr(functorch, "force_non_lazy_backward_lowering"):  # younger than the oldest torch that will do
        options["force_non_lazy_backward_lowering"] = True  # the first call compiles all there is, and fails or works
    torch._logging.set_logs(dynamo=logging.ERROR, inductor=logging.ERROR)  # TORCH_LOGS= comes before it
    algorithm.ask(CompiledLoss(algorithm.loss_of, choice))
    try:
        # DDP's optimiser would split the graph, and cannot where FlexAttention is in it.
        with functorch.patch(options), dynamo.patch(optimize_ddp=False):
            yield
    finally:
        algorithm.ask(None)
        torch.compiler.reset()  # what is compiled goes with the training that it is of


class CompiledLoss:
    """`loss_of` of an algorithm, compiled at its first call and where draws of another shape ask for another graph."""

    def __init__(self, loss_of: LossOf, choice: Choice) -> None:
        self.loss_of = loss_of
        self.choice = choice
        mode = "reduce-overhead" if choice == "graphs" else None
        self.call: LossOf = torch.compile(loss_of, fullgraph=True, dynamic=False, mode=mode)
        self.graphs = 0

    def __call__(self, ids: Tensor, draws: Any) -> dict[str, Tensor]:
        if self.choice == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        before, began = counters["stats"]["unique_graphs"], time.perf_counter()
        if self.graphs == 0:
            print_rank_zero("compiling the training step ... ", end="")
        try:
            parts = self.call(ids, draws)
        except Exception as error:
            if self.graphs > 0 and not isinstance(error, TorchDynamoException | FailOnRecompileLimitHit):
                raise  # of a graph that worked before
            return self._without(error, ids, draws)
        if self.graphs == 0 or counters["stats"]["unique_graphs"] > before:
            start = "another training step compiled in " if self.graphs else ""
            print_rank_zero(f"{start}{time.perf_counter() - began:.0f} s")
            self.graphs += 1
        if self.choice == "graphs":  # what a graph has written is overwritten by its next run
            parts = {name: value.clone() for name, value in parts.items()}
        return parts

    def _without(self, error: Exception, ids: Tensor, draws: Any) -> dict[str, Tensor]:
        """What comes of a failure: the loss without torch.compile, or ValueError."""
        if self.graphs == 0:
            print_rank_zero("no")
        if ran_out_of_memory(error):
            raise error
        why = "torch.compile fails here" if self.graphs == 0 else "torch.compile fails at a later training step"
        if isinstance(error, FailOnRecompileLimitHit):
            limit = dynamo.recompile_limit
            why, reason = "torch.compile gives up", f"training steps differ in more than {limit} ways"
        else:
            reason = reason_of(error)
        if self.choice != "auto":
            raise ValueError(f"{why} ({reason}): say {KEY}=false") from error
        print_rank_zero(f"note: {why} ({reason}): training goes on without; {KEY}=false does not try")
        self.call, self.graphs = self.loss_of, 1
        return self.loss_of(ids, draws)


def reason_of(error: Exception) -> str:
    """The first line that says what went wrong inside of torch.compile."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines()]
    return next((line for line in lines if line), type(inner).__name__)
