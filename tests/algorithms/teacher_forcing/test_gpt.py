"""Teacher forcing: closed forms of the loss, exactness of the cached decoder, and its law."""

import math

import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.teacher_forcing.decoding import AutoregressiveConfig, context_start
from algorithms.teacher_forcing.gpt import GPT, GPTConfig

GENERATOR = torch.Generator().manual_seed(0)


def make_gpt(style: str = "rope", block_size: int = 8, **decoder) -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(BackboneConfig(2, 2, 16, block_size, style=style), decoder=AutoregressiveConfig(**decoder))
    return GPT(config, vocabulary_size=7).double().eval()


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_cached_decoding_equals_recomputing(style):
    """Catches a cache that outlives its window: 60 tokens with a context of 8 cross the window many times."""
    gpt = make_gpt(style)
    prompt = torch.randint(0, 7, (3, 2), generator=GENERATOR)
    cached = gpt.generate(prompt, length=60, seeds=[1, 2, 3])
    recomputed = gpt.generate(prompt, length=60, seeds=[1, 2, 3], decoder=AutoregressiveConfig(use_cache=False))
    assert torch.equal(cached.ids, recomputed.ids)


def test_batched_decoding_equals_single():
    """Catches rows that share randomness or attention."""
    gpt = make_gpt()
    prompt = torch.randint(0, 7, (3, 4), generator=GENERATOR)
    batch = gpt.generate(prompt, length=20, seeds=[4, 5, 6]).ids
    for row in range(3):
        assert torch.equal(gpt.generate(prompt[row : row + 1], length=20, seeds=[4 + row]).ids[0], batch[row])


def test_first_token_follows_the_models_distribution():
    """Catches a decoder whose law is not the network's softmax."""
    gpt = make_gpt()
    with torch.no_grad():
        gpt.model.lm_head.weight.normal_(0, 0.5)
        expected = gpt.model(torch.tensor([[1, 2]]))[0, -1].softmax(-1)
    n = 4000
    ids = gpt.generate(torch.tensor([[1, 2]]).expand(n, -1), length=1, seeds=range(n)).ids[:, -1]
    share = torch.bincount(ids, minlength=7) / n
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / n)


def test_greedy_takes_the_most_probable_token():
    """Catches temperature 0 that still draws."""
    gpt = make_gpt(temperature=0.0)
    ids = gpt.generate(torch.tensor([[3]]), length=6, seeds=[0]).ids
    again = gpt.generate(torch.tensor([[3]]), length=6, seeds=[77]).ids
    assert torch.equal(ids, again)
    assert int(gpt.model(ids[:, :6])[0, -1].argmax()) == int(ids[0, 6])


@pytest.mark.parametrize("block_size", [1, 2, 7, 64])
def test_context_never_exceeds_the_window_nor_shrinks_below_half(block_size):
    """Catches a window that drops the whole past, or one token too many."""
    starts = [context_start(position, block_size) for position in range(1, 300)]
    for position, start in enumerate(starts, start=1):
        assert 1 <= position - start <= block_size
        assert position <= block_size or position - start > block_size - max(1, block_size // 2) - 1
    assert starts == sorted(starts)


def test_loss_is_the_mean_of_the_likelihood():
    """Catches a training loss and an evaluation that disagree, or targets off by one."""
    gpt = make_gpt()
    ids = torch.randint(0, 7, (5, 9), generator=GENERATOR)
    nll = gpt.nll(ids, GENERATOR)
    assert nll.shape == (5, 8)
    assert gpt.loss(ids, GENERATOR)["loss"].item() == pytest.approx(nll.mean().item(), rel=1e-5)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 7
    assert torch.equal(gpt.nll(changed, GENERATOR)[:, :-1], nll[:, :-1])  # the last target is no one's input


def test_uniform_model_scores_the_logarithm_of_the_vocabulary():
    """Catches a loss in other units than nats per token."""
    gpt = make_gpt()
    torch.nn.init.zeros_(gpt.model.lm_head.weight)
    ids = torch.randint(0, 7, (2, 9), generator=GENERATOR)
    assert gpt.nll(ids, GENERATOR).mean().item() == pytest.approx(math.log(7))


def test_trace_shows_one_token_more_at_each_step():
    """Catches a trace that is not what was decoded."""
    generation = make_gpt().generate(torch.tensor([[1, 2], [3, 4]]), length=5, seeds=[0, 1], trace=True)
    assert generation.trace.tokens.shape == generation.trace.states.shape == (5, 2, 7)
    assert (generation.trace.states == 0).sum(-1).tolist() == [[3, 3], [4, 4], [5, 5], [6, 6], [7, 7]]
    assert torch.equal(generation.trace.tokens[-1], generation.ids)
    assert generation.trace.forwards.tolist() == [1, 2, 3, 4, 5]


def test_top_k_above_the_vocabulary_is_named():
    """Catches a top_k that silently does nothing."""
    with pytest.raises(ValueError, match="top_k is 8, above the vocabulary of 7"):
        make_gpt(top_k=8).generate(torch.tensor([[1]]), length=1, seeds=[0])
