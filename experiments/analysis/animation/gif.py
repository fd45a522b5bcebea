"""Traces as a GIF, drawn with Pillow and the fonts that matplotlib brings: no display, no other program.

Sizes are in pixels.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.analysis.animation import frames
from experiments.analysis.animation.look import LIGHT, Kind, blend, ink, legend
from experiments.analysis.files import write
from experiments.analysis.trace import TraceRecord

THEME = LIGHT
CELL = (12, 25)  # of a character
MARGIN, PADDING, GAP = 20, 22, 16
HEADER = 84  # of a panel: title, counter and bar
FOOTER = 52  # of the picture: the legend
LAST_FRAME_MS = 4000
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
NOISE_COLOURS = 32  # levels told apart; all colours of a GIF must be fewer than 256
UNKNOWN = 255


class _Panel(NamedTuple):
    record: TraceRecord
    lines: list[list[frames.Slot]]
    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left - 2 * PADDING


def write_gif(records: Sequence[TraceRecord], path: Path, *, fps: float = 12, max_frames: int = 120) -> None:
    """Write the animation of the records, side by side on one clock.

    Raises ValueError without records, below 2 frames, and for `fps` that no GIF can play.
    """
    times = frames.times(records, fps=fps, max_frames=max_frames)
    picture = _Picture(records)
    drawn = [picture.draw(time, previous) for time, previous in zip(times, [times[0], *times], strict=False)]
    palette = _Palette()
    indexed = [palette.applied(frame) for frame in drawn]
    pause = round(100 / fps) * 10
    content = io.BytesIO()
    indexed[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=[*[pause] * (len(indexed) - 1), LAST_FRAME_MS],
        loop=0,
        optimize=True,  # of a frame only what changed
    )
    write(path, content.getvalue())


class _Picture:
    """The picture of all records, of which a frame redraws only what changed."""

    def __init__(self, records: Sequence[TraceRecord]) -> None:
        self.text = ImageFont.truetype(FONTS / "DejaVuSansMono.ttf", 20)
        self.small = ImageFont.truetype(FONTS / "DejaVuSans.ttf", 16)
        self.bold = [ImageFont.truetype(FONTS / "DejaVuSans-Bold.ttf", size) for size in (19, 17, 15, 13)]
        self.panels, size = _arranged(records)
        self.image = Image.new("RGB", size, THEME.page)
        self.pen = ImageDraw.Draw(self.image)
        self.seen: dict[tuple[int, int], frames.Cell] = {}  # by place
        for panel in self.panels:
            self._card(panel)
        self._legend(records)

    def draw(self, time: int, previous: int) -> Image.Image:
        """The frame at a time of the clock."""
        for panel in self.panels:
            state, before = frames.states(panel.record, time, previous)
            self._progress(panel, state)
            for row, line in enumerate(panel.lines):
                y = panel.top + HEADER + row * CELL[1]
                x = panel.left + PADDING
                for slot, cell in zip(line, frames.cells(panel.record, line, state, before), strict=True):
                    if self.seen.get((x, y)) != cell:
                        self._cell(x, y, slot.columns, cell)
                        self.seen[x, y] = cell
                    x += slot.columns * CELL[0]
        return self.image.copy()

    def _cell(self, x: int, y: int, columns: int, cell: frames.Cell) -> None:
        colours = ink(THEME, cell.kind, cell.level)
        box = (x, y, x + columns * CELL[0] - 1, y + CELL[1] - 1)
        self.pen.rectangle(box, fill=THEME.card)
        if colours.back is not None:
            self.pen.rectangle((x, y + 1, box[2] - 1, box[3] - 1), fill=colours.back)
        colour = THEME.soft if cell.character == "↵" and colours.back is None else colours.text
        self.pen.text((x, y + CELL[1] - 7), cell.character, font=self.text, fill=colour, anchor="ls")

    def _card(self, panel: _Panel) -> None:
        box = (panel.left, panel.top, panel.right, panel.bottom)
        self.pen.rounded_rectangle(box, radius=10, fill=THEME.card, outline=THEME.line)
        title = frames.title(panel.record)
        font = next((font for font in self.bold if font.getlength(title) <= panel.width), self.bold[-1])
        title = _cut(title, font, panel.width)
        self.pen.text((panel.left + PADDING, panel.top + 30), title, font=font, fill=THEME.text, anchor="ls")

    def _progress(self, panel: _Panel, state: int) -> None:
        """The counter and a bar of how much is decided."""
        left, top = panel.left + PADDING, panel.top + 36
        self.pen.rectangle((left, top, left + panel.width, top + 32), fill=THEME.card)
        counter = _cut(frames.counter(panel.record, state), self.small, panel.width)
        self.pen.text((left, top + 18), counter, font=self.small, fill=THEME.soft, anchor="ls")
        bar = top + 29
        self.pen.rectangle((left, bar, left + panel.width, bar + 3), fill=THEME.line)
        done = frames.decided(panel.record, state) / max(1, frames.open_positions(panel.record))
        if done > 0:
            self.pen.rectangle((left, bar, left + round(panel.width * done), bar + 3), fill=THEME.accent)

    def _legend(self, records: Sequence[TraceRecord]) -> None:
        x, y = MARGIN + 4, self.image.height - FOOTER // 2 - 4
        for kind, name in legend(records):
            if kind is Kind.NOISE:
                x = self._noise_scale(x, y)
                continue
            colours = ink(THEME, kind, 1.0)
            sample = "·" if kind is Kind.MASKED else "a"
            self.pen.rectangle((x, y - 12, x + 20, y + 11), fill=colours.back or THEME.card, outline=THEME.line)
            self.pen.text((x + 10, y + 6), sample, font=self.text, fill=colours.text, anchor="ms")
            self.pen.text((x + 28, y + 6), name, font=self.small, fill=THEME.soft, anchor="ls")
            x += round(28 + self.small.getlength(name) + 24)

    def _noise_scale(self, x: int, y: int) -> int:
        """The continuous scale of the noise levels; where the next entry begins."""
        left, width = round(x + self.small.getlength("clean") + 8), 110
        self.pen.text((x, y + 6), "clean", font=self.small, fill=THEME.soft, anchor="ls")
        for step in range(width):
            colour = ink(THEME, Kind.NOISE, step / (width - 1)).back
            self.pen.line((left + step, y - 11, left + step, y + 10), fill=colour)
        self.pen.rectangle((left - 1, y - 12, left + width, y + 11), outline=THEME.line)
        self.pen.text((left + width + 8, y + 6), "noise", font=self.small, fill=THEME.soft, anchor="ls")
        return round(left + width + 8 + self.small.getlength("noise") + 24)


def _arranged(records: Sequence[TraceRecord]) -> tuple[list[_Panel], tuple[int, int]]:
    """The panels in a grid, those of one row of equal height, and the size of the picture."""
    across = math.ceil(math.sqrt(len(records)))
    wrapped = [frames.lines(record, frames.COLUMNS) for record in records]
    width = (frames.COLUMNS + 1) * CELL[0] + 2 * PADDING  # a line's end may stand one column beyond
    panels, top = [], MARGIN
    for first in range(0, len(records), across):
        row = range(first, min(first + across, len(records)))
        bottom = top + HEADER + max(len(wrapped[index]) for index in row) * CELL[1] + PADDING
        for place, index in enumerate(row):
            left = MARGIN + place * (width + GAP)
            panels.append(_Panel(records[index], wrapped[index], left, top, left + width, bottom))
        top = bottom + GAP
    return panels, (2 * MARGIN + across * (width + GAP) - GAP, top - GAP + FOOTER)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text as far as it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


class _Palette:
    """One palette for all frames, so that what did not change is the same in each: every pair of colours that meet at
    a character's edge, and what lies between them. Pillow's own search for the nearest colour would miss white."""

    def __init__(self) -> None:
        pairs = [(THEME.card, colour) for colour in (THEME.text, THEME.soft, THEME.accent, THEME.line)]
        pairs += [(THEME.page, THEME.soft), (THEME.page, THEME.line)]
        pairs += [(colours.back or THEME.card, colours.text) for colours in THEME.kinds.values()]
        found = [blend(*pair, step / 6) for pair in pairs for step in range(7)]
        for level in range(NOISE_COLOURS + 1):
            colours = ink(THEME, Kind.NOISE, level / NOISE_COLOURS)
            found += [blend(colours.back or THEME.card, colours.text, step / 3) for step in range(4)]
        self.colours = np.array(list(dict.fromkeys(found)), dtype=np.uint8)  # (colours, 3)
        self.index = np.full(1 << 24, UNKNOWN, dtype=np.uint8)  # of the nearest colour, as colours turn up

    def applied(self, image: Image.Image) -> Image.Image:
        """The image with indices into the palette for colours."""
        pixels = np.asarray(image).astype(np.int32)
        codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]  # (height, width)
        for code in np.unique(codes[self.index[codes] == UNKNOWN]):
            colour = np.array([code >> 16, code >> 8 & 255, code & 255])
            self.index[code] = ((self.colours - colour) ** 2).sum(-1).argmin()
        indexed = Image.fromarray(self.index[codes])
        indexed.putpalette(self.colours.tobytes())
        return indexed
