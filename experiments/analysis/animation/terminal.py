"""Traces replayed in a terminal, in the colours that it has; elsewhere the last frame alone, as plain text."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Text

from experiments.analysis.animation import frames
from experiments.analysis.animation.look import HIDDEN, LIGHT, Ink, Kind, ink, legend, shown
from experiments.analysis.trace import TraceRecord

GUTTER = 3
BLOCK = "░"  # what is hidden, where no colour can show it
GIVEN = Ink((70, 150, 215))  # readable on light and on dark, as the terminal's own background is not known


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
    console = Console(file=out or sys.stdout, _environ=environment, highlight=False)
    times = frames.times(records, fps=fps, max_frames=max_frames)
    if not console.is_terminal:
        console.width = frames.COLUMNS + 1 + GUTTER  # one below the other
        console.print(picture(records, times[-1], times[-1], console))
        count = max(len(record.tokens) for record in records)
        said = f"The last of {count} states, as this is no terminal: --gif or --html shows them all."
        console.print(said, soft_wrap=True)
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for moment, previous in zip(times, [times[0], *times], strict=False):
            live.update(picture(records, moment, previous, console), refresh=True)
            time.sleep(1 / fps)
    console.print(picture(records, times[-1], times[-1], console))


def picture(records: Sequence[TraceRecord], moment: int, previous: int, console: Console) -> Group:
    """A frame: as many panels beside each other as the console is wide, and what the colours mean."""
    coloured = console.color_system is not None and not console.no_color
    columns = max(8, min(frames.COLUMNS, console.width - 1 - GUTTER))
    panels = Columns(width=columns + 1, padding=(0, GUTTER, 1, 0))
    for record in records:
        panels.add_renderable(_panel(record, moment, previous, columns, coloured))
    if coloured:
        return Group(panels, Text("  ").join(_key(kind, name) for kind, name in legend(records)))
    hidden = any((record.levels[frames.state_at(record, moment)] == 1).any() for record in records)
    return Group(panels, *[Text(f"{BLOCK} masked or noise")] * hidden)


def _panel(record: TraceRecord, moment: int, previous: int, columns: int, coloured: bool) -> Text:
    """Title, counter and text."""
    state, before = frames.states(record, moment, previous)
    cost, _, result = frames.counter(record, state).partition(" · ")
    # Control characters, which could command the terminal, are replaced.
    head = [shown(text).replace("\n", " ") for text in (frames.title(record), cost, result)]
    rows = [Text(text if len(text) <= columns else f"{text[: columns - 1]}…") for text in head]
    for line in frames.lines(record, columns):
        row = Text()
        for slot, cell in zip(line, frames.cells(record, line, state, before), strict=True):
            sign = (HIDDEN if coloured else BLOCK) * slot.columns if cell.level == 1 else cell.character
            row.append(sign, _style(cell.kind, cell.level))
        rows.append(row)
    return Text("\n", no_wrap=True).join(rows)


def _style(kind: Kind, level: float) -> Style:
    if kind is Kind.DONE:
        return Style()
    colours = GIVEN if kind is Kind.GIVEN else ink(LIGHT, kind, level)
    back = None if colours.back is None else "#" + bytes(colours.back).hex()
    return Style(color="#" + bytes(colours.text).hex(), bgcolor=back)


def _key(kind: Kind, name: str) -> Text:
    if kind is Kind.NOISE:
        scale = [(" ", _style(kind, step / 8)) for step in range(9)]
        return Text.assemble("clean ", *scale, " noise")
    sample = HIDDEN if kind is Kind.MASKED else "a"
    return Text.assemble((f" {sample} ", _style(kind, 1.0)), f" {name}")
