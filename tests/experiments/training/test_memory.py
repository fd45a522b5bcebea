"""What is said to be too large for the memory, beside what a step takes, which is counted without computing it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from algorithms.common.backbone import BackboneConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from experiments.training.memory import activations

GIB = 2**30


def peak(backbone: BackboneConfig, *, vocabulary: int, batch: int) -> int:
    """Bytes at the fullest moment of a step in bf16 without its optimiser: weights, activations and gradients."""
    with FakeTensorMode():
        model = GPT(GPTConfig(backbone), vocabulary_size=vocabulary)
        ids = torch.zeros(batch, backbone.block_size + 1, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model.loss_of(ids, model.draw(ids, torch.Generator()))["loss"]
            loss.backward()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def test_a_step_of_gpt2_holds_at_most_7_gib():
    """Catches logits that are kept for the way back: 15.0 GiB for 16 texts of 1,024 tokens while they were."""
    gpt2 = BackboneConfig(12, 12, 768, 1024, style="nanogpt")
    assert peak(gpt2, vocabulary=50257, batch=16) < 7.0 * GIB


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("sizes", [(3, 4, 96, 64), (6, 6, 384, 256)])
def test_what_is_refused_would_not_have_fitted(style, sizes):
    """Catches a batch that is refused though it fits, and an estimate so low that it refuses nothing."""
    backbone = BackboneConfig(*sizes, style=style)
    held = peak(backbone, vocabulary=65, batch=64)
    assert 0.2 * held < activations(backbone, 64 * backbone.block_size) < held
