"""Texts are UTF-8, whatever the locale of a machine says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("algorithms", "datasets", "experiments", "tests")


def without_encoding(source: str) -> Iterator[int]:
    """Lines of calls that read or write text in the locale's encoding; ruff's PLW1514 sees those of known types."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = {word.arg: word.value for word in node.keywords}
        places = node.args if isinstance(node.func, ast.Attribute) else node.args[1:]
        mode = values.get("mode", places[0] if places else ast.Constant("r"))
        opens = name == "open" and isinstance(mode, ast.Constant) and "b" not in str(mode.value)
        reads = (name == "read_text" and not node.args) or (name == "write_text" and len(node.args) == 1)
        runs = isinstance(values.get("text"), ast.Constant) and name in ("run", "Popen", "check_output")
        if opens or reads or runs:
            yield node.lineno


def test_no_text_is_read_in_the_encoding_of_the_locale() -> None:
    """Catches a file or a child's output that is read as cp1252 on one machine and as UTF-8 on another."""
    files = [ROOT / "main.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    found = [
        f"{path.relative_to(ROOT)}:{n}" for path in files for n in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        *(("open('a')", True), ("path.open('w')", True), ("path.open(mode='a')", True), ("path.open('rb')", False)),
        *(("path.read_text()", True), ("path.read_text('utf-8')", False), ("path.write_text(text)", True)),
        *(("run(words, text=True)", True), ("run(words, text=True, encoding='utf-8')", False)),
        *(("open('a', encoding='utf-8')", False), ("Square(text='a')", False)),
    ],
)
def test_a_planted_call_is_found(source: str, found: bool) -> None:
    """Catches a search that overlooks calls, or reports what is right."""
    assert bool([*without_encoding(source)]) == found
