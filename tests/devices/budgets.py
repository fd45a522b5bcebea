"""What a step of training, one of an optimiser and a text ask of a device at most: kernels, waits, copies, dense masks.

Counted on the simulated device. Run by test_devices.py.
"""

from tests.devices.simulated import Costs, simulated  # isort: skip  # before our code


import pytest

from algorithms.common.decoder import Request
from tests.devices.models import batch, configured, cpu_model, generator_on, on_device, precision

# Kernels, waits, copies to the device and attention with a dense mask, at most. They may only fall: a change that saves
# some lowers them here. A step of training, 3 rows in bf16, its gradients included and without the optimiser:
STEP = {
    "gpt": (85, 0, 0, 0),
    "df_lm": (525, 0, 0, 0),
    "df_lm_shifted": (267, 0, 0, 0),
    "df_lm_faithful": (220, 0, 0, 0),
    "block_diffusion": (155, 0, 0, 0),
    "masked_diffusion": (106, 0, 0, 0),
    "diffusion_flow": (312, 0, 0, 0),
    "diffusion_flow_reference": (245, 0, 0, 0),
}
# The step of the optimiser behind it, for gpt, with as many blocks as may be:
OPTIMIZER = {"adamw": (2, 0, 0, 0), "muon": (73, 0, 0, 0)}
# Eight tokens of each of two texts, in float32, the checks of the request included:
WRITING = {
    ("gpt", "autoregressive"): (222, 3, 1, 0),
    ("df_lm", "autoregressive_matrix"): (222, 3, 1, 0),
    ("df_lm", "pyramid"): (2465, 4, 12, 8),
    ("df_lm", "sampled_pyramid"): (4685, 4, 20, 0),
    ("df_lm", "speculative"): (1328, 13, 37, 9),
    ("df_lm_faithful", "pyramid"): (1564, 4, 12, 0),
    ("block_diffusion", "top_confidence"): (319, 5, 4, 1),
    ("block_diffusion", "threshold"): (349, 11, 4, 1),
    ("block_diffusion", "speculative"): (460, 10, 24, 6),
    ("masked_diffusion", "top_confidence"): (313, 5, 1, 0),
    ("masked_diffusion", "first_hitting"): (246, 5, 2, 0),
    ("masked_diffusion", "two_stage"): (580, 13, 1, 0),
    ("diffusion_flow", "flow_top_confidence"): (168, 5, 2, 0),
    ("diffusion_flow_reference", "flow_top_confidence"): (137, 5, 1, 0),
}


def spent(costs: Costs) -> tuple[int, ...]:
    return tuple(costs.total(kind) for kind in ("kernels", "waits", "copies", "dense_masks"))


def assert_within(costs: Costs, budget: tuple[int, ...]) -> None:
    where = "\n".join(f"{name}: {getattr(costs, name).most_common()}" for name in ("waits", "copies", "dense_masks"))
    assert all(cost <= most for cost, most in zip(spent(costs), budget, strict=True)), f"{spent(costs)}\n{where}"


@pytest.mark.parametrize("method", STEP)
def test_a_training_step_costs_no_more_than_it_did(method: str) -> None:
    """Catches a step that waits for the device, or that asks more of it."""
    with simulated("cuda") as costs:
        model = on_device(cpu_model(method, "algorithm.backbone.n_head=1"), "cuda").train()  # a head as kernels have it
        ids = batch().to(model.device)
        model.draw(ids, generator_on(ids.device))  # the first one copies constants
        generator = generator_on(ids.device)
        costs.reset()
        with precision("cuda"):
            loss = model.loss(ids, generator)["loss"]
        loss.backward()
        assert_within(costs, STEP[method])


@pytest.mark.parametrize("name", OPTIMIZER)
def test_an_optimizer_costs_no_more_than_it_did(name: str) -> None:
    """Catches an optimiser that waits for the device, or that asks more of it."""
    with simulated("cuda") as costs:
        model = on_device(cpu_model("gpt", f"algorithm/optimizer={name}"), "cuda").train()
        optimizer = model.configure_optimizers()["optimizer"]
        for parameter in model.parameters():
            parameter.grad = parameter.detach().clone()
        optimizer.step()  # makes its state
        costs.reset()
        optimizer.step()
        assert_within(costs, OPTIMIZER[name])


@pytest.mark.parametrize("method, name", WRITING)
def test_writing_costs_no_more_than_it_did(method: str, name: str) -> None:
    """Catches a token that waits for the device more often, or that asks more of it."""
    decoder = configured(method, decoder=name)[1].decoder
    with simulated("cuda") as costs:
        model = on_device(cpu_model(method), "cuda")
        request = Request.continuing(batch(2)[:, :4].tolist(), length=8, seeds=[3, 4], device=model.device)
        costs.reset()
        model.generate(request, decoder)
        assert_within(costs, WRITING[method, name])
