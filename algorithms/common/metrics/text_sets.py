"""Statistics of sets of texts, without a model: n-gram divergence, words, BLEU, and how much the texts are alike.

N-grams and windows never span two texts. What cannot be measured is None.
Sources: Jensen-Shannon divergence Lin 1991; BLEU Papineni et al. 2002; self-BLEU Zhu et al. 2018, arXiv:1802.01886;
valid and unique words CANDI, arXiv:2510.22510.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

BLEU_ORDERS = 4  # n-grams of 1 to 4
REPEAT_WINDOW = 16
LETTER = r"(?:[^\W\d_]|['’])"  # of a word
Tokens = str | tuple[str, ...]  # characters of a text, or words


def ngrams(tokens: Tokens, n: int) -> Counter[Tokens]:
    """How often each run of n tokens occurs; empty where there are fewer."""
    return pooled_ngrams([tokens], n)


def pooled_ngrams(texts: Iterable[Tokens], n: int) -> Counter[Tokens]:
    """N-grams of all texts together."""
    return Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1))


def jensen_shannon(first: Mapping[Tokens, int], second: Mapping[Tokens, int]) -> float | None:
    """Jensen-Shannon divergence of two histograms, in bits: 0 for equal shares, 1 for disjoint ones; None if one is
    empty. Of finite samples it is biased upwards, the more the fewer they are."""
    totals = sum(first.values()), sum(second.values())
    if 0 in totals:
        return None
    left = list(totals)  # of n-grams that only one side has, each of which adds half of its share
    terms = []
    for gram in first.keys() & second.keys():
        left[0] -= first[gram]
        left[1] -= second[gram]
        p, q = first[gram] / totals[0], second[gram] / totals[1]
        terms += [share / 2 * math.log2(2 * share / (p + q)) for share in (p, q)]
    terms += [count / total / 2 for count, total in zip(left, totals, strict=True)]
    return min(1.0, max(0.0, math.fsum(terms)))


def words(text: str) -> list[str]:
    """Maximal runs of letters and apostrophes with at least one letter, case-folded."""
    return [run.casefold() for run in re.findall(f"{LETTER}+", text) if run.strip("'’")]


def whole_words(text: str) -> list[str]:
    """Words of a passage but for those that touch its ends, where they may be cut."""
    return words(re.sub(rf"\A{LETTER}+|{LETTER}+\Z", "", text))


def valid_words(texts: Sequence[str], known: Set[str]) -> float | None:
    """Share of the whole words of all texts that are among the `known`; None without words."""
    return mean_of_known(word in known for text in texts for word in whole_words(text))


def unique_words(texts: Sequence[str]) -> float | None:
    """Different whole words over all whole words, of all texts together; None without words."""
    found = [word for text in texts for word in whole_words(text)]
    return len(set(found)) / len(found) if found else None


def shared_windows(texts: Sequence[str], window: int = REPEAT_WINDOW) -> float | None:
    """Share of the windows of all texts that occur in more than one text: collapse onto few outputs, or tiling.

    None for fewer than two texts that hold a window.
    """
    own = [ngrams(text, window) for text in texts]
    texts_with = Counter(gram for counts in own for gram in counts)
    if sum(map(bool, own)) < 2:
        return None
    shared = sum(count for counts in own for gram, count in counts.items() if texts_with[gram] > 1)
    return shared / sum(counts.total() for counts in own)


def mean_bleu(texts: Sequence[Tokens], references: Sequence[Tokens], orders: int = BLEU_ORDERS) -> float | None:
    """Mean over texts of their BLEU against all references, with even weights and no smoothing, in [0, 1].

    Texts are of characters, or tuples of words. One without an n-gram of the highest order is left out; None where none
    is left, or without references.
    """
    ceilings = [_two_highest([ngrams(text, n) for text in references])[0] for n in range(1, orders + 1)]
    others = Counter(map(len, references))
    return mean_of_known(
        _bleu([ngrams(text, n) for n in range(1, orders + 1)], ceilings, len(text), others) for text in texts
    )


def self_bleu(texts: Sequence[Tokens], orders: int = BLEU_ORDERS) -> float | None:
    """Mean BLEU of every text against all others: 1 for copies of one text. None for fewer than two that have it."""
    texts = [text for text in texts if len(text) >= orders]
    counts = [[ngrams(text, n) for text in texts] for n in range(1, orders + 1)]
    highest = [_two_highest(each) for each in counts]
    lengths = Counter(map(len, texts))
    scores = []
    for i, text in enumerate(texts):
        own = [each[i] for each in counts]
        # The highest count among the others is the second one of all if the highest is this text's own.
        ceilings = [
            {gram: second[gram] if count == first[gram] else first[gram] for gram, count in mine.items()}
            for mine, (first, second) in zip(own, highest, strict=True)
        ]
        scores.append(_bleu(own, ceilings, len(text), lengths - Counter([len(text)])))
    return mean_of_known(scores)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean of what is not None; None where nothing is left."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _bleu(
    counts: Sequence[Mapping[Tokens, int]],
    ceilings: Sequence[Mapping[Tokens, int]],
    length: int,
    others: Iterable[int],
) -> float | None:
    """BLEU from n-gram counts of each order and the counts to which they are clipped; the brevity penalty is against
    the reference whose length is closest, of two the shorter."""
    closest = min(others, key=lambda other: (abs(other - length), other), default=None)
    if closest is None or not all(counts):
        return None
    clipped = [
        sum(min(count, ceiling.get(gram, 0)) for gram, count in own.items())
        for own, ceiling in zip(counts, ceilings, strict=True)
    ]
    if not all(clipped):
        return 0.0
    precisions = [math.log(hits / sum(own.values())) for hits, own in zip(clipped, counts, strict=True)]
    return math.exp(min(0.0, 1 - closest / length) + statistics.fmean(precisions))


def _two_highest(counts: Iterable[Mapping[Tokens, int]]) -> tuple[Counter[Tokens], Counter[Tokens]]:
    """The highest and the second highest count of each n-gram over several texts; the same where two texts tie."""
    first: Counter[Tokens] = Counter()
    second: Counter[Tokens] = Counter()
    for each in counts:
        for gram, count in each.items():
            if count > first[gram]:
                first[gram], second[gram] = count, first[gram]
            elif count > second[gram]:
                second[gram] = count
    return first, second
