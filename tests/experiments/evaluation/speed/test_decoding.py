"""Timed texts: what is measured, and that it is refused where a batch writes other texts than each alone."""

import dataclasses

import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.common.decoder import Generation
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from experiments.evaluation.speed import decoding
from experiments.evaluation.speed.decoding import expected_seconds, timed_texts
from experiments.evaluation.speed.training import Disagreement

SMALL = GPTConfig(backbone=BackboneConfig(n_layer=1, n_head=2, n_embd=16, block_size=12))


@pytest.fixture
def model() -> GPT:
    return GPT(SMALL, vocabulary_size=7).eval()


def test_texts_are_timed(model: GPT) -> None:
    """Catches a round too few, tokens of the prompt that count, and dispatches of a whole text taken for a token's."""
    found = timed_texts(model, SMALL.decoder, [0, 1], texts=3, length=8, rounds=2)
    assert len(found["rounds"]) == 2 and found["tokens_per_second"] > 0
    assert (found["tokens_per_forward"], found["equal_tokens"]) == (1.0, 1.0)
    assert 10 < found["operations"] < 100 and found["kernels"] is None


def test_another_text_in_a_batch_is_no_timing(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a speed that is bought with other texts."""
    generate = GPT.generate

    def sloppy(self: GPT, request, decoder=None) -> Generation:
        out = generate(self, request, decoder)
        return out if len(request.seeds) == 1 else dataclasses.replace(out, ids=torch.zeros_like(out.ids))

    monkeypatch.setattr(GPT, "generate", sloppy)
    with pytest.raises(Disagreement, match=r"of 3 texts in a batch \d+% of the tokens are others"):
        timed_texts(model, SMALL.decoder, [0], texts=3, length=8, rounds=1)


def test_slow_texts_have_a_single_round(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a setting that takes the time of all others."""
    monkeypatch.setattr(decoding, "SECONDS", 0.0)
    assert len(timed_texts(model, SMALL.decoder, [0], texts=2, length=4, rounds=5)["rounds"]) == 1


def test_what_a_larger_batch_will_take() -> None:
    """Catches a GPU's constant time taken for one that grows with the texts, and a guess from one point."""
    assert expected_seconds([(1, 2.0)], 16) is None
    assert expected_seconds([(1, 2.0), (16, 2.0)], 256) == 2.0
    assert expected_seconds([(1, 1.0), (16, 4.0)], 256) == pytest.approx(52.0)
    assert expected_seconds([(1, 4.0), (16, 3.0)], 256) == 3.0
