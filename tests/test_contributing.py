"""Follows CONTRIBUTING.md to the letter in a copy of the tree: writes its files, adds its lines, runs its commands."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
# A file to write: `path` on a line of its own before the block. Lines to add: "Below `line` of `path`, add" before it.
NEW_FILE = re.compile(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDITION = re.compile(r"^Below `([^`]+)` in `([\w/.]+)`, add\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^python main\.py ([^\n]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the tree with everything that CONTRIBUTING.md adds."""
    copy = tmp_path_factory.mktemp("tree")
    for room in (".ci", "algorithms", "configs", "datasets", "docs", "experiments", "tests"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and not file.is_symlink():
            shutil.copy(file, copy / file.name)
    page = PAGE.read_text(encoding="utf-8")
    for path, body in NEW_FILE.findall(page):
        assert not (copy / path).exists(), f"{path} of CONTRIBUTING.md exists already"
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(body, encoding="utf-8")
    for line, path, body in ADDITION.findall(page):
        text = (copy / path).read_text(encoding="utf-8")
        assert text.count(f"{line}\n") == 1, f"'{line}' does not stand exactly once in {path}"
        (copy / path).write_text(text.replace(f"{line}\n", f"{line}\n{body}"), encoding="utf-8")
    return copy


def test_the_page_has_all_six_recipes():
    """Catches a page whose blocks the patterns above no longer find."""
    page = PAGE.read_text(encoding="utf-8")
    assert len(NEW_FILE.findall(page)) >= 8 and len(ADDITION.findall(page)) >= 7
    assert len(COMMAND.findall(page)) >= 6


@pytest.mark.parametrize("command", COMMAND.findall(PAGE.read_text(encoding="utf-8")))
def test_its_commands_run(tree, command):
    """Catches a recipe that no longer works as written."""
    words = [word.strip("'") for word in command.split()]
    result = subprocess.run(
        [sys.executable, "main.py", *words, "debug=smoke"],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=240,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_new_metric_is_in_every_table(tree):
    """Catches a reader with a list of metrics of its own: the columns are those of the run above, the report is of a
    comparison with that column."""
    script = """
import sys
from pathlib import Path
from experiments.analysis import paired
from experiments.analysis.decoding_table import read_rows
from experiments.analysis.report import write_report
from tests.experiments.analysis import comparison_folder

known = comparison_folder.metrics_of
comparison_folder.metrics_of = lambda setting, seed: known(setting, seed) | {"word_length": 4.25}
run = comparison_folder.build(Path("compared"))
write_report(run)
assert run.joinpath("report.md").read_text().count("word length, characters") >= 2  # of speed, and of everything
assert "| word length " in run.joinpath("report.md").read_text() and "4.25" in run.joinpath("report.html").read_text()
rows = read_rows(run / "results.csv")
assert "word_length nearest to real text" in paired.markdown(paired.compare(rows[:3], rows[3:6], rows[-3:]))
"""
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=tree, capture_output=True, text=True, timeout=240, encoding="utf-8"
    )
    assert made.returncode == 0, made.stderr
    command = next(line for line in COMMAND.findall(PAGE.read_text(encoding="utf-8")) if "outputs/metric" in line)
    if not (tree / "outputs/metric/results.csv").is_file():  # the test above may run in another process
        test_its_commands_run(tree, command)
    with (tree / "outputs/metric/results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(1 <= float(row["word_length"]) < 40 for row in rows)
    assert "word length, characters" in (tree / "outputs/metric/results.md").read_text(encoding="utf-8")


def run_tests(tree, *arguments):
    """Pytest in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=2400, encoding="utf-8")
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


def test_the_import_table_still_holds(tree):
    """Catches a recipe whose files break the layering."""
    run_tests(tree, "tests/test_layering.py")


@pytest.mark.slow
def test_the_whole_suite_still_passes(tree):
    """Catches a recipe that a test of anything else would object to."""
    run_tests(tree, "-n", "2", "--ignore=tests/test_contributing.py")
