"""Traces: how a decoder wrote one text, state by state, in a file that the animations and the report read.

In the file the first state stands whole and of every later one only what changed. S states, L tokens.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis.files import read_json, write

SCHEMA = 1
FOLDER = "traces"  # of a run folder
SCALES = ("states", "noise")
PLAIN = ("method", "decoder", "prompt", "scale", "seconds", "tokens_per_forward")  # as they are in the file
REMEDY = "record it again with the task visualize"


@dataclass(frozen=True, eq=False)
class TraceRecord:
    """One text being written by `method` with the setting `decoder`.

    `tokens` are S lists of L texts, `levels` (S, L) in [0, 1], 0 decided or given: with scale "states" 1 is masked and
    0.5 a draft, with "noise" any level is one of noise. `forwards` (S,) counts the network's passes up to each
    state, `seconds` is the wall time with recording. `given` (L,) marks what the decoder was given, which
    begins with `prompt`. Raises ValueError where these do not fit each other.
    """

    method: str
    decoder: str
    prompt: str
    scale: str
    given: np.ndarray
    tokens: list[list[str]]
    levels: np.ndarray
    forwards: np.ndarray
    seconds: float
    tokens_per_forward: float
    weights: str | None = None  # their fingerprint, None in older files

    def __post_init__(self) -> None:
        S, L = len(self.tokens), len(self.given)
        if self.scale not in SCALES:
            raise ValueError(f"the scale of a trace is '{self.scale}': it must be one of {', '.join(SCALES)}")
        if S == 0 or L == 0:
            raise ValueError(f"a trace needs at least one state and one token, not {S} and {L}")
        if {len(row) for row in self.tokens} != {L} or self.levels.shape != (S, L):
            raise ValueError(f"a trace of {S} states of {L} tokens has levels of the shape {self.levels.shape}")
        if not ((self.levels >= 0) & (self.levels <= 1)).all():
            raise ValueError("a trace has a level outside of [0, 1]")
        if self.forwards.shape != (S,) or (np.diff(self.forwards) < 0).any():
            raise ValueError(f"the forwards of a trace of {S} states must be as many numbers that never fall")


def write_trace(path: Path, record: TraceRecord) -> None:
    """Write the record to `path`, replacing what is there in one step."""
    content = {"schema": SCHEMA, "weights": record.weights} | {name: getattr(record, name) for name in PLAIN}
    content |= {
        "given": record.given.tolist(),
        "forwards": record.forwards.tolist(),
        "first": {"tokens": record.tokens[0], "levels": record.levels[0].tolist()},
        "changes": changes(record),
    }
    write(path, json.dumps(content, separators=(",", ":")))  # ASCII: any token can be written


def changes(record: TraceRecord) -> list[list[tuple[int, str, float]]]:
    """For each state after the first the positions that changed, with their new token and level."""
    rows = [list(zip(*row, strict=True)) for row in zip(record.tokens, record.levels.tolist(), strict=True)]
    return [
        [(position, *new) for position, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
        for before, now in pairwise(rows)
    ]


def read_trace(path: Path) -> TraceRecord:
    """The record of a file. Raises FileNotFoundError, or ValueError for one that is no trace or of another schema."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no trace {path}: record one with the task visualize")
    content = read_json(path, dict, REMEDY, "is no trace")
    if "schema" not in content or "changes" not in content:
        raise ValueError(f"{path} is no trace: {REMEDY}")
    if content["schema"] != SCHEMA:
        raise ValueError(f"{path} is a trace of schema {content['schema']}, this program reads {SCHEMA}: {REMEDY}")
    try:
        return _record(content)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is a damaged trace ({what}): {REMEDY}") from error


def trace_files(path: Path) -> list[Path]:
    """The trace at `path`, or all of a run folder's. Raises FileNotFoundError where there are none."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    folder = path if path.name == FOLDER else path / FOLDER
    found = sorted(folder.glob("*.json"))
    if not found:
        raise FileNotFoundError(f"there are no traces in {folder}: record some with the task visualize")
    return found


def _record(content: dict[str, Any]) -> TraceRecord:
    given = np.array(content["given"], dtype=bool)
    tokens, levels = [list(content["first"]["tokens"])], [list(content["first"]["levels"])]
    for changed in content["changes"]:
        tokens.append(list(tokens[-1]))
        levels.append(list(levels[-1]))
        for position, token, level in changed:
            tokens[-1][position], levels[-1][position] = str(token), level
    return TraceRecord(
        **{name: content[name] for name in PLAIN},
        weights=content.get("weights"),
        given=given,
        tokens=tokens,
        levels=np.array(levels, dtype=float),
        forwards=np.array(content["forwards"], dtype=int),
    )
