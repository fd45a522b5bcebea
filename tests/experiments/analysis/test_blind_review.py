"""Blind reviews: what is on the sheet, what the key says of it, and what a filled sheet says of the arms."""

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.analysis import blind_review as review
from experiments.analysis import decoding_table as table
from experiments.analysis.blind_score import COLUMNS, KEY_COLUMNS, read_sheet, score

A, B = ("masked", "threshold"), ("flow", "threshold")
NASTY = ['a;"b"\r\n,c', "</script>\n=1+1", "", " é \r", "\ufeffx\ty'\n\n", "{{DATA}} &amp; \\n", "\x00\u2028", '"']
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def run_folder(folder: Path, arms: dict[tuple[str, str], list[str]], done: bool = True, **others: Any) -> Path:
    """A run whose arms wrote two texts at each seed: text i has the sampling seed i."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"n_samples": 2, "length": 8, "prompt": "ROMEO:\n", "weights": "w", "judge": None} | others
    rows, records = [], []
    for (method, setting), texts in arms.items():
        for start in range(0, len(texts), 2):
            own = {"method": method, "setting": setting, "decoder": {"name": setting}, "seed": start // 2}
            row = dict.fromkeys(table.COLUMNS) | {"options": {}} | own | shared
            rows.append(row)
            origins = list(range(start, start + len(texts[start : start + 2])))
            record = {name: row[name] for name in (*table.IDENTITY, table.TRAINING_SEED)}
            records.append(record | {"origins": origins, "texts": texts[start : start + 2]})
    if done:
        header = not (folder / "results.csv").exists()
        with (folder / "results.csv").open("ab") as file:
            file.write(table.write_rows(rows, header=header).encode())
    with (folder / "samples.jsonl").open("ab") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run", {A: NASTY, B: [f"flow {text}" for text in NASTY]})


def fill(folder: Path, verdicts: list[str], name: str = "filled.csv", **form: Any) -> Path:
    """The sheet of a folder with verdicts, as csv.writer's arguments in `form` would save it."""
    rows = read_sheet(folder / review.SHEET, COLUMNS, "sheet")
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, **form)
    writer.writeheader()
    writer.writerows(row | {"verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True))
    (folder / name).write_bytes(out.getvalue().encode())
    return folder / name


def winners(folder: Path, choose: Callable[[str, str], str]) -> list[str]:
    """Verdicts made from the key: what `choose` says of the sides of each pair."""
    return [choose(row["side_1"], row["side_2"]) for row in read_sheet(folder / review.KEY, KEY_COLUMNS, "key")]


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=7), pairs=st.integers(1, 9), seed=st.integers(0, 9))
def test_the_key_tells_who_wrote_every_text(texts: list[tuple[str, str]], pairs: int, seed: int) -> None:
    """Catches a side named wrongly, texts of unlike seeds in a pair, one used twice, and one that a file altered."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = run_folder(Path(temporary), {A: [a for a, _ in texts], B: [b for _, b in texts]})
        review.write_review(folder, A, B, pairs, seed)
        sheet = read_sheet(folder / review.SHEET, COLUMNS, "sheet")
        key = {row["pair"]: row for row in read_sheet(folder / review.KEY, KEY_COLUMNS, "key")}
        assert len(sheet) == len(key) == min(pairs, len(texts))
        assert len({row["seed"] for row in key.values()}) == len(key)
        for row in sheet:
            known = key[row["pair"]]
            wrote = dict(zip("AB", texts[int(known["seed"])], strict=True))
            assert (row["text_1"], row["text_2"]) == (wrote[known["side_1"]], wrote[known["side_2"]])
            assert {known["side_1"], known["side_2"]} == {"A", "B"} and row["prompt"] == "ROMEO:\n"
            assert row["verdict"] == row["comment"] == ""
            assert (known["method_A"], known["setting_A"], known["method_B"], known["setting_B"]) == (*A, *B)


def test_order_and_sides_are_random_and_balanced() -> None:
    """Catches an arm that stands on one side, pairs in the order of the seeds, and a review that cannot be repeated."""
    a = {("", 8, i): f"a{i}" for i in range(41)}
    b = {("", 8, i): f"b{i}" for i in range(40)} | {("x", 8, 40): "other prompt", ("", 9, 40): "other length"}
    pairs = review.draw_pairs(a, b, None, seed=1)
    first = [pair.sides[0] for pair in pairs]
    assert first.count("A") == first.count("B") == 20 and first != sorted(first) and first != sorted(first)[::-1]
    seeds = [pair.seed for pair in pairs]
    assert sorted(seeds) == list(range(40)) and seeds != sorted(seeds)
    assert review.draw_pairs(a, b, None, seed=1) == pairs != review.draw_pairs(a, b, None, seed=2)
    assert len({pair.sides[0] for seed in range(20) for pair in review.draw_pairs(a, b, 1, seed)}) == 2


def test_the_reader_is_not_told(run: Path) -> None:
    """Catches a sheet or page that names an arm, and a page that loads something or is broken by a text."""
    review.write_review(run, ("masked", "threshold"), B)
    page, sheet = ((run / name).read_text(encoding="utf-8") for name in (review.PAGE, review.SHEET))
    for text in (page.replace("flow ", ""), sheet.replace("flow ", "")):  # the texts of B begin with it
        assert not any(word in text for word in ("masked", "flow:", "threshold", "side_1"))
    assert "http" not in page and "src=" not in page and page.count("</script>") == 2
    data = page.split('type="application/json">')[1].split("</script>")[0]
    assert json.loads(data) == read_sheet(run / review.SHEET, COLUMNS, "sheet")


def test_all_texts_of_an_arm_are_kept(run: Path) -> None:
    """Catches a file of the wrong arm, and two settings of one method in the same file."""
    review.write_review(run, A, B, pairs=1)
    rows = read_sheet(run / "samples_masked.csv", ("seed", "prompt", "text"), "sheet")
    assert [(row["seed"], row["text"]) for row in rows] == [(str(i), text) for i, text in enumerate(NASTY)]
    folder = run_folder(run.parent / "one", {("m", "x"): ["1"], ("m", "y a/b"): ["2"]})
    review.write_review(folder, ("m", "x"), ("m", "y a/b"))
    assert {path.name for path in folder.glob("samples_*")} == {"samples_m_x.csv", "samples_m_y_a_b.csv"}


def test_wins_are_counted_by_the_key(run: Path) -> None:
    """Catches sides that are not looked up, ties that count, and blank rows that are taken for verdicts."""
    review.write_review(run, A, B)
    sides = winners(run, lambda one, _: one)
    verdicts = ["1" if side == "A" else "2" for side in sides]
    verdicts[0], verdicts[1] = "tie", ""
    verdicts[2] = {"1": "2", "2": "1"}[verdicts[2]]
    found = score(fill(run, verdicts), run / review.KEY)
    assert found["A"] == "masked: threshold" and found["B"] == "flow: threshold"
    assert (found["wins_A"], found["wins_B"], found["ties"]) == (5, 1, 1)
    assert (found["pairs"], found["unfilled"]) == (8, 1)
    assert found["share_A"] == 5 / 6 and found["p"] == 14 / 64 and found["low"] < 0.5 < found["high"]
    assert (found["chosen_1"], found["chosen_2"]) == (verdicts.count("1"), verdicts.count("2"))
    text = review.report(found)
    assert "7 of 8 pairs are filled in, 1 are not" in text and "A won 83% of the 6 decided pairs" in text
    nothing = score(run / review.SHEET, run / review.KEY)
    assert nothing["p"] is nothing["low"] is nothing["share_A"] is None and nothing["unfilled"] == 8
    assert "nothing to conclude" in review.report(nothing)


def test_a_sheet_may_come_from_a_spreadsheet(run: Path) -> None:
    """Catches a delimiter, line end, encoding, column order, case or blank row of spreadsheets that is not read."""
    review.write_review(run, A, B)
    verdicts = winners(run, lambda one, _: "1" if one == "A" else "tie")
    right = score(fill(run, verdicts), run / review.KEY)
    assert right["wins_A"] == right["ties"] == 4
    plain = fill(run, verdicts, delimiter=";", lineterminator="\r\n").read_bytes()
    tabs = fill(run, [f" {verdict.upper()} " for verdict in verdicts], delimiter="\t", lineterminator="\r\n")
    utf16 = tabs.read_text(encoding="utf-8").encode("utf-16")
    rows = read_sheet(run / review.SHEET, COLUMNS, "sheet")
    own = [f"{verdict},,{row['pair']}" for row, verdict in zip(rows, verdicts, strict=True)]
    reordered = "\n".join(["verdict,mine, pair ", *own, ",,", ""]).encode()
    for content in (b"\xef\xbb\xbf" + plain, plain.replace("é".encode(), b"\xe9"), utf16, reordered):
        (run / "saved.csv").write_bytes(content)
        assert score(run / "saved.csv", run / review.KEY) == right


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [*rows[:-1], rows[-1] | {"pair": ""}], "that .* does not know"),
        (lambda rows: rows[2:], "lacks 2 of the 8 pairs"),
        (lambda rows: [*rows, rows[0]], "more than once .*-001"),
        (lambda rows: [rows[0] | {"verdict": "left"}, *rows[1:]], "verdicts other than 1, 2, tie: 'left' at .*-001"),
        (lambda rows: [row | {"pair": f"other{i}"} for i, row in enumerate(rows)], "take the key made with it"),
        (lambda rows: [{"pair": row["pair"]} for row in rows], "is not the sheet of a blind review"),
        (lambda rows: [], "is not the sheet of a blind review"),
    ],
)
def test_a_sheet_that_does_not_fit_is_refused(run: Path, change: Any, sentence: str) -> None:
    """Catches wins of a sheet with missing, doubled or foreign rows, and a verdict that is passed over."""
    review.write_review(run, A, B)
    rows = change(read_sheet(run / review.SHEET, COLUMNS, "sheet"))
    with (run / "filled.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=sentence):
        score(run / "filled.csv", run / review.KEY)


def test_keys_that_do_not_fit_are_refused(run: Path) -> None:
    """Catches a sheet scored by the key of another draw, by itself, and by a key whose sides are lost."""
    review.write_review(run, A, B, seed=1)
    other = run_folder(run.parent / "other", {A: NASTY, B: [f"flow {text}" for text in NASTY]})
    review.write_review(other, A, B, seed=2)
    with pytest.raises(ValueError, match="take the key made with it"):
        score(run / review.SHEET, other / review.KEY)
    with pytest.raises(ValueError, match="is not the key of a blind review"):
        score(run / review.SHEET, run / review.SHEET)
    with pytest.raises(FileNotFoundError, match="name the key"):
        score(run / review.SHEET, run / "none.csv")
    damaged = (run / review.KEY).read_text(encoding="utf-8").replace('"B"', '"A"', 1)
    (run / review.KEY).write_text(damaged, encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        score(run / review.SHEET, run / review.KEY)


def test_no_verdict_and_no_key_is_lost(run: Path) -> None:
    """Catches a second review over a filled sheet, or over the key of a sheet that is with its readers."""
    review.write_review(run, A, B)
    key = (run / review.KEY).read_bytes()
    review.write_review(run, A, B)  # the same once more
    with pytest.raises(ValueError, match="belongs to another review"):
        review.write_review(run, A, B, seed=5)
    fill(run, ["", "2", *[""] * 6], name=review.SHEET)
    filled = (run / review.SHEET).read_bytes()
    with pytest.raises(ValueError, match="is filled in"):
        review.write_review(run, A, B)
    assert (run / review.SHEET).read_bytes() == filled and (run / review.KEY).read_bytes() == key


def test_only_texts_that_belong_together_are_paired(tmp_path: Path) -> None:
    """Catches texts of an unfinished row, of real text, or of two models under one name on a sheet."""
    unfinished = run_folder(tmp_path / "unfinished", {A: ["a0", "a1"], B: ["b0", "b1"]})
    run_folder(unfinished, {A: ["-", "-", "a2", "a3"], B: ["-", "-", "b2", "b3"]}, done=False, length=9)
    review.write_review(unfinished, A, B)
    assert len(read_sheet(unfinished / review.SHEET, COLUMNS, "sheet")) == 2
    folder = run_folder(tmp_path / "run", {A: ["a0", "a1"], B: ["b0", "b1"], (table.REAL, table.HELD_OUT): ["r"]})
    with pytest.raises(ValueError, match="has no texts of 'gpt: x': choose among masked: threshold, flow: threshold"):
        review.write_review(folder, A, ("gpt", "x"))
    with pytest.raises(ValueError, match="pairs=0"):
        review.write_review(folder, A, B, pairs=0)
    far = run_folder(tmp_path / "far", {A: ["a"]})
    run_folder(far, {B: ["b"]}, prompt="JULIET:")
    with pytest.raises(ValueError, match="no texts of the same prompt"):
        review.write_review(far, A, B)
    run_folder(folder, {A: ["c0", "c1"]}, weights="other")
    with pytest.raises(ValueError, match="stands for several weights"):
        review.write_review(folder, A, B)
    assert not [*folder.glob("blind_*"), *far.glob("blind_*")]


def test_texts_are_of_the_first_training_by_the_manifest(tmp_path: Path) -> None:
    """Catches a review of a training that the page no longer counts, because its texts were written first."""
    folder = run_folder(tmp_path / "run", {A: ["old"], B: ["old"]}, training_seed=0, weights="w0")
    run_folder(folder, {A: ["new"], B: ["new"]}, training_seed=1, weights="w1")
    methods = [{"label": label, "trainings": [{"seed": 1}, {"seed": 2}]} for label in (A[0], B[0])]
    (folder / "comparison.json").write_text(json.dumps({"methods": methods}), encoding="utf-8")
    review.write_review(folder, A, B)
    (pair,) = read_sheet(folder / review.SHEET, COLUMNS, "sheet")
    assert "new" in str(pair) and "old" not in str(pair)


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches arms taken by a name that several have, and an error that is a traceback."""
    make = ["make", str(run), "--pairs", "3", "--a"]
    assert review.main([*make, "threshold", "--b", "flow: threshold"]) == 1
    assert "is the setting of several methods: choose among 'masked: threshold'" in capsys.readouterr().err
    assert review.main([*make, "masked: threshold", "--b", "flow: treshold"]) == 1
    assert "'flow: treshold' is not there" in capsys.readouterr().err
    assert review.main([*make, "masked: threshold", "--b", "flow: threshold"]) == 0
    assert review.main(["score", str(run / review.SHEET), str(run / review.KEY)]) == 0
    assert "0 of 3 pairs are filled in, 3 are not" in capsys.readouterr().out
    assert review.main(["score", str(run / "results.csv"), str(run / review.KEY)]) == 1
    assert review.main(["make", str(run / "none"), "--a", "x", "--b", "y"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
