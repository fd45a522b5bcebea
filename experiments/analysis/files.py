"""Files of runs, read and written: whole or not at all; what is damaged is refused in a sentence that names it."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(binary file)` on a temporary file, flush it to the disk, and move it to `path`.

    Raises OSError, in one sentence, when that fails; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into a RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the previous one is untouched" if path.exists() else "nothing was written"
        raise OSError(f"cannot write {path} ({reason}): free some space or choose another folder; {kept}") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a text, in UTF-8 and with line ends as they are, or bytes. Raises as write_atomically.

    Names of files that the locale of this process cannot read are written as the bytes that they are.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write(data))


def table_text(header: Sequence[str], lines: Iterable[Sequence[Any]], quoting: Any = csv.QUOTE_MINIMAL) -> str:
    """Lines of a CSV file below their header; None is a blank, and numbers keep all digits."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows([header, *lines])
    return out.getvalue()


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file; line ends in cells stay as they are."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def number(text: str | None, name: str, path: Path) -> float:
    """A number of column `name` of a CSV file; NaN where it is blank, or cut off the last row of a killed run."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{path}: column '{name}' holds '{text}', which is not a number.") from None


def read_json(path: Path, kind: type[T], remedy: str, fault: str = "is damaged") -> T:
    """The JSON of a file. Raises ValueError, with `fault` and `remedy`, where it is not valid or of another kind."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {fault}, as it is not valid JSON ({error}): {remedy}.") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} {fault}, as it holds a {type(found).__name__} and no {kind.__name__}: {remedy}.")
    return found


def read_records(path: Path) -> list[dict[str, Any]]:
    """Objects of a file with one a line; a last line that a kill cut short is none. No file: no records."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    try:
        return [json.loads(line) for line in lines[:-1]]  # behind the last line end stands nothing, or what was cut
    except ValueError:
        raise ValueError(f"{path} holds a line that is no record of samples: move the file away.") from None
