"""Exact statistics of wins and losses: the sign test and the Clopper-Pearson interval. n decided pairs."""

from fractions import Fraction
from math import comb, exp, fsum, lgamma, log, log1p

HALVINGS = 60  # of [0, 1], to the last digits of a float


def sign_test(wins: int, decided: int) -> float:
    """Two-sided exact p of `wins` of n decided pairs, if either side is as likely to win."""
    fewer = min(wins, decided - wins)
    tail = sum(comb(decided, k) for k in range(fewer + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**decided)))


def clopper_pearson(wins: int, decided: int, level: float) -> tuple[float, float]:
    """Exact interval of the probability to win: at 95 % it leaves 1/2 out just where the sign test is below 5 %."""
    out = (1 - level) / 2
    return 1 - _upper_end(decided - wins, decided, out), _upper_end(wins, decided, out)


def _upper_end(wins: int, decided: int, out: float) -> float:
    """The probability at which so few wins, or fewer, have the probability `out`."""
    if wins == decided:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(wins, decided, middle) > out else (low, middle)
    return (low + high) / 2


def _at_most(wins: int, decided: int, probability: float) -> float:
    """Probability of that many wins or fewer."""
    ways = [lgamma(decided + 1) - lgamma(k + 1) - lgamma(decided - k + 1) for k in range(wins + 1)]
    win, lose = log(probability), log1p(-probability)
    return fsum(exp(way + k * win + (decided - k) * lose) for k, way in enumerate(ways))
