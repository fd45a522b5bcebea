"""Rows of a decoding sweep on disk, and the table made of them."""

import csv
import io
from pathlib import Path

import pytest

from experiments.analysis import decoding_table as table
from experiments.evaluation.records import DecodingRecords

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
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        table.read_rows(path)


def test_an_option_that_decoders_did_not_have_tells_no_rows_apart() -> None:
    """Catches a stopped sweep of an earlier version that is measured once more, or averaged apart from its rest."""
    old, new = row("b", 0, seconds=1.0), row("b", 1, seconds=3.0)
    new["decoder"] = old["decoder"] | {"top_p": None}
    assert table.identity(old) == table.identity(new | {"seed": 0})
    assert table.identity(old) != table.identity(old | {"decoder": old["decoder"] | {"top_p": 0.5}})
    assert [group["seeds"] for group in table.aggregate([old, new])] == [[0, 1]]


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
    assert cells[0][:4] == ["setting", "seeds", "seconds", "tokens/forward"]
    b, real = ({name: cell for name, cell in zip(cells[0], row, strict=True) if cell} for row in (cells[2], cells[4]))
    assert b == {"setting": "b", "seeds": "3", "seconds": "2.00 ± 1.00", "distinct-2": "0.500", "front": "distinct-2"}
    assert real == {"setting": table.HELD_OUT, "seeds": "1", "distinct-2": "0.800"}
    assert cells[0][-1] == "front" and cells[3][-1] == ""


def test_a_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Catches a file refused for a metric that it did not know, which then was not measured, and blanks read as 0."""
    path = tmp_path / "results.csv"
    lines = list(csv.reader(io.StringIO(table.write_rows(ROWS, header=True), newline="")))
    out = lines[0].index("distinct_2")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(line[:out] + line[out + 1 :] for line in lines)
    assert table.read_rows(path) == [row | {"distinct_2": None} for row in ROWS]
    assert table.aggregate(table.read_rows(path))[0]["seconds"] == table.Spread(2.0, 1.0, 3)


def test_unknown_columns_are_named_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a newer file that is refused, and measurements lost where an older version goes on with its sweep."""
    path = tmp_path / "results.csv"
    newer = [row | {"wit": "0.5", "charm": ""} for row in ROWS]
    path.write_bytes(table.write_rows(newer, [*table.COLUMNS, "wit", "charm"], header=True).encode())
    rows = table.read_rows(path)
    assert [row["wit"] for row in rows] == ["0.5"] * len(ROWS) and rows[0]["seconds"] == 1.0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not known here, which are left alone: wit, charm" in said
    records = DecodingRecords(tmp_path)
    records.begin()
    records.add(row("c", 0, seconds=4.0), [], [], [])
    assert [row["wit"] for row in table.read_rows(path)] == ["0.5"] * len(ROWS) + [None]


def test_trainings_of_a_method_are_one_setting_and_other_weights_are_not() -> None:
    """Catches a mean over rows where trainings have unequal numbers of them, and weights averaged that nobody told
    apart."""
    seed = table.TRAINING_SEED
    rows = [row("a", 0, distinct_2=0.1) | {seed: 0}, row("a", 1, distinct_2=0.3) | {seed: 0}]
    rows.append(row("a", 0, distinct_2=0.6) | {seed: 1, "weights": "w1"})
    (group,) = table.aggregate(rows)
    assert group["distinct_2"].mean == pytest.approx(0.4) and group["distinct_2"].seeds == 2
    assert (group["seeds"], group["training_seeds"]) == ([0, 1], [0, 1])
    assert "training seeds" in table.markdown_table([group]).split("\n")[0]
    assert len(table.aggregate([one | {seed: None} for one in rows])) == 2
