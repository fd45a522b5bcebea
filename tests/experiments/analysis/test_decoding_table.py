"""Rows of a decoding sweep on disk, and the table made of them."""

from pathlib import Path

import pytest

from experiments.analysis import decoding_table as table

SHARED = {"n_samples": 2, "length": 8, "prompt": 'a,"b"\n', "weights": "w0", "judge": None}


def row(setting: str, seed: int, **figures: float) -> table.Row:
    own = {
        "method": "gpt",
        "setting": setting,
        "options": {"top_k": None},
        "decoder": {"name": setting, "top_k": None},
        "seed": seed,
    }
    if setting == table.HELD_OUT:
        own |= {"method": table.REAL, "options": None, "decoder": None}
    return dict.fromkeys(table.COLUMNS) | own | SHARED | figures


ROWS = [
    row("b", 0, seconds=1.0, distinct_2=0.5, steps=8),
    row(table.HELD_OUT, 0, distinct_2=0.8),
    row("a", 0, seconds=0.1 + 0.2),
    row("b", 1, seconds=2.0, distinct_2=0.5),
    row("b", 2, seconds=3.0),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Catches a float that loses digits, a blank that becomes 0 or "", and a prompt that breaks its line."""
    path = tmp_path / "results.csv"
    path.write_bytes(table.write_rows(ROWS, header=True).encode())
    found = table.read_rows(path)
    assert found == ROWS
    assert [type(value) for value in found[0].values()] == [type(value) for value in ROWS[0].values()]
    assert table.read_rows(tmp_path / "none.csv") == []


def test_a_row_cut_anywhere_is_left_out(tmp_path: Path) -> None:
    """Catches half a row that counts as done, above all one cut inside its last number."""
    path, whole = tmp_path / "results.csv", table.write_rows(ROWS[:2], header=True)
    start = len(table.write_rows(ROWS[:1], header=True))
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end].encode())
        assert table.read_rows(path) == ROWS[:1], repr(whole[start:end])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("job,overrides\n0,seed=0\n", "other columns than those of a decoding sweep, it is of something else"),
        (
            "setting,seed\na,0\n",
            "other columns than those of a decoding sweep, it is of another version of this schema",
        ),
        ("", "other columns"),
        (table.write_rows(ROWS[:1], header=True).replace("1.0", "one"), "column 'seconds' holds 'one'"),
        (table.write_rows(ROWS[:1], header=True) + "x,y\n" + table.write_rows(ROWS[:1]), "other columns"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    """Catches the table of something else that is read as a sweep, and then overwritten."""
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        table.read_rows(path)


def test_means_over_seeds() -> None:
    """Catches the population's deviation, one of two seeds, real text ranked first, and missing figures read as 0."""
    b, a, real = table.aggregate(ROWS)
    assert [group["setting"] for group in (b, a, real)] == ["b", "a", table.HELD_OUT]
    assert b["seconds"] == table.Spread(2.0, 1.0, 3) and b["seeds"] == [0, 1, 2]
    assert b["distinct_2"] == table.Spread(0.5, None, 2)
    assert a["distinct_2"] is None and real["seconds"] is None and b["judge_nll"] is None


@pytest.mark.parametrize("name", ["weights", "length", "prompt", "judge", "n_samples", "decoder"])
def test_unlike_rows_are_never_averaged(name: str) -> None:
    """Catches figures of two models, lengths or judges under one setting's mean."""
    other = ROWS[3] | {name: {"top_k": 3} if name == "decoder" else 99}
    assert [len(group["seeds"]) for group in table.aggregate([ROWS[0], other])] == [1, 1]
    assert table.identity(ROWS[3]) != table.identity(other)


def test_the_table_leaves_blank_what_is_missing() -> None:
    """Catches a column out of line, a zero for nothing, a spread of fewer than three seeds, and a front of none."""
    lines = table.markdown_table(table.aggregate(ROWS)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1
    assert cells[0][:4] == ["setting", "seeds", "tokens/forward", "seconds"]
    assert cells[2] == ["b", "3", "", "2.00 ± 1.00", "", "0.500", *[""] * 5, "distinct-2"]
    assert cells[4] == [table.HELD_OUT, "1", "", "", "", "0.800", *[""] * 6]
    assert cells[0][-1] == "front" and cells[3][-1] == ""


def test_every_figure_of_a_text_has_its_column() -> None:
    """Catches a figure that is computed and then dropped, or a column that nothing fills."""
    from algorithms.common.metrics.corpus import FIGURES
    from algorithms.common.metrics.text import text_statistics

    assert {*text_statistics("a"), *FIGURES, "judge_nll", "judge_gap", "judge_text_sd", "mauve"} == set(table.QUALITY)
