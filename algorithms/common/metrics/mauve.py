"""MAUVE: how alike two sets of texts are, by features of a language model, from near 0 (disjoint) to 1 (the same).

Source: Pillutla et al. 2021, arXiv:2102.01454: features are scaled to length 1, reduced to the principal components
that hold 90 % of their variance and quantised by k-means, both sets together, k = N / 10; then comes the area under
the curve of the divergences of both histograms from their mixtures, with c = 5. Written here as the library
`mauve-text` brings faiss and scikit-learn along. It depends on N, k and the features, and is read only beside
that of real text with the same N, and compares with no other program's.

N features of each set, C channels, k clusters.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from algorithms.common.metrics.corpus import CorpusSample
from algorithms.common.metrics.text_sets import mean_of_known

PIECE = 32  # characters that a feature is of
PER_CLUSTER = 10  # features of each set
FEWEST = 2 * PER_CLUSTER  # features of a set
SCALE = 5.0  # c
VARIANCE = 0.9
RESTARTS = 5  # of k-means, the best of which counts
ROUNDS = 500
MIXTURES = 1001  # points of the curve: its area is exact to about 1e-6

Floats = NDArray[np.float64]


class PieceFeatures:
    """A judge's features (N, C) of the pieces of texts, from `features`, which maps texts to them.

    Pieces are of PIECE characters, a shorter end left out: few whole texts are too few features for their clusters (of
    16 texts of 128 characters the spread of real text halves, and low temperatures and noise stand out from it sooner).
    """

    def __init__(self, features: Callable[[Sequence[str]], Floats]) -> None:
        self.features = features
        self.of_comparison = lru_cache(maxsize=64)(self.of_texts)  # of mostly the same lengths, and so the same

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """Empty (0, 1) for fewer than FEWEST pieces."""
        pieces = [text[i : i + PIECE] for text in texts for i in range(0, len(text) - PIECE + 1, PIECE)]
        return self.features(pieces) if len(pieces) >= FEWEST else np.empty((0, 1))


def of_sample(features: PieceFeatures, sample: CorpusSample) -> float | None:
    """MAUVE of texts against held-out text of the same size, the mean over draws; None where a set has fewer than
    FEWEST pieces, or there is no held-out text of that size."""
    if not sample.comparisons:
        return None
    own = features.of_texts(sample.texts)
    return mean_of_known(mauve(own, features.of_comparison(other)) for other in sample.comparisons)


def mauve(first: Floats, second: Floats) -> float | None:
    """MAUVE of two sets of features (N, C); symmetric, and the order of rows plays no part. None where a set has fewer
    than FEWEST rows."""
    N = min(len(first), len(second))
    if N < FEWEST:
        return None
    points = np.concatenate([first, second]).astype(np.float64)
    of_first = np.arange(len(points)) < len(first)
    order = np.lexsort(points.T)  # k-means begins at places in a list
    points, of_first = points[order], of_first[order]
    k = round(N / PER_CLUSTER)
    labels = kmeans(_components(points), k, np.random.default_rng(0))
    return area(*(np.bincount(labels[side], minlength=k) / side.sum() for side in (of_first, ~of_first)))


def area(p: Floats, q: Floats) -> float:
    """Area under the curve of (exp(-c KL(q | r)), exp(-c KL(p | r))) over the mixtures r of two histograms (k,), drawn
    out to the axes."""
    weights = np.linspace(0.0, 1.0, MIXTURES)[:, None]
    mixtures = weights * p + (1 - weights) * q  # (MIXTURES, k)
    x, y = (np.exp(-SCALE * _divergence(side, mixtures)) for side in (q, p))  # x falls from 1, y rises to 1
    return float(x[-1] - np.trapezoid(y, x))


def kmeans(points: Floats, k: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Cluster of each point (n, C), by k-means++ (Arthur and Vassilvitskii 2007): of several starts the one whose
    clusters are the tightest."""
    runs = [_lloyd(points, _seeds(points, k, random)) for _ in range(RESTARTS)]
    return min(runs, key=lambda run: run[1])[0]


def _divergence(p: Floats, mixtures: Floats) -> Floats:
    """KL(p | r), in nats, for each mixture r of (m, k): (m,), infinite where r lacks what p has."""
    has = p > 0
    with np.errstate(divide="ignore"):
        return (p[has] * (np.log(p[has]) - np.log(mixtures[:, has]))).sum(axis=1)


def _components(points: Floats) -> Floats:
    """Principal components (n, c) of points (n, C) of length 1, as many as hold VARIANCE of what they vary."""
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    left, singular, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    held = np.cumsum(singular**2)
    count = int(np.searchsorted(held, VARIANCE * held[-1])) + 1
    return (left * singular)[:, :count]


def _seeds(points: Floats, k: int, random: np.random.Generator) -> Floats:
    """Up to k different points, each drawn with the square of its distance from those before it."""
    chosen = [points[random.integers(len(points))]]
    nearest = _squared_distances(points, chosen)[:, 0]  # (n,)
    while len(chosen) < k and nearest.sum() > 0:
        chosen.append(points[random.choice(len(points), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, _squared_distances(points, chosen[-1:])[:, 0])
    return np.array(chosen)


def _lloyd(points: Floats, centres: Floats) -> tuple[NDArray[np.int64], float]:
    """Clusters (n,) once they no longer change, and the sum of squared distances from their centres."""
    labels = np.full(len(points), -1)
    for _ in range(ROUNDS):
        distances = _squared_distances(points, centres)  # (n, k)
        before, labels = labels, distances.argmin(axis=1)
        if (before == labels).all():
            break
        for label in np.unique(labels):
            centres[label] = points[labels == label].mean(axis=0)
    return labels, float(distances.min(axis=1).sum())


def _squared_distances(points: Floats, centres: Iterable[Floats]) -> Floats:
    """(n, k) of points (n, C) and centres (k, C); a point is at distance 0 from itself, exactly."""
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
