"""Statistics of a text, character by character: what tells loops and noise from language without a model.

distinct-n is the share of different n-grams among all (Li et al. 2016, arXiv:1510.03055). No figure ranks texts alone:
random characters win the diversity, so each is read beside the same figure of real text. An empty text gives zeros.
"""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric

MASK = "_"  # what a character stands for that was never decided
ORDERS = (1, 2, 3, 4)  # of distinct-n


def text_statistics(text: str) -> dict[str, float]:
    """Every figure of this module by its name: text_length, distinct_1 to distinct_4, repeat_ratio, mask_ratio,
    character_entropy."""
    return {
        "text_length": float(len(text)),
        **{f"distinct_{n}": distinct_n(text, n) for n in ORDERS},
        "repeat_ratio": repeat_ratio(text),
        "mask_ratio": mask_ratio(text),
        "character_entropy": character_entropy(text),
    }


class TextStatistics(Metric):
    """Means over texts of their text_statistics, over all updates and processes."""

    full_state_update = False  # of a single update no figure is asked for
    sums: Tensor
    texts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names = tuple(text_statistics(""))
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("texts", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            self.sums += torch.tensor(list(text_statistics(text).values()), dtype=torch.float64)
            self.texts += 1

    def compute(self) -> dict[str, float | None]:
        """Every figure by its name; None without a text."""
        count = int(self.texts)
        return dict(zip(self.names, (self.sums / count).tolist() if count else [None] * len(self.names), strict=True))


def distinct_n(text: str, n: int) -> float:
    """Different n-grams of characters over all n-grams, in [0, 1]; 0 for a text shorter than n."""
    if n < 1:
        raise ValueError(f"distinct_n got n={n}: it must be at least 1")
    count = len(text) - n + 1
    return len({text[i : i + n] for i in range(count)}) / count if count > 0 else 0.0


def repeat_ratio(text: str) -> float:
    """Share of the characters after the first that equal their predecessor."""
    pairs = len(text) - 1
    return sum(a == b for a, b in pairwise(text)) / pairs if pairs > 0 else 0.0


def mask_ratio(text: str, mask: str = MASK) -> float:
    """Share of characters that are `mask`."""
    return text.count(mask) / len(text) if text else 0.0


def character_entropy(text: str) -> float:
    """Entropy of the text's own distribution of characters, in bits."""
    total = len(text)
    return math.fsum(count / total * math.log2(total / count) for count in Counter(text).values())
