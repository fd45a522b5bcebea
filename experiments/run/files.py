"""JSON files of a run, and texts that grow; what is written at once goes through experiments/analysis/files.py."""

import json
import os
from pathlib import Path
from typing import Any

from experiments.analysis.files import write


def write_json(path: Path, content: Any) -> None:
    """Write plain containers as indented JSON, atomically."""
    write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """One write at the end of the file, on the disk when this returns."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
