"""Parts of a loss that only every n-th step computes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.common.intermittent import Intermittent
from algorithms.diffusion_flow.diffusion_flow import DiffusionFlow, DiffusionFlowConfig
from algorithms.diffusion_flow.posterior import PosteriorFlowConfig
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from tests.algorithms.diffusion_forcing.tiny_models import V, generator, next_token, some_ids


def df_lm(interval: int, weight: float = 0.2, mse_weight: float = 0.1) -> Intermittent:
    streams = StreamConfig(max_window=4, interval=interval, weight=weight)
    return next_token("two_stream", streams=streams, mse_weight=mse_weight).train()


def unweighted(interval: int) -> Intermittent:
    return df_lm(interval, weight=0.0, mse_weight=0.0)


def flow(interval: int) -> Intermittent:
    config = DiffusionFlowConfig(BackboneConfig(2, 2, 16, 8), flow=PosteriorFlowConfig(interval=interval))
    return DiffusionFlow(config, vocabulary_size=V).train()


MAKERS = pytest.mark.parametrize("make", [df_lm, flow])


def step(method: Intermittent, number: int, world_size: int = 1) -> dict[str, torch.Tensor]:
    """The parts of the loss at a step, whose gradients are left as the optimiser finds them."""
    trainer: Any = SimpleNamespace(
        global_step=number, world_size=world_size, strategy=SimpleNamespace(reduce=lambda value, reduce_op: value)
    )
    method._trainer = trainer
    parts = method.loss(some_ids(), generator(number))
    method.zero_grad()
    parts["loss"].backward()
    method.on_before_optimizer_step(torch.optim.SGD(method.parameters(), 0.1))
    method._trainer = None
    return parts


@pytest.mark.parametrize("make", [df_lm, unweighted, flow])
@pytest.mark.parametrize("world_size", [1, 2])
def test_weights_of_what_is_not_computed_rest(make, world_size) -> None:
    """Catches a part computed on steps that it is not due, a gradient of 0, by which weights would decay, and, in
    several processes, a weight without a gradient, for which they would wait."""
    method = make(3)
    theirs = {id(p) for p in method.intermittent_parameters()}
    assert theirs and len(theirs) < len(list(method.parameters())) and method.period == 3
    for number in range(7):
        step(method, number, world_size)
        due = number % 3 == 0
        assert all((p.grad is not None) == (due or id(p) not in theirs) for p in method.parameters())


@MAKERS
def test_what_is_not_computed_counts_as_it_last_was(make) -> None:
    """Catches a logged loss that jumps with the interval, and one that a resumed run has lost."""
    method = make(2)
    weights = method.intermittent_parts()
    on, off = step(method, 2), step(method, 3)
    assert set(on) == set(off) and set(weights) < set(on)
    kept: dict[str, Any] = {}
    method.on_save_checkpoint(kept)
    resumed = make(2)
    resumed.load_state_dict(method.state_dict())
    resumed.on_load_checkpoint(kept)
    again = step(resumed, 3)
    for name in set(on) - {"flow_weight", "flow_active"}:
        assert torch.equal(off[name], again[name])
        if name in weights:
            assert torch.equal(off[name], on[name])
    weights = {"flow": float(off["flow_weight"])} if make is flow else weights
    always = off["clean_ce" if make is df_lm else "masked"]
    torch.testing.assert_close(off["loss"], always + sum(weights[name] * off[name] for name in weights))


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_a_step_on_clean_texts_alone_is_a_gpts(style) -> None:
    """Catches a step between those with noise whose gradient is not that of teacher forcing."""
    model = next_token("two_stream", style, streams=StreamConfig(max_window=4, interval=4)).train()
    gpt = GPT(GPTConfig(model.config.backbone), vocabulary_size=V).train()
    gpt.model.load_state_dict(model.denoiser.model.state_dict())
    step(model, 1)
    gpt.loss(some_ids(), generator(1))["loss"].backward()
    ours = dict(model.denoiser.model.named_parameters())
    for name, parameter in gpt.model.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad)
