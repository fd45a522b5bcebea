"""Teacher forcing: closed forms of the loss, corrupted inputs, exactness of the cached decoder, and its
distribution."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from algorithms.common.backbone import BackboneConfig
from algorithms.common.sampling import context_start
from algorithms.teacher_forcing.decoding import Autoregressive
from algorithms.teacher_forcing.gpt import GPT, GPTConfig, add_noise
from experiments.run.build import build
from tests.algorithms.writing import write

GENERATOR = torch.Generator().manual_seed(0)


def make_gpt(style: str = "rope", block_size: int = 8, **decoder) -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(BackboneConfig(2, 2, 16, block_size, style=style), decoder=Autoregressive(**decoder))
    return GPT(config, vocabulary_size=7).double().eval()


def corrupted_gpt(style: str = "rope", **options) -> GPT:
    """The GPT of make_gpt, same weights, with `options` of its training."""
    return GPT(replace(make_gpt(style).config, **options), vocabulary_size=7).double().eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_cached_decoding_equals_recomputing(style):
    """Catches a cache that outlives its window: 60 tokens with a context of 8 cross the window many times."""
    gpt = make_gpt(style)
    prompt = torch.randint(0, 7, (3, 2), generator=GENERATOR)
    cached = write(gpt, prompt, length=60, seeds=[1, 2, 3])
    recomputed = write(gpt, prompt, length=60, seeds=[1, 2, 3], decoder=Autoregressive(use_cache=False))
    assert torch.equal(cached.ids, recomputed.ids)


def test_batched_decoding_equals_single():
    """Catches rows that share randomness or attention."""
    gpt = make_gpt()
    prompt = torch.randint(0, 7, (3, 4), generator=GENERATOR)
    batch = write(gpt, prompt, length=20, seeds=[4, 5, 6]).ids
    for row in range(3):
        assert torch.equal(write(gpt, prompt[row : row + 1], length=20, seeds=[4 + row]).ids[0], batch[row])


def test_first_token_follows_the_models_distribution():
    """Catches a decoder whose distribution is not the network's softmax."""
    gpt = make_gpt()
    with torch.no_grad():
        gpt.model.lm_head.weight.normal_(0, 0.5)
        expected = gpt.model(torch.tensor([[1, 2]]))[0, -1].softmax(-1)
    n = 4000
    ids = write(gpt, torch.tensor([[1, 2]]).expand(n, -1), length=1, seeds=range(n)).ids[:, -1]
    share = torch.bincount(ids, minlength=7) / n
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / n)


def test_greedy_takes_the_most_probable_token():
    """Catches temperature 0 that still draws."""
    gpt = make_gpt(temperature=0.0)
    ids = write(gpt, torch.tensor([[3]]), length=6, seeds=[0]).ids
    again = write(gpt, torch.tensor([[3]]), length=6, seeds=[77]).ids
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
    generation = write(make_gpt(), torch.tensor([[1, 2], [3, 4]]), length=5, seeds=[0, 1], trace=True)
    assert generation.trace.tokens.shape == generation.trace.levels.shape == (5, 2, 7)
    assert (generation.trace.levels == 0).sum(-1).tolist() == [[3, 3], [4, 4], [5, 5], [6, 6], [7, 7]]
    assert torch.equal(generation.trace.tokens[-1], generation.ids)
    assert generation.trace.forwards.tolist() == [1, 2, 3, 4, 5]


def test_top_k_above_the_vocabulary_is_named():
    """Catches a top_k that silently does nothing."""
    with pytest.raises(ValueError, match="top_k is 8, above the vocabulary of 7"):
        write(make_gpt(top_k=8), torch.tensor([[1]]), length=1, seeds=[0])


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_without_corruption_nothing_is_drawn(style):
    """Catches options that change a run which does not use them, by a bit or by a draw."""
    gpt, generator = corrupted_gpt(style, token_dropout=0.0, input_noise=0.0), seeded()
    ids = torch.randint(0, 7, (5, 9), generator=GENERATOR)
    logits = gpt.model(ids[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert torch.equal(gpt.loss(ids, generator)["loss"], expected)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_corruption_spares_evaluation():
    """Catches a likelihood of corrupted text."""
    gpt, ids = corrupted_gpt(token_dropout=0.9, input_noise=1.0), torch.randint(0, 7, (5, 9), generator=GENERATOR)
    assert torch.equal(gpt.nll(ids, seeded()), make_gpt().nll(ids, seeded()))
    assert torch.equal(gpt.train().nll(ids, seeded()), make_gpt().nll(ids, seeded()))


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize(("token_dropout", "input_noise"), [(0.4, 0.0), (0.0, 0.6), (0.4, 0.6)])
def test_corruption_changes_the_inputs_alone(style, token_dropout, input_noise):
    """Catches corrupted targets, lost positions, noise in a tied head, and a gradient into the noise's size."""
    corrupted = corrupted_gpt(style, token_dropout=token_dropout, input_noise=input_noise)
    gpt, ids = make_gpt(style), torch.randint(0, 7, (5, 9), generator=GENERATOR)
    rms = gpt.model.wte.weight.detach().square().mean().sqrt()
    drawn = corrupted.draw(ids, seeded(5))
    assert [one is not None for one in drawn] == [token_dropout > 0] * 2 + [input_noise > 0] * 2
    if token_dropout:
        gpt.model.wte.register_forward_pre_hook(lambda _, ids: torch.where(drawn.replaced, drawn.tokens, ids[0]))
    if input_noise:
        gpt.model.wte.register_forward_hook(lambda _, ids, x: add_noise(x, drawn.levels, rms, drawn.noise))
    loss, expected = corrupted.loss(ids, seeded(5))["loss"], gpt.loss(ids, seeded(5))["loss"]
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    assert torch.equal(corrupted.model.wte.weight.grad, gpt.model.wte.weight.grad)


def test_replaced_tokens_are_as_many_as_said_and_uniform():
    """Catches another share, draws that miss a token of the vocabulary, and ids changed in place."""
    gpt, ids = corrupted_gpt(token_dropout=0.3), torch.full((200, 501), 3)
    drawn = gpt.draw(ids, seeded())
    changed = torch.where(drawn.replaced, drawn.tokens, ids[:, :-1])
    share = torch.bincount(changed.flatten(), minlength=7) / changed.numel()
    expected = torch.full((7,), 0.3 / 7)
    expected[3] += 0.7
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / changed.numel())
    gpt.loss(ids[:, :9], seeded())
    assert (ids == 3).all()


def test_noise_keeps_the_variance_at_every_level():
    """Catches weights whose squares do not add up to 1, and one level for a whole row or another distribution of
    levels."""
    drawn = corrupted_gpt(input_noise=1.0).draw(torch.zeros(50, 21, dtype=torch.long), seeded(2))
    x, unit = 0.02 * torch.randn(50, 20, 2000, generator=seeded(1)), torch.randn(50, 20, 2000, generator=seeded(3))
    noisy = add_noise(x, drawn.levels, torch.tensor(0.02), unit)
    assert (noisy.square().mean(-1) / 0.02**2 - 1).abs().max() < 6 * math.sqrt(2 / 2000)
    assert abs(drawn.noise.square().mean() - 1) < 6 * math.sqrt(2 / drawn.noise.numel())
    kept = ((noisy * x).sum(-1) / x.square().sum(-1)).square()  # (B, T) an estimate of 1 - t
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    assert (kept.flatten().quantile(quantiles) - quantiles).abs().max() < 0.1
    assert kept.std(1).min() > 0.1


def test_noise_falls_on_its_share_of_the_rows():
    """Catches noise on all rows or on single tokens, and clean rows that are not the same bits."""
    x, ids = torch.randn(4000, 3, 16, generator=seeded(1)), torch.zeros(4000, 4, dtype=torch.long)

    def noisy(share: float) -> torch.Tensor:
        drawn = corrupted_gpt(input_noise=share).draw(ids, seeded(2))
        return add_noise(x, drawn.levels, torch.tensor(1.0), drawn.noise)

    clean = noisy(0.25) == x  # (B, T, C)
    assert torch.equal(clean.any(-1).any(-1), clean.all(-1).all(-1))
    assert abs(1 - clean[:, 0, 0].float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert not (noisy(1.0) == x).any()


@pytest.mark.parametrize("option", ["token_dropout", "input_noise"])
def test_corruption_is_the_generators(option):
    """Catches draws from the global generator, which a resumed run would not repeat."""
    gpt, ids = corrupted_gpt(**{option: 0.5}), torch.randint(0, 7, (5, 9), generator=GENERATOR)
    loss = gpt.loss(ids, seeded(1))["loss"]
    torch.manual_seed(99)
    assert torch.equal(gpt.loss(ids, seeded(1))["loss"], loss)
    assert not torch.equal(gpt.loss(ids, seeded(2))["loss"], loss)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("token_dropout", 1.0, "below 1"),
        ("token_dropout", -0.1, "at least 0"),
        ("input_noise", 1.1, "at most 1"),
        ("input_noise", math.nan, "a finite number"),
    ],
)
def test_corruption_that_cannot_be_is_named(option, value, allowed):
    """Catches a share outside its range that trains on nothing but noise, or on none."""
    with pytest.raises(ValueError, match=re.escape(f"algorithm.{option} is {value}: it must be {allowed}")):
        build(GPTConfig, {option: value}, "algorithm")
