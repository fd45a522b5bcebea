"""The head: plain cross-entropy is its slow twin, in values and gradients, eager and compiled."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.utils._python_dispatch import TorchDispatchMode

from algorithms.common import head
from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.head import mean_nats, token_nats

V, C, ROWS = 11, 3, 4


def set_rows(patch: pytest.MonkeyPatch, rows: int, vocabulary: int = V) -> None:
    patch.setattr(head, "CHUNK_BYTES", 4 * vocabulary * rows)


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    set_rows(monkeypatch, ROWS)


def arguments(shape: tuple[int, ...], *, classes: int = V, dtype: torch.dtype = torch.double) -> tuple[Tensor, ...]:
    """Hidden states (*shape, C), a weight (V, C), and targets and factors of `shape`."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(*shape, C, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, C, generator=g, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(classes, shape, generator=g), torch.randn(shape, generator=g, dtype=dtype)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, classes: int | None = None) -> Tensor:
    """token_nats from all logits at once."""
    logits = F.linear(hidden, weight)[..., :classes]
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.sampled_from([(1,), (7,), (8,), (2, 4), (3, 5), (2, 2, 3)]),
    rows=st.integers(1, 16),
    classes=st.sampled_from([None, 1, V - 1]),
    weights=st.sampled_from([None, "real", "mask"]),
)
def test_nats_and_gradients_are_those_of_plain_cross_entropy(shape, rows, classes, weights):
    """Catches a chunk that is lost or counted twice at a border, a wrong scale, gradients that are right for one
    weight of the tokens only, and classes that are cut off in one pass only."""
    hidden, weight, targets, factors = arguments(shape, classes=classes or V)
    gradients = partial(torch.autograd.grad, inputs=(hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        set_rows(patch, rows)
        found, expected = token_nats(hidden, weight, targets, classes=classes), plain(hidden, weight, targets, classes)
        torch.testing.assert_close(found, expected)
        with torch.no_grad():
            assert torch.equal(token_nats(hidden, weight, targets, classes=classes), found)
        torch.testing.assert_close(
            gradients(found, grad_outputs=factors), gradients(expected, grad_outputs=factors, retain_graph=True)
        )
        counted = {None: None, "real": factors, "mask": factors > 0}[weights]
        mean = mean_nats(hidden, weight, targets, counted, classes=classes)
        expected_mean = (expected if counted is None else expected * counted).mean()
        torch.testing.assert_close(mean, expected_mean)
        torch.testing.assert_close(gradients(3 * mean), gradients(3 * expected_mean))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_finite_differences(weighted, chunked):
    """Catches a gradient that agrees with the twin because both are wrong."""
    hidden, weight, targets, factors = arguments((3, 5))
    assert torch.autograd.gradcheck(lambda h, w: token_nats(h, w, targets) * factors, (hidden, weight))
    assert torch.autograd.gradcheck(
        lambda h, w: mean_nats(h, w, targets, factors if weighted else None, classes=V), (hidden, weight)
    )


def test_a_head_without_factors_that_count_has_no_gradient(chunked):
    """Catches a division by the largest factor where all are zero."""
    hidden, weight, targets, factors = arguments((3, 5))
    found = torch.autograd.grad(mean_nats(hidden, weight, targets, torch.zeros_like(factors)), (hidden, weight))
    assert not any(bool(gradient.any()) for gradient in found)


def test_gradients_add_up_in_a_tied_weight_and_through_slices(chunked):
    """Catches states that have to be contiguous, and a gradient that replaces that of the embedding."""
    torch.manual_seed(0)
    model = LanguageModel(BackboneConfig(1, 1, 4, 8, style="nanogpt"), V).double()
    ids = torch.randint(V, (3, 7))
    for loss in (
        mean_nats(model.hidden(ids)[:, :-1], model.lm_head.weight, ids[:, 1:]),
        model.nats(ids, ids)[:, 1:].mean(),
        token_nats(model.hidden(ids).transpose(0, 1), model.lm_head.weight, ids.T).mean(),
    ):
        loss.backward()
    found = model.wte.weight.grad.clone()
    model.zero_grad()
    logits = model(ids)
    nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(3, 7)
    shifted = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    (shifted + nats[:, 1:].mean() + nats.mean()).backward()
    torch.testing.assert_close(found, model.wte.weight.grad)


# ---- low precision ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
def test_autocast_rounds_the_products_alone(dtype, weighted, chunked):
    """Catches a softmax or a sum over chunks in low precision, and factors too small for float16."""
    hidden, weight, targets, factors = arguments((40, 5), dtype=torch.float32)
    factors = 1e-8 * factors if weighted else None
    expected = torch.autograd.grad(
        (plain(hidden, weight, targets) * (1 if factors is None else factors)).mean(), (hidden, weight)
    )
    with torch.autocast("cpu", dtype=dtype):
        nats, mean = token_nats(hidden, weight, targets), mean_nats(hidden, weight, targets, factors)
    assert nats.dtype == mean.dtype == torch.float32
    torch.testing.assert_close(nats, plain(hidden, weight, targets), rtol=0.02, atol=0.02)
    for found, one in zip(torch.autograd.grad(mean, (hidden, weight)), expected, strict=True):
        assert found.dtype == torch.float32 and (found - one).norm() < 0.01 * one.norm()


# ---- memory ----


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.size = max(self.size, one.numel())
        return made


@pytest.mark.parametrize("function", [token_nats, mean_nats])
@pytest.mark.parametrize("grad", [True, False])
def test_no_more_than_a_chunk_of_logits_is_there(function, grad, chunked):
    """Catches a copy of all logits, or of their gradients, in either pass."""
    hidden, weight, targets, _ = arguments((50, 5))
    with Largest() as largest, torch.set_grad_enabled(grad):
        nats = function(hidden, weight, targets)
        if grad:
            nats.sum().backward()
    assert ROWS * V < largest.size <= 50 * 5 * C  # the states


# ---- compiled ----


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", ["token_nats", "mean_nats", "weighted mean_nats"])
def test_compiled_is_eager_and_keeps_no_logits(name, low, chunked):
    """Catches a graph break, and a compiler that keeps all logits since both passes compute the same ones."""
    hidden, weight, targets, factors = arguments((9, 5), dtype=torch.float32)

    def loss(h: Tensor, w: Tensor) -> Tensor:
        if name == "token_nats":
            return (token_nats(h, w, targets, classes=V - 1) * factors).mean()
        return mean_nats(h, w, targets, factors if name.startswith("weighted") else None, classes=V - 1)

    kept: list[torch.Size] = []

    def forward(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        outputs = list(graph.graph.nodes)[-1].args[0]
        kept.extend(node.meta["val"].shape for node in outputs)
        return make_boxed_func(graph)

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, _: make_boxed_func(graph),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    targets = targets.clamp(max=V - 2)
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        found, expected = compiled(hidden, weight), loss(hidden, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight))
    )
    assert kept and all(shape.numel() <= hidden.numel() for shape in kept)
    assert not any(V in shape[1:] or V - 1 in shape[1:] for shape in kept)
