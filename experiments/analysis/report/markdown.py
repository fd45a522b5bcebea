"""The same report as Markdown, for where no page is shown: pictures are links into the folder plots/."""

import re

from experiments.analysis.decoding_table import render
from experiments.analysis.report import document as kinds
from experiments.analysis.report.document import ALARM, Block, Cell, Code, Document

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
        case kinds.Text():
            said = "".join(_code(each) if isinstance(each, Code) else _loose(each) for each in block.pieces)
            return f"**{said}**" if block.tone == ALARM else said
        case kinds.Points():
            return "\n".join(f"- **{escape(lead)}.** {escape(said)}" for lead, said in block.items)
        case kinds.Facts():
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in block.items)
        case kinds.Table():
            rows = [list(map(_cell, row)) for row in block.rows]
            return render(list(map(escape, block.header)), rows).rstrip("\n")
        case kinds.Picture():
            return f"![{escape(block.alt)}]({plots}/{block.file})\n\n{escape(block.caption)}"
        case kinds.Gallery():
            return "\n\n".join(_block(each, plots) for each in block.pictures)
        case kinds.Samples():
            shown = [f"{escape(each.label)}:\n\n{_fenced(each.prompt + each.text)}" for each in block.samples]
            return "\n\n".join([f"**{escape(block.title)}**", *shown])
        case kinds.Commands():
            return _fenced(block.text, "bash")
        case kinds.Animation():
            return _block(block.picture, plots)
        case kinds.Details():
            inside = "\n\n".join(_block(each, plots) for each in block.blocks)
            return f"<details><summary>{escape(block.summary)}</summary>\n\n{inside}\n\n</details>"


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
    runs = [len(run) for run in re.findall("`+", words)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return f"{fence}{language}\n{words}\n{fence}"
