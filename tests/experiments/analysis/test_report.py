"""The report of a comparison: what it says is what was measured, on a page that needs nothing else."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.analysis import decoding_table as table
from experiments.analysis import plots as style
from experiments.analysis.report import (
    html,
    labels,
    markdown,
    naming,
    plots,
    sections,
    summary,
    tables,
    versus,
    write_report,
)
from experiments.analysis.report.__main__ import main
from experiments.analysis.report.comparison import Comparison
from experiments.analysis.report.document import Cell, Document, Picture, Section, Table, Text
from experiments.analysis.report.reading import read_comparison
from tests.experiments.analysis import comparison_folder as folder

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole comparison with its report, which tests read only."""
    run = folder.build(tmp_path_factory.mktemp("comparison") / "run")
    write_report(run)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole comparison without a report, to be changed."""
    return folder.build(tmp_path / "run")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by the name of their file, none of them rendered."""
    found: dict[str, Figure] = {}

    def save(figure: Figure, path: Path) -> None:
        found[path.name] = figure
        path.write_bytes(PNG)

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
    return found


class Page(HTMLParser):
    """The tags of a page: what they refer to, and whether each that is opened is closed in turn."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value or "" for _, found, value in self.attributes if found == name]


def cells_of(made: Table) -> list[dict[str, Cell]]:
    return [dict(zip(made.header, row, strict=True)) for row in made.rows]


def words_of(block: object) -> Iterator[str]:
    """All that a part of a report says."""
    if isinstance(block, str):
        yield block
    elif isinstance(block, (list, tuple)):
        for each in block:
            yield from words_of(each)
    elif hasattr(block, "__dict__"):
        yield from words_of(list(vars(block).values()))


def said_in(document: Document, name: str) -> str:
    return " ".join(words_of(next(section for section in document.sections if section.name == name)))


def test_report_consists_of_its_files(whole: Path) -> None:
    """Catches a figure that is missing, not a picture, or left out of the page or of the Markdown."""
    pictures = sorted((whole / "plots").glob("*.png"))
    assert {each.name for each in pictures} == {
        *("training_curves.png", "frontier.png", "divergence.png", "quality_seconds.png", "quality_forwards.png"),
        *("tokens_per_forward.png", "levels_1_gpt.png", "levels_2_masked.png"),
    }
    page, text = ((whole / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for picture in pictures:
        assert picture.read_bytes().startswith(PNG)
        assert f"](plots/{picture.name})" in text
    assert page.count("data:image/png;base64,") == len(pictures)
    assert (whole / "plots/animation.gif").read_bytes().startswith(b"GIF89a")
    assert "](plots/animation.gif)" in text and "decoding-animation" in page
    assert len(page) < 5_000_000 and not list(whole.glob("*.part"))


def test_page_is_whole_and_needs_nothing_from_elsewhere(whole: Path) -> None:
    """Catches a tag that is left open, a picture or style from the network, a picture without words, a dead link."""
    text = (whole / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(link.startswith(("#", "data:")) for link in page.values("href"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert {link[1:] for link in page.values("href") if len(link) > 1 and link[0] == "#"} == {*page.values("id")}
    assert len(page.values("alt")) == text.count("<img ") and all(page.values("alt"))


def test_every_section_opens_with_words_for_a_newcomer(whole: Path, drawn: dict[str, Figure]) -> None:
    """Catches a section that begins with a table, and one that is out of the order in which a newcomer reads."""
    document = sections.build(read_comparison(whole))
    assert [section.name for section in document.sections] == [
        *(
            "likelihood",
            "versus",
            "training",
            "frontier",
            "speed",
            "samples",
            "levels",
            "animation",
            "nonsense",
            "metrics",
        ),
        "reproduce",
    ]
    for section in document.sections:
        assert isinstance(section.blocks[0], Text) and section.blocks[0].pieces[0].count(". ") >= 1


def test_methods_are_described_as_they_describe_themselves(whole: Path, run: Path) -> None:
    """Catches a list of methods in the report, and a comparison of an older version that is refused."""
    assert dict(summary.methods(read_comparison(whole)).items)["gpt"] == "what gpt learns"
    methods = folder.about()["methods"]
    folder.write_about(run, methods=[{**method, "description": None} for method in methods])
    assert dict(summary.methods(read_comparison(run)).items) == {"gpt": "gpt", "masked": "masked_diffusion"}


def test_likelihoods_are_those_of_the_files_beside_their_kinds(whole: Path) -> None:
    """Catches a likelihood without its kind, a bound without ≤, kinds that mix, and cost of another method."""
    rows = cells_of(tables.likelihoods(read_comparison(whole)))
    shown = [(row["method"].text, row["likelihood"].text, row["kind"].text, row["nats/token"].text) for row in rows]
    assert [one[:3] for one in shown] == [
        ("gpt", "nll", "exact"),
        ("masked", "left_to_right", "exact for this order"),
        ("masked", "any_order", "bound"),
    ]
    assert shown[0][3].startswith("1.7500 ± ")  # 35 nats of 20 tokens
    assert shown[1][3].startswith("2.2250 ± ") and shown[2][3].startswith("≤ 2.3000 ± ")
    assert rows[0]["bits/char"].text == f"{1.75 / np.log(2):.3f}"
    assert rows[2]["bits/char"].text == f"≤ {2.3 / np.log(2):.3f}"
    assert [row["parameters"].text for row in rows] == ["1,234", "1,235", "1,235"]
    assert [row["training"].text for row in rows] == ["1 min 15 s", "1 min 16 s", "1 min 16 s"]


def test_gaps_are_paired_and_say_when_they_are_of_a_bound(whole: Path) -> None:
    """Catches the error of unpaired means, a gap turned round, and a bound's gap shown as if it were exact."""
    rows = cells_of(tables.likelihoods(read_comparison(whole)))
    difference = folder.MASKED_NATS - folder.GPT_NATS
    mean = difference.sum() / folder.TOKENS.sum()
    error = np.sqrt(((difference - mean * folder.TOKENS) ** 2).sum() * 3 / 2) / folder.TOKENS.sum()
    assert [row["gap to gpt"].text for row in rows] == [
        "",
        f"{mean - 0.075:+.4f} ± {_error(difference - 0.5):.4f}",
        f"≤ {mean:+.4f} ± {error:.4f}",
    ]


def _error(difference: np.ndarray) -> float:
    mean = difference.sum() / folder.TOKENS.sum()
    return float(np.sqrt(((difference - mean * folder.TOKENS) ** 2).sum() * 3 / 2) / folder.TOKENS.sum())


def test_summary_ranks_no_bound_against_an_exact_value(run: Path) -> None:
    """Catches a bound called the lowest because its number is smaller than an exact one."""
    folder.write_likelihoods(run, {"gpt": {"nll": folder.GPT_NATS}, "masked": {"any_order": folder.GPT_NATS / 2}})
    said = dict(summary.findings(read_comparison(run)).items)["Likelihood"]
    assert said.startswith("The one exact likelihood is that of gpt, 1.750")
    ranked, bounds = said.split("Upper bounds, ")
    assert "masked" not in ranked and "≤" not in ranked
    assert "masked ≤ 0.875" in bounds and not re.search("better|lowest|best|wins", bounds)


def test_summary_names_the_lowest_exact_likelihood_and_what_is_noise(run: Path) -> None:
    """Catches the first exact likelihood taken for the lowest, and a gap within its noise told as one."""
    nats = {"gpt": {"nll": folder.GPT_NATS}, "masked": {"left_to_right": folder.GPT_NATS - folder.TOKENS * 0.5}}
    folder.write_likelihoods(run, nats)
    path = run / "likelihood.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("exact for this order", "exact"), encoding="utf-8")
    assert "lowest exact likelihood is that of masked, 1.250" in _likelihood_said(run)
    assert "gpt stands 0.500 ± 0.000 above it" in _likelihood_said(run)
    nats["masked"]["left_to_right"] = folder.GPT_NATS + np.array([1.0, -1.0, 0.2])
    folder.write_likelihoods(run, nats)
    path.write_text(path.read_text(encoding="utf-8").replace("exact for this order", "exact"), encoding="utf-8")
    assert "masked cannot be told from it (+0.010 ± 0.0" in _likelihood_said(run)


def _likelihood_said(run: Path) -> str:
    return dict(summary.findings(read_comparison(run)).items)["Likelihood"]


def test_speed_table_holds_means_and_intervals_over_seeds(whole: Path) -> None:
    """Catches a median or a single seed for the mean, the interval of another figure, and rows of other settings."""
    rows = cells_of(tables.speed(read_comparison(whole)))
    settings = [(method, label) for method, own in folder.SPEED.items() for label in own]
    assert [(row["method"].text, row["setting"].text) for row in rows] == settings
    assert [row["no."].text for row in rows] == [str(number) for number in range(1, len(settings) + 1)]
    for row, setting in zip(rows, settings, strict=True):
        values = [folder.metrics_of(setting, seed) for seed in folder.SEEDS]
        seconds = [value["seconds"] for value in values]
        judge = [value["judge_nll"] for value in values]
        assert row["seconds"][:2] == (f"{np.mean(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
        assert row["judge, nats/char"][:2] == (f"{np.mean(judge):.3f}", f"{min(judge):.3f} to {max(judge):.3f}")
        assert row["forwards"][:2] == (str(values[0]["forwards"]), "")  # alike at every seed


def test_all_metrics_hold_every_setting_and_no_zero_for_a_blank(whole: Path) -> None:
    """Catches settings or metrics left out, and 0 where real text has no cost or nothing was measured."""
    rows = cells_of(tables.everything(read_comparison(whole)))
    shown = {(row["method"].text, row["setting"].text): row for row in rows}
    assert set(shown) == {*folder.SETTINGS} and len(rows) == len(folder.SETTINGS)
    real = shown[folder.REAL]
    assert real["seconds"] == Cell("") and "copied" not in real
    values = [folder.metrics_of(folder.REAL, seed)["js_4"] for seed in folder.SEEDS]
    assert real["4-gram divergence, bits"][:2] == (f"{np.mean(values):.3f}", f"± {np.std(values, ddof=1):.3f}")
    assert "0.00" not in [cell.text for row in rows for cell in row.values()]


def test_no_interval_below_three_seeds(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches an interval made of two seeds, and a table that says 0 for it."""
    folder.write_rows(run, [folder.row(setting, seed) for setting in folder.SETTINGS for seed in (0, 1)])
    rows = cells_of(tables.speed(read_comparison(run)))
    assert {cell.small for row in rows for cell in row.values()} == {""}
    assert all(row["seconds"].text for row in rows)
    assert "nan" not in " ".join(words_of(sections.build(read_comparison(run))))


def test_frontier_joins_temperatures_and_marks_controls(whole: Path, drawn: dict[str, Figure]) -> None:
    """Catches swapped axes, curves out of the order of temperature, missing controls and a missing real text."""
    comparison = read_comparison(whole)
    assert plots.against(comparison, "character_entropy", "f.png", "") is not None
    (ax,) = drawn["f.png"].axes
    lines = {line.get_color(): line.get_xydata().tolist() for line in ax.lines if len(line.get_xydata()) == 2}
    for label, settings in folder.FRONTIER.items():
        values = [_means((label, setting), "character_entropy", "judge_nll") for setting in settings]
        np.testing.assert_allclose(lines[naming.colour(comparison, label)], values)
    crosses = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "x"]
    np.testing.assert_allclose(crosses, [_means(key, "character_entropy", "judge_nll") for key in folder.CONTROLS])
    (star,) = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "*"]
    np.testing.assert_allclose(star, _means(folder.REAL, "character_entropy", "judge_nll"))
    assert [text.get_text() for text in ax.texts] == [
        "0.5",
        "1",
        "0.5",
        "1",
        "unigram noise",
        "training copier",
        "gpt at 0.2",
    ]


def _means(setting: tuple[str, str], *names: str) -> list[float]:
    return [float(np.mean([folder.metrics_of(setting, seed)[name] for seed in folder.SEEDS])) for name in names]


def test_a_method_keeps_its_colour(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches colours given by what happens to be measured: masked would turn blue where gpt has no such setting."""
    folder.write_rows(
        run, [folder.row(key, seed) for key in folder.SETTINGS if key[0] != "gpt" for seed in folder.SEEDS]
    )
    comparison = read_comparison(run)
    assert plots.quality_against(comparison, "seconds", "s.png", "") is not None
    colours = {line.get_color() for line in drawn["s.png"].axes[0].lines if line.get_marker() == "s"}
    assert colours == {style.COLOURS[1]}
    assert {row[0].colour for row in tables.speed(comparison).rows} == {style.COLOURS[1]}


def test_levels_show_every_state_of_the_trace(whole: Path, drawn: dict[str, Figure]) -> None:
    """Catches a matrix that is turned, drafts drawn as decided, and a cost that counts the state before any pass."""
    comparison = read_comparison(whole)
    picture = plots.levels(comparison, "masked", "l.png")
    assert picture is not None and "3 forward passes for 3 tokens, 1.00 tokens per forward" in picture.caption
    assert "4 states downwards, 4 positions across" in picture.alt
    (image,) = drawn["l.png"].axes[0].images
    np.testing.assert_array_equal(image.get_array(), folder.trace("masked").levels * 2)
    assert [text.get_text() for text in drawn["l.png"].legends[0].get_texts()] == ["decided", "draft", "masked"]


def test_names_of_points_keep_clear_of_each_other(tmp_path: Path) -> None:
    """Catches names of close points that are written over each other or out of the figure."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    canvas, ax = FigureCanvasAgg(figure), figure.subplots()
    at = [(0.5, 0.5), (0.51, 0.5), (0.5, 0.51), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]
    ax.plot(*zip(*at, strict=True), "o")
    labels.place(ax, [labels.Label(f"point {number}", x, y, "black") for number, (x, y) in enumerate(at)], 9)
    canvas.draw()
    boxes = [text.get_window_extent().get_points() for text in ax.texts]
    inside = ax.get_window_extent()
    for number, box in enumerate(boxes):
        assert inside.x0 <= box[0, 0] and box[1, 0] <= inside.x1 and inside.y0 <= box[0, 1] and box[1, 1] <= inside.y1
        for other in boxes[:number]:
            assert (np.minimum(box[1], other[1]) <= np.maximum(box[0], other[0])).any()


def test_samples_stand_side_by_side_at_one_seed(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches texts of different seeds or settings beside each other, and a prompt put before text that it did not
    prompt."""
    path = run / "samples.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"prompt": ""', '"prompt": "ROMEO:"'), encoding="utf-8")
    document = sections.build(read_comparison(run))
    said = said_in(document, "samples")
    for setting in (("gpt", folder.FRONTIER["gpt"][1]), ("masked", folder.FRONTIER["masked"][1]), folder.REAL):
        for number in (1, 2):
            assert folder.text_of(setting, 0, number) in said
    assert "wrote 1." not in said and "temperature=0.5" not in said
    shown = next(section for section in document.sections if section.name == "samples").blocks[1]
    assert [(each.label, each.prompt) for each in shown.samples] == [
        *(("gpt", "ROMEO:"), ("masked", "ROMEO:")),
        (table.REAL, ""),
    ]


def flags_of(comparison: Comparison) -> dict[str, Cell]:
    """The controls of a comparison and what is said of each."""
    shown = tables.flags(comparison, comparison.controls, alarm=True)
    return {row["sampler"].text: row["flagged by"] for row in cells_of(shown)}


def test_controls_are_shown_with_what_flags_them(whole: Path, run: Path, drawn: dict[str, Figure]) -> None:
    """Catches flags of another sampler, a control that is caught by nothing and not in plain words, and one that was
    never checked passed off as either."""
    rows = flags_of(read_comparison(whole))
    assert rows == {
        "unigram noise": Cell("4-gram divergence, valid words"),
        "training copier": Cell("copied"),
        "gpt, ar temperature=0.2": Cell("self-BLEU"),
    }
    assert "3 of 3 samplers" in dict(summary.findings(read_comparison(whole)).items)["Controls"]
    folder.write_flags(run, {folder.CONTROLS[0]: ["js_4"], folder.CONTROLS[1]: []})
    rows = flags_of(read_comparison(run))
    assert rows["training copier"] == Cell(tables.NO_FLAG, tone="alarm")
    assert rows["gpt, ar temperature=0.2"] == Cell(tables.NOT_CHECKED)
    write_report(run)
    sentence = "training copier is flagged by no metric: these measures cannot tell it from real text."
    assert f'<p class="alarm">{sentence}</p>' in (run / "report.html").read_text(encoding="utf-8")
    assert f"**{sentence}**" in (run / "report.md").read_text(encoding="utf-8")
    assert "NOT flagged: training copier." in (run / "report.md").read_text(encoding="utf-8")


def test_controls_that_the_judge_alone_would_put_first_are_named(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches a report that keeps silent about nonsense with the best judge figure, or accuses the other controls."""
    rows = [folder.row(setting, seed) for setting in folder.SETTINGS for seed in folder.SEEDS]
    for row in rows:
        row["judge_nll"] = 0.2 if row["setting"] == "training copier" else row["judge_nll"]
    folder.write_rows(run, rows)
    said = said_in(sections.build(read_comparison(run)), "nonsense")
    assert "By the judge alone, training copier would come before every method" in said


MISSING = {  # what is taken away -> the section that says so, and its words
    "likelihood.csv": ("Likelihood", "No likelihood was measured."),
    "likelihoods": ("Likelihood", "| exact "),
    "methods": ("Training curves", "No training records (metrics.csv) were found."),
    "methods/gpt": ("Training curves", "Without a training folder: gpt."),
    "methods/gpt/metrics.csv": ("Training curves", "a curve for each of masked]"),
    "results.csv": ("All metrics", "No setting was measured."),
    "samples.jsonl": ("Samples side by side", "No samples were kept."),
    "flags.json": ("Would nonsense win here?", tables.NOT_CHECKED),
    "traces": ("The methods at work", "No traces were recorded."),
    "traces/gpt.json": ("Scheduling matrices", "levels_2_masked.png"),
}


@pytest.mark.parametrize("path", MISSING)
def test_what_is_missing_is_left_out(run: Path, drawn: dict[str, Figure], path: str) -> None:
    """Catches a crash, a nan or a made-up zero where one part of the folder is not there."""
    shutil.rmtree(run / path) if (run / path).is_dir() else (run / path).unlink()
    write_report(run)
    title, words = MISSING[path]
    parts = (run / "report.md").read_text(encoding="utf-8").split("\n## ")
    (said,) = [part for part in parts if part.startswith(f"{title}\n")]
    assert words in said
    assert not re.search(r"\bnan\b|None|\b0\.0+\b", said)
    assert Page((run / "report.html").read_text(encoding="utf-8")).open == []


def test_a_bare_folder_has_a_report(tmp_path: Path) -> None:
    """Catches a report that needs more than comparison.json, such as that of a comparison that was just begun."""
    folder.write_about(
        tmp_path,
        **dict.fromkeys(("title", "dataset", "steps", "command", "sampling", "machine", "git_commit", "versions")),
        methods=[{"label": "gpt", "algorithm": "gpt"}],
        judges=[],
        controls=[],
    )
    assert write_report(tmp_path) == [tmp_path / "report.html", tmp_path / "report.md"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "judges: none" in text and "None" not in text


def test_noise_does_not_squeeze_the_frontier(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches axes that a control stretches until the methods are a heap, and one moved to an edge that hides where it
    is."""
    rows = [folder.row(setting, seed) for setting in folder.SETTINGS for seed in folder.SEEDS]
    noise = [row for row in rows if row["setting"] == "unigram noise"]
    assert noise
    for row in noise:
        row["judge_nll"] = 60.0
    folder.write_rows(run, rows)
    plots.against(read_comparison(run), "character_entropy", "frontier.png", "")
    axes = drawn["frontier.png"].axes[0]
    assert axes.get_ylim()[1] < 30
    assert any("unigram noise (at " in text.get_text() and ", 60.00)" in text.get_text() for text in axes.texts)


def test_without_a_judge_its_metrics_are_left_out(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches points of texts that nobody judged, and a column of zeros for them."""
    rows = [folder.row(setting, seed) for setting in folder.SETTINGS for seed in folder.SEEDS]
    folder.write_rows(run, [row | {"judge": None, "judge_nll": None} for row in rows])
    folder.write_about(run, judges=[])
    write_report(run)
    assert {"frontier.png", "quality_seconds.png"}.isdisjoint(drawn) and "tokens_per_forward.png" in drawn
    comparison = read_comparison(run)
    assert "there was no judge" in said_in(sections.build(comparison), "frontier")
    assert not any("judge" in heading for heading in tables.speed(comparison).header)
    assert "Samples" not in dict(summary.findings(comparison).items)


def test_texts_stay_texts(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches a sample that runs as a script, breaks a table of Markdown, or ends its own block."""
    evil = "<script>alert('x')</script> | a & b\n```\n# not a heading"
    folder.write_samples(run, {("gpt", folder.FRONTIER["gpt"][1]): [evil]})
    folder.write_about(run, title="a | b <i>c</i> *d*", git_commit="<b>e</b>", dataset="_f_")
    path = run / "flags.json"
    path.write_text(path.read_text(encoding="utf-8").replace("valid_words", "x|<u>y</u>"), encoding="utf-8")
    write_report(run)
    page, text = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert evil in "".join(Page(page).words)
    assert not re.search("<script>alert|<i>c|<u>|<b>e", page)
    plain = folder.text_of(("masked", folder.FRONTIER["masked"][1]), 0, 1)
    assert f"\n````\n{evil}\n````\n" in text and f"\n```\n{plain}\n```\n" in text
    assert r"# a \| b \<i\>c\</i\> \*d\*" in text and r"\_f\_" in text
    (row,) = [line for line in text.split("\n") if line.startswith("| unigram noise")]
    assert r"x\|\<u\>y\</u\>" in row and len(re.findall(r"(?<!\\)\|", row)) == 5


def test_markdown_tables_and_paragraphs_escape_every_cell() -> None:
    """Catches what is escaped in paragraphs only, and names whose underscores become emphasis or are littered."""
    made = Table(["a|b"], [[Cell("masked_diffusion", "_x_ | y")]])
    text = markdown.text(Document("t", "s", [made, Text(["1 < 2 ", "`c`"])], [Section("n", "t", [])]), "plots")
    assert "| a\\|b " in text and "masked_diffusion (\\_x\\_ \\| y)" in text
    assert "1 \\< 2 \\`c\\`" in text


def test_attributes_are_escaped(tmp_path: Path) -> None:
    """Catches a caption with quotes that ends the attribute it stands in."""
    (tmp_path / "p.png").write_bytes(PNG)
    picture = Picture("p.png", '" onload="alert(1)', "a <b>")
    text = html.page(Document("t", "s", [picture], []), tmp_path)
    assert Page(text).values("alt") == ['" onload="alert(1)'] and "a &lt;b&gt;" in text


def _damaged(name: str, text: str, words: str) -> tuple[str, str, str]:
    return name, text, words


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        _damaged("comparison.json", '{"schema": 2}', "has the schema 2 and this report reads 1"),
        _damaged("comparison.json", "{", "is damaged"),
        _damaged("comparison.json", "[]", "is damaged"),
        _damaged("comparison.json", '{"schema": 1, "methods": []}', "at least one method"),
        _damaged("comparison.json", '{"schema": 1, "methods": [{"algorithm": "gpt"}]}', "no proper 'label'"),
        _damaged("comparison.json", '{"schema": 1, "methods": "gpt"}', "no proper 'methods'"),
        _damaged("likelihood.csv", "a,b\n1,2\n", "other columns"),
        _damaged("results.csv", "a,b\n1,2\n", "other columns"),
        _damaged("samples.jsonl", "{}\n", "no record of samples"),
        _damaged("flags.json", "{}", "is damaged"),
        _damaged("traces/gpt.json", "{}", "is no trace"),
        _damaged("likelihoods/masked.csv", "tokens,any_order,left_to_right\n8,1,1\n", "different windows"),
    ],
)
def test_damage_is_refused_in_a_sentence(
    whole: Path, run: Path, capsys: pytest.CaptureFixture, name: str, text: str, words: str
) -> None:
    """Catches a traceback, a report made of half a file, and an older report that is lost by the attempt."""
    (run / "report.html").write_text("older", encoding="utf-8")
    (run / name).write_text(text, encoding="utf-8")
    assert main([str(run)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert (run / "report.html").read_text(encoding="utf-8") == "older"


def test_a_likelihood_without_its_kind_is_refused(run: Path) -> None:
    """Catches a value of unknown kind that is shown, and so ranked, among the others."""
    path = run / "likelihood.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",bound,", ",,"), encoding="utf-8")
    with pytest.raises(ValueError, match="without its value or its kind"):
        read_comparison(run)


def test_a_setting_measured_in_two_ways_is_refused(run: Path) -> None:
    """Catches metrics of texts of two lengths, of which one would stand for both."""
    rows = [folder.row(setting, seed) for setting in folder.SETTINGS for seed in folder.SEEDS]
    folder.write_rows(run, [*rows, rows[0] | {"length": 13}])
    with pytest.raises(ValueError, match="in more than one way"):
        read_comparison(run)


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches a report of the run folder of a single method, or of no folder at all."""
    assert main([str(tmp_path)]) == 1
    assert "holds no comparison.json: give the run folder of an experiment=comparison." in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert list(tmp_path.iterdir()) == []


def test_command_prints_what_it_wrote(run: Path, drawn: dict[str, Figure], capsys: pytest.CaptureFixture) -> None:
    """Catches paths that do not exist, and a cut last line of samples taken for damage."""
    path = run / "samples.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    assert main([str(run)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert written[:2] == [run / "report.html", run / "report.md"] and len(written) == 11
    assert all(each.is_file() for each in written)


def test_a_method_given_from_elsewhere_is_not_said_to_be_trained_here(run: Path) -> None:
    """Catches the promise of equal steps for a model that was brought along."""
    methods = json.loads((run / "comparison.json").read_text(encoding="utf-8"))["methods"]
    methods[1] |= {"trained_here": False, "folder": str(run / "methods" / "masked"), "training": {"steps": 10}}
    folder.write_about(run, methods=methods, steps=3000)
    comparison = read_comparison(run)
    said = summary.purpose(comparison)
    assert "gpt 30 steps, masked 10 steps" in said and "Trained elsewhere: masked." in said
    facts = dict(summary.facts(comparison).items)
    assert facts["training"] == "gpt 30 steps, masked 10 steps"
    assert "3,000" not in f"{said} {facts}" and "training seed" not in facts
    assert comparison.methods[1].first.folder == run / "methods" / "masked"


FLOW = {"masked": {"any_order": "bound", "left_to_right": "exact for this order"}}
FLOW["gpt"] = FLOW["masked"]  # as if it were a second masked method


def test_without_an_exact_likelihood_gaps_are_to_the_first_method(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an empty column of gaps, so that nobody learns whether a change of masked diffusion helps."""
    monkeypatch.setattr(folder, "KINDS", FLOW)
    better = folder.MASKED_NATS - 0.1 * folder.TOKENS
    nats = {"gpt": folder.MASKED_NATS, "masked": better}
    folder.write_likelihoods(run, {m: {"any_order": v, "left_to_right": v + 1} for m, v in nats.items()})
    comparison = read_comparison(run)
    made = tables.likelihoods(comparison)
    gaps = {(cells["method"].text, cells["likelihood"].text): cells["gap to gpt"].text for cells in cells_of(made)}
    assert gaps["masked", "any_order"] == gaps["masked", "left_to_right"] == "-0.1000 ± 0.0000"
    assert gaps["gpt", "any_order"] == gaps["gpt", "left_to_right"] == ""
    found = dict(summary.findings(comparison).items)["masked against gpt"]
    assert "any_order (bound): masked's bound is lower (-0.1000 ± 0.0000)" in found
    assert "left_to_right (exact for this order): masked is lower" in found


def test_head_to_head_pairs_texts_of_as_many_forwards(run: Path) -> None:
    """Catches texts compared at unequal cost, a low judge called good, and an answer from fewer than three seeds."""
    rows = [folder.row(setting, seed) for setting in folder.SETTINGS for seed in folder.SEEDS]
    for row in rows:
        if (row["method"], row["setting"]) == ("masked", "steps steps=4"):
            row["forwards"] = 8  # as many as gpt's default
            row["judge_nll"] = 3.2 + 0.01 * row["seed"]  # real text has 3.0
    folder.write_rows(run, rows)
    comparison = read_comparison(run)
    held = versus.texts(comparison)
    assert [each.what for each in held] == [
        "judge, 8 forwards",
        "character entropy, 8 forwards",
        "4-gram divergence, 8 forwards",
    ]
    assert held[0].ahead == "masked" and held[0].verdict.startswith("masked is nearer to real text (3.0")
    said = "judge, of 1 pairs of as many forwards nearer to real text: masked at 1; "
    assert said in dict(summary.findings(comparison).items)["masked against gpt"]
    assert held[0].difference == "+1.950" and held[0].interval == "+1.950 to +1.950"
    folder.write_rows(run, [row for row in rows if row["seed"] < 2])
    assert [each.verdict for each in versus.texts(read_comparison(run))] == ["open: an interval needs 3 seeds"] * 3


def test_the_blind_review_is_named_with_its_command(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches a page for readers that nobody is told of."""
    assert "blind" not in said_in(sections.build(read_comparison(run)), "versus")
    (run / "blind_review.html").write_text("a page", encoding="utf-8")
    said = said_in(sections.build(read_comparison(run)), "versus")
    assert "blind_review.html" in said and "blind_samples.csv" in said
    assert f"experiments.analysis.blind_review score FILLED_SHEET {run / 'blind_key.csv'}" in said


def test_a_part_of_a_split_is_called_one(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches a likelihood of five batches that is read as one of the whole split."""
    folder.write_about(run, part="5 of its 53 batches, spread evenly")
    document = sections.build(read_comparison(run))
    assert "Split: test, 5 of its 53 batches, spread evenly." in said_in(document, "likelihood")
    assert dict(summary.facts(read_comparison(run)).items)["likelihood on"].endswith(
        "5 of its 53 batches, spread evenly"
    )


# --- several training seeds


def trained(run: Path, gpt: list[float], masked: list[float]) -> Comparison:
    """A comparison whose windows cost these nats a token more, by training seed from 0 on."""
    folder.write_trainings(
        run,
        {
            "gpt": {seed: {"nll": folder.GPT_NATS + more * folder.TOKENS} for seed, more in enumerate(gpt)},
            "masked": {
                seed: {"any_order": folder.MASKED_NATS + more * folder.TOKENS} for seed, more in enumerate(masked)
            },
        },
    )
    return read_comparison(run)


def test_means_and_intervals_are_over_training_seeds_and_errors_over_windows(run: Path) -> None:
    """Catches the spread of seeds added to the error of windows or taken for it, a normal interval of three values, and
    the windows of one training that stand for all."""
    comparison = trained(run, [0.0, 0.1, 0.2], [0.0, 0.0, 0.3])
    gpt, masked = cells_of(tables.likelihoods(comparison))
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    assert gpt["nats/token, mean"] == Cell("1.8500", f"{1.85 - half:.4f} to {1.85 + half:.4f}")
    assert gpt["training seeds"].text == "3" and gpt["training"].text == "1 min 10 s"
    error = _error(folder.GPT_NATS)  # of each training, as a constant more changes no spread
    assert gpt["± over windows, one training"].text == f"± {error:.4f}"
    assert masked["nats/token, mean"].text == "≤ 2.4000"
    difference = [2.3 - 1.75 + more for more in (0.0, -0.1, 0.1)]
    mean, half = np.mean(difference), 4.302653 * np.std(difference, ddof=1) / 3**0.5
    assert masked["gap to gpt"] == Cell(f"≤ {mean:+.4f}", f"{mean - half:+.4f} to {mean + half:+.4f}")
    assert masked["± over windows, gap"].text == f"± {_error(folder.MASKED_NATS - folder.GPT_NATS):.4f}"
    assert masked["settled"].text == ""  # a bound and an exact value


@pytest.mark.parametrize(
    ("masked", "settled"),
    [
        ([0.5, 0.6, 0.7], "yes"),  # as much at every seed
        ([-0.5, 0.6, 1.7], "no"),  # as much in the mean, and a matter of the seed
        ([0.5, 0.7], "open"),
        ([0.6, 0.5, 0.7, 0.6], "yes"),  # unpaired, as the seeds are not the same
    ],
)
def test_a_gap_is_settled_only_if_it_holds_over_training_seeds(
    run: Path, monkeypatch: pytest.MonkeyPatch, masked: list[float], settled: str
) -> None:
    """Catches a gap that is certain on the windows of these weights and gone with the next seed."""
    monkeypatch.setattr(folder, "KINDS", {"gpt": {"nll": "exact"}, "masked": {"any_order": "exact"}})
    monkeypatch.setattr(folder, "MASKED_NATS", folder.GPT_NATS)
    comparison = trained(run, [0.0, 0.1, 0.2][: len(masked)], masked)
    gpt, other = cells_of(tables.likelihoods(comparison))
    assert (gpt["settled"].text, other["settled"].text) == ("", settled)
    said = dict(summary.findings(comparison).items)["Likelihood"]
    words = {"yes": "holds over training seeds", "no": "cannot be told from it", "open": "is not known"}
    assert words[settled] in said


def test_a_gap_within_the_error_of_windows_is_settled_by_no_number_of_seeds() -> None:
    """Catches seeds that agree on a few windows taken for a difference on text."""
    assert not tables.Gap(0.1, 0.06, (0.09, 0.11), several=True).settled
    assert tables.Gap(0.1, 0.04, (0.09, 0.11), several=True).settled
    assert not tables.Gap(0.1, 0.04, None, several=True).known


def _rows(seeds: tuple[int, ...], more: dict[int, float]) -> list[table.Row]:
    """Rows of every setting; those of a training seed differ in their weights and by `more` in their judge."""
    rows = []
    for setting in folder.SETTINGS:
        for training in (None,) if setting[0] in table.MODELLESS else more:
            for seed in seeds:
                row = folder.row(setting, seed) | {
                    table.TRAINING_SEED: training,
                    "weights": training and f"w{training}",
                }
                rows.append(row | {"judge_nll": row["judge_nll"] + more.get(training, 0.0)})
    return rows


def test_sampling_seeds_are_averaged_inside_a_training_seed(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches nine rows of three trainings that count as nine independent values, and real text without an interval."""
    trained(run, [0.0, 0.1, 0.2], [0.0, 0.0, 0.3])
    folder.write_rows(run, _rows(folder.SEEDS, {0: 0.0, 1: 0.3, 2: 0.6}))
    comparison = read_comparison(run)
    default = ("gpt", folder.FRONTIER["gpt"][1])
    estimate = comparison.estimate(default, "judge_nll")
    mean = folder.metrics_of(default, 1)["judge_nll"] + 0.3
    half = 4.302653 * 0.3 / 3**0.5
    assert estimate.mean == pytest.approx(mean) and estimate.interval == pytest.approx((mean - half, mean + half))
    real = [folder.metrics_of(folder.REAL, seed)["judge_nll"] for seed in folder.SEEDS]
    assert comparison.estimate(folder.REAL, "judge_nll").interval == pytest.approx((min(real), max(real)))
    rows = {(row["method"].text, row["setting"].text): row for row in cells_of(tables.everything(comparison))}
    assert (rows[default]["training seeds"].text, rows[default]["sampling seeds"].text) == ("3", "3")
    assert rows[default]["judge, nats/char"].small == "± 0.300" and rows[folder.REAL]["training seeds"].text == ""
    document = sections.build(comparison)
    assert "training seed" in said_in(document, "speed") and "training_seeds.png" in drawn
    assert dict(summary.facts(comparison).items)["training seeds"] == "0, 1, 2"
    assert "trained with 3 seeds" in summary.purpose(comparison)


def test_trainings_that_the_comparison_no_longer_has_are_left_out(run: Path) -> None:
    """Catches rows of a seed that was taken out, and one training seed with two sets of weights in one mean."""
    trained(run, [0.0, 0.1], [0.0, 0.1])
    rows = _rows((0,), {0: 0.0, 1: 0.3, 2: 9.0})
    folder.write_rows(run, rows)
    default = ("gpt", folder.FRONTIER["gpt"][1])
    found = read_comparison(run).estimate(default, "judge_nll")
    assert found.mean == pytest.approx(folder.metrics_of(default, 0)["judge_nll"] + 0.15) and found.interval is None
    folder.write_rows(run, [*rows, rows[0] | {"weights": "another", table.TRAINING_SEED: 0}])
    with pytest.raises(ValueError, match="in more than one way"):
        read_comparison(run)


def test_a_row_that_does_not_tell_its_training_is_of_the_only_one(run: Path) -> None:
    """Catches rows of a first seed that was taken out, which clash with those of the seeds that are there."""
    old = [folder.row(setting, seed) | {"weights": "w"} for setting in folder.SETTINGS for seed in folder.SEEDS]
    trained(run, [0.1], [0.1])
    folder.write_rows(run, old)
    assert len(read_comparison(run).rows) == len(old)
    trained(run, [0.1, 0.2], [0.1, 0.2])
    folder.write_rows(run, [*old, *(one for one in _rows(folder.SEEDS, {0: 0.0, 1: 0.3}) if one[table.TRAINING_SEED])])
    found = read_comparison(run)
    assert {row[table.TRAINING_SEED] for row in found.rows if row["method"] == "gpt"} == {1}


def test_runs_without_seeds_are_numbered_and_not_paired(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a place in a list that is shown as a training seed, and unrelated runs that are paired by it."""
    monkeypatch.setattr(folder, "KINDS", {"gpt": {"nll": "exact"}, "masked": {"any_order": "exact"}})
    by_seed = trained(run, [0.0, 0.1, 0.2], [0.5, 0.6, 0.7])
    path = run / "comparison.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    for one in about["methods"][0]["trainings"]:
        one["numbered"] = True
    path.write_text(json.dumps(about), encoding="utf-8")
    numbered = read_comparison(run)
    gaps = [tables.gap(each, *each.likelihoods) for each in (by_seed, numbered)]
    paired, unpaired = (gap.interval[1] - gap.interval[0] for gap in gaps)
    assert paired < 1e-9 < unpaired
    assert numbered.methods[0].first.called == "run 1" and numbered.methods[1].first.called == "training seed 0"
    said = dict(summary.facts(numbered).items)["training seeds"]
    assert said == "gpt 3 runs, whose seeds are not known; masked 0, 1, 2"


def test_the_seed_on_the_page_is_that_of_the_training(run: Path) -> None:
    """Catches the run's own seed on the page of a comparison whose one training had another."""
    assert dict(summary.facts(read_comparison(run)).items)["training seed"] == "7"
    folder.write_trainings(
        run, {"gpt": {5: {"nll": folder.GPT_NATS}}, "masked": {5: {"any_order": folder.MASKED_NATS}}}
    )
    assert dict(summary.facts(read_comparison(run)).items)["training seed"] == "5"
    folder.write_trainings(
        run, {"gpt": {5: {"nll": folder.GPT_NATS}}, "masked": {3: {"any_order": folder.MASKED_NATS}}}
    )
    assert dict(summary.facts(read_comparison(run)).items)["training seeds"] == "gpt 5; masked 3"


def test_samples_are_of_the_first_training_and_say_so(run: Path, drawn: dict[str, Figure]) -> None:
    """Catches texts of the last training under the name of the first, and texts that no longer tell whose they are."""
    trained(run, [0.0, 0.1], [0.0, 0.1])
    path = run / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records = [one | {table.TRAINING_SEED: 0 if one["method"] in folder.FRONTIER else None} for one in records]
    later = [
        one | {table.TRAINING_SEED: 1, "texts": ["later"] * 2} for one in records if one["method"] in folder.FRONTIER
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*records, *later]), encoding="utf-8")
    said = said_in(sections.build(read_comparison(run)), "samples")
    assert "later" not in said and "gpt, training seed 0" in said


def test_an_older_comparison_has_one_training(run: Path) -> None:
    """Catches files of before training seeds that are refused, or read as none."""
    path = run / "likelihood.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n", encoding="utf-8")
    comparison = read_comparison(run)
    assert not comparison.several and comparison.methods[0].first.folder == run / "methods" / "gpt"
    assert cells_of(tables.likelihoods(comparison))[0]["nats/token"].text.startswith("1.7500 ± ")
