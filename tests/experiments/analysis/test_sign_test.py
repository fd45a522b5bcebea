"""Exact statistics of wins and losses against closed forms."""

from math import comb

import pytest

from experiments.analysis.blind_score import sign_test

NORMAL = 1.95996 * (0.25 / 2000) ** 0.5 + 0.5 / 2000  # the approximation, corrected for continuity


@pytest.mark.parametrize(
    ("wins", "decided", "p"),
    [(0, 1, 1.0), (0, 5, 2 / 32), (8, 10, 112 / 1024), (10, 10, 2 / 1024), (5, 10, 1.0)],
)
def test_the_sign_test_is_exact(wins: int, decided: int, p: float) -> None:
    """Catches a one-sided test, a p above 1 where both tails share the middle, and one that underflows or rounds."""
    assert sign_test(wins, decided)[0] == sign_test(decided - wins, decided)[0] == p
    assert 0 < sign_test(1500, 2000)[0] < 1e-100


@pytest.mark.parametrize(
    ("wins", "decided", "interval"),
    [
        (0, 5, (0.0, 1 - 0.025 ** (1 / 5))),
        (5, 5, (0.025 ** (1 / 5), 1.0)),
        (8, 10, (0.4439045, 0.9747893)),  # a published table
        (5, 10, (0.1870860, 0.8129140)),
        (1000, 2000, (0.5 - NORMAL, 0.5 + NORMAL)),
    ],
)
def test_intervals_of_known_shares(wins: int, decided: int, interval: tuple[float, float]) -> None:
    """Catches ends swapped, a level taken for one tail, and an overflow of many pairs."""
    assert sign_test(wins, decided)[1:] == pytest.approx(interval, abs=5e-5 if decided > 10 else 1e-7)


def test_an_interval_covers_and_agrees_with_the_test() -> None:
    """Catches an interval that covers less than it says, and one that a p below 5 % contradicts."""
    for n in (1, 2, 7, 20):
        intervals = [sign_test(k, n)[1:] for k in range(n + 1)]
        for share in (0.05, 0.3, 0.5, 0.77):
            weights = [comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
            covered = [w for w, (low, high) in zip(weights, intervals, strict=True) if low <= share <= high]
            assert sum(covered) >= 0.95
        assert [not low <= 0.5 <= high for low, high in intervals] == [sign_test(k, n)[0] < 0.05 for k in range(n + 1)]
