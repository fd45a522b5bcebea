"""Texts against the corpus of their model: fit to held-out text, spelling, copying; beside real text of the same size.

No figure stands alone, and most depend on the size of the set, so each is read beside the same figure of real text.
BLEU, divergences and windows are of characters. What cannot be measured is None, never 0.

B texts, N characters of the training text.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from algorithms.common.metrics.text_sets import (
    jensen_shannon,
    mean_bleu,
    mean_of_known,
    pooled_ngrams,
    self_bleu,
    shared_windows,
    unique_words,
    valid_words,
    words,
)

JS_ORDERS = (3, 4, 5)
FIGURES = (
    *(f"js_{n}" for n in JS_ORDERS),  # bits
    *("valid_words", "unique_words"),
    *("copy_rate", "longest_copy"),  # the last in characters
    *("self_bleu", "held_out_bleu", "shared_windows"),
)
FLOOR = 0.02  # of a share, bits or nats: less is no deviation from real text however little that varies
FLOORS = {"text_length": 1.0, "longest_copy": 16.0}  # the same in characters
Figures = dict[str, float | None]


class CorpusReference:
    """A training and a held-out text, by which sets of generated texts are measured.

    Divergence and BLEU of finite samples depend on their sizes, so both sides of a comparison always have the same: for
    B texts, B disjoint windows of just their lengths, cut at random places out of one half of the held-out text. As
    many from the other half are the sample of real text: it meets the same comparison, so both have the same sizes,
    and comes from elsewhere, as neighbouring passages share scene and names. Sets of equal lengths get equal windows.

    `window` is the copy rate's, in characters; `draws` is how many comparisons `score` averages over. Raises ValueError
    for an empty training text. Holds about 10 bytes a training character, and six times that while it is made.
    """

    def __init__(self, train_text: str, held_out_text: str, *, window: int = 32, draws: int = 8) -> None:
        if not train_text:
            raise ValueError("CorpusReference got an empty training text: give the text that the model was trained on")
        if window < 1 or draws < 1:
            raise ValueError(f"CorpusReference got window={window} and draws={draws}: both must be at least 1")
        self.window, self.draws = window, draws
        self.train_text = train_text
        self.train_order = suffix_order(train_text)  # (N,)
        self.train_words = frozenset(words(train_text))
        middle = len(held_out_text) // 2
        self.halves = (held_out_text[:middle], held_out_text[middle:])
        self.half_words = (frozenset(words(self.halves[0])), frozenset(words(self.halves[1])))

    def fitting(self, lengths: Iterable[int]) -> int:
        """How many texts, from the first on, fit into half of the held-out text. The figures are of these; where not
        even the first fits there is no comparison."""
        return sum(total <= len(self.halves[0]) for total in accumulate(lengths))

    def score(self, texts: Sequence[str]) -> Figures:
        """FIGURES of generated texts (without their prompts). A word is valid if either text has it.

        js_n and held_out_bleu are means over draws; None where the held-out text is too short, or the texts are.
        """
        fit = self.fitting(map(len, texts))
        used = texts[:fit] or texts
        lengths = [len(text) for text in texts[:fit]]
        drawn = [_against(used, self.comparison(lengths, draw)) for draw in range(self.draws)]
        means = {name: mean_of_known(each[name] for each in drawn) for name in drawn[0]}
        return self._complete(means, used, self.train_words.union(*self.half_words))

    def real_text(self, lengths: Sequence[int], draw: int = 0) -> Figures:
        """FIGURES of held-out text in windows of the given lengths: the human floor of texts of these lengths.

        `draw` is the seed of the windows. A word is valid if the training text or the other half of the held-out text
        has it: by its own half it would be valid by definition. All None where not even the first length fits.
        """
        lengths = lengths[: self.fitting(lengths)]
        if not lengths:
            return dict.fromkeys(FIGURES)
        sample = self.sample(lengths, draw)
        known = self.train_words | self.half_words[draw % 2]
        return self._complete(_against(sample, self.comparison(lengths, draw)), sample, known)

    def comparison(self, lengths: Sequence[int], draw: int) -> list[str]:
        """Windows of held-out text of just these lengths, all of which must fit, to compare texts with; draws take the
        halves in turn."""
        return self._windows(lengths, draw, draw % 2)

    def sample(self, lengths: Sequence[int], draw: int) -> list[str]:
        """The real text that meets comparison(lengths, draw): as many windows from the other half."""
        return self._windows(lengths, draw, 1 - draw % 2)

    def _windows(self, lengths: Sequence[int], draw: int, half: int) -> list[str]:
        text, random = self.halves[half], np.random.default_rng((draw, half))
        starts = disjoint_starts(len(text), lengths, random)
        return [text[start : start + size] for start, size in zip(starts, lengths, strict=True)]

    def _complete(self, figures: Figures, texts: Sequence[str], known: Set[str]) -> Figures:
        """`figures` and those that need no comparison."""
        copied = [copied_lengths(text, self.train_text, self.train_order) for text in texts]
        windows = [long >= self.window for each in copied for long in each[: len(each) - self.window + 1]]
        found: Figures = figures | {
            "valid_words": valid_words(texts, known),
            "unique_words": unique_words(texts),
            "copy_rate": mean_of_known(windows),
            "longest_copy": max((float(long) for each in copied for long in each), default=None),
            "self_bleu": self_bleu(texts),
            "shared_windows": shared_windows(texts),
        }
        return {name: found[name] for name in FIGURES}


def unlike_real_text(figures: Figures, real: Sequence[Figures]) -> list[str]:
    """Names of the figures that lie clearly outside what real text of the same size has: those of `deviations`."""
    return list(deviations(figures, real))


def deviations(figures: Figures, real: Sequence[Figures]) -> dict[str, str]:
    """Which figures lie clearly outside of the range of real text, and where: "low" or "high".

    `figures` may be any that `real`, draws of real text of the same size, have, too. Clearly is by more than the width
    of the range, or by FLOORS where that is more. Both sides count: a judge pleased more than by real text is as
    suspicious as one displeased. None, on either side, is no deviation.

    Fresh draws of nine held-out plays, 16 x 128 characters and 25 figures, had a deviation in 1 % of the sets by a
    range of 16 draws, and in 9 % by one of 8.
    """
    found = {}
    for name, value in figures.items():
        known = [each for draw in real if (each := draw.get(name)) is not None]
        if value is None or not known:
            continue
        low, high = min(known), max(known)
        margin = max(high - low, FLOORS.get(name, FLOOR))
        if not low - margin <= value <= high + margin:
            found[name] = "low" if value < low else "high"
    return found


def suffix_order(text: str) -> NDArray[np.int64]:
    """Starts (N,) of all suffixes of a text in the order of its suffixes, by doubling (Manber and Myers 1993)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)  # (N,)
    rank = np.unique(codes, return_inverse=True)[1].astype(np.int64) + 1  # 0 stands for the end of the text
    known = 1  # characters of each suffix that the ranks have seen
    while True:
        following = np.zeros_like(rank)
        following[:-known] = rank[known:]
        keys = rank * (rank.max() + 1) + following
        order = np.argsort(keys, kind="stable")
        new = np.diff(keys[order], prepend=-1) > 0
        rank[order] = np.cumsum(new)
        known *= 2
        if new.all():
            return order


def copied_lengths(text: str, source: str, order: NDArray[np.int64]) -> list[int]:
    """For every place in `text`, the length of the longest passage from there on that `source` has, too; `order` is
    the suffix_order of `source`."""
    return [_longest_prefix(text[i:], source, order.data) for i in range(len(text))]


def disjoint_starts(total: int, lengths: Sequence[int], random: np.random.Generator) -> list[int]:
    """Starts of windows of the given lengths, in random order and with random gaps, none over another, in `total`."""
    sizes = np.array(lengths, dtype=np.int64)
    order = random.permutation(len(sizes))
    gaps = np.sort(random.integers(total - sizes.sum() + 1, size=len(sizes)))
    starts = np.empty_like(sizes)
    starts[order] = gaps + np.cumsum(sizes[order]) - sizes[order]
    return starts.tolist()


def _against(texts: Sequence[str], comparison: Sequence[str]) -> Figures:
    """Divergences of pooled n-grams, and mean BLEU, of texts against other texts."""
    found: Figures = {
        f"js_{n}": jensen_shannon(pooled_ngrams(texts, n), pooled_ngrams(comparison, n)) for n in JS_ORDERS
    }
    return found | {"held_out_bleu": mean_bleu(texts, comparison)}


def _longest_prefix(text: str, source: str, starts: memoryview) -> int:
    """How much of the beginning of `text` occurs in `source`: a neighbour of `text` in the order has the most of it."""
    size = len(text)
    place = bisect_left(starts, text, key=lambda start: source[start : start + size])
    neighbours = [source[starts[i] : starts[i] + size] for i in (place - 1, place) if 0 <= i < len(starts)]
    return max(_common_prefix(text, each) for each in neighbours)


def _common_prefix(first: str, second: str) -> int:
    longest = min(len(first), len(second))
    return bisect_left(range(1, longest + 1), True, key=lambda size: first[:size] != second[:size])
