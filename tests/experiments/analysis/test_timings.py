"""Timings of equal texts: what is chance ranks nobody."""

import pytest

from experiments.analysis import decoding_table as table
from experiments.analysis import paired, pareto, sweep_pages, timings


def rows(setting: str, seconds: list[float], judge: float = 2.0, forwards: int = 8) -> list[table.Row]:
    """A setting's rows, of texts that the judge tells from others'."""
    shared = {"method": "m", "setting": setting, "n_samples": 2, "length": 8, "prompt": "", "judge": "j"}
    return [
        dict.fromkeys(table.COLUMNS)
        | shared
        | {"seed": seed, "options": {}, "decoder": {"name": setting}, "forwards": forwards, "judge_nll": judge}
        | {"seconds": second, "tokens_per_second": 16 / second, "tokens_per_forward": 1.0, "distinct_2": 0.5}
        for seed, second in enumerate(seconds)
    ]


NOISY, FASTER = rows("a", [1.0, 1.2, 1.1]), rows("b", [0.99, 1.19, 1.09])
CACHED = rows("cached", [0.2, 0.21, 0.22])


def test_equal_texts_share_a_front_unless_their_times_are_clearly_apart() -> None:
    """Catches a setting that is beaten by its own twin, and a cache that is called noise."""
    groups = table.aggregate([*NOISY, *FASTER])
    assert pareto.fronts(groups) == [["speed", "judge"]] * 2
    groups = table.aggregate([*NOISY, *FASTER, *CACHED])
    assert pareto.fronts(groups) == [[], [], ["speed", "judge"]]
    single = table.aggregate([NOISY[0], CACHED[0]])
    assert pareto.fronts(single) == [["speed", "judge"]] * 2  # of one timing nobody knows how it varies


def test_other_texts_or_forwards_are_ranked_as_they_are() -> None:
    """Catches settings that are evened although what they do differs."""
    groups = table.aggregate([*NOISY, *rows("b", [0.99, 1.19, 1.09], forwards=7), *rows("c", [1.05] * 3, judge=1.9)])
    assert timings.evened(groups) == groups and timings.equals(groups) == []


@pytest.mark.parametrize(("other", "said"), [(FASTER, paired.SAME_TEXTS), (CACHED, "B is faster")])
def test_nobody_is_called_faster_by_chance(other: list[table.Row], said: str) -> None:
    """Catches a claim from three timings of the same texts that happen to lie on one side."""
    assert paired.compare(NOISY, other)["claims"]["seconds"] == said


def test_lists_keep_equal_texts_in_their_order_and_say_so() -> None:
    """Catches a list that puts one of two equal settings first because it was timed in a quiet moment."""
    page = sweep_pages.pareto_page(table.aggregate([*NOISY, *FASTER]), ["a", "b"])
    fastest = page.partition("## Fastest")[2].partition("##")[0]
    assert fastest.index("| a ") < fastest.index("| b ")
    assert "## The same texts" in page and "- a, b\n" in page
