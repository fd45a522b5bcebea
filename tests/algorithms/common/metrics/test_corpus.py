"""Metrics of sets of texts: in closed form, against brute force, and on real text."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.metrics.corpus import (
    CorpusReference,
    copied_lengths,
    disjoint_starts,
    suffix_order,
    unlike_real_text,
)
from algorithms.common.metrics.text_sets import (
    jensen_shannon,
    mean_bleu,
    self_bleu,
    shared_windows,
    unique_words,
    valid_words,
    whole_words,
    words,
)
from tests.algorithms.common.metrics.made_up import speech
from tests.algorithms.common.metrics.measured import MARGINS, Values, real_text, score

COUNT, LENGTH, DRAWS = 12, 200, 6
counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1)
short_texts = st.text("ab\N{GRINNING FACE}", max_size=12)


def bleu(text, references, **options):
    """BLEU of one text."""
    return mean_bleu([text], references, **options)


TRAIN = speech(40_000, seed=1)


@pytest.fixture(scope="module")
def reference() -> CorpusReference:
    return CorpusReference(TRAIN, speech(16_000, seed=2), draws=DRAWS)


@pytest.fixture(scope="module")
def real(reference: CorpusReference) -> list[Values]:
    return [real_text(reference, [LENGTH] * COUNT, draw) for draw in range(DRAWS)]


def test_divergence_in_closed_form() -> None:
    """Catches nats for bits, counts for shares, a missing half, and a term dropped where one side has no count."""
    assert jensen_shannon(Counter("aab"), Counter("aabaab")) == 0.0
    assert jensen_shannon(Counter("aab"), Counter("cd")) == 1.0
    # entropy of (3/4, 1/4) less the mean of those of (1, 0) and (1/2, 1/2)
    assert jensen_shannon(Counter("a"), Counter("ab")) == pytest.approx(2 - 0.75 * math.log2(3) - 0.5)
    assert jensen_shannon(Counter(), Counter("a")) is None and jensen_shannon(Counter("a"), Counter()) is None


@given(counts, counts)
def test_divergence_is_symmetric_and_bounded(first: dict, second: dict) -> None:
    """Catches Kullback-Leibler in its place, and a rounding error that leaves [0, 1]."""
    found = jensen_shannon(first, second)
    assert found is not None and found == jensen_shannon(second, first) and 0.0 <= found <= 1.0


def test_bleu_by_hand() -> None:
    """Catches counts that are not clipped, or clipped to the sum over references, and a wrong brevity penalty."""
    cat = [tuple(line.split()) for line in ("the cat is on the mat", "there is a cat on the mat")]
    assert bleu(("the",) * 7, cat, orders=1) == pytest.approx(2 / 7)  # Papineni et al., section 2.1
    assert bleu("abcde", ["abcdf"]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu("abcd", ["abcdef"]) == pytest.approx(math.exp(1 - 6 / 4))
    assert bleu("abcd", ["abcdef", "ab", "xxxxx"]) == pytest.approx(math.exp(1 - 5 / 4))  # 5 is closer than 6 and 2
    assert bleu("abcde", ["abcd", "bcde"]) == pytest.approx(1.0)  # every n-gram is in one of them
    assert bleu("abcde", ["edcba"]) == 0.0
    assert bleu("abc", ["abc"]) is None and bleu("abcd", []) is None and bleu("", ["abcd"]) is None


@given(st.lists(st.text("ab", max_size=9), max_size=5))
def test_self_bleu_is_the_mean_of_bleu_against_the_others(texts: list[str]) -> None:
    """Catches a text among its own references, the shortcut over two highest counts gone wrong where texts tie."""
    long = [text for text in texts if len(text) >= 4]
    each = [bleu(text, long[:i] + long[i + 1 :]) for i, text in enumerate(long)]
    expected = sum(filter(None, each)) / len(each) if len(each) > 1 else None
    assert self_bleu(texts) == (None if expected is None else pytest.approx(expected))


def test_words() -> None:
    """Catches digits or underscores in words, apostrophes that split them, case, and cut words at a passage's ends."""
    assert words("Thou'rt 'tis NOT_so, 3rd '' élan") == ["thou'rt", "'tis", "not", "so", "rd", "élan"]
    assert whole_words("ow the king's hou") == ["the", "king's"]
    assert whole_words("\nThe king.\n") == ["the", "king"] and whole_words("a b\n") == ["b"]
    assert valid_words(["x the x", "x zzz the x"], {"the"}) == 2 / 3
    assert unique_words(["x the x", "x zzz the x"]) == 2 / 3
    for none in ([], [""], ["uncut"], ["1 2 3"]):
        assert valid_words(none, {"the"}) is None and unique_words(none) is None


def test_shared_windows_by_hand() -> None:
    """Catches repeats within a text counted as shared, different windows counted for all, and too short texts as 0."""
    assert shared_windows(["aaaa", "bbbb"], 2) == 0.0
    assert shared_windows(["abcd", "xbcx"], 2) == 2 / 6  # bc, once in each of two texts of three windows
    assert shared_windows(["aaab", "aacc"], 2) == 3 / 6  # aa, twice and once
    assert shared_windows(["abcabc"] * 3, 3) == 1.0
    assert shared_windows(["abcd"], 2) is None and shared_windows(["abcd", "a"], 2) is None


@given(short_texts.filter(bool))
def test_suffixes_are_in_order(text: str) -> None:
    """Catches an order that breaks off before the ranks are final, or takes the end of the text for a character."""
    assert suffix_order(text).tolist() == sorted(range(len(text)), key=lambda start: text[start:])


@given(short_texts, short_texts.filter(bool))
def test_copied_lengths_are_those_of_brute_force(text: str, source: str) -> None:
    """Catches the longer neighbour missed, and passages at the end of the source."""
    brute = [max(n for n in range(len(text) - i + 1) if text[i : i + n] in source) for i in range(len(text))]
    assert copied_lengths(text, source, suffix_order(source)) == brute


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 30), st.integers(0, 5))
def test_windows_are_disjoint_and_inside(lengths: list[int], slack: int, seed: int) -> None:
    """Catches windows that overlap, or that run over the end, where texts differ in length or fill everything."""
    total = sum(lengths) + slack
    starts = disjoint_starts(total, lengths, np.random.default_rng(seed))
    covered = [i for start, size in zip(starts, lengths, strict=True) for i in range(start, start + size)]
    assert len(set(covered)) == len(covered) and set(covered) <= set(range(total))


def test_copies_of_training_text(reference: CorpusReference) -> None:
    """Catches windows that are one short, a copy rate of texts instead of windows, and copies joined over texts."""
    copy, end = TRAIN[100:300], TRAIN[-40:]
    found = score(reference, [copy, end])
    assert found["copy_rate"] == 1.0 and found["longest_copy"] == 200.0
    half = score(reference, [TRAIN[:41] + "#" * 32])  # windows: 10 copied, 32 not
    assert half["copy_rate"] == pytest.approx(10 / 42) and half["longest_copy"] == 41.0
    assert score(reference, ["#" * 40])["longest_copy"] == 0.0


def test_another_real_text_is_like_real_text(reference: CorpusReference, real: list[Values]) -> None:
    """Catches sides of unequal size: generated figures over another number of characters than those of real text."""
    text = speech(COUNT * LENGTH, seed=3)
    texts = [text[start : start + LENGTH] for start in range(0, len(text), LENGTH)]
    assert unlike_real_text(score(reference, texts), real, MARGINS) == []
    assert all(value is not None for figures in real for value in figures.values())


def test_divergence_of_hand_made_halves() -> None:
    """Catches a sample of real text from the half that it is compared with, words valid by their own half, and texts
    compared with one half only."""
    reference = CorpusReference("train", " aaaa aaaa" * 4 + " bbbb bbbb" * 4, draws=2)
    for draw in (0, 1):
        floor = real_text(reference, [40], draw)
        assert floor["js_3"] == pytest.approx(1.0) and floor["valid_words"] == 0.0
    found = score(reference, [" aaaa aaaa" * 4])  # itself at one draw, disjoint at the other
    assert found["js_3"] == pytest.approx(0.5) and found["valid_words"] == 1.0


def test_only_what_fits_is_compared(reference: CorpusReference) -> None:
    """Catches more generated text than there is to compare with, which would lower its divergence only."""
    assert reference.fitting([3000, 5000, 1]) == 2 and reference.fitting([8001, 1]) == 0
    texts = [TRAIN[:3000], TRAIN[3000:8000]]
    assert score(reference, [*texts, "#" * 50]) == score(reference, texts)
    long = score(reference, [TRAIN[:8001]])
    assert long["js_3"] is None and long["held_out_bleu"] is None and long["copy_rate"] == 1.0
    assert set(real_text(reference, [8001]).values()) == {None}


def test_figures_repeat_themselves(reference: CorpusReference, real: list[Values]) -> None:
    """Catches windows that are drawn anew at every call, and draws that are all the same."""
    assert real_text(reference, [LENGTH] * COUNT, 0) == real[0] and real[0]["js_3"] != real[2]["js_3"]
    assert all(tuple(figures) == tuple(real[0]) for figures in (*real, score(reference, ["abc"])))


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["ab", "1"]], ids=repr)
def test_nothing_to_measure_is_none(reference: CorpusReference, texts: list[str]) -> None:
    """Catches zeros, NaN or a division by zero for texts that are empty or shorter than any n-gram."""
    found = score(reference, texts)
    longest = found.pop("longest_copy")
    assert set(found.values()) == {None} and longest == (2.0 if "ab" in texts else None)


def test_bad_input_is_refused() -> None:
    """Catches an index of nothing, and windows of no characters, which all texts share."""
    with pytest.raises(ValueError, match="empty training text"):
        CorpusReference("", "held out")
    with pytest.raises(ValueError, match="window=0 and draws=8"):
        CorpusReference("train", "held out", window=0)
