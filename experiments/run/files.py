"""Files written so that a crash leaves the old one or the new one, never half of either.

Every JSON file, table and checkpoint of a run goes through here.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(binary file)` on a temporary file, flush it to the disk, and move it to `path`.

    Raises OSError, in one sentence, when that fails; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the previous one is untouched" if path.exists() else "nothing was written"
        raise OSError(f"cannot write {path} ({reason}): free some space or choose another folder; {kept}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, in UTF-8 and with line ends as they are."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write plain containers as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """One write at the end of the file, on the disk when this returns."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
