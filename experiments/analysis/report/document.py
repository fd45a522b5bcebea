"""What a report consists of, before it is a page: blocks of text, tables and pictures in sections.

Made once (sections.py) and written twice (html.py, markdown.py). All texts are plain: whoever writes them escapes them.
"""

from collections.abc import Sequence
from typing import NamedTuple

NOTE, ALARM = "note", "alarm"  # tones: an aside, and what must not be overlooked


class Code(str):
    """A piece of a text, or a cell, that is typed as it stands."""


class Text(NamedTuple):
    """A paragraph of pieces, in one of the tones or none."""

    pieces: Sequence[str]
    tone: str = ""


def say(*pieces: str, tone: str = "") -> Text:
    """A paragraph."""
    return Text(pieces, tone)


def note(sentence: str) -> Text:
    """An aside."""
    return Text([sentence], NOTE)


class Points(NamedTuple):
    """A list of sentences, each after the word that it is about."""

    items: Sequence[tuple[str, str]]


class Facts(NamedTuple):
    """Names and their values, for looking up."""

    items: Sequence[tuple[str, str]]


class Cell(NamedTuple):
    """A cell of a table: its text, what stands small below it, a colour that marks its method, a tone."""

    text: str
    small: str = ""
    colour: str = ""
    tone: str = ""


class Table(NamedTuple):
    """A table whose first `labels` columns are words and the others numbers; `starts` are rows that begin a group."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int = 1
    starts: frozenset[int] = frozenset()


class Picture(NamedTuple):
    """A file of the folder plots/, what it shows to those who do not see it, and its caption."""

    file: str
    alt: str
    caption: str


class Gallery(NamedTuple):
    """Pictures beside each other where there is room."""

    pictures: Sequence[Picture]


class Sample(NamedTuple):
    """A text with the label and colour of who wrote it; the prompt that it continues is no part of it."""

    label: str
    colour: str
    prompt: str
    text: str


class Samples(NamedTuple):
    """Texts side by side."""

    title: str
    samples: Sequence[Sample]


class Commands(NamedTuple):
    """Lines for a shell."""

    text: str


class Animation(NamedTuple):
    """A self-contained piece of HTML, and a picture for where none can be shown."""

    html: str
    picture: Picture


class Details(NamedTuple):
    """Blocks that are folded away below a summary."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Points | Facts | Table | Picture | Gallery | Samples | Commands | Animation | Details


class Section(NamedTuple):
    """A headed part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


class Document(NamedTuple):
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
        case Gallery(parts) | Details(_, parts):
            return [file for part in parts for file in _files(part)]
        case Animation():
            return [block.picture.file]
    return []
