"""With a Markov chain's exact conditionals as the network, the price of decoding tokens at once is the chain's own.

R rows, T tokens, C embedding channels, V states, N cells, w tokens in flight; a pair is one of V² texts of two tokens.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.diffusion_forcing.bounds import path_excess
from tests.algorithms.diffusion_forcing.markov import ExactPrior, Recording, SamePrior, evidence
from tests.algorithms.masked_diffusion.conftest import MarkovSource

CHAIN = MarkovSource(V=5, sharpness=2.0)
ORTHOGONAL = 5**0.5 * torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())[0]
UNEQUAL = torch.tensor([[1.0, 0.2, 0.0], [-0.3, 1.4, 0.5], [0.4, -0.6, -0.8], [-1.5, -0.4, 0.9], [0.5, 0.9, 2.0]])
TABLES = {"orthogonal": ORTHOGONAL, "unequal norms": UNEQUAL.double()}
SCALAR = torch.tensor([[-1.5], [0.2], [1.6]], dtype=torch.float64)  # of a token that quadrature can integrate over


def edges_for(table, cells):
    """SNRs from where the nearest embeddings are told apart (1e-10 mistakes) to 0, about uniform in information."""
    level = torch.linspace(1, 0, cells + 1, dtype=torch.float64)
    return 160 / torch.pdist(table).min() ** 2 * 0.02 * level / (1 - 0.98 * level)


def estimate(prior, ids, table, in_flight, *, cells=16, seed=0, **options):
    return path_excess(
        prior,
        ids,
        table,
        edges=edges_for(table, cells),
        in_flight=in_flight,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def mean_error(rows):
    """Mean and standard error of independent values (R,)."""
    return float(rows.mean()), float(rows.std()) / len(rows) ** 0.5


# ---- the oracle ----


@pytest.mark.parametrize("smoother", [False, True])
def test_the_conditionals_are_bayes_rule(smoother):
    """Catches an oracle that is none: forward-backward against the sum over all texts, in windows of 2, 3 and 1."""
    T, generator = 6, torch.Generator().manual_seed(3)
    begins = torch.tensor([0, 0, 2, 2, 2, 5])
    ids = CHAIN.sample(1, T + 1, seed=1)
    x = torch.randn(1, T, 3, generator=generator, dtype=torch.float64)
    snr = 4 * torch.rand(1, T, generator=generator, dtype=torch.float64)
    table = TABLES["unequal norms"]
    alone, shown = ExactPrior(CHAIN.transition, table, smoother=smoother)(ids, x, snr, begins)
    torch.testing.assert_close(alone, CHAIN.transition[ids[:, :-1]].log())
    seen = evidence(x, snr, table)[0]
    for place in range(T):
        window = [n for n in range(T) if begins[n] == begins[place]]
        texts = torch.cartesian_prod(*[torch.arange(CHAIN.V)] * len(window)).view(-1, len(window))
        before = torch.cat([ids[0, begins[place]].expand(len(texts), 1), texts], 1)
        weight = CHAIN.transition[before[:, :-1], before[:, 1:]].prod(-1)
        for column, n in enumerate(window):
            if n < place or (smoother and n > place):
                weight = weight * seen[n, texts[:, column]]
        sums = torch.zeros(CHAIN.V).double().index_add(0, texts[:, window.index(place)], weight)
        torch.testing.assert_close(shown[0, place].softmax(-1), sums / sums.sum())


# ---- one after the other ----


@pytest.mark.parametrize("smoother", [False, True])
def test_one_in_flight_costs_nothing(smoother):
    """Catches a cross-entropy that is shifted by a token, and a clean past that is not the one of the window."""
    ids = CHAIN.sample(4000, 9, seed=0)
    parts = estimate(ExactPrior(CHAIN.transition, ORTHOGONAL, smoother=smoother), ids, ORTHOGONAL, 1)
    torch.testing.assert_close(parts.autoregressive, -CHAIN.transition[ids[:, :-1], ids[:, 1:]].log())
    entropy = float(-(CHAIN.bigrams * CHAIN.transition.log()).sum())
    mean, error = mean_error(parts.autoregressive.mean(-1))
    assert abs(mean - entropy) < 3 * error < 0.03
    assert parts.excess.abs().max() == 0


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("in_flight", [1, 4])
def test_the_bound_of_a_prior_is_its_cross_entropy(table, in_flight):
    """Catches a wrong width, factor, noise or SNR: logits that heed nothing cost -log softmax, by pointwise I-MMSE."""
    embeddings, ids = TABLES[table], CHAIN.sample(6000, 5, seed=1)
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    parts = estimate(SamePrior(CHAIN.transition, logits), ids, embeddings, in_flight)
    rows = (parts.autoregressive + parts.excess + logits.log_softmax(-1)[ids[:, 1:]]).mean(-1)
    mean, error = mean_error(rows)
    assert abs(mean) < 3 * error < 0.03


# ---- at once: the smoother pays nothing, the filter its price ----


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("in_flight", [2, 4])
def test_a_smoother_pays_nothing_on_any_path(table, in_flight):
    """Catches tokens of a window at places of different paths, and windows that hide what they may show."""
    embeddings, ids = TABLES[table], CHAIN.sample(8000, 9, seed=2)
    prior = ExactPrior(CHAIN.transition, embeddings, smoother=True)
    mean, error = mean_error(estimate(prior, ids, embeddings, in_flight).excess.mean(-1))
    assert abs(mean) < 3 * error
    assert abs(mean) < 0.02


def test_a_filter_pays_more_the_more_tokens_are_in_flight():
    """Catches a window that shows a causal prior clean tokens of its own, so that nothing is ever paid."""
    ids = CHAIN.sample(3000, 9, seed=3)
    prior = ExactPrior(CHAIN.transition, ORTHOGONAL, smoother=False)
    prices = [mean_error(estimate(prior, ids, ORTHOGONAL, w).excess.mean(-1)) for w in (1, 2, 4, 8)]
    assert prices[0] == (0, 0)
    for (lower, error), (higher, other_error) in pairwise(prices):
        assert higher - lower > 5 * (error + other_error)


def price_by_enumeration(table, in_flight, *, cells, rows, seed):
    """Price of causality of a token in an endless text, mean and standard error, from variances of all V^w windows.

    A window slides through the cells at speed 1; the price is the integral of half its SNRs' speeds times what the
    noisy tokens after each would explain of its posterior variance.
    """
    generator = torch.Generator().manual_seed(seed)
    edges, stretch = edges_for(table, cells).numpy(), cells // in_flight
    ids = CHAIN.sample(rows, in_flight + 1, seed=seed + 1)
    time = stretch * torch.rand(rows, generator=generator, dtype=torch.float64)
    cell = time[:, None].numpy() + stretch * np.arange(in_flight)  # (R, w), not whole
    snr = torch.from_numpy(np.interp(cell, np.arange(cells + 1), edges))
    speed = torch.from_numpy(-np.diff(edges)[cell.astype(int)])
    clean = table[ids[:, 1:]]
    noisy = snr[..., None].sqrt() * clean + torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    x = noisy / (1 + snr[..., None]).sqrt()
    seen = evidence(x, snr, table)  # (R, w, V)
    texts = torch.cartesian_prod(*[torch.arange(CHAIN.V)] * in_flight)  # (V^w, w)
    joint = CHAIN.transition[ids[:, :1], texts[:, 0]] * CHAIN.transition[texts[:, :-1], texts[:, 1:]].prod(-1)
    choices = torch.eye(CHAIN.V, dtype=torch.float64)[texts]  # (V^w, w, V)

    def variance(weight, place):
        posterior = weight @ choices[:, place] / weight.sum(-1, keepdim=True)  # (R, V)
        return posterior @ table.square().sum(-1) - (posterior @ table).square().sum(-1)

    causal = []
    for place in range(in_flight):
        joint = joint * seen[:, place, texts[:, place]]
        causal.append(variance(joint, place))
    smooth = [variance(joint, place) for place in range(in_flight)]
    explained = torch.stack(causal, -1) - torch.stack(smooth, -1)
    return mean_error(stretch * (0.5 * speed * explained).sum(-1))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("in_flight", "rows"), [(2, 100_000), (4, 20_000)])
def test_the_price_is_that_of_filtering_against_smoothing(table, in_flight, rows):
    """Catches an excess of the wrong size, and passes that favour some place in the window."""
    embeddings, T = TABLES[table], 10
    prior = ExactPrior(CHAIN.transition, embeddings, smoother=False)
    parts = estimate(prior, CHAIN.sample(4000, T + 1, seed=4), embeddings, in_flight)
    endless = parts.excess[:, in_flight - 1 : T - in_flight + 1]  # no window with these is cut off
    mean, error = mean_error(endless.mean(-1))
    expected, expected_error = price_by_enumeration(embeddings, in_flight, cells=16, rows=rows, seed=5)
    assert abs(mean - expected) < 3 * math.hypot(error, expected_error)
    assert expected > 10 * expected_error


# ---- two tokens, by quadrature ----


def pair_excess(joint, *, smoother, cells=8, nodes=48, places=24):
    """Exact excess of each pair, (V, V), on the staggered path of two tokens with scalar embeddings, by quadrature.

    `joint` (V, V) is the distribution of the pair. The path: the second token enters, then both move, the second half
    of the cells behind, then the second is alone with the first, which is clean.
    """
    V, half, e = len(joint), cells // 2, SCALAR[:, 0].numpy()
    edges, distribution = edges_for(SCALAR, cells).numpy(), joint.numpy()
    normal, mass = np.polynomial.hermite_e.hermegauss(nodes)
    mass = mass / mass.sum()
    where, share = np.polynomial.legendre.leggauss(places)
    first, second = normal[:, None], normal[None, :]
    weights = mass[:, None] * mass[None, :]

    def density(snr, token, noise):  # p(z | v) up to a factor: (nodes, 1, V) or (1, nodes, V)
        z = snr**0.5 * e[token] + noise
        logs = -0.5 * (z[..., None] - snr**0.5 * e) ** 2
        return np.exp(logs - logs.max(-1, keepdims=True))

    def lost(weight, token):  # mean of (e - e_hat)² with a posterior that is `weight` up to a factor
        e_hat = weight @ e / weight.sum(-1)
        return ((e[token] - e_hat) ** 2 * weights).sum()

    total = np.zeros((V, V))
    for a in range(V):
        for b in range(V):
            for cell in range(cells):
                for place, part in zip((where + 1) / 2, share / 2, strict=True):
                    width = edges[cell] - edges[cell + 1]
                    snr = edges[cell] - place * width
                    # The first token, in this cell: the second is half the cells behind, or not there yet.
                    own = density(snr, a, first)
                    after = distribution.sum(1)
                    if cell < half and smoother:
                        late = edges[cell + half] + place * (edges[cell + half + 1] - edges[cell + half])
                        after = density(late, b, second) @ distribution.T
                    total[a, b] += part * width / 2 * lost(own * after, a)
                    # The second, in this cell: the first is half the cells ahead, or clean.
                    own, before = density(snr, b, second), distribution[a]
                    if cell >= half:
                        early = edges[cell - half] + place * (edges[cell - half + 1] - edges[cell - half])
                        before = density(early, a, first) @ distribution
                    total[a, b] += part * width / 2 * lost(own * before, b)
    return torch.from_numpy(total) + joint.log()  # the bound less -log p(pair)


@pytest.mark.parametrize("smoother", [True, False])
def test_two_tokens_cost_what_quadrature_says(smoother):
    """Catches any bias: the smoother's bound is -log p of each pair, the filter's more or less by a known amount."""
    V, draws = 3, 6000
    transition = MarkovSource(V=V, seed=2, sharpness=2.0).transition
    joint = transition[0][:, None] * transition  # the distribution of two tokens after a 0
    expected = pair_excess(joint, smoother=smoother)
    if smoother:
        torch.testing.assert_close(expected, torch.zeros_like(expected), atol=3e-5, rtol=0)
    else:
        assert (joint * expected).sum() > 0.01
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    ids = torch.cat([torch.zeros(V * V, 1, dtype=torch.int64), pairs], 1).repeat_interleave(draws, 0)
    parts = estimate(ExactPrior(transition, SCALAR, smoother=smoother), ids, SCALAR, 2, cells=8)
    bound = (parts.autoregressive + parts.excess).sum(-1).view(V, V, draws)
    error = bound.std(-1) / draws**0.5
    assert error.max() < 0.02
    assert ((bound.mean(-1) + joint.log() - expected).abs() < 3.5 * error).all()


# ---- the passes ----


@given(w=st.integers(1, 5), stretch=st.integers(1, 4), T=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_every_token_visits_every_cell_once(w, stretch, T):
    """Catches a path that skips or repeats a cell, a window of the wrong length, and tokens of a row out of step."""
    cells = w * stretch
    prior = Recording(ExactPrior(CHAIN.transition, ORTHOGONAL, smoother=True))
    estimate(prior, CHAIN.sample(3, T + 1, seed=0), ORTHOGONAL, w, cells=cells)
    edges = edges_for(ORTHOGONAL, cells)
    _, snr, begins = (torch.stack(shown) for shown in zip(*prior.shown, strict=True))  # (N, R, T), (N, T)
    cell = cells - torch.searchsorted(edges.flip(0), snr)
    assert (cell.sort(0).values == torch.arange(cells)[:, None, None]).all()
    place = (edges[cell] - snr) / (edges[cell] - edges[cell + 1])
    torch.testing.assert_close(place, place[..., :1].expand_as(place))
    for one_begins, one_cell in zip(begins, cell[:, 0], strict=True):
        starts, lengths = one_begins.unique(return_counts=True)
        assert (
            starts == torch.cat([torch.zeros(1), lengths.cumsum(0)[:-1]])
        ).all()  # windows are runs from their begin
        assert lengths.max() <= w and (lengths[1:-1] == w).all()
        lag = one_cell.diff()[one_begins.diff() == 0]
        assert (lag == stretch).all()


def test_a_batch_is_its_rows():
    """Catches sums over the wrong axis: all passes at once against one token, pass and row at a time."""
    table, ids = TABLES["unequal norms"], CHAIN.sample(3, 7, seed=6)
    prior = Recording(ExactPrior(CHAIN.transition, table, smoother=True))
    parts = estimate(prior, ids, table, 3, cells=6)
    edges, expected = edges_for(table, 6), torch.zeros(3, 6, dtype=torch.float64)
    for x, snr, begins in prior.shown:
        for row in range(3):
            one = slice(row, row + 1)
            alone, shown = (logits.softmax(-1) for logits in prior.prior(ids[one], x[one], snr[one], begins))
            for token in range(6):
                e, seen = table[ids[row, token + 1]], evidence(x[row, token], snr[row, token], table)
                cell = int((edges > snr[row, token]).sum()) - 1
                lost = [
                    (e - (p[0, token] * seen) @ table / (p[0, token] @ seen)).square().sum() for p in (shown, alone)
                ]
                expected[row, token] += (edges[cell] - edges[cell + 1]) / 2 * (lost[0] - lost[1])
    torch.testing.assert_close(parts.excess, expected)


def test_rows_do_not_touch():
    """Catches noise or windows that mix the texts of a batch: other neighbours change nothing."""
    prior = ExactPrior(CHAIN.transition, ORTHOGONAL, smoother=True)
    ids = CHAIN.sample(3, 9, seed=7)
    others = torch.cat([ids[:1], CHAIN.sample(2, 9, seed=8)])
    one, other = (estimate(prior, batch, ORTHOGONAL, 4).excess for batch in (ids, others))
    assert (one[0] == other[0]).all()
    assert (one[1:] != other[1:]).any()


@pytest.mark.parametrize(("cells", "in_flight"), [(10, 4), (2, 4), (0, 1), (4, 0)])
def test_cells_that_cannot_be_shared_are_named(cells, in_flight):
    """Catches cells that are dropped silently where the staircase does not divide."""
    prior = ExactPrior(CHAIN.transition, ORTHOGONAL, smoother=True)
    with pytest.raises(ValueError, match=f"multiple of in_flight = {in_flight} cells, got {cells}$"):
        estimate(prior, CHAIN.sample(2, 5, seed=0), ORTHOGONAL, in_flight, cells=cells)
