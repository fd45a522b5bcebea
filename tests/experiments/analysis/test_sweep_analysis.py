"""A decoding sweep analysed from its files: what is averaged, compared, listed and drawn."""

import csv
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from experiments.analysis import decoding_table as table
from experiments.analysis import sweep, sweep_pages, sweep_plots
from experiments.analysis.metrics import BY_KEY
from experiments.analysis.sweep import analyse

SHARED = {"n_samples": 2, "length": 8, "prompt": "", "judge": None}


def row(setting: str, seed: int, method: str = "md", **others: Any) -> table.Row:
    """One row; tokens per second follow from the seconds."""
    own = {"method": method, "setting": setting, "seed": seed, "weights": f"of {method}", "options": {}}
    own["decoder"] = None if method in table.MODELLESS else {"name": setting}
    if "seconds" in others:
        others |= {"tokens_per_second": 16 / others["seconds"]}
    return dict.fromkeys(table.COLUMNS) | SHARED | own | others


def real(seed: int, **figures: float) -> table.Row:
    return row(table.HELD_OUT, seed, table.REAL, **figures)


def run_folder(folder: Path, rows: list[table.Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.csv").write_bytes(table.write_rows(rows, header=True).encode())
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that would be saved, by file name: no test waits for pixels but one."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, out: figures.update({out.name: self}))
    return figures


ROWS = [
    *(real(seed, distinct_2=0.60, repeat_ratio=0.03, judge_nll=1.5) for seed in range(3)),
    *(row("base", s, seconds=4.0 + s, tokens_per_forward=1.0, forwards=8, distinct_2=0.7 + s / 100) for s in range(4)),
    *(row("fast", s, seconds=2.0 + s, tokens_per_forward=4.0, forwards=2, distinct_2=0.8 + s / 100) for s in range(3)),
    *(row("slow", s, seconds=9.0, distinct_2=0.55, repeat_ratio=0.05) for s in (1, 0)),
    row("new", 9, seconds=3.0),
]


def test_rows_become_means_and_blanks(tmp_path: Path) -> None:
    """Catches a 0 for what was not measured, a deviation of two seeds, and a mean over fewer seeds than it says."""
    analyse([run_folder(tmp_path, ROWS)], tmp_path / "out")
    base, fast, slow, new, held_out = read(tmp_path / "out" / "aggregated.csv")
    assert [base["setting"], fast["setting"], held_out["setting"]] == ["base", "fast", table.HELD_OUT]
    assert (base["seconds"], base["seconds_n"], base["seeds"]) == ("5.5", "4", "0 1 2 3")
    assert (fast["seconds"], fast["seconds_sd"], fast["seconds_n"]) == ("3.0", "1.0", "3")
    assert (slow["seconds"], slow["seconds_sd"], slow["seeds"]) == ("9.0", "", "1 0")
    assert (slow["forwards"], slow["forwards_sd"], slow["forwards_n"], new["distinct_2"]) == ("", "", "", "")
    assert (held_out["seconds"], held_out["decoder"], held_out["distinct_2"], held_out["weights"]) == (
        "",
        "",
        "0.6",
        "",
    )
    assert (base["fronts"], fast["fronts"], slow["fronts"]) == ("", "speed, distinct-2", "")
    assert not (tmp_path / "out" / "differences.csv").exists()


def test_differences_are_paired_with_the_baseline(tmp_path: Path) -> None:
    """Catches means subtracted of unlike seeds, the baseline minus the setting, and an interval of two seeds."""
    analyse([run_folder(tmp_path, ROWS)], tmp_path / "out", "base")
    lines = {(line["setting"], line["figure"]): line for line in read(tmp_path / "out" / "differences.csv")}
    fast = lines["fast", "seconds"]
    assert (fast["difference"], fast["low"], fast["high"], fast["seeds"]) == ("-2.0", "-2.0", "-2.0", "3")
    assert (fast["method"], fast["baseline_method"], fast["baseline"]) == ("md", "md", "base")
    slow = lines["slow", "seconds"]
    assert (slow["difference"], slow["low"], slow["high"], slow["seeds"]) == ("4.5", "", "", "2")
    assert float(lines["fast", "distinct_2"]["difference"]) == pytest.approx(0.1)
    assert {setting for setting, _ in lines} == {"fast", "slow"} and ("slow", "repeat_ratio") not in lines
    page = (tmp_path / "out" / "differences.md").read_text(encoding="utf-8")
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.split("##")[0].splitlines()
        if line[:1] == "|"
    }
    assert cells["fast"][:4] == ["3", "-2 (-2 to -2)", "-6 (-6 to -6)", "+3 (+3 to +3)"]
    assert "B is faster; B needs fewer forwards; B decodes more tokens per forward" in cells["fast"]
    assert cells["slow"][:3] == ["2", "+4.5", ""] and "new" not in cells  # which shares no seed


def test_seeds_are_won_by_hand(tmp_path: Path) -> None:
    """Catches points turned round, and a seed that only one of the two has."""
    analyse([run_folder(tmp_path, ROWS)], tmp_path / "out", "base")
    wins = read(tmp_path / "out" / "wins.csv")
    fast = [line for line in wins if line["setting"] == "fast"]
    assert [(w["seed"], w["points_setting"], w["points_baseline"], w["winner"]) for w in fast] == [
        (str(seed), "0", "1", "baseline") for seed in range(3)
    ]
    slow = [(line["seed"], line["winner"], line["distinct_2"]) for line in wins if line["setting"] == "slow"]
    assert slow == [("0", "setting", "setting"), ("1", "setting", "setting")]
    assert fast[0]["judge_nll"] == "" and not [line for line in wins if line["setting"] == "new"]
    assert "| fast | 0              | 3    | 0    |" in (tmp_path / "out" / "differences.md").read_text(
        encoding="utf-8"
    )


def listed(page: str, title: str) -> list[str]:
    """First column of the table below the heading that begins so."""
    below = page.split(f"## {title}")[1].split("\n## ")[0]
    return [line.split("|")[1].strip() for line in below.splitlines() if line.startswith("|")][2:]


def test_lists_and_fronts_by_hand(tmp_path: Path) -> None:
    """Catches a list sorted the wrong way, one of more than five, controls and real text that win it, and random
    characters that are given a first place without a word."""
    noise = row("unigram noise", 0, table.CONTROL, distinct_2=0.601, repeat_ratio=0.0, judge_nll=0.5, judge="j")
    rows = [noise, real(0, distinct_2=0.6, repeat_ratio=0.03, judge_nll=1.5, judge="j")]
    for i in range(7):
        figures = {"tokens_per_forward": 1.0 + i, "judge_nll": 3.0 - i / 10, "distinct_2": 0.5 + i / 20}
        rows.append(row(f"s{i}", 0, seconds=1.0 + i, repeat_ratio=0.02 * i, judge="j", **figures))
    analyse([run_folder(tmp_path, rows)], tmp_path / "out")
    page = (tmp_path / "out" / "pareto.md").read_text(encoding="utf-8")
    end = [table.HELD_OUT]
    assert listed(page, "Fastest") == ["s0", "s1", "s2", "s3", "s4", *end]
    assert listed(page, "Most tokens per forward") == ["s6", "s5", "s4", "s3", "s2", *end]
    assert listed(page, "Lowest value of the judge") == ["s6", "s5", "s4", "s3", "s2", *end]
    assert listed(page, "Nearest to held-out text in distinct-2") == ["s2", "s1", "s3", "s0", "s4", *end]
    assert listed(page, "Front: seconds against the judge") == [*(f"s{i}" for i in range(7)), *end]
    reference = page.split("## Front: tokens per second against distinct-2 minus repeat ratio")[1]
    assert "Random characters win it" in reference.split("|")[0]
    assert listed(page, "Front: tokens per second against distinct-2 minus") == [*(f"s{i}" for i in range(7)), *end]
    assert "noise" not in page and "forward" in page and "valid words" not in page  # measured by no row


def test_the_quality_of_the_reference(tmp_path: Path) -> None:
    """Catches distinct-2 plus repeat ratio, and a front of it that leaves the speed out."""
    rows = [row("a", 0, seconds=1.0, distinct_2=0.5, repeat_ratio=0.1), row("b", 0, seconds=2.0, distinct_2=0.5)]
    rows += [row("c", 0, seconds=2.0, distinct_2=0.5, repeat_ratio=0.2), row("d", 0, seconds=3.0, distinct_2=0.4)]
    rows[-1]["repeat_ratio"] = -0.1
    page = sweep_pages.pareto_page(table.aggregate(rows), list("abcd"))
    assert listed(page, f"Front: tokens per second against {sweep_pages.REFERENCE}") == ["a", "d"]


def test_runs_are_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a row that counts twice, real text once for each model, and two models in one mean."""
    again = [ROWS[3] | {"seconds": 99.0}, ROWS[0] | {"weights": "of another model"}]
    other = [row("base", seed, "flow", seconds=1.0 + seed, distinct_2=0.7) for seed in range(3)]
    runs = [run_folder(tmp_path / "a", ROWS), run_folder(tmp_path / "b", again + other)]
    analyse(runs, tmp_path / "out", "md: base")
    assert "2 rows are there more than once" in capsys.readouterr().err
    groups = read(tmp_path / "out" / "aggregated.csv")
    assert [
        (group["method"], group["setting"], group["seconds"]) for group in groups if group["setting"] == "base"
    ] == [
        ("md", "base", "5.5"),
        ("flow", "base", "2.0"),
    ]
    assert [group["seeds"] for group in groups if group["method"] == table.REAL] == ["0 1 2"]
    differences = read(tmp_path / "out" / "differences.csv")
    gap = next(line for line in differences if (line["method"], line["figure"]) == ("flow", "seconds"))
    assert (gap["baseline_method"], gap["difference"]) == ("md", "-3.0")
    assert "| flow: base" in (tmp_path / "out" / "differences.md").read_text(encoding="utf-8")


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Catches a mean over texts of two corpora or versions under one name."""
    runs = [run_folder(tmp_path / "a", ROWS), run_folder(tmp_path / "b", [ROWS[3] | {"distinct_2": 0.9}])]
    with pytest.raises(ValueError, match="'base' at seed 0 has other values than elsewhere"):
        analyse(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    known = run_folder(tmp_path / "c", [ROWS[3] | {"self_bleu": 0.5}])  # by a version with one metric more
    assert analyse([tmp_path / "a", known], tmp_path / "out")


def test_unlike_amounts_of_text_share_no_table(tmp_path: Path) -> None:
    """Catches a short sample that is held against a long one, and classes that overwrite each other's files."""
    rows = [row("base", 0, seconds=8.0), row("x", 0, seconds=6.0)]
    rows += [row("x", 0, seconds=1.0, length=4), row("x", 0, seconds=2.0, length=4, prompt="A")]
    rows.append(real(0, distinct_2=0.5) | {"length": 99})
    files = analyse([run_folder(tmp_path, rows)], tmp_path / "out", "base")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"2x8", "2x4", "2x4-2"}
    seconds = [[line["seconds"] for line in read(path)] for path in files if path.name == "aggregated.csv"]
    assert seconds == [["8.0", "6.0"], ["1.0"], ["2.0"]]
    assert [path.parent.name for path in files if path.name == "differences.csv"] == ["2x8"]


@pytest.mark.parametrize("baseline", ["base", "md: base"])
def test_a_baseline_is_that_of_the_same_weights(tmp_path: Path, baseline: str) -> None:
    """Catches a setting held against the baseline of another model although its own has one."""
    rows = [row(name, 0, seconds=seconds) for name, seconds in (("base", 5.0), ("x", 6.0))]
    rows += [r | {"method": "flow", "weights": "f", "seconds": r["seconds"] * 10} for r in rows]
    analyse([run_folder(tmp_path, rows)], tmp_path / "out", baseline)
    lines = [line for line in read(tmp_path / "out" / "differences.csv") if line["figure"] == "seconds"]
    gaps = {(line["method"], line["setting"], line["baseline_method"]): line["difference"] for line in lines}
    if baseline == "base":
        assert gaps == {("md", "x", "md"): "1.0", ("flow", "x", "flow"): "10.0"}
    else:
        assert gaps == {("md", "x", "md"): "1.0", ("flow", "base", "md"): "45.0", ("flow", "x", "md"): "55.0"}


def test_a_baseline_must_be_one_setting(tmp_path: Path) -> None:
    """Catches a comparison with the first of several baselines, and a misspelt name that gives no table at all."""
    rows = [row("base", 0), row("base", 0, "flow"), row("x", 0, "gpt")]
    folder = run_folder(tmp_path, rows)
    with pytest.raises(ValueError, match="could be 'md: base' of of md or 'flow: base' of of flow"):
        analyse([folder], tmp_path / "out", "base")
    with pytest.raises(ValueError, match="no setting is called 'bass': choose among base, x"):
        analyse([folder], tmp_path / "out", "bass")
    with pytest.raises(ValueError, match="no setting is called 'held-out text'"):
        analyse([run_folder(tmp_path / "real", [*rows, real(0)])], tmp_path / "out", table.HELD_OUT)


def test_names_tell_settings_apart() -> None:
    """Catches two rows of a table that are called the same, and names longer than they need to be."""

    def names(*rows: table.Row) -> list[str]:
        return sweep.names_of(table.aggregate(rows))

    a = row("a", 0)
    assert names(a, row("b", 0), real(0)) == ["a", "b", table.HELD_OUT]
    assert names(a, row("a", 0, "flow"), real(0)) == ["md: a", "flow: a", table.HELD_OUT]
    assert names(a, a | {"weights": "w"}) == ["a [of md]", "a [w]"]
    assert names(a | {"decoder": {"k": 1, "t": 2}}, a | {"decoder": {"k": 1, "t": 3}}) == ["a t=2", "a t=3"]


def dots(figure: Figure, axes: int = 0) -> set[tuple[float, float]]:
    """Every point of a plane, the lines of real text and of intervals left out."""
    lines = [line for line in figure.axes[axes].lines if line.get_linestyle() == "None" and line.get_marker() != "None"]
    return {(round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6)) for line in lines}


def test_planes_show_what_was_measured(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a missing figure drawn at 0, real text without its line, and a front that is numbered elsewhere."""
    analyse([run_folder(tmp_path, ROWS)], tmp_path / "out")
    plane = drawn["speed_quality.png"]
    assert dots(plane) == {(5.5, 0.715), (3.0, 0.81), (9.0, 0.55)}
    (ax,) = plane.axes
    assert [
        line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "--"
    ] == [0.6]
    assert [text.get_text() for text in ax.texts] == ["1"] and ax.texts[0].xy == (3.0, pytest.approx(0.81))
    said = [text.get_text() for text in plane.legends[0].get_texts()]
    assert said[-2:] == ["\nOn the front (distinct-2):", "1  fast"] and "slow" in said and "new" not in said
    assert len(dots(drawn["speed_tokens_per_forward.png"])) == 2
    bars = drawn["fastest.png"].axes[0]
    widths = [round(patch.get_width(), 3) for patch in bars.patches]
    assert widths == sorted(widths, reverse=True) and len(widths) == 4
    assert [label.get_text() for label in bars.get_yticklabels()][-1] == "slow"
    assert "held-out text: judge 1.50, distinct-2 0.60" in bars.get_title(loc="left")


def test_a_judge_gets_a_panel_beside_diversity(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches quality shown as the judge's figure alone, which loops win."""
    rows = [r | {"judge": "j", "judge_nll": 3.0 - r["seed"] / 10} for r in ROWS if r["setting"] != "new"]
    analyse([run_folder(tmp_path, rows)], tmp_path / "out")
    judge, distinct = drawn["speed_quality.png"].axes
    assert (judge.get_ylabel(), distinct.get_ylabel()) == ("judge, nats per character", "distinct-2")
    assert dots(drawn["speed_quality.png"]) == {(5.5, 2.85), (3.0, 2.9), (9.0, 2.95)}
    assert [text.get_text() for text in distinct.texts] == [text.get_text() for text in judge.texts]


def test_differences_are_drawn_with_their_intervals(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a difference without a figure drawn at 0, and one that is called certain by two seeds."""
    analyse([run_folder(tmp_path, ROWS)], tmp_path / "out", "base")
    seconds, forwards, distinct = drawn["differences.png"].axes
    settings = [label.get_text() for label in seconds.get_yticklabels()]
    assert settings == ["fast", "slow"]
    points = {
        (ax.get_xlabel(), settings[int(line.get_ydata()[0])]): (float(line.get_xdata()[0]), line.get_markerfacecolor())
        for ax in (seconds, forwards, distinct)
        for line in ax.lines
        if line.get_marker() == "o"
    }
    assert points[BY_KEY["seconds"].on_axis, "fast"][0] == -2.0
    assert points[BY_KEY["seconds"].on_axis, "fast"][1] != "white"
    assert points[BY_KEY["seconds"].on_axis, "slow"] == (4.5, "white")
    assert ("tokens per forward", "slow") not in points and len(points) == 5


@pytest.mark.parametrize("judged", [True, False])
def test_a_large_sweep_stays_readable(tmp_path: Path, drawn: dict[str, Figure], judged: bool) -> None:
    """Catches pictures that grow without end with the number of settings, and a front whose key does."""
    rows = [row(f"s x={i}", 0, seconds=1.0 + i, distinct_2=0.5 + i / 400) for i in range(60)]
    if judged:
        rows = [r | {"judge": "j", "judge_nll": 3 - r["distinct_2"]} for r in rows]
    analyse([run_folder(tmp_path, rows)], tmp_path / "out", "s x=0")
    assert all(figure.get_figheight() < 20 for figure in drawn.values())
    said = [text.get_text() for text in drawn["speed_quality.png"].legends[0].get_texts()]
    assert said[-1] == f"and {60 - sweep_plots.NAMED} more: see pareto.md"
    assert "the 40 fastest of 59" in drawn["differences.png"].get_suptitle()
    assert drawn["fastest.png"].axes[0].get_title(loc="left").startswith("The fastest settings of 60")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (None, "there is no .*results.csv"),
        ("setting,seed\nx,0\n", "other columns"),
        (table.write_rows([], header=True), "no row of a decoder is there yet"),
        (table.write_rows([real(0)], header=True), "no row of a decoder is there yet"),
    ],
)
def test_nothing_to_analyse_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str | None, sentence: str
) -> None:
    """Catches a traceback, and empty files, for a folder that holds no sweep or one of another version."""
    if rows is not None:
        (tmp_path / "results.csv").write_text(rows, encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        analyse([tmp_path], tmp_path / "out")
    assert sweep.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "analysis").exists()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches files that are written elsewhere than said, and a picture that cannot be drawn."""
    monkeypatch.undo()
    assert sweep.main([str(run_folder(tmp_path, ROWS)), "--baseline", "base"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "md: new shares no seed with the baseline: no difference is paired\n"
    said = {Path(line) for line in printed.out.splitlines()}
    assert said == set((tmp_path / "analysis").iterdir()) and len(said) == 9
    assert all(imread(path).shape[0] > 300 for path in said if path.suffix == ".png")


def test_a_figure_that_is_infinite_is_neither_listed_nor_drawn(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches an axis or a list that breaks over a text which the judge holds impossible."""
    rows = [row("a", 0, seconds=1.0, judge_nll=float("inf"), distinct_2=0.5), row("b", 0, seconds=2.0, judge_nll=2.0)]
    analyse([run_folder(tmp_path, [r | {"judge": "j"} for r in rows])], tmp_path / "out")
    assert listed((tmp_path / "out" / "pareto.md").read_text(encoding="utf-8"), "Lowest value of the judge") == ["b"]
    assert dots(drawn["speed_quality.png"]) == {(2.0, 2.0)} and dots(drawn["speed_quality.png"], 1) == {(1.0, 0.5)}


def test_a_class_without_text_figures_is_drawn_as_far_as_it_goes(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a crash where only costs were measured."""
    analyse([run_folder(tmp_path, [row("a", 0, seconds=1.0), row("b", 0, seconds=2.0)])], tmp_path / "out", "a")
    assert drawn.keys() == {"fastest.png", "differences.png"}
