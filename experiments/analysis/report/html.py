"""A report as one page that needs nothing else: page.html.j2, with styles and pictures inside."""

import base64
from pathlib import Path

from experiments.analysis.report.document import Document
from experiments.analysis.report.naming import REAL_COLOUR
from experiments.analysis.templates import render

TEMPLATE = Path(__file__).with_name("page.html.j2")


def page(document: Document, plots: Path) -> str:
    """The page, with the pictures of the folder `plots` inside."""
    return render(
        TEMPLATE,
        document=document,
        embedded=lambda file: f"data:image/png;base64,{base64.b64encode((plots / file).read_bytes()).decode()}",
        # The black of real text is that of the letters, which are light in the dark.
        ink=lambda colour: "var(--ink)" if colour == REAL_COLOUR else colour,
    )
