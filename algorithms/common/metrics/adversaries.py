"""Samplers without a model whose texts are no language, or not their own: metrics must tell them from real text.

Each gives `count` texts of `length` characters; `seed` fixes them. Raises ValueError where the training text is shorter
than what is copied from it.
"""

from collections.abc import Callable

import numpy as np


def unigram_noise(train_text: str, count: int, length: int, seed: int = 0) -> list[str]:
    """Characters drawn one by one with the shares that they have in the training text: its entropy, and no order."""
    random = np.random.default_rng(seed)
    return ["".join(train_text[i] for i in random.integers(len(train_text), size=length)) for _ in range(count)]


def tiled_phrase(train_text: str, count: int, length: int, seed: int = 0, *, phrase_length: int = 40) -> list[str]:
    """One passage of the training text, again and again; each text begins elsewhere in it."""
    random = np.random.default_rng(seed)
    start = random.integers(_places(train_text, phrase_length))
    tiled = train_text[start : start + phrase_length] * (length // phrase_length + 2)
    return [tiled[shift : shift + length] for shift in random.integers(phrase_length, size=count)]


def tiled_phrases(train_text: str, count: int, length: int, seed: int = 0, *, phrase_length: int = 40) -> list[str]:
    """A passage of its own for every text, again and again: what comparing texts with one another does not show."""
    return [tiled_phrase(train_text, 1, length, seed * count + i, phrase_length=phrase_length)[0] for i in range(count)]


def training_copier(train_text: str, count: int, length: int, seed: int = 0) -> list[str]:
    """Passages of the training text, as they are: perfect language, and nothing learnt."""
    starts = np.random.default_rng(seed).integers(_places(train_text, length), size=count)
    return [train_text[start : start + length] for start in starts]


CONTROLS: dict[str, Callable[[str, int, int, int], list[str]]] = {
    "unigram noise": unigram_noise,
    "tiled phrase": tiled_phrase,
    "tiled phrases": tiled_phrases,
    "training copier": training_copier,
}


def _places(train_text: str, size: int) -> int:
    """Where a passage can begin."""
    if size > len(train_text):
        raise ValueError(f"the training text has {len(train_text)} characters, too few to copy {size}: ask for less")
    return len(train_text) - size + 1
