"""Likelihoods against enumeration: a small network whose every conditional is known."""

import itertools

import pytest
import torch

from algorithms.masked_diffusion.decoding import EntropyBound, Threshold, TopConfidence
from algorithms.masked_diffusion.likelihood import any_order_bound, chain_rule, decoder_likelihood

V, T = 3, 3
MASK = V


class TableNetwork:
    """Logits (B, T + 1, V) looked up by the whole masked window: any inconsistent conditionals whatever."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn((V + 1) ** (T + 1), T + 1, V, generator=generator)
        self.powers = (V + 1) ** torch.arange(T + 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[(x * self.powers).sum(1)]


def every_text() -> torch.Tensor:
    """All windows that begin with token 0."""
    return torch.tensor([(0, *text) for text in itertools.product(range(V), repeat=T)])


def nats_in_order(network: TableNetwork, text: torch.Tensor, order: tuple[int, ...]) -> float:
    """-log p of one window (T + 1,), its positions restored in `order`."""
    x, total = text.clone(), 0.0
    x[1:] = MASK
    for position in order:
        total -= float(network(x[None])[0, position].log_softmax(-1)[text[position]])
        x[position] = text[position]
    return total


def test_chain_rule_equals_enumeration_and_sums_to_one() -> None:
    """Catches an off-by-one between logits and positions, and tokens to the right that are seen."""
    network, texts = TableNetwork(), every_text()
    nats = chain_rule(network, texts, mask_id=MASK).sum(1)
    expected = [nats_in_order(network, text, (1, 2, 3)) for text in texts]
    torch.testing.assert_close(nats, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_bound_is_the_mean_over_all_orders() -> None:
    """Catches a weight or a stratification that biases the bound: it is E[-log p] over uniform orders."""
    network, texts = TableNetwork(), every_text()
    expected = torch.tensor(
        [sum(nats_in_order(network, text, order) for order in itertools.permutations((1, 2, 3))) / 6 for text in texts]
    )
    generator = torch.Generator().manual_seed(0)
    many = texts.repeat(1000, 1)
    nats = any_order_bound(network, many, mask_id=MASK, passes=20 * T, generator=generator).sum(1)
    torch.testing.assert_close(nats.view(1000, -1).mean(0), expected, rtol=0, atol=0.05)


def test_bound_lies_above_the_mixture_over_orders() -> None:
    """Catches a "bound" below the likelihood of the model that draws its order at random."""
    network, texts = TableNetwork(), every_text()
    orders = list(itertools.permutations((1, 2, 3)))
    mixture = torch.tensor(
        [
            -torch.tensor([-nats_in_order(network, text, order) for order in orders]).logsumexp(0)
            + torch.tensor(6.0).log()
            for text in texts
        ]
    )
    generator = torch.Generator().manual_seed(0)
    nats = any_order_bound(network, texts, mask_id=MASK, passes=1000 * T, generator=generator).sum(1)
    assert (nats > mixture - 0.02).all()


@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
def test_one_token_a_step_is_a_distribution(measure: str) -> None:
    """Catches an order that peeks at the text to be scored: the probabilities of all texts would not sum to 1."""
    decoder = TopConfidence(confidence=measure)
    nats = decoder_likelihood(TableNetwork(), every_text(), mask_id=MASK, decoder=decoder).sum(1)
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "decoder", [TopConfidence(tokens_per_step=2), Threshold(threshold=0.6), EntropyBound(budget=0.5)]
)
def test_parallel_decoders_are_distributions(decoder) -> None:
    """Catches a step whose tokens are scored given one another: they are drawn independently."""
    nats = decoder_likelihood(TableNetwork(), every_text(), mask_id=MASK, decoder=decoder).sum(1)
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_temperature_enters_the_likelihood_of_a_decoder() -> None:
    """Catches a likelihood of other probabilities than those that the decoder draws from."""
    sharp, plain = TopConfidence(temperature=0.5), TopConfidence()
    network, texts = TableNetwork(), every_text()
    a = decoder_likelihood(network, texts, mask_id=MASK, decoder=sharp).sum(1)
    b = decoder_likelihood(network, texts, mask_id=MASK, decoder=plain).sum(1)
    assert float((-a).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert a.min() < b.min()


def test_decoders_without_a_likelihood_say_so() -> None:
    """Catches a likelihood claimed for restricted draws, or for orders that the text does not decide."""
    assert TopConfidence().has_likelihood and Threshold(threshold=0.9).has_likelihood
    assert not TopConfidence(top_k=3).has_likelihood and not TopConfidence(temperature=0.0).has_likelihood


def test_on_a_markov_source_every_likelihood_is_its_entropy(markov) -> None:
    """Catches a bound that is loose or too low: with exact conditionals every order costs what the text costs."""
    rows, length = 4000, 9
    ids = markov.sample(rows, length, seed=3)
    cost = -markov.transition[ids[:, :-1], ids[:, 1:]].log().sum(1)  # (rows,) -log p given the first token
    entropy = -(markov.bigrams * markov.transition.log()).sum() * (length - 1)

    def network(x: torch.Tensor) -> torch.Tensor:
        return markov.conditionals(x).log()

    generator = torch.Generator().manual_seed(0)
    bound = any_order_bound(network, ids, mask_id=markov.V, passes=4 * (length - 1), generator=generator).sum(1)
    error = float(bound.std()) / rows**0.5
    assert abs(float(bound.mean() - entropy)) < 3 * error and error / entropy < 0.01
    assert abs(float((bound - cost).mean())) < 3 * float((bound - cost).std()) / rows**0.5
    for exact in (
        chain_rule(network, ids[:200], mask_id=markov.V),
        decoder_likelihood(network, ids[:200], mask_id=markov.V, decoder=TopConfidence(confidence="margin")),
    ):
        torch.testing.assert_close(exact.sum(1).double(), cost[:200], rtol=1e-5, atol=1e-5)
