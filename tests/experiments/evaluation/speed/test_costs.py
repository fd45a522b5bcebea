"""Costs that are counted: floating-point operations against formulas, dispatches of computations of known length."""

import pytest
import torch
import torch.nn.functional as F

from algorithms.common.backbone import BackboneConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from experiments.evaluation.speed.costs import dispatched, flops

CPU = torch.device("cpu")


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.ones(8, 8, dtype=torch.bool)}, {}])
def test_an_attention_counts_whole(options: dict) -> None:
    """Catches a CPU's kernels of attention, which torch's counter does not know, and a count that the mask changes."""
    q, k, v = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 8 * 8 * 4  # one of the two of a forward; a backward has five, as it computes the scores anew
    assert flops(lambda: F.scaled_dot_product_attention(q, k, v, **options)) == 2 * product
    assert flops(lambda: F.scaled_dot_product_attention(q, k, v, **options).sum().backward()) == 7 * product


def test_a_step_of_gpt_counts_what_the_formula_says() -> None:
    """Catches a pass that is not counted: three times 2 N T for the matrices, beside attention (arXiv:2204.02311)."""
    B, T, C, V, layers = 2, 8, 16, 11, 2
    backbone = BackboneConfig(n_layer=layers, n_head=2, n_embd=C, block_size=T, style="nanogpt")
    model = GPT(GPTConfig(backbone=backbone), vocabulary_size=V)
    ids = torch.randint(V, (B, T + 1))
    weights = layers * 12 * C * C + C * V
    attention = layers * 7 * 2 * B * T * T * C
    found = flops(lambda: model.loss(ids, torch.Generator())["loss"].backward())
    assert found == 6 * weights * B * T + attention


def test_operations_are_those_that_compute() -> None:
    """Catches views that are counted, an operation counted with its parts, and a backward that is not."""
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    assert dispatched(lambda: layer(x).view(-1).unsqueeze(0), CPU) == (1, None, None)
    forward = dispatched(lambda: layer(x).relu().sum(), CPU).operations
    assert forward == 3
    both = dispatched(lambda: layer(x).relu().sum().backward(), CPU).operations
    assert both is not None and both >= forward + 3


def test_nothing_is_said_of_a_device_that_is_not_known() -> None:
    """Catches zeros in the place of what nobody counted."""
    assert dispatched(lambda: None, torch.device("mps")) == (None, None, None)
