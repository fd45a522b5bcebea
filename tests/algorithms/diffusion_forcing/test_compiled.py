"""Training steps as compilers see them: one graph, attention by blocks, logits in pieces; each beside its twin.

B batch, T tokens, N noisy ones, V vocabulary.
"""

from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import flex_attention

from algorithms.common import head
from algorithms.common.backbone import attention, transformer
from algorithms.diffusion_forcing.config import DiffusionConfig
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from tests.algorithms.diffusion_forcing.tiny_models import V, faithful, generator, next_token, some_ids

FITTED = {"diffusion": DiffusionConfig(timesteps=8), "embedding": EmbeddingConfig(dim=4)}
CAUSAL = StreamConfig(max_window=4, forward_layers=0, backward_layers=0, chain=0.0)
MODELS: dict[str, Callable[[], DFLM]] = {
    "two streams": lambda: next_token("two_stream", block_size=13, mse_weight=0.3),
    "two streams, fitted": lambda: next_token("two_stream", "nanogpt", block_size=13, **FITTED),
    "two streams, causal": lambda: next_token("two_stream", streams=CAUSAL, block_size=13),
    "its own estimates": lambda: next_token("two_stream", self_conditioning=1.0, block_size=13),
    "shifted": lambda: next_token("shifted", mse_weight=0.3),
    "shifted, fitted": lambda: next_token("shifted", self_conditioning=1.0, **FITTED),
    "faithful": faithful,
}


def graded(model: DFLM, parts: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """All parts and gradients; zeros for weights that have none."""
    model.zero_grad()
    parts["loss"].backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [*(part.detach() for part in parts.values()), *grads]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_one_graph_whatever_is_drawn(name):
    """Catches a graph break, a graph for every layout of windows, and a compiled step that is not the eager one."""
    torch._dynamo.reset()
    model = MODELS[name]().train()
    counter = CompileCounterWithBackend("aot_eager")
    loss_of = torch.compile(model.loss_of, backend=counter, fullgraph=True, dynamic=False)
    ids, widths = some_ids(3, model.config.backbone.block_size + 1), set()
    for seed in range(6):
        draws = model.draw(ids, generator(seed))
        widths.add(int(getattr(draws, "width", 0)))
        assert_same(graded(model, loss_of(ids, draws)), graded(model, model.loss_of(ids, draws)))
    assert counter.frame_count == 1
    assert len(widths) == (2 if "two streams" in name or "own" in name else 1)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_step_computes_changes_nothing(name):
    """Catches a loss that fits levels inside of the graph, or draws there."""
    model = MODELS[name]().train()
    ids = some_ids(3, model.config.backbone.block_size + 1)
    draws = model.draw(ids, generator())
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    first, second = model.loss_of(ids, draws), model.loss_of(ids, draws)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(before[key], buffer) for key, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    if "fitted" in name:
        assert "observed_nats" in first and "observed_nats" not in model.loss(ids, generator())
        assert not torch.equal(model.process.levels.count, before["process.levels.count"])


@pytest.mark.parametrize(
    ("name", "compiled"), [("two streams", False), ("two streams", True), ("its own estimates", False)]
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_by_blocks_is_attention_by_a_mask(name, compiled, monkeypatch):
    """Catches blocks, or the rule inside them, that are not the mask of the CPU, in the shared layers or in those of a
    window, and a step that a GPU cannot compile as one graph."""
    torch._dynamo.reset()
    model = MODELS[name]().train()
    ids, calls = some_ids(3, 14), []
    draws = [model.draw(ids, generator(seed)) for seed in range(3)]
    expected = [graded(model, model.loss_of(ids, one)) for one in draws]

    def flex(*qkv: torch.Tensor, block_mask: object) -> torch.Tensor:
        calls.append(qkv)
        return flex_attention(*qkv, block_mask=block_mask)

    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)  # it refuses gradients on a CPU, for the slow
    monkeypatch.setattr(transformer, "fuses", lambda device, head_size: True)
    monkeypatch.setattr(attention, "compiled_flex", lambda: flex)
    loss_of = torch.compile(model.loss_of, backend="aot_eager", fullgraph=True) if compiled else model.loss_of
    for one, values in zip(draws, expected, strict=True):
        assert_same(graded(model, loss_of(ids, one)), values)
    passes = 2 if name == "its own estimates" else 1
    assert compiled or len(calls) == 3 * (passes * (2 + 1) + 1)  # layers shared, noisy and right


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_pieces_are_the_logits(name, monkeypatch):
    """Catches rows that are mixed up, or that lose their gradient, where a vocabulary is too large for all at once."""
    model = MODELS[name]().train()
    ids = some_ids(3, model.config.backbone.block_size + 1)
    draws = model.draw(ids, generator())
    expected, sizes = graded(model, model.loss_of(ids, draws)), []
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * V * 7)
    plain = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(len(x)) or plain(x, dim))
    assert_same(graded(model, model.loss_of(ids, draws)), expected)
    assert max(sizes, default=0) <= 7


@pytest.mark.parametrize("name", ["its own estimates", "shifted, fitted"])
def test_no_gradient_reaches_an_estimate_that_is_fed_back(name):
    """Catches a head that learns to make its own second input easy (arXiv:2208.04202 stops the gradient)."""
    denoiser = MODELS[name]().train().denoiser
    x, past = torch.randn(2, 3, denoiser.table.dim), torch.randn(2, 3, denoiser.model.wte.embedding_dim)
    head = denoiser.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # apart from the embedding that the input is made of
    denoiser.read_channel(x, torch.rand(2, 3), denoiser.table(), past).sum().backward()
    assert head.weight.grad is None
