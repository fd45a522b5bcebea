"""Text statistics against another program's values, and in closed form."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.metrics.text import character_entropy, distinct_n, mask_ratio, repeat_ratio
from tests.algorithms.common.metrics.measured import of_texts
from tests.golden.values import FOLDER

GOLDEN = json.loads((FOLDER / "text_metrics.json").read_text(encoding="utf-8"))
NAMES = {  # ours -> the other program's
    "text_length": "text_len",
    "distinct_2": "distinct_2",
    "distinct_3": "distinct_3",
    "repeat_ratio": "repeat_char_ratio",
    "mask_ratio": "underscore_ratio",
    "character_entropy": "char_entropy",
}


@pytest.mark.parametrize("record", GOLDEN, ids=lambda record: repr(record["text"][:10]))
def test_values_of_another_program(record: dict) -> None:
    """Catches another denominator (n for n - 1 pairs), words for characters, nats for bits, NaN for an empty text."""
    ours = of_texts([record["text"]])
    for name, other in NAMES.items():
        assert ours[name] == pytest.approx(record[other], rel=1e-13, abs=0), name


def test_closed_forms() -> None:
    """Catches a wrong base of the logarithm, and n-grams cut at the wrong end."""
    assert character_entropy("abcd" * 8) == 2.0 and character_entropy("aaaa") == 0.0
    assert distinct_n("abab", 1) == 0.5 and distinct_n("abab", 2) == 2 / 3 and distinct_n("abab", 4) == 1.0
    assert distinct_n("abab", 5) == 0.0
    assert repeat_ratio("aaaa") == 1.0 and repeat_ratio("abab") == 0.0
    assert mask_ratio("a?b?", "?") == 0.5 and mask_ratio("a_bc") == 0.25


def test_an_n_of_nothing_is_refused() -> None:
    """Catches n = 0, which would count empty strings."""
    with pytest.raises(ValueError, match="n=0"):
        distinct_n("abc", 0)


@given(st.text(max_size=40))
def test_ranges(text: str) -> None:
    """Catches a share outside [0, 1], or an entropy above that of the alphabet that the text uses."""
    found = of_texts([text])
    entropy, length = found.pop("character_entropy"), found.pop("text_length")
    assert all(0.0 <= value <= 1.0 for value in found.values()) and length == len(text)
    assert 0.0 <= entropy <= math.log2(max(1, len(set(text)))) + 1e-9


def test_metrics_of_a_text_are_means_over_texts() -> None:
    """Catches texts joined into one, single precision, and a text without characters that is left out."""
    texts = ["abab", "", "aa_", "the king's men"]
    each = [of_texts([text]) for text in texts]
    expected = {name: math.fsum(one[name] or 0.0 for one in each) / 4 for name in each[0]}
    assert of_texts(texts) == pytest.approx(expected, rel=1e-15)


def test_metrics_of_no_text_are_none() -> None:
    """Catches zeros for what was not measured."""
    found = of_texts([])
    assert found and set(found.values()) == {None}
