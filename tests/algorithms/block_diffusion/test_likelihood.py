"""Likelihoods of blocks against enumeration and against a Markov chain whose exact conditionals are the network."""

import itertools

import pytest
import torch

from algorithms.block_diffusion.layout import Layout
from algorithms.block_diffusion.likelihood import any_order_bound, decoder_likelihood, left_to_right
from algorithms.masked_diffusion.decoding import EntropyBound, Threshold, TopConfidence
from tests.algorithms.block_diffusion.markov import blocks_of_chain, entropy_of, nats_from
from tests.algorithms.block_diffusion.small_models import blocks
from tests.algorithms.masked_diffusion.conftest import MarkovSource

V, T = 3, 5


def every_text() -> torch.Tensor:
    """All windows of T tokens behind a first token 0."""
    return torch.tensor([(0, *text) for text in itertools.product(range(V), repeat=T)])


def small(block_len: int):
    return blocks(block_len, block_size=T, vocabulary=V, masks_per_count=2)


@pytest.mark.parametrize("block_len", [1, 2, 3, 4, 5, 6])
def test_exact_likelihoods_are_distributions(block_len: int) -> None:
    """Catches a token that is seen before it is predicted, one that counts twice or never, and a kind that is false."""
    model, texts = small(block_len), every_text()
    exact = {name: one for name, one in model.likelihoods().items() if one.kind != "bound"}
    assert exact.keys() == ({"nll"} if block_len <= 2 else {"left_to_right", "duel_margin", "duel_decoder"})
    for name, likelihood in exact.items():
        nats = likelihood.nll(texts, torch.Generator().manual_seed(0)).detach().sum(1).double()
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5), name
    assert model.likelihood_kind == ("exact" if block_len <= 2 else "bound")


@pytest.mark.parametrize(
    "decoder",
    [TopConfidence(tokens_per_step=2), TopConfidence(temperature=0.5), Threshold(threshold=0.4), EntropyBound()],
)
def test_parallel_decoders_are_distributions(decoder) -> None:
    """Catches tokens of one step that are scored given one another, and first tokens at another temperature."""
    model, texts = small(4), every_text()
    nats = decoder_likelihood(model.logits, texts, model.layout, mask_id=V, decoder=decoder).detach().sum(1).double()
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_decoder_of_one_token_a_block_is_the_gpt_at_its_temperature() -> None:
    """Catches a likelihood that knows no noisy stream, and fails without one."""
    model, texts = small(1), every_text()
    nats = decoder_likelihood(model.logits, texts, model.layout, mask_id=V, decoder=TopConfidence())
    torch.testing.assert_close(nats.double(), model.nll(texts, torch.Generator()), rtol=1e-5, atol=1e-5)


def test_the_bound_is_the_mean_over_all_orders_of_each_block() -> None:
    """Catches a weight or a stratification that biases it, in whole blocks and in a shorter one."""
    model = small(4)  # tokens 1 to 3 in the first block, 4 begins the second, 5 is alone in it
    text = every_text()[100:101]
    expected = torch.zeros(T, dtype=torch.float64)
    for order in itertools.permutations((1, 2, 3)):
        hidden = {1, 2, 3, 5}
        for place in (*order, 5):
            x = text.clone()
            x[0, list(hidden)] = V
            expected[place - 1] += model.nats(text, x)[0, place - 1].item() / 6
            hidden -= {place}
    expected[3] = model.nats(text, text)[0, 3].item()
    random = torch.Generator().manual_seed(0)
    many = text.repeat(500, 1)
    found = any_order_bound(model.nats, many, model.layout, mask_id=V, passes=12, generator=random).detach()
    torch.testing.assert_close(found.double().mean(0)[[3, 4]], expected[[3, 4]], rtol=1e-5, atol=1e-5)
    assert abs(float(found.mean(0).sum() - expected.sum())) < 0.02


@pytest.mark.parametrize("block_len", [1, 2, 3, 4, 5, 9])
def test_on_a_markov_source_every_likelihood_is_its_entropy(markov: MarkovSource, block_len: int) -> None:
    """Catches a bound that is loose or too low: with exact conditionals every order costs what the text costs."""
    rows, length = 2000, 9
    ids, layout, mask = markov.sample(rows, length, seed=3), Layout(length, block_len), markov.V
    cost = -markov.transition[ids[:, :-1], ids[:, 1:]].log().sum(1)  # (rows,) -log p given the first token
    logits_of = blocks_of_chain(markov, block_len)
    nats_of = nats_from(logits_of)
    passes, random = max(1, block_len - 1), torch.Generator().manual_seed(0)
    bound = any_order_bound(nats_of, ids, layout, mask_id=mask, passes=passes, generator=random).sum(1)
    error = float(bound.std()) / rows**0.5
    assert abs(float(bound.mean()) - entropy_of(markov, length)) < 3.5 * error
    if block_len <= 2:
        torch.testing.assert_close(bound.double(), cost, rtol=1e-5, atol=1e-5)
    assert abs(float((bound - cost).mean())) <= 3.5 * float((bound - cost).std()) / rows**0.5 + 1e-6
    few = ids[:100]
    for exact in (
        left_to_right(nats_of, few, layout, mask_id=mask),
        decoder_likelihood(logits_of, few, layout, mask_id=mask, decoder=TopConfidence(confidence="margin")),
    ):
        torch.testing.assert_close(exact.sum(1).double(), cost[:100], rtol=1e-5, atol=1e-5)
