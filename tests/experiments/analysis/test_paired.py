"""Two settings compared over seeds: intervals, claims and wins."""

import json
import re
import warnings

import numpy as np
import pytest

from experiments.analysis import decoding_table as table
from experiments.analysis import paired


def row(setting: str, seed: int, **figures: float) -> table.Row:
    own = {"setting": setting, "seed": seed, "options": {}, "decoder": {"name": setting}}
    return dict.fromkeys(table.COLUMNS) | own | figures


REAL = [
    row(table.HELD_OUT, seed, distinct_2=0.6, distinct_3=0.75, repeat_ratio=0.02 + 0.01 * seed, mask_ratio=0.0)
    for seed in (0, 2)
]


@pytest.mark.parametrize("constant", [0.1, 0.0, -3.3, 1e-7])
@pytest.mark.parametrize("count", [3, 7])
def test_a_constant_difference_is_its_own_interval(constant: float, count: int) -> None:
    """Catches rounding that makes a difference of none, or of one that is certain an interval."""
    assert paired.bootstrap_interval([constant] * count) == (constant, constant)


def test_intervals_are_those_of_the_bootstrap() -> None:
    """Catches quantiles of the differences for those of their mean, another level, and an interval that changes."""
    assert paired.bootstrap_interval([1.0, 2.0]) is None and paired.bootstrap_interval([]) is None
    differences = np.random.default_rng(3).normal(1.0, 2.0, size=200)
    low, high = paired.bootstrap_interval(differences.tolist()) or (0.0, 0.0)
    half = 1.96 * differences.std() / 200**0.5
    assert low == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(differences.mean() + half, abs=0.1 * half)
    assert paired.bootstrap_interval(differences.tolist()) == (low, high)
    assert paired.bootstrap_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)  # as the text beside it says


def test_differences_are_paired_by_seed() -> None:
    """Catches rows paired by their place, A - B for B - A, and a missing figure that counts as 0."""
    a = [row("a", seed, seconds=10.0 * seed, judge_nll=1.0) for seed in (1, 2, 3)]
    b = [row("b", seed, seconds=10.0 * seed - 1.0) for seed in (3, 2, 1, 9)]
    compared = paired.compare(a, b)
    assert compared["figures"]["seconds"]["difference"] == {"mean": -1.0, "low": -1.0, "high": -1.0, "seeds": 3}
    assert compared["figures"]["seconds"]["a"] == {"mean": 20.0, "sd": 10.0, "seeds": 3}
    judged = compared["figures"]["judge_nll"]
    assert judged["a"]["mean"] == 1.0 and judged["b"] is judged["difference"] is judged["real_text"] is None
    assert [seed["seed"] for seed in compared["wins"]["seeds"]] == [1, 2, 3]
    assert json.loads(json.dumps(compared)) == compared


@pytest.mark.parametrize(
    ("name", "differences", "said"),
    [
        ("seconds", [-1.0, -2.0, -1.5], "B is faster"),
        ("seconds", [1.0, 2.0, 1.5], "A is faster"),
        ("forwards", [4, 4, 4], "A needs fewer forwards"),
        ("tokens_per_forward", [0.5, 0.1, 0.2], "B decodes more tokens per forward"),
        ("tokens_per_forward", [-0.5, -0.1, -0.2], "A decodes more tokens per forward"),
        ("seconds", [-1.0, 0.5, -1.5], paired.NO_DIFFERENCE),
        ("forwards", [0, 0, 0], paired.NO_DIFFERENCE),
        ("seconds", [-1.0, -2.0], paired.TOO_FEW),
        ("seconds", [], None),
    ],
)
def test_only_what_the_interval_allows_is_claimed(name: str, differences: list[float], said: str | None) -> None:
    """Catches a claim turned round, one that noise makes, one of two seeds, and one of a figure that is missing."""
    a = [row("a", seed, **({name: 5.0} if differences else {})) for seed in range(max(1, len(differences)))]
    b = [row("b", seed, **{name: 5.0 + gap}) for seed, gap in enumerate(differences)] or [row("b", 0)]
    assert paired.compare(a, b)["claims"][name] == said


def test_wins_counted_by_hand() -> None:
    """Catches a direction turned round, ties and missing figures that give points, and a majority of all figures."""
    a = [
        row("a", 0, judge_nll=2.0, distinct_2=0.5, distinct_3=0.9, repeat_ratio=0.01, mask_ratio=0.0, text_length=9),
        row("a", 1, judge_nll=2.0, distinct_2=0.5, repeat_ratio=0.05),
        row("a", 2, distinct_2=0.5),
    ]
    b = [
        row("b", 0, judge_nll=1.9, distinct_2=0.4, distinct_3=0.7, repeat_ratio=0.04, mask_ratio=0.0, text_length=8),
        row("b", 1, judge_nll=2.0, distinct_2=0.4, repeat_ratio=0.02),
        row("b", 2, distinct_2=0.5),
    ]
    # Real text: distinct-2 0.6, which more diversity is nearer to; distinct-3 0.75, which less is; repeat ratio 0.03.
    wins = paired.compare(a, b, REAL)["wins"]
    first, second, third = wins["seeds"]
    none = dict.fromkeys(paired.POINTS)
    assert first["points"] == none | {
        **{"judge_nll": "B", "distinct_2": "A", "distinct_3": "B"},
        **{"repeat_ratio": "B", "mask_ratio": "tie"},
    }
    assert (first["A"], first["B"], first["winner"]) == (1, 3, "B")
    assert second["points"] == none | {"judge_nll": "tie", "distinct_2": "A", "repeat_ratio": "B"}
    assert (second["A"], second["B"], second["winner"]) == (1, 1, "tie")
    assert third["points"] == none | {"distinct_2": "tie"} and third["winner"] == "tie"
    assert wins["won"] == {"A": 0, "B": 1, "tie": 2}
    without = paired.compare(a, b)["wins"]["seeds"][0]["points"]
    assert all(without[name] is None for name in ("repeat_ratio", "mask_ratio", "distinct_2", "distinct_3"))
    assert without["judge_nll"] == "B"


def test_the_page_says_what_was_found() -> None:
    """Catches a zero for what is missing, a column of another setting, and a comparison that hides what it counts."""
    a = [row("one", seed, seconds=4.0 + seed, distinct_2=0.5, steps=500 * seed) for seed in range(3)]
    b = [row("two", seed, seconds=2.0 + seed, distinct_2=0.5) for seed in range(3)]
    page = paired.markdown(paired.compare(a, b, REAL))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert page.startswith("A: one  \nB: two\n")
    assert cells[2] == ["seconds", "5 ± 1", "3 ± 1", "", "-2", "-2 to -2"]
    assert cells[3] == ["steps", "500 ± 500", "", "", "", ""]
    assert cells[4] == ["distinct_2", "0.5 ± 0", "0.5 ± 0", "0.6", "+0", "+0 to +0"]
    assert [line[0] for line in cells[5:8]] == ["distinct_3", "repeat_ratio", "mask_ratio"]  # real text's alone
    assert "seconds: B is faster" in page and "forwards:" not in page and "judge_nll lower" in page
    few = paired.markdown(paired.compare(a[:2], b[:2]))
    assert re.search(r"\| seconds +\| 4.5 +\| 2.5 +\| +\| -2 +\| +\|", few) and paired.TOO_FEW in few


def test_differences_across_trainings_are_paired_or_welchs() -> None:
    """Catches A - B for B - A, seeds that are paired by their place, equal variances, and an interval of two values."""
    a, b = {0: 1.0, 1: 2.0, 2: 3.0}, {2: 3.6, 0: 1.4, 1: 2.5}
    half = 4.302653 * 0.1 / 3**0.5
    mean, interval = paired.across_trainings(a, b)
    assert mean == pytest.approx(0.5) and interval == pytest.approx((0.5 - half, 0.5 + half))
    mean, interval = paired.across_trainings(a, {5: 1.4, 6: 2.5, 7: 3.6})
    error = ((1.0 + 1.1**2) / 3) ** 0.5  # with (1 + 1.21)² / (1 + 1.21²) * 2 degrees of freedom: 3.96
    assert mean == pytest.approx(0.5) and interval == pytest.approx(
        (0.5 - 2.787 * error, 0.5 + 2.787 * error), abs=2e-3
    )
    assert paired.across_trainings({0: 1.0, 1: 2.0}, a)[1] is None
    assert paired.across_trainings({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})[1] is None
    assert paired.across_trainings(a, b, paired=False)[1] == paired.across_trainings(a, {9: 3.6, 8: 1.4, 7: 2.5})[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paired.across_trainings({3: 1.0, 4: 1.0, 5: 1.0}, a)[1] is not None
    assert paired.across_trainings({3: 1.0, 4: 1.0, 5: 1.0}, {0: 2.0, 1: 2.0, 2: 2.0}) == (1.0, (1.0, 1.0))


def test_the_interval_over_trainings_covers_the_mean_as_often_as_it_says() -> None:
    """Catches a normal or a bootstrap interval, which of three values holds the mean in 80 % or fewer of all cases."""
    drawn = np.random.default_rng(0).normal(size=(1500, 3))
    held = [low <= 0 <= high for low, high in map(paired.t_interval, drawn.tolist())]
    assert np.mean(held) == pytest.approx(paired.LEVEL, abs=0.02)
