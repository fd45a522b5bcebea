"""Which figures of a set of texts are unlike real text: none of real text, and those that samplers which cheat have."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from algorithms.common.metrics.adversaries import CONTROLS
from algorithms.common.metrics.corpus import CorpusReference, deviations, unlike_real_text
from tests.algorithms.common.metrics.made_up import speech
from tests.algorithms.common.metrics.measured import MARGINS, Values, of_texts, real_text, score

COUNT, LENGTH, DRAWS = 12, 200, 16
LENGTHS = [LENGTH] * COUNT
TRAIN = speech(40_000, seed=1)


@pytest.fixture(scope="module")
def reference() -> CorpusReference:
    return CorpusReference(TRAIN, speech(16_000, seed=2), draws=4)


@pytest.fixture(scope="module")
def real(reference: CorpusReference) -> list[Values]:
    return [real_row(reference, draw) for draw in range(DRAWS)]


def real_row(reference: CorpusReference, draw: int) -> Values:
    return of_texts(reference.sample(LENGTHS, draw)) | real_text(reference, LENGTHS, draw)


def row(reference: CorpusReference, texts: list[str]) -> Values:
    return of_texts(texts) | score(reference, texts)


def cold_model(train_text: str, count: int, length: int, temperature: float, order: int = 4) -> list[str]:
    """A model of the next character given `order` others, as a GPT is, sampled at a temperature."""
    following: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(len(train_text) - order):
        following[train_text[i : i + order]][train_text[i + order]] += 1
    random = np.random.default_rng(0)
    texts = []
    for start in random.integers(len(train_text) - order, size=count):
        text = train_text[start : start + order]
        while len(text) < length + order:
            counts = following[text[-order:]] or Counter(" ")
            weights = np.array(list(counts.values()), dtype=float) ** (1 / temperature)
            text += random.choice(list(counts), p=weights / weights.sum())
        texts.append(text[order:])
    return texts


def test_a_deviation_needs_a_clear_margin() -> None:
    """Catches flags at the edge of the range, on one side only, called by the wrong side, or for what was not
    measured."""
    margins = MARGINS | {"x": 0.02, "y": 0.02}
    draws: list[Values] = [{"js_3": 0.4, "longest_copy": 20.0, "x": 0.1}, {"js_3": 0.5, "longest_copy": 24.0}]
    assert deviations({"js_3": 0.59, "longest_copy": 40.0, "x": None, "y": 1.0}, draws, margins) == {}
    found = {"js_3": 0.61, "longest_copy": 41.0, "x": 0.07}
    assert deviations(found, draws, margins) == {"js_3": "high", "longest_copy": "high", "x": "low"}
    assert unlike_real_text(found, draws, margins) == ["js_3", "longest_copy", "x"]
    assert (
        deviations({"js_3": 0.29}, draws, margins) == {"js_3": "low"} and deviations({"js_3": 0.29}, [], MARGINS) == {}
    )


def test_a_judge_may_be_pleased_too_much() -> None:
    """Catches a likelihood above real text's that counts as good, and nats measured on the scale of shares only."""
    draws: list[Values] = [{"judge_nll": 1.7, "mask_ratio": 0.0}, {"judge_nll": 1.9, "mask_ratio": 0.0}]
    assert deviations({"judge_nll": 1.55, "mask_ratio": 0.01}, draws, MARGINS) == {}
    assert deviations({"judge_nll": 1.4, "mask_ratio": 0.03}, draws, MARGINS) == {
        "judge_nll": "low",
        "mask_ratio": "high",
    }
    assert deviations({"judge_nll": 2.2}, draws, MARGINS) == {"judge_nll": "high"}


def test_real_text_is_not_flagged(reference: CorpusReference, real: list[Values]) -> None:
    """Catches margins that ordinary chance exceeds, sides of unequal size, and draws that are no samples of the same:
    of 20 sets of held-out text and 5 from elsewhere, 18 metrics or more each, one stands out."""
    fresh = [real_row(reference, 100 + draw) for draw in range(20)]
    for seed in range(5):
        text = speech(COUNT * LENGTH, seed=50 + seed)
        fresh.append(row(reference, [text[start : start + LENGTH] for start in range(0, len(text), LENGTH)]))
    assert sum(len(deviations(figures, real, MARGINS)) for figures in fresh) <= 1
    assert sum(len(figures) for figures in fresh) == 25 * len(fresh[0]) >= 25 * 18


@pytest.mark.parametrize(
    ("name", "by"),
    [
        (
            "unigram noise",
            {"js_3": "high", "js_5": "high", "valid_words": "low", "self_bleu": "low", "held_out_bleu": "low"},
        ),
        ("tiled phrase", {"distinct_4": "low", "self_bleu": "high", "unique_words": "low", "shared_windows": "high"}),
        ("tiled phrases", {"distinct_4": "low", "js_4": "high", "unique_words": "low", "held_out_bleu": "low"}),
        ("training copier", {"copy_rate": "high", "longest_copy": "high"}),
    ],
)
def test_samplers_without_a_model_are_flagged(
    name: str, by: dict[str, str], reference: CorpusReference, real: list[Values]
) -> None:
    """Catches a figure that no longer tells these texts from real ones."""
    texts = CONTROLS[name](TRAIN, COUNT, LENGTH, 0)
    assert [len(text) for text in texts] == LENGTHS and texts != CONTROLS[name](TRAIN, COUNT, LENGTH, 1)
    assert by.items() <= deviations(row(reference, texts), real, MARGINS).items()


def test_every_control_is_expected_to_be_flagged() -> None:
    """Catches a control added to the framework, and not to the test above."""
    marks = test_samplers_without_a_model_are_flagged.pytestmark
    assert {name for name, _ in marks[0].args[1]} == CONTROLS.keys()


def test_a_low_temperature_is_flagged(reference: CorpusReference, real: list[Values]) -> None:
    """Catches figures that all reward what a model finds likely: at temperature 0.2 texts are fluent and alike, and
    none of what tells is a judge's."""
    found = deviations(row(reference, cold_model(TRAIN, COUNT, LENGTH, temperature=0.2)), real, MARGINS)
    assert {"self_bleu": "high", "shared_windows": "high", "unique_words": "low"}.items() <= found.items()
    warm = deviations(row(reference, cold_model(TRAIN, COUNT, LENGTH, temperature=1.0)), real, MARGINS)
    assert not warm.keys() & {"self_bleu", "shared_windows", "unique_words"}


def test_noise_and_copies_sit_at_the_ends(reference: CorpusReference) -> None:
    """Catches figures on another scale than documented: noise shares next to no n-gram and no word with real text."""
    noise, tiled, copied = (
        score(reference, CONTROLS[name](TRAIN, COUNT, LENGTH, 0))
        for name in ("unigram noise", "tiled phrase", "training copier")
    )
    assert noise["js_5"] > 0.95 and noise["valid_words"] < 0.4 and noise["copy_rate"] == 0.0
    assert tiled["shared_windows"] == 1.0 and tiled["self_bleu"] > 0.99
    assert copied["longest_copy"] == LENGTH and copied["copy_rate"] == 1.0


@pytest.mark.parametrize(("name", "size"), [("training copier", 9), ("tiled phrase", 40), ("tiled phrases", 40)])
def test_too_short_a_training_text_is_refused(name: str, size: int) -> None:
    """Catches a passage cut short, and NumPy's own words for it."""
    with pytest.raises(ValueError, match=f"the training text has 8 characters, too few to copy {size}: ask for less"):
        CONTROLS[name]("a" * 8, 2, 9, 0)
