"""MAUVE: the curve's area in closed form, its quantisation, and real against made-up texts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.metrics.adversaries import CONTROLS
from algorithms.common.metrics.corpus import CorpusReference
from algorithms.common.metrics.mauve import FEWEST, PIECE, SCALE, PieceFeatures, area, kmeans, mauve, of_sample
from tests.algorithms.common.metrics.made_up import speech

histograms = st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any).map(lambda n: np.array(n) / sum(n))


def cloud(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features (n, 8) around a place that `shift` moves."""
    return np.random.default_rng(seed).normal(size=(n, 8)) + np.array([4.0, shift, 0, 0, 0, 0, 0, 0])


def test_area_of_disjoint_histograms_in_closed_form() -> None:
    """Catches another scale than the paper's c = 5, divergences in bits, and p where q should stand: the mixture is
    (w, 1 - w), so the curve is ((1 - w)^c, w^c), and its area c B(c + 1, c)."""
    closed = SCALE * math.gamma(SCALE + 1) * math.gamma(SCALE) / math.gamma(2 * SCALE + 1)
    assert area(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(closed, rel=1e-4)


def test_area_against_an_independent_integral() -> None:
    """Catches a curve that is not drawn out to its axes, and one that misses clusters which only one side has: the
    area by counting, for a fine grid of x, the highest y that a mixture reaches."""
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.1, 0.5, 0.4])

    def divergence(one: np.ndarray, mixture: np.ndarray) -> float:
        return sum(a * math.log(a / b) for a, b in zip(one, mixture, strict=True) if a > 0)

    weights = [(i + 0.5) / 20_000 for i in range(20_000)]
    points = [w * p + (1 - w) * q for w in weights]
    x = np.array([math.exp(-5 * divergence(q, r)) for r in points])
    y = np.array([math.exp(-5 * divergence(p, r)) for r in points])
    grid = (np.arange(10_000) + 0.5) / 10_000
    highest = [y[x >= at].max(initial=0.0) for at in grid]
    assert area(p, q) == pytest.approx(float(np.mean(highest)), abs=1e-4)


@given(histograms, histograms)
def test_area_is_symmetric_and_bounded(p: np.ndarray, q: np.ndarray) -> None:
    """Catches NaN for an empty cluster, a one-sided integral, and an area above 1 for equal histograms."""
    assert area(p, p) == pytest.approx(1.0)
    found = area(p, q)
    assert 0.0 < found <= 1.0 + 1e-12 and found == pytest.approx(area(q, p), abs=1e-5)


def test_clusters_are_found() -> None:
    """Catches clusters that are cut short before they settle, a single start, and starts that are all the same: eight
    groups far apart, of very different sizes."""
    random = np.random.default_rng(0)
    truth = np.repeat(range(8), [100, 10, 4, 50, 7, 30, 5, 20])
    places = np.array([(9.0 * (i // 3), 9.0 * (i % 3)) for i in range(8)])
    points = places[truth] + random.normal(scale=0.3, size=(len(truth), 2))
    for seed in range(20):
        labels = kmeans(points, 8, np.random.default_rng(seed))
        assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == len(set(labels.tolist())) == 8


def test_the_same_is_one_and_the_disjoint_near_zero() -> None:
    """Catches clusters of each set on its own, and features whose length decides."""
    first = cloud(200, seed=0)
    assert mauve(first, first) == pytest.approx(1.0)
    assert mauve(first, 3 * first) == pytest.approx(1.0)
    same, near, far = (mauve(first, cloud(200, seed=1, shift=shift)) for shift in (0.0, 2.0, 50.0))
    assert same is not None and near is not None and far is not None
    assert far == pytest.approx(1 / 252, rel=1e-3) and far < near < same and same > 0.8
    assert mauve(np.ones((30, 4)), np.ones((30, 4))) == pytest.approx(1.0)


def test_neither_order_nor_roles_count() -> None:
    """Catches k-means that begins with the first rows, or draws that differ from call to call."""
    first, second = cloud(60, seed=0), cloud(50, seed=1, shift=1.0)
    found = mauve(first, second)
    shuffled = np.random.default_rng(0).permutation(60)
    assert mauve(first[shuffled], second[::-1]) == found == mauve(first, second)
    assert found == pytest.approx(mauve(second, first), abs=1e-5)


def test_too_few_are_none() -> None:
    """Catches a figure of one cluster, which is 1 for anything."""
    assert mauve(cloud(FEWEST - 1, 0), cloud(FEWEST, 1)) is None
    assert mauve(cloud(FEWEST, 0), cloud(FEWEST, 1)) is not None


def letters(texts: list[str]) -> np.ndarray:
    """Features (N, 26) of texts without a judge: their letters."""
    return np.array([[text.count(chr(ord("a") + i)) for i in range(26)] for text in texts], dtype=float)


def test_texts_against_held_out_text() -> None:
    """Catches a comparison with the training text, sides of unequal size, pieces of another length, and real text that
    is measured by its own half."""
    train = speech(20_000, seed=1)
    corpus = CorpusReference(train, speech(16_000, seed=2), draws=4)
    read: set[tuple[int, ...]] = set()

    def features(texts: list[str]) -> np.ndarray:
        read.add(tuple(map(len, texts)))
        return letters(texts)

    judge, lengths = PieceFeatures(features), [5 * PIECE + 7] * 12
    floor = [of_sample(judge, corpus.held_out(lengths, draw)) for draw in range(4)]
    assert min(found or 0.0 for found in floor) > 0.8
    samples = {name: corpus.generated(make(train, 12, lengths[0], 0)) for name, make in CONTROLS.items()}
    scores = {name: of_sample(judge, sample) for name, sample in samples.items()}
    assert scores["tiled phrase"] < 0.1 and scores["training copier"] > 0.8
    assert read == {(PIECE,) * 60}
    sides = corpus.sample(lengths, 0), corpus.comparison(lengths, 0)
    cut = [[text[i : i + PIECE] for text in texts for i in range(0, 5 * PIECE, PIECE)] for texts in sides]
    assert floor[0] == mauve(letters(cut[0]), letters(cut[1])) and not set(cut[0]) & set(cut[1])


def test_what_does_not_fit_or_is_too_little_is_none() -> None:
    """Catches zeros, and a judge that is asked to read nothing."""
    corpus = CorpusReference("train", "ab" * 500, draws=2)
    judge = PieceFeatures(lambda texts: pytest.fail("nothing is to be read"))
    for texts in ([], ["", "a"], ["a" * (PIECE - 1)] * 15, ["a" * 501], ["a" * PIECE] * (FEWEST - 1)):
        real = corpus.held_out([len(text) for text in texts])
        assert of_sample(judge, corpus.generated(texts)) is None and of_sample(judge, real) is None
