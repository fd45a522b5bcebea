"""Traces replayed in a terminal, in colours where it has them; elsewhere the last frame alone, as plain text."""

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TextIO

from experiments.analysis.animation import frames
from experiments.analysis.animation.look import HIDDEN, LIGHT, Colour, Ink, Kind, ink, legend, shown
from experiments.analysis.trace import TraceRecord

COLUMNS = 40  # of a panel, where the terminal is that wide
GUTTER = 3
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen and no cursor, and back
HOME, CLEAR_LINE, CLEAR_BELOW, RESET = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[0m"
BLOCK = "░"  # what is hidden, where no colour can show it
GIVEN = Ink((70, 150, 215))  # readable on light and on dark, as the terminal's own background is not known


class Painter:
    """Puts characters into colours: of 24 bits, of 8, or none, with `depth` 24, 8 or 0."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Painter":
        """What the terminal can show; NO_COLOR (no-color.org) asks for none."""
        if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
            return cls(0)
        return cls(24 if environment.get("COLORTERM") in ("truecolor", "24bit") else 8)

    def paint(self, cell: frames.Cell, text: str) -> str:
        """The text as the cell looks."""
        if not self.depth:
            return text.replace(HIDDEN, BLOCK) if cell.level == 1 else text
        if cell.kind is Kind.DONE:
            return text
        colours = GIVEN if cell.kind is Kind.GIVEN else ink(LIGHT, cell.kind, cell.level)
        back = "" if colours.back is None else f";{self._code(48, colours.back)}"
        return f"\x1b[{self._code(38, colours.text)}{back}m{text}{RESET}"

    def _code(self, layer: int, colour: Colour) -> str:
        if self.depth == 24:
            return f"{layer};2;{colour[0]};{colour[1]};{colour[2]}"
        red, green, blue = (round(channel / 255 * 5) for channel in colour)
        return f"{layer};5;{16 + 36 * red + 6 * green + blue}"


def replay(
    records: Sequence[TraceRecord],
    *,
    fps: float = 12,
    max_frames: int = 120,
    out: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Play the records side by side and leave their last frame; where `out` is no terminal, print that alone.

    Raises ValueError as `write_gif`, and KeyboardInterrupt, with the terminal as it was, on Ctrl-C.
    """
    frames.check(records, fps)
    out = out or sys.stdout
    times = frames.times(records, max_frames)
    if not out.isatty():
        count = max(len(record.tokens) for record in records)
        out.write("\n".join(picture(records, times[-1], times[-1], Painter(0), COLUMNS)) + "\n")
        out.write(f"The last of {count} states, as this is no terminal: --gif or --html shows them all.\n")
        return
    painter = Painter.of(environment)
    out.write(ENTER)
    try:
        for moment, previous in zip(times, [times[0], *times], strict=False):
            _show(records, moment, previous, painter, out)
            time.sleep(1 / fps)
    finally:
        out.write(LEAVE)
        out.flush()
    width = shutil.get_terminal_size().columns
    out.write("\n".join(picture(records, times[-1], times[-1], painter, width)) + "\n")


def picture(records: Sequence[TraceRecord], moment: int, previous: int, painter: Painter, width: int) -> list[str]:
    """The lines of a frame, as many panels beside each other as `width` columns hold."""
    columns = max(8, min(COLUMNS, width - 2))
    across = max(1, (width + GUTTER) // (columns + 1 + GUTTER))
    panels = [_panel(record, moment, previous, painter, columns) for record in records]
    shown_rows = []
    for first in range(0, len(panels), across):
        for row in zip_longest(*panels[first : first + across], fillvalue=" " * (columns + 1)):
            shown_rows.append((" " * GUTTER).join(row).rstrip())
        shown_rows.append("")
    if painter.depth:
        shown_rows.append("  ".join(_key(kind, name, painter) for kind, name in legend(list(records))))
    elif any(BLOCK in row for row in shown_rows):
        shown_rows.append(f"{BLOCK} masked or noise")
    return shown_rows


def _show(records: Sequence[TraceRecord], moment: int, previous: int, painter: Painter, out: TextIO) -> None:
    """Draw a frame over the one before, as much as fits the terminal now."""
    width, height = shutil.get_terminal_size()
    rows = picture(records, moment, previous, painter, width)[: height - 1]
    out.write(HOME + "".join(f"{row}{CLEAR_LINE}\n" for row in rows) + CLEAR_BELOW)
    out.flush()


def _panel(record: TraceRecord, moment: int, previous: int, painter: Painter, columns: int) -> list[str]:
    """Title, counter and text, each line filled up to columns + 1."""
    state, before = frames.states(record, moment, previous)
    cost, _, result = frames.counter(record, state).partition(" · ")
    rows = [_padded(text, columns + 1) for text in (frames.title(record), cost, result)]
    for line in frames.lines(record, columns):
        cells = frames.cells(record, line, state, before)
        painted = [painter.paint(cell, _wide(cell, slot)) for cell, slot in zip(cells, line, strict=True)]
        rows.append("".join(painted) + " " * (columns + 1 - sum(slot.columns for slot in line)))
    return rows


def _wide(cell: frames.Cell, slot: frames.Slot) -> str:
    return cell.character * slot.columns if cell.level == 1 else cell.character


def _padded(text: str, columns: int) -> str:
    """The text without what could command the terminal, cut or filled up."""
    text = shown(text).replace("\n", " ")
    return (text if len(text) <= columns else f"{text[: columns - 1]}…").ljust(columns)


def _key(kind: Kind, name: str, painter: Painter) -> str:
    if kind is Kind.NOISE:
        scale = "".join(painter.paint(frames.Cell(" ", kind, step / 8), " ") for step in range(9))
        return f"clean {scale} noise"
    sample = HIDDEN if kind is Kind.MASKED else "a"
    return f"{painter.paint(frames.Cell(sample, kind, 1.0), f' {sample} ')} {name}"
