"""Statistics of a text, character by character: what tells loops and noise from language without a model.

distinct-n is the share of different n-grams among all (Li et al. 2016, arXiv:1510.03055). No metric ranks texts alone:
random characters win the diversity, so each is read beside the same of real text. An empty text gives zeros.
"""

import math
from collections import Counter
from itertools import pairwise

MASK = "_"  # what a character stands for that was never decided


def text_length(text: str) -> float:
    """Characters."""
    return float(len(text))


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
