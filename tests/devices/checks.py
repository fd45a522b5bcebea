"""What CUDA and MPS would object to: every method, likelihood and decoder on a simulated device, beside the CPU.

Run by test_devices.py in a process of its own; by hand: pytest tests/devices/checks.py. V vocabulary.
"""

from tests.devices.simulated import Costs, simulated  # isort: skip  # before our code

import copy
import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.common import head
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Generation, Request
from algorithms.common.likelihood import Likelihood
from algorithms.common.randomness import RowRandom
from algorithms.diffusion_flow.flow import PlateauSwitch
from datasets.tokenizers import ByteTokenizer
from experiments.evaluation.likelihood import measure
from experiments.evaluation.measurement import Assignment, Writer
from experiments.evaluation.settings import Setting
from experiments.evaluation.tracing import record_trace
from tests.devices.models import (
    DECODERS,
    FORCING,
    METHODS,
    V,
    batch,
    configured,
    cpu_model,
    equal,
    generator_on,
    on_device,
    precision,
)

# ---- training ----


def trained(model: BaseAlgorithm) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Parts of the loss and all weights after a step, with gradients clipped, of a model in training."""
    ids = batch().to(model.device)
    optimizer = model.train().configure_optimizers()["optimizer"]
    parts = model.loss(ids, generator_on(ids.device))
    parts["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return parts, list(model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_is_that_of_the_cpu(method: str, kind: str, costs: Costs) -> None:
    """Catches tensors of two devices in a loss, its gradient or the optimiser, and float64 in them."""
    model = cpu_model(method, "algorithm/optimizer=adamw")  # Muon rounds to bfloat16 on CUDA: see below
    parts, weights = trained(copy.deepcopy(model))
    found_parts, found_weights = trained(on_device(model, kind))
    assert parts.keys() == found_parts.keys()
    assert all(equal(found_parts[name].detach(), part.detach()) for name, part in parts.items())
    for found, one in zip(found_weights, weights, strict=True):
        torch.testing.assert_close(found.detach().cpu(), one.detach())  # gradients add up in another order


def test_muon_steps_as_on_the_cpu(kind: str, costs: Costs) -> None:
    """Catches a direction that bfloat16 spoils, and tensors of two devices in the optimiser."""
    model = cpu_model("gpt", "algorithm/optimizer=muon", "algorithm.optimizer.warmup_steps=0")
    before = dict(model.named_parameters())
    expected, found = (trained(one)[1] for one in (copy.deepcopy(model), on_device(model, kind)))
    for (name, start), mine, other in zip(before.items(), found, expected, strict=True):
        change, error = other.detach() - start.detach(), mine.detach().cpu() - other.detach()
        assert float(error.norm()) < 0.1 * float(change.norm()), name


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_bf16_are_summed_in_float32(method: str) -> None:
    """Catches a cross-entropy of bf16 logits, whose softmax CUDA's autocast leaves in bf16."""
    expected = trained(copy.deepcopy(cpu_model(method)))[0]["loss"].item()
    with simulated("cuda") as costs:
        model, ids = on_device(cpu_model(method), "cuda").train(), batch().to(torch.device("cuda", 0))
        with precision("cuda"):
            loss = model.loss(ids, generator_on(ids.device))["loss"]
        loss.backward()
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=0.02)
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        assert not costs.coarse


@pytest.mark.parametrize("rows", [4, 1000])
def test_a_padded_head_is_that_of_the_cpu(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches padding of a large vocabulary that gets probability or gradients, in one chunk or in several."""
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(3, 7, 5, generator=g), torch.randn(V, 5, generator=g)
    targets, factors = torch.randint(V - 1, (3, 7), generator=g), torch.rand(3, 7, generator=g)
    monkeypatch.setattr(head, "PADDED", 1)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * V * rows)

    def graded(device: torch.device) -> list[torch.Tensor]:
        h, w = (one.to(device).requires_grad_() for one in (hidden, weight))
        t, f = targets.to(device), factors.to(device)
        found = []
        for value in (
            head.token_nats(h, w, t),
            (head.token_nats(h, w, t, classes=V - 1) * f).sum(),
            head.mean_nats(h, w, t, f),
        ):
            found += [value, *torch.autograd.grad(value.sum(), (h, w))]
        return [one.detach().cpu() for one in found]

    expected = graded(torch.device("cpu"))
    with simulated("cuda") as costs:
        for found, one in zip(graded(torch.device("cuda", 0)), expected, strict=True):
            torch.testing.assert_close(found, one)
        with precision("cuda"):
            assert graded(torch.device("cuda", 0))[0].dtype == torch.float32
        assert set(costs.waits) == {"copy to the CPU at a test"} and not costs.coarse
        assert any(name.startswith("constant_pad_nd") for name in costs.kernels)


@pytest.mark.parametrize("method", ["df_lm", "df_lm_shifted"])
def test_levels_are_fitted_as_on_the_cpu(method: str, kind: str, costs: Costs) -> None:
    """Catches a fit that needs float64 of the device, at the 250th step of a training."""
    cpu, device = copy.deepcopy(cpu_model(method)), on_device(cpu_model(method), kind)
    for model in (cpu, device):
        trained(model)
        model.process.levels.count += 1  # every level has been seen
        process: Any = model.process
        process.gather(lambda total: total)
        process.fit()
    tables = dict(device.process.named_buffers())
    assert all(equal(tables[name], table) for name, table in cpu.process.named_buffers())
    assert not torch.equal(cpu.process.snr, cpu_model(method).process.snr)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_goes_from_device_to_device(method: str, kind: str, costs: Costs) -> None:
    """Catches a state that a checkpoint cannot hold, or that comes back on the wrong device."""
    first = on_device(cpu_model(method), kind)
    trained(first)
    checkpoint: dict[str, Any] = {"state_dict": {name: one.cpu() for name, one in first.state_dict().items()}}
    first.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, file := io.BytesIO())
    checkpoint = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second = copy.deepcopy(cpu_model(method))
    second.on_load_checkpoint(checkpoint)
    second.load_state_dict(checkpoint["state_dict"])
    second.to(torch.device(kind, 0))
    for one, other in zip(trained(first)[0].items(), trained(second)[0].items(), strict=True):
        assert (
            one[0] == other[0] and one[1].device == other[1].device and equal(other[1].detach(), one[1].detach().cpu())
        )


def test_a_resumed_switch_stacks_losses_of_one_device(kind: str, costs: Costs) -> None:
    """Catches losses of a checkpoint, on the CPU, beside those of the device."""
    switch, resumed = PlateauSwitch(3, 1, 0.1), PlateauSwitch(3, 1, 0.1)
    losses = torch.tensor([1.0, 0.9, 1.1, 1.0, 1.0, 1.0], device=torch.device(kind, 0))
    switch.record(losses[0])
    resumed.load(switch.state())
    for loss in losses[1:]:
        resumed.record(loss)
    assert resumed.off and resumed.previous == pytest.approx(1.0)


@pytest.mark.parametrize("method", METHODS)
def test_artifacts_are_arrays(method: str, kind: str, costs: Costs) -> None:
    """Catches an array that is still on the device when it is drawn."""
    for artifact in on_device(cpu_model(method), kind).artifacts():
        assert isinstance(artifact.values, np.ndarray) and np.isfinite(artifact.values).all()


@pytest.mark.parametrize("method", FORCING)
def test_levels_are_logged(method: str, kind: str, costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a diagnosis of validation that mixes devices."""
    logged: dict[str, float] = {}
    model = on_device(cpu_model(method), kind)
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: float(value)}))
    with torch.no_grad():
        model.log_levels(batch().to(model.device))
    assert logged and all(np.isfinite(value) for value in logged.values())


# ---- likelihoods ----


@cache
def stated(method: str) -> dict[str, Likelihood]:
    """Every likelihood of the CPU's model, and the one of its validation."""
    model = cpu_model(method)
    return {"validation": Likelihood("", model.nll)} | dict(model.likelihoods())


@cache
def cpu_nats(method: str, name: str) -> torch.Tensor:
    with torch.no_grad():
        return stated(method)[name].nll(batch(), RowRandom.of_windows(range(3), torch.device("cpu")))


@pytest.mark.parametrize("method, name", [(method, name) for method in METHODS for name in stated(method)])
def test_likelihoods_are_those_of_the_cpu(method: str, name: str, kind: str, costs: Costs) -> None:
    """Catches float64 and device mixes in a likelihood, and one that is lost in bf16."""
    model, ids = on_device(cpu_model(method), kind), batch().to(torch.device(kind, 0))
    nll: Callable = model.nll if name == "validation" else model.likelihoods()[name].nll
    with torch.no_grad():
        found = nll(ids, RowRandom.of_windows(range(3), ids.device))
    assert found.device == ids.device and equal(found, cpu_nats(method, name))
    if kind == "cuda":
        with torch.no_grad(), precision(kind):
            found = nll(ids, RowRandom.of_windows(range(3), ids.device))
        assert found.mean().item() == pytest.approx(cpu_nats(method, name).mean().item(), rel=0.03)
        assert not costs.coarse


@pytest.mark.parametrize("method", ["df_lm_faithful", "diffusion_flow"])
def test_the_task_likelihood_runs(method: str, kind: str, costs: Costs) -> None:
    """Catches float64 of the device in the sums over windows."""
    model = on_device(cpu_model(method), kind)
    measured = measure(
        model,
        [(np.arange(3), batch()), (np.arange(3, 5), batch(2))],
        number=2,
        context=lambda: precision(kind),
        report=print,
    )
    assert all(nats.shape == (5,) and np.isfinite(nats).all() for nats in measured.windows.nats.values())


# ---- decoders ----


def accepted() -> Iterator[tuple[str, str]]:
    """Every method with every decoder file that it takes."""
    for method in METHODS:
        for name in DECODERS:
            try:
                decoder = configured(method, decoder=name)[1].decoder
                decoder.check(cpu_model(method), asked(torch.device("cpu")))
            except ValueError:
                continue
            yield method, name


def asked(device: torch.device, **options: Any) -> Request:
    """Two texts behind prompts of one length, that outgrow the context."""
    return Request.continuing(batch(2)[:, :16].tolist(), length=6, seeds=[3, 4], device=device, **options)


def stop(generated: Any) -> bool:
    return generated[-1] == 0


def written(model: BaseAlgorithm, decoder: Any, device: torch.device, **options: Any) -> list[Generation]:
    """A traced text that outgrows the context, and one behind a short and a long prompt that end where they stop."""
    prompts = [(row + row)[:length] for row, length in zip(batch(2).tolist(), (3, 25), strict=True)]
    several = Request.continuing(prompts, length=3, seeds=[5, 6], device=device, stop=stop, **options)
    return [model.generate(one, decoder) for one in (asked(device, trace=True, **options), several)]


def same_texts(found: list[Generation], expected: list[Generation]) -> bool:
    def same(a: Generation, b: Generation) -> bool:
        traces = (a.trace is None) == (b.trace is None)
        if a.trace is not None and b.trace is not None:
            traces = equal(a.trace.tokens, b.trace.tokens) and equal(a.trace.levels, b.trace.levels)
        passes = (a.forwards, a.steps, a.decided, a.tokens_per_forward) == (
            b.forwards, b.steps, b.decided, b.tokens_per_forward,
        )  # fmt: skip
        return equal(a.ids, b.ids) and traces and passes and a.texts == b.texts

    return all(same(a, b) for a, b in zip(found, expected, strict=True))


@cache
def cpu_texts(method: str, decoder: Any) -> list[Generation]:
    return written(cpu_model(method), decoder, torch.device("cpu"))


@pytest.mark.parametrize("method, name", list(accepted()))
def test_decoders_write_what_they_write_on_the_cpu(method: str, name: str, kind: str, costs: Costs) -> None:
    """Catches float64 and device mixes in a decoder: of a trace, of several shapes, of a text beyond the context."""
    decoder = configured(method, decoder=name)[1].decoder
    found = written(on_device(cpu_model(method), kind), decoder, torch.device(kind, 0))
    assert same_texts(found, cpu_texts(method, decoder))


def test_every_decoder_is_of_some_method() -> None:
    """Catches a list of decoders that has lost some."""
    assert {name for _, name in accepted()} == set(DECODERS)


SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {  # method, decoder, what differs from its file
    "greedy": ("gpt", "autoregressive", {"temperature": 0.0}),
    "filtered": ("gpt", "autoregressive", {"top_k": 5, "top_p": 0.8}),
    "without a cache": ("gpt", "autoregressive", {"use_cache": False}),
    "greedy, masked": ("masked_diffusion", "top_confidence", {"temperature": 0.0, "top_k": 5}),
    "filtered, masked": ("masked_diffusion", "first_hitting", {"top_p": 0.8}),
    "margins": ("masked_diffusion", "threshold", {"confidence": "margin"}),
    "drafts grow old": (
        "masked_diffusion",
        "two_stage",
        {"max_draft_age": 2, "always_confirm": False, "max_block_steps": 4},
    ),
    "greedy, in blocks": ("block_diffusion", "two_stage", {"temperature": 0.0, "draft_threshold": 0.1}),
    "without a flow": ("diffusion_flow", "flow_top_confidence", {"flow_until": 1.0}),
    "guided": ("df_lm", "pyramid", {"keyword": "ab", "guidance_scale": 0.5}),
    "guided, faithful": (
        "df_lm_faithful",
        "pyramid",
        {"keyword": "ab", "guidance_scale": 0.5},
    ),
    "greedy, drawn": ("df_lm", "sampled_pyramid", {"temperature": 0.0}),
    "filtered, drafted": ("df_lm", "speculative", {"top_k": 5, "top_p": 0.9}),
    "sliding": ("df_lm", "autoregressive_matrix", {"sliding": True}),
    "whole windows": ("df_lm", "sampled_pyramid", {"use_cache": False, "chunk_size": 4}),
    "last": ("df_lm", "pyramid", {"token_draw": "last"}),
    "shown noisy": ("df_lm", "pyramid", {"stabilization_level": 2, "chunk_size": 4}),
    "fresh noise": ("df_lm_shifted", "pyramid", {"ddim_eta": 1.0, "token_draw": "sample", "sampling_timesteps": 2}),
    "colder": ("df_lm", "speculative", {"temperature": 0.5, "draft_tokens": 2}),
    "drafted in blocks": ("block_diffusion", "speculative", {"lenience": 0.5}),
}


def setting(name: str) -> tuple[str, Any]:
    method, decoder, changes = SETTINGS[name]
    config = configured(method, decoder=decoder)[1].decoder
    return method, type(config)(**{**vars(config), **changes})


def encode(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_decoders_write_what_they_write_on_the_cpu(name: str, kind: str, costs: Costs) -> None:
    """Catches a branch of a decoder that its file does not take."""
    method, decoder = setting(name)
    expected = written(cpu_model(method), decoder, torch.device("cpu"), encode=encode)
    found = written(on_device(cpu_model(method), kind), decoder, torch.device(kind, 0), encode=encode)
    assert same_texts(found, expected)


def test_a_network_that_reads_its_own_estimates(kind: str, costs: Costs) -> None:
    """Catches device mixes in the second pass of self-conditioning."""
    model = cpu_model("df_lm", "algorithm.self_conditioning=1.0")
    parts = trained(copy.deepcopy(model))[0]
    assert equal(trained(on_device(model, kind))[0]["loss"].detach(), parts["loss"].detach())
    decoder = configured("df_lm", decoder="sampled_pyramid")[1].decoder
    expected = written(model, decoder, torch.device("cpu"))
    assert same_texts(written(on_device(model, kind), decoder, torch.device(kind, 0)), expected)


@pytest.mark.parametrize(
    "method", ["df_lm", "masked_diffusion", "diffusion_flow", "diffusion_flow_reference", "block_diffusion"]
)
def test_gaps_are_filled_as_on_the_cpu(method: str, kind: str, costs: Costs) -> None:
    """Catches device mixes where known tokens stand behind those to be written."""
    decoder = configured(method, decoder="pyramid" if method == "df_lm" else None)[1].decoder

    def filled(model: BaseAlgorithm) -> Generation:
        request = Request.continuing(
            batch(2)[:, :4].tolist(), length=6, suffix=[1, 2, 3], seeds=[3, 4], device=model.device
        )
        return model.generate(request, decoder)

    assert same_texts([filled(on_device(cpu_model(method), kind))], [filled(cpu_model(method))])


# ---- clocks, and what is made of texts ----


def test_clocks_are_read_once_the_device_is_done(kind: str, costs: Costs) -> None:
    """Catches seconds that end while the device is still computing."""
    model = on_device(cpu_model("gpt"), kind)
    out = model.generate(asked(model.device))
    waits = [what for what in costs.waits.elements() if what.startswith("synchronize")]
    assert len(waits) == 2 and out.seconds > 0


@pytest.mark.parametrize("method", ["gpt", "df_lm", "masked_diffusion", "block_diffusion"])
def test_texts_are_measured_and_traced(method: str, kind: str, costs: Costs) -> None:
    """Catches tensors of the device in what is written down of a text."""
    model, tokenizer = on_device(cpu_model(method), kind), ByteTokenizer()
    assignment = Assignment(prompt=(1, 2), text="ab", length=4, n_samples=2)
    texts = Writer(model, tokenizer, model.device).write(None, assignment, seed=0)
    assert len(texts.texts) == 2 and texts.cost["seconds"] > 0
    shown = Setting("default", {}, model.config)
    record = record_trace(model, tokenizer, assignment, shown, method=method, seed=0)
    assert record.levels[-1].max() == 0 and len(record.tokens) == len(record.forwards)
