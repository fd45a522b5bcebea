"""With the exact conditionals of a Markov chain as the network, an exact decoder reproduces the chain."""

import pytest
import torch

from algorithms.masked_diffusion.decoding import Ancestral, EntropyBound, Remasking, Threshold, TopConfidence, TwoStage

ROWS, LENGTH = 24_000, 8

EXACT = {
    "first hitting": Ancestral(chunk_len=7),
    "ancestral on a fine grid": Ancestral(steps=1000, chunk_len=7),
    "best probability": TopConfidence(chunk_len=7),
    "best margin": TopConfidence(confidence="margin", chunk_len=7),
    "lowest entropy": TopConfidence(confidence="entropy", chunk_len=7),
    "candidates in their order": TopConfidence(top_k=4, chunk_len=7),
    "threshold never reached": Threshold(threshold=1.0, chunk_len=7),
    "no entropy to spare": EntropyBound(budget=0.0, chunk_len=7),
    "nothing drafted": TwoStage(draft_threshold=1.0, confirm_threshold=1.0, chunk_len=7),
    "remasking, small steps": Remasking(steps=50, eta=0.02, chunk_len=7),
}


def from_the_first(markov, rows=ROWS, length=LENGTH):
    ids = markov.sample(rows, length, seed=7)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[:, 0] = True
    return ids, given


def test_the_conditionals_are_bayes_rule(markov):
    """Catches an oracle that is none: forward-backward against the sum over all texts of the chain."""
    V, W = markov.V, 4
    texts = torch.cartesian_prod(*[torch.arange(V)] * W)  # (V^W, W)
    joint = markov.stationary[texts[:, 0]] * markov.transition[texts[:, :-1], texts[:, 1:]].prod(-1)
    for window in ([V, 1, V, V], [0, V, V, 2], [V, V, V, V], [2, 1, 0, V]):
        x = torch.tensor(window)
        matching = joint * ((texts == x) | (x == V)).all(-1)
        for position in range(W):
            expected = torch.stack([matching[texts[:, position] == v].sum() for v in range(V)]) / matching.sum()
            torch.testing.assert_close(markov.conditionals(x[None])[0, position], expected)


@pytest.mark.parametrize("setting", EXACT)
def test_exact_settings_reproduce_the_chain(markov, setting):
    """Catches a biased draw, and a rule that looks at the drawn token when it chooses what to decide."""
    ids, given = from_the_first(markov)
    assert markov.total_variation(markov.decode(EXACT[setting], ids, given, window=8, seed=1).ids) < 0.01


@pytest.mark.parametrize("decoder", [Ancestral(chunk_len=3), TopConfidence(chunk_len=3, context_len=1)])
def test_chunks_reproduce_the_chain(markov, decoder):
    """Catches a window that is cut or placed wrongly: a chunk given the one before it is as good as the whole text."""
    ids, given = from_the_first(markov, length=9)
    assert markov.total_variation(markov.decode(decoder, ids, given, window=6, seed=2).ids) < 0.01


@pytest.mark.parametrize("decoder", [Ancestral(chunk_len=4), EntropyBound(budget=0.0, chunk_len=7)])
def test_infilling_reproduces_the_chain(markov, decoder):
    """Catches given tokens on the right that the network does not get to see, in this chunk or the next."""
    ids, given = from_the_first(markov)
    given[:, 5], given[:, 7] = True, True
    assert markov.total_variation(markov.decode(decoder, ids, given, window=8, seed=3).ids) < 0.01


def test_the_bias_of_parallel_steps_shrinks(markov):
    """Catches a grid of steps that is not followed, and shows that the tests above can fail."""
    ids, given = from_the_first(markov, rows=8000)
    for grid in (
        [Ancestral(steps=s, chunk_len=7) for s in (1, 4, 16)],
        [Remasking(steps=s, chunk_len=7) for s in (1, 4, 16)],
    ):
        coarse, middle, fine = (
            markov.total_variation(markov.decode(d, ids, given, window=8, seed=4).ids) for d in grid
        )
        assert coarse > 2 * middle > 4 * fine > 0.02


def test_ancestral_and_remasking_without_remasking_have_one_law(markov):
    """Catches a wrong probability of unmasking: at eta 0 the bias of a coarse grid is that of the ancestral sampler."""
    ids, given = from_the_first(markov)
    biased = markov.decode(Ancestral(steps=3, chunk_len=7), ids, given, window=8, seed=5).ids
    other = markov.decode(Remasking(steps=3, eta=0.0, chunk_len=7), ids, given, window=8, seed=6).ids
    counts = [
        torch.bincount((x[:, :-1] * markov.V + x[:, 1:]).flatten(), minlength=markov.V**2) for x in (biased, other)
    ]
    assert (counts[0] - counts[1]).abs().sum() / (2 * counts[0].sum()) < 0.01
    assert markov.total_variation(biased) > 0.05
