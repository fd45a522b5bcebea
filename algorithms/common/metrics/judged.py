"""What judges, language models trained on other texts, think of a set of texts. Nats per character; None where nothing
has characters. J judges, B texts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from algorithms.common.metrics.text_sets import mean_of_known


class Judged(NamedTuple):
    """Nats of every text under every judge, J x B, and the texts' characters (B,)."""

    nats: Sequence[Sequence[float]]
    characters: Sequence[int]


def judge_nll(judged: Judged) -> float | None:
    """All nats over all characters, the mean over judges."""
    return mean_of_known(_each(judged))


def judge_gap(judged: Judged) -> float | None:
    """The largest of the judges' values less the smallest; None with one judge."""
    each = _each(judged)
    return max(each) - min(each) if len(each) > 1 else None


def judge_text_sd(judged: Judged) -> float | None:
    """Sample standard deviation over texts of each text's own value, averaged over judges; None where fewer than two
    texts have characters."""
    own = [[n / size for n, size in zip(nats, judged.characters, strict=True) if size] for nats in judged.nats]
    return mean_of_known(float(np.std(of, ddof=1)) if len(of) > 1 else None for of in own)


def _each(judged: Judged) -> list[float]:
    """One value a judge; none without characters."""
    characters = sum(judged.characters)
    return [math.fsum(nats) / characters for nats in judged.nats] if characters else []
