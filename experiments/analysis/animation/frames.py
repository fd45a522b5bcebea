"""What stands where, and when: the layout of a text in columns and the common clock of several traces.

A position keeps its place throughout, that which its token has in the finished text. The clock counts passes of the
network, so that of several traces the one that needs fewer ends first. S states, L positions, F frames.
"""

import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.analysis.animation.look import HIDDEN, NEWLINE, Kind, columns_of, kinds, shown
from experiments.analysis.trace import TraceRecord

COLUMNS = 40  # of a panel, where there is room


class Slot(NamedTuple):
    """The place of one character: of position `position` of the text, the one at `offset` of its token."""

    position: int
    offset: int
    character: str  # of the finished text
    columns: int


class Cell(NamedTuple):
    """What is shown in a slot."""

    character: str
    kind: Kind
    level: float


def lines(record: TraceRecord, columns: int) -> list[list[Slot]]:
    """The slots of the finished text, wrapped at spaces to `columns`; a space or a line's end may stand one beyond."""
    wrapped: list[list[Slot]] = [[]]
    for position, token in enumerate(record.tokens[-1]):
        for offset, character in enumerate(shown(token) or " "):
            line = wrapped[-1]
            slot = Slot(position, offset, character, columns_of(character))
            if line and _width([*line, slot]) > columns + (character in " \n"):
                cut = len(line) if character in " \n" else _start_of_word(line)
                if _width([*line[cut:], slot]) > columns:
                    cut = len(line)
                wrapped[-1:] = [line[:cut], line[cut:]]
            wrapped[-1].append(slot)
            if character == "\n":
                wrapped.append([])
    return wrapped if wrapped[-1] else wrapped[:-1]


def _width(slots: Sequence[Slot]) -> int:
    return sum(slot.columns for slot in slots)


def _start_of_word(line: Sequence[Slot]) -> int:
    """Where the unfinished last word of a line begins; its end where it is all one word."""
    spaces = [index for index, slot in enumerate(line) if slot.character == " "]
    return spaces[-1] + 1 if spaces else len(line)


def cells(record: TraceRecord, slots: Sequence[Slot], state: int, before: int) -> list[Cell]:
    """What each slot shows in a state; see `look.kinds` for `before`."""
    found, levels, tokens = kinds(record, state, before), record.levels[state], record.tokens[state]
    shown_cells = []
    for slot in slots:
        kind, level = found[slot.position], float(levels[slot.position])
        hidden = level == 1
        character = HIDDEN if hidden else _fitted(shown(tokens[slot.position]), slot)
        shown_cells.append(Cell(character, kind, level))
    return shown_cells


def times(records: Sequence[TraceRecord], *, fps: float, max_frames: int) -> list[int]:
    """The times of F <= max_frames frames, evenly chosen, from the first to the last of all records.

    Raises ValueError without records, for `fps` out of range, and below two frames.
    """
    if not records:
        raise ValueError("there is no trace to animate: give one or several")
    if not 0.1 <= fps <= 50:  # a GIF counts in hundredths of a second, and programs slow down pauses below two
        raise ValueError(f"{fps:g} frames per second cannot be played: choose a number from 0.1 to 50")
    if max_frames < 2:
        raise ValueError(f"{max_frames} frames are no animation: ask for at least 2, the first and the last")
    first = min(int(record.forwards[0]) for record in records)
    last = max(int(record.forwards[-1]) for record in records)
    return np.unique(np.linspace(first, last, min(max_frames, last - first + 1)).round().astype(int)).tolist()


def state_at(record: TraceRecord, time: int) -> int:
    """The latest state at a time of the clock; the first one before it begins."""
    return max(0, int(np.searchsorted(record.forwards, time, side="right")) - 1)


def states(record: TraceRecord, time: int, previous: int) -> tuple[int, int]:
    """The state at a time and the one to compare it with: that at the frame before, and itself once all is done."""
    state = state_at(record, time)
    return state, state if state == len(record.tokens) - 1 else state_at(record, previous)


def title(record: TraceRecord) -> str:
    return f"{record.method}: {record.decoder}"


def counter(record: TraceRecord, state: int) -> str:
    """What a state has cost and brought: passes of the network, tokens, and tokens per pass."""
    count = decided(record, state)
    tokens = f"{count}/{open_positions(record)} tokens"
    forwards = int(record.forwards[state])
    rate = "" if forwards == 0 else f" · {math.floor(100 * count / forwards + 0.5) / 100:.2f} tokens/forward"
    return f"{forwards}/{int(record.forwards[-1])} forwards · {tokens}{rate}"


def decided(record: TraceRecord, state: int) -> int:
    """Positions that were not given and are decided in a state."""
    return int(((record.levels[state] == 0) & ~record.given).sum())


def open_positions(record: TraceRecord) -> int:
    """Positions that were not given."""
    return int((~record.given).sum())


def _fitted(token: str, slot: Slot) -> str:
    """The token's character in the slot, of the slot's width: cut, padded, and with marks for what has no width."""
    character = token[slot.offset] if slot.offset < len(token) else " "
    if character == "\n":
        character = NEWLINE
    if unicodedata.combining(character):
        return f"◌{character}"
    if columns_of(character) > slot.columns:
        return "…"
    return character + " " * (slot.columns - columns_of(character))
