"""docs/situations.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_situation_has_its_test() -> None:
    """Catches a promise whose test was renamed or removed."""
    lines = (ROOT / "docs" / "situations.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| situation")]
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.rpartition(" | ")[2]) for row in rows]
    assert rows and all(named)
    tests = {(file, name) for found in named for file, name in found}
    content = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in tests}
    assert not [f"{file}::{name}" for file, name in sorted(tests) if f"def {name}" not in content[file]]
