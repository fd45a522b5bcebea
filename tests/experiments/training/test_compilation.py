"""Compiled training: one graph a configuration, the eager loss and its gradients, when it is done, what is said.

The quick tests trace and differentiate as torch.compile does and leave out its last stage, which writes C++: aot_eager.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.randomness import seed_dropout
from experiments.run.build import build
from experiments.run.composition import composed
from experiments.run.registry import ALGORITHMS, look_up
from experiments.training import compilation
from experiments.training.compilation import CompiledLoss, check_choice, compiled, pays
from tests.conftest import Main
from tests.experiments.run.equal_runs import differences

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
V = 11
SMALL = ["n_layer=1", "n_head=2", "n_embd=16", "block_size=12"]
METHODS = {
    "gpt": ["algorithm=gpt"],
    "corrupted gpt": ["algorithm=gpt", "algorithm.input_noise=0.5", "algorithm.token_dropout=0.2"],
    "nanogpt": ["algorithm=gpt", "algorithm.backbone.style=nanogpt"],
    "df_lm": ["algorithm=df_lm", "algorithm.streams.max_window=4"],
    "df_lm_shifted": ["algorithm=df_lm_shifted", "algorithm.self_conditioning=0.5"],
    "df_lm_faithful": ["algorithm=df_lm_faithful"],
    "masked_diffusion": ["algorithm=masked_diffusion"],
    "any_order": ["algorithm=masked_diffusion", "algorithm.objective=any_order"],
    "block_diffusion": ["algorithm=block_diffusion", "algorithm.next_token_weight=0.5"],
    "blocks of one": ["algorithm=block_diffusion", "algorithm.block_len=1"],
    "one block": ["algorithm=block_diffusion", "algorithm.block_len=13", "algorithm.objective=masked_mean"],
    "df_lm_intermittent": ["algorithm=df_lm", "algorithm.streams.max_window=4", "algorithm.streams.interval=2"],
    "diffusion_flow": ["algorithm=diffusion_flow", "algorithm.flow.interval=2"],
    "velocity": ["algorithm=diffusion_flow_reference", "algorithm.flow.interval=2"],
}
GRAPHS = {
    "df_lm_intermittent": 2,  # a step with noise, and one without
    "diffusion_flow": 2,  # a step with flow, and one without
    "velocity": 2,
    "df_lm_shifted": 2,  # a step that conditions itself, and one that does not
}


def make(method: str, *overrides: str) -> BaseAlgorithm:
    config = composed([*METHODS[method], *(f"algorithm.backbone.{size}" for size in SMALL), *overrides])
    cls = look_up(ALGORITHMS, config.algorithm.name, "algorithm.name")
    return cls(build(cls.config_class, config.algorithm, "algorithm"), vocabulary_size=V, total_steps=9).train()


def ids(seed: int = 0, length: int = 13) -> Tensor:
    return torch.randint(0, V, (4, length), generator=torch.Generator().manual_seed(seed))


class Steps:
    """What a method asks of its trainer, at a step."""

    world_size = 1

    def __init__(self, step: int) -> None:
        self.global_step = step


def drawn(method: BaseAlgorithm, step: int) -> Any:
    method._trainer = Steps(step)
    try:
        return method.draw(ids(step), torch.Generator().manual_seed(step))
    finally:
        method._trainer = None


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """torch.compile as it is, but for its backend."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *, mode=None, **options: real(f, backend=backend, **options))


def failing(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler\nto speak of")


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_one_graph_for_a_whole_training(method: str) -> None:
    """Catches a graph break, and a number that changes from step to step and makes a new graph each time."""
    model, counter = make(method), CompileCounter()
    loss = torch.compile(model.loss_of, backend=counter, fullgraph=True, dynamic=False)
    for step in range(7):
        loss(ids(step), drawn(model, step))
    assert counter.frame_count == GRAPHS.get(method, 1)
    torch.compiler.reset()


def assert_compiled_is_eager(method: str, **options: Any) -> None:
    """Parts of the loss and gradients of two steps, within float32 rounding."""
    model = make(method)
    twin = copy.deepcopy(model)
    loss = torch.compile(model.loss_of, fullgraph=True, dynamic=False, **options)
    for step in range(2):
        draws = drawn(model, step)
        found, expected = loss(ids(step), draws), twin.loss_of(ids(step), draws)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        for parts, one in ((found, model), (expected, twin)):
            one.zero_grad()
            parts["loss"].backward()
        for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None:
                torch.testing.assert_close(
                    a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
                )
    torch.compiler.reset()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_traced_is_the_eager_loss(method: str) -> None:
    """Catches a trace that takes a draw or a switch of its first step for a constant, and a lost gradient."""
    assert_compiled_is_eager(method, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"])
def test_what_is_compiled_is_the_eager_loss(method: str) -> None:
    """The same of the code that runs."""
    assert_compiled_is_eager(method)


@pytest.mark.slow
def test_compiled_dropout_is_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches dropout from a generator of the compiler's own, which a resumed run would not repeat."""
    model = make("gpt", "algorithm.backbone.dropout=0.2")
    loss, draws = torch.compile(model.loss_of, fullgraph=True, dynamic=False), drawn(model, 0)

    def at(seed: int) -> Tensor:
        seed_dropout(seed, CPU)
        return loss(ids(), draws)["loss"]

    first, other, again = at(1), at(2), at(1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.compiler.reset()


@pytest.mark.parametrize(("method", "precision"), [("gpt", "bf16-mixed"), ("diffusion_flow", "32-true")])
def test_a_training_is_compiled_and_nothing_else(
    smoke: Main, monkeypatch: pytest.MonkeyPatch, method: str, precision: str
) -> None:
    """Catches a run that is not compiled though asked for, weights of other names, evaluation or sampling in graphs of
    their lengths, and what Lightning does around a step (averages, micro-batches, clipping) on graphs of a copy."""
    options = [f"algorithm={method}", f"trainer.precision={precision}", "experiment.training.accumulate_grad_batches=2"]
    options += ["experiment.training.ema_decay=0.5", "experiment.training.max_steps=4"]
    eager = figures(smoke(*options, "experiment.training.compile=false").out)
    counter = CompileCounterWithBackend("aot_eager")
    compile_by(monkeypatch, counter)
    outcome = smoke(*options, "experiment.training.compile=true")
    assert (outcome.status, outcome.err) == (0, "")
    assert counter.frame_count == GRAPHS.get(method, 1)
    assert outcome.out.count("compiling the training step ... ") == 1
    state = torch.load("latest-run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if "_orig_mod" in name]
    close = 1e-5 if precision == "32-true" else 0.02
    assert figures(outcome.out) == pytest.approx(eager, rel=close)


def figures(out: str) -> dict[str, float]:
    """Those of the run that said `out`."""
    folder = Path(out.rpartition("run folder: ")[2].strip())
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))["figures"]


def test_a_compiled_run_is_resumed_bit_for_bit(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches draws or weights that a compiled step takes from elsewhere than the checkpoint."""
    compile_by(monkeypatch, "aot_eager")
    assert_resumed_is_whole(smoke, "diffusion_flow")


@pytest.mark.slow
def test_a_run_compiled_to_the_end_is_resumed_bit_for_bit(smoke: Main) -> None:
    """The same with the code that runs."""
    assert_resumed_is_whole(smoke, "gpt")


def assert_resumed_is_whole(smoke: Main, method: str) -> None:
    options = [f"algorithm={method}", "algorithm.backbone.dropout=0.1", "experiment.training.compile=true"]
    options += ["experiment.training.ema_decay=0.5", "experiment.training.checkpoint_every_steps=3"]
    steps = ["experiment.training.val_every_steps=6", "experiment.training.max_steps=6"]
    assert smoke(*options, *steps, "hydra.run.dir=whole").status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseAlgorithm, "on_train_batch_start", stop_at(3), raising=False)
        assert smoke(*options, *steps, "hydra.run.dir=part").status == 1
    assert smoke(*options, *steps, "hydra.run.dir=part", "resume=part").status == 0
    assert differences(Path("whole"), Path("part")) == []


def stop_at(step: int) -> Any:
    def stop(self: BaseAlgorithm, batch: Tensor, batch_idx: int) -> None:
        if batch_idx == step:
            raise ValueError("the power is gone")

    return stop


def test_a_copy_computes_with_its_own_weights() -> None:
    """Catches the average of the weights, a copy of the module, that trains the graph's weights, or cannot be made."""
    model = make("gpt")
    model.ask(lambda ids, draws: {"loss": torch.zeros(())})
    twin = copy.deepcopy(model)
    assert model.loss(ids(), torch.Generator())["loss"].item() == 0
    torch.nn.init.zeros_(twin.model.lm_head.weight)
    assert twin.loss(ids(), torch.Generator())["loss"].item() == pytest.approx(torch.tensor(V).log().item())
    model.ask(None)
    assert model.loss(ids(), torch.Generator())["loss"].item() > 0


TINY = BackboneConfig(3, 4, 96, 64)
DEFAULT = {"parameters": 344_256, "tokens": 2048, "steps": 3000}


@pytest.mark.parametrize(
    ("device", "backbone", "sizes", "expected"),
    [
        (CPU, TINY, {}, True),
        (CPU, TINY, {"steps": 1000}, False),
        (CPU, BackboneConfig(4, 4, 128, 64, style="nanogpt"), {"parameters": 804_096}, False),
        (CUDA, TINY, {"steps": 2}, True),
        (torch.device("mps"), TINY, {}, False),
    ],
)
def test_auto_compiles_where_it_pays(
    device: torch.device, backbone: BackboneConfig, sizes: dict, expected: bool
) -> None:
    """Catches seconds of compiling in front of a short training, and the default job without it."""
    assert pays(device, backbone, **(DEFAULT | sizes)) is expected


def test_auto_leaves_a_short_run_alone(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a compiler that debug=smoke waits for."""
    compile_by(monkeypatch, failing)
    outcome = smoke("experiment.tasks=[training]")
    assert outcome.status == 0 and "compil" not in outcome.out


def test_auto_goes_on_without_a_compiler_that_fails(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that ends because a compiler nobody asked for does not work, or that trains something else then."""
    monkeypatch.setattr(compilation, "WORTH_COMPILING", 0.0)
    eager = figures(smoke("experiment.training.compile=false").out)
    compile_by(monkeypatch, failing)
    outcome = smoke()
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count("note: torch.compile fails here (no compiler): training goes on without") == 1
    assert figures(outcome.out) == eager
    monkeypatch.setenv("CXX", "nonesuch++")
    outcome = smoke()
    assert outcome.status == 0 and outcome.out.count("there is no nonesuch++ (a C++ compiler)") == 1


def test_true_says_what_fails(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the two hundred lines in which torch says that a compiler fails."""
    compile_by(monkeypatch, failing)
    outcome = smoke("experiment.training.compile=true")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "torch.compile fails here (no compiler): say experiment.training.compile=false" in outcome.err


@torch._dynamo.config.patch(recompile_limit=3)
def test_more_graphs_than_torch_keeps_are_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Catches a training that compiles at every step, or goes back to eager steps in silence."""
    compile_by(monkeypatch, "eager")
    for choice in ("auto", True):
        model = make("gpt")
        with compiled(model, choice):
            for length in range(5, 8):
                model.loss(ids(length=length), torch.Generator())
            assert capsys.readouterr().out.count("another training step compiled in") == 2
            if choice == "auto":
                assert model.loss(ids(length=8), torch.Generator())["loss"].isfinite()
                assert "training steps differ in more than 3 ways): training goes on without" in capsys.readouterr().out
            else:
                with pytest.raises(
                    ValueError, match=r"torch\.compile gives up .*: say experiment.training.compile=false"
                ):
                    model.loss(ids(length=8), torch.Generator())


def test_what_fails_later_is_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of the device, or a lack of memory, that is laid to torch.compile."""
    model = make("gpt")
    loss = CompiledLoss(model.loss_of, "auto")
    loss.call = partial(fail, MemoryError())
    with pytest.raises(MemoryError):
        loss(ids(), None)
    loss.graphs, loss.call = 1, partial(fail, RuntimeError("the device is lost"))
    with pytest.raises(RuntimeError, match="the device is lost"):
        loss(ids(), None)


def fail(error: Exception, *_: Any) -> Any:
    raise error


def test_choices_that_cannot_be_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches CUDA graphs asked for without CUDA, and a missing compiler that shows at the first step."""
    with pytest.raises(ValueError, match=r"compile=graphs records CUDA graphs, and training is on cpu: say .*=auto"):
        check_choice("graphs", CPU)
    with pytest.raises(ValueError, match=r"compile=graphs writes the gradients .* and a step has 2 of them"):
        check_choice("graphs", CUDA, micro_batches=2)
    monkeypatch.setenv("CXX", "nonesuch++")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and there is no nonesuch\+\+: install it"):
        check_choice(True, CPU)
    for choice, device in [("auto", CPU), (False, CPU), ("graphs", CUDA), (True, CUDA)]:
        check_choice(choice, device)


def test_the_first_line_that_says_something_is_told() -> None:
    """Catches "backend='inductor' raised:" for a reason."""
    wrapped = BackendCompilerFailed(failing, RuntimeError("\n line one\nline two"), None)
    assert compilation.reason_of(wrapped) == "line one"
