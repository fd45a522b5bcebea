"""Pareto fronts of aggregated rows."""

from hypothesis import given
from hypothesis import strategies as st

from experiments.analysis.decoding_table import Row, Spread
from experiments.analysis.metrics import BY_KEY
from experiments.analysis.pareto import fronts, undominated

SHARED = {"n_samples": 2, "length": 8, "prompt": "", "judge": None}


def group(per_second: float | None = None, per_forward: float | None = None, **others: float | str | int) -> Row:
    figures = {"tokens_per_second": per_second, "tokens_per_forward": per_forward}
    figures |= {name: value for name, value in others.items() if name in BY_KEY}
    spreads = {name: None if value is None else Spread(value, None, 1) for name, value in figures.items()}
    shared = {name: others.get(name, value) for name, value in SHARED.items()}
    return dict.fromkeys(BY_KEY) | shared | spreads


def test_fronts_of_hand_made_rows() -> None:
    """Catches a direction turned round, a missing figure read as 0, and a likelihood asked of rows without a judge."""
    rows = [
        group(10, 1, seconds=4, distinct_2=0.9),
        group(20, 2, seconds=2, distinct_2=0.5),
        group(20, 1, seconds=2, distinct_2=0.4),
        group(5, 4, seconds=8, distinct_2=0.8),
        group(30, None, seconds=1),
        group(distinct_2=0.95),  # real text
    ]
    assert fronts(rows) == [["distinct-2"], ["speed", "distinct-2"], [], ["speed"], [], []]
    judged = [
        group(1, 1, seconds=1, judge_nll=2.0, distinct_2=0.1, judge="j"),
        group(1, 1, seconds=2, judge_nll=2.0, distinct_2=0.9, judge="j"),
        group(1, 1, seconds=3, judge_nll=1.5, distinct_2=0.1, judge="j"),
        group(1, 1, seconds=0.5, judge_nll=float("nan"), judge="j"),
    ]
    assert fronts(judged) == [["speed", "judge"], ["speed"], ["speed", "judge"], ["speed"]]


def test_unlike_rows_share_no_front() -> None:
    """Catches a short sample that beats a long one by being short."""
    rows = [group(1, 1, seconds=9, distinct_2=0.1), group(2, 2, seconds=1, distinct_2=0.9, length=4)]
    assert fronts(rows) == [["speed", "distinct-2"]] * 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_a_front_is_never_empty_and_beats_the_rest(points: list[tuple[int, int]]) -> None:
    """Catches equal points that drive each other out, and a point left out that nothing on the front beats."""
    on = undominated(points)
    front = {p for p, there in zip(points, on, strict=True) if there}
    assert front and all((p in front) == there for p, there in zip(points, on, strict=True))
    for p in set(points) - front:
        assert any(q[0] >= p[0] and q[1] >= p[1] for q in front)
    assert all(q == p or q[0] > p[0] or q[1] > p[1] for p in front for q in front)
