"""The same report as Markdown, for where no page is shown: pictures are links into the folder plots/."""

import re
from collections.abc import Sequence

from experiments.analysis.decoding_table import render
from experiments.analysis.report.document import (
    ALARM,
    Animation,
    Block,
    Cell,
    Code,
    Commands,
    Details,
    Document,
    Facts,
    Gallery,
    Picture,
    Points,
    Samples,
    Table,
    Text,
)

# What would begin a tag, a link, a cell, emphasis or code. An underscore inside a word is none of these.
SPECIAL = re.compile(r"[\\`*\[\]<>|#~&]|(?<![^\W_])_|_(?![^\W_])")


def text(document: Document, plots: str) -> str:
    """The report, with links to pictures below `plots`."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    parts += [_block(block, plots) for block in document.head]
    for section in document.sections:
        parts += [f"## {escape(section.title)}", *(_block(block, plots) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def escape(words: str) -> str:
    """Text that Markdown shows as it stands, in one line."""
    return SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(words.split()))


def _block(block: Block, plots: str) -> str:
    match block:
        case Text():
            said = "".join(_code(each) if isinstance(each, Code) else _loose(each) for each in block.pieces)
            return f"**{said}**" if block.tone == ALARM else said
        case Points():
            return "\n".join(f"- **{escape(lead)}.** {escape(said)}" for lead, said in block.items)
        case Facts():
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in block.items)
        case Table():
            return _table(block)
        case Picture():
            return f"![{escape(block.alt)}]({plots}/{block.file})\n\n{escape(block.caption)}"
        case Gallery():
            return "\n\n".join(_block(each, plots) for each in block.pictures)
        case Samples():
            shown = [f"{escape(each.label)}:\n\n{_fenced(each.prompt + each.text)}" for each in block.samples]
            return "\n\n".join([f"**{escape(block.title)}**", *shown])
        case Commands():
            return _fenced(block.text, "bash")
        case Animation():
            return _block(block.picture, plots)
        case Details():
            inside = "\n\n".join(_block(each, plots) for each in block.blocks)
            return f"<details><summary>{escape(block.summary)}</summary>\n\n{inside}\n\n</details>"


def _table(block: Table) -> str:
    shown = render(list(map(escape, block.header)), [list(map(_cell, row)) for row in block.rows])
    return shown.rstrip("\n")


def _cell(cell: Cell) -> str:
    said = escape(cell.text)
    small = f" ({escape(cell.small)})" if cell.small else ""
    return (f"**{said}**" if cell.tone == ALARM else said) + small


def _loose(words: str) -> str:
    """A piece of a paragraph: spaces at its ends belong to the sentence."""
    return f"{' ' * words.startswith(' ')}{escape(words)}{' ' * (words.endswith(' ') and bool(words.strip()))}"


def _code(words: str) -> str:
    return escape(words) if "`" in words else f"`{words}`"


def _fenced(words: str, language: str = "") -> str:
    """A block that shows its text as it stands, whatever fences are inside."""
    longest: Sequence[str] = re.findall("`+", words)
    fence = "`" * max(3, *(len(run) + 1 for run in longest), 0)
    return f"{fence}{language}\n{words}\n{fence}"
