"""What the states of a position look like: kinds, colours and characters, the same in every medium.

L positions of a text.
"""

import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from experiments.analysis.trace import TraceRecord

Colour = tuple[int, int, int]


class Kind(StrEnum):
    """How a position stands: its token is given, hidden, may change, has noise, was decided just now, or before."""

    GIVEN = "given"
    MASKED = "masked"
    DRAFT = "draft"
    NOISE = "noise"
    NEW = "new"
    DONE = "done"


class Ink(NamedTuple):
    """Colours of a character; no background is the card's."""

    text: Colour
    back: Colour | None = None


class Theme(NamedTuple):
    """The colours of a picture. `noise` is laid over the card in proportion to the level."""

    page: Colour
    card: Colour
    line: Colour
    text: Colour
    soft: Colour
    accent: Colour
    noise: Colour
    kinds: dict[Kind, Ink]


def _rgb(code: str) -> Colour:
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


def _ink(text: str, back: str | None = None) -> Ink:
    return Ink(_rgb(text), None if back is None else _rgb(back))


# Told apart by colour-blind readers: blue, orange and green of Okabe and Ito, which differ in lightness, too.
LIGHT = Theme(
    page=_rgb("fbfbfa"),
    card=_rgb("ffffff"),
    line=_rgb("e3e5e8"),
    text=_rgb("20242a"),
    soft=_rgb("5d6570"),
    accent=_rgb("0072b2"),
    noise=_rgb("2a6cb0"),
    kinds={
        Kind.GIVEN: _ink("0072b2"),
        Kind.MASKED: _ink("b3b9c1", "dde0e4"),
        Kind.DRAFT: _ink("7a4a00", "fbdf9f"),
        Kind.NOISE: _ink("000000"),
        Kind.NEW: _ink("00553d", "a8e3cd"),
        Kind.DONE: _ink("20242a"),
    },
)
DARK = Theme(
    page=_rgb("14171a"),
    card=_rgb("1c2025"),
    line=_rgb("30363d"),
    text=_rgb("e4e7ea"),
    soft=_rgb("9aa4af"),
    accent=_rgb("56b4e9"),
    noise=_rgb("3a78b8"),
    kinds={
        Kind.GIVEN: _ink("56b4e9"),
        Kind.MASKED: _ink("5f6873", "39414a"),
        Kind.DRAFT: _ink("ffdf9c", "6b4a10"),
        Kind.NOISE: _ink("f2f5f8"),
        Kind.NEW: _ink("c9f5e5", "11654c"),
        Kind.DONE: _ink("e4e7ea"),
    },
)
WHITE_FROM = 0.915  # the noise level from which white stands out from the noise more than black does
NAMES = {
    Kind.GIVEN: "given",
    Kind.MASKED: "masked",
    Kind.DRAFT: "draft",
    Kind.NEW: "decided just now",
    Kind.DONE: "decided",
    Kind.NOISE: "noise",
}
HIDDEN = "·"  # stands on a block where nothing is known of a token
NEWLINE = "↵"
UNSHOWN = "\ufffd"


def kinds(record: TraceRecord, state: int, before: int) -> list[Kind]:
    """The kind of each of L positions in a state; decided just now is what was open in the state `before`."""
    levels, was = record.levels[state], record.levels[before]
    open_kind = Kind.NOISE if record.scale == "noise" else Kind.DRAFT
    blank_kind = Kind.NOISE if record.scale == "noise" else Kind.MASKED
    conditions = [record.given, (levels == 0) & (was > 0), levels == 0, levels == 1]
    chosen = np.select(conditions, [0, 1, 2, 3], default=4)  # (L,)
    order = (Kind.GIVEN, Kind.NEW, Kind.DONE, blank_kind, open_kind)
    return [order[index] for index in chosen]


def ink(theme: Theme, kind: Kind, level: float) -> Ink:
    """The colours of a position of this kind at this level."""
    if kind is not Kind.NOISE:
        return theme.kinds[kind]
    back = blend(theme.card, theme.noise, level)
    return Ink((255, 255, 255) if level > WHITE_FROM else theme.kinds[kind].text, back)


def blend(below: Colour, above: Colour, share: float) -> Colour:
    """`above` laid over `below` with the opacity `share`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(below, above, strict=True))
    return red, green, blue


def shown(token: str) -> str:
    """The token with what cannot be shown, such as control characters, replaced one by one; newlines stay."""
    return "".join(character if _visible(character) else UNSHOWN for character in token)


def columns_of(character: str) -> int:
    """Columns that a character takes in a monospaced font: 2 for wide ones of East Asia."""
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _visible(character: str) -> bool:
    return character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def legend(records: Sequence[TraceRecord]) -> list[tuple[Kind, str]]:
    """The kinds that occur in the records, with their names, in the order of a text's making."""
    kinds_there = {Kind.NEW, Kind.DONE}
    for record in records:
        if record.given.any():
            kinds_there.add(Kind.GIVEN)
        if record.scale == "noise":
            kinds_there.add(Kind.NOISE)
            continue
        kinds_there.add(Kind.MASKED)
        if ((record.levels > 0) & (record.levels < 1)).any():
            kinds_there.add(Kind.DRAFT)
    return [(kind, name) for kind, name in NAMES.items() if kind in kinds_there]
