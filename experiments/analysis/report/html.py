"""A report as one page that needs nothing else: styles and pictures are inside, and every text is escaped."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from experiments.analysis.report.document import (
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
    Sample,
    Samples,
    Section,
    Table,
    Text,
)
from experiments.analysis.report.naming import REAL_COLOUR

STYLE = Path(__file__).with_name("style.css")
LONG = 40  # characters from which on a cell of words may break its line


def page(document: Document, plots: Path) -> str:
    """The page, with the pictures of the folder `plots` inside."""
    links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in document.sections)
    head = "".join(_block(block, plots) for block in document.head)
    sections = "".join(_section(section, plots) for section in document.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(document.title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<div class="page">
<nav aria-label="Contents"><ol>{links}</ol></nav>
<main>
<header>
<h1>{escape(document.title)}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
{head}</header>
{sections}</main>
</div>
</body>
</html>
"""


def _section(section: Section, plots: Path) -> str:
    blocks = "".join(_block(block, plots) for block in section.blocks)
    return f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{blocks}</section>\n'


def _block(block: Block, plots: Path) -> str:
    match block:
        case Text():
            return f"<p{_class(block.tone)}>{_inline(block.pieces)}</p>\n"
        case Points():
            items = "".join(f"<li><b>{escape(lead)}.</b> {escape(said)}</li>\n" for lead, said in block.items)
            return f"<ul>\n{items}</ul>\n"
        case Facts():
            pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in block.items)
            return f"<dl>\n{pairs}</dl>\n"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, plots)
        case Gallery():
            return f'<div class="gallery">{"".join(_picture(each, plots) for each in block.pictures)}</div>\n'
        case Samples():
            cards = "".join(map(_sample, block.samples))
            return f'<div class="samples"><h3>{escape(block.title)}</h3>{cards}</div>\n'
        case Commands():
            return f"<pre><code>{escape(block.text)}</code></pre>\n"
        case Animation():
            return f'<div class="animation">{block.html}</div>\n'
        case Details():
            inside = "".join(_block(each, plots) for each in block.blocks)
            return f"<details><summary>{escape(block.summary)}</summary>\n{inside}</details>\n"


def _table(block: Table) -> str:
    head = "".join(
        f"<th{_class('word' if i < block.labels else '')}>{escape(t)}</th>" for i, t in enumerate(block.header)
    )
    rows = []
    for number, row in enumerate(block.rows):
        cells = "".join(_cell(cell, word=index < block.labels) for index, cell in enumerate(row))
        rows.append(f"<tr{_class('start' if number in block.starts else '')}>{cells}</tr>\n")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{"".join(rows)}</tbody></table></div>\n'


def _cell(cell: Cell, *, word: bool) -> str:
    names = (
        ["word"] * word
        + ["wrap"] * (word and len(cell.text) > LONG)
        + ["mark"] * bool(cell.colour)
        + [cell.tone] * bool(cell.tone)
    )
    dot = f'<span class="dot" style="background:{_mark(cell.colour)}"></span>' if cell.colour else ""
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f"<td{_class(' '.join(names))}>{dot}{escape(cell.text)}{small}</td>"


def _picture(picture: Picture, plots: Path) -> str:
    data = base64.b64encode((plots / picture.file).read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>\n"


def _sample(sample: Sample) -> str:
    prompt = f'<span class="prompt">{escape(sample.prompt)}</span>' if sample.prompt else ""
    text = f"<pre>{prompt}{escape(sample.text)}</pre>"
    return f'<div class="sample" style="--mark:{_mark(sample.colour)}"><b>{escape(sample.label)}</b>{text}</div>\n'


def _mark(colour: str) -> str:
    """A colour of CSS; the black of real text is that of the letters, which are light in the dark."""
    return "var(--ink)" if colour == REAL_COLOUR else escape(colour)


def _inline(pieces: Sequence[str]) -> str:
    return "".join(f"<code>{escape(each)}</code>" if isinstance(each, Code) else escape(each) for each in pieces)


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
