"""What a report consists of, before it is a page: blocks of text, tables and pictures in sections.

Made once (sections.py) and written twice (html.py, markdown.py). All texts are plain: whoever writes them escapes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NOTE, ALARM = "note", "alarm"  # tones: an aside, and what must not be overlooked


class Code(str):
    """A piece of a text, or a cell, that is typed as it stands."""


@dataclass(frozen=True)
class Text:
    """A paragraph of pieces, in one of the tones or none."""

    pieces: Sequence[str]
    tone: str = ""


def say(*pieces: str, tone: str = "") -> Text:
    """A paragraph."""
    return Text(pieces, tone)


@dataclass(frozen=True)
class Points:
    """A list of sentences, each after the word that it is about."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """Names and their values, for looking up."""

    items: Sequence[tuple[str, str]]


class Cell(NamedTuple):
    """A cell of a table: its text, what stands small below it, a colour that marks its method, a tone."""

    text: str
    small: str = ""
    colour: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first `labels` columns are words and the others numbers; `starts` are rows that begin a group."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    starts: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A file of the folder plots/, what it shows to those who do not see it, and its caption."""

    file: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other where there is room."""

    pictures: Sequence[Picture]


class Sample(NamedTuple):
    """A text with the label and colour of who wrote it; the prompt that it continues is no part of it."""

    label: str
    colour: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Samples:
    """Texts side by side."""

    title: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    text: str


@dataclass(frozen=True)
class Animation:
    """A self-contained piece of HTML, and a picture for where none can be shown."""

    html: str
    picture: Picture


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away below a summary."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Points | Facts | Table | Picture | Gallery | Samples | Commands | Animation | Details


@dataclass(frozen=True)
class Section:
    """A headed part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report: its head and its sections."""

    title: str
    subtitle: str
    head: Sequence[Block]
    sections: Sequence[Section]

    def files(self) -> list[str]:
        """Files of the folder plots/ that the report shows, in order."""
        blocks = [*self.head, *(block for section in self.sections for block in section.blocks)]
        return [file for block in blocks for file in _files(block)]


def _files(block: Block) -> list[str]:
    match block:
        case Picture():
            return [block.file]
        case Gallery():
            return [each.file for each in block.pictures]
        case Animation():
            return [block.picture.file]
        case Details():
            return [file for each in block.blocks for file in _files(each)]
        case _:
            return []
