"""The report of a comparison, from the files of its folder alone: report.html, report.md and plots/."""

import os
from pathlib import Path

from experiments.analysis.report import html, markdown, plots, sections
from experiments.analysis.report.reading import read_comparison


def write_report(folder: Path) -> list[Path]:
    """Writes the report of a comparison into its folder; the files that it consists of, the page first.

    Raises FileNotFoundError where the folder is none of a comparison, ValueError where its files are damaged or of
    another schema; an older report then stays as it was.
    """
    folder = Path(folder)
    document = sections.build(read_comparison(folder))
    pages = {
        folder / "report.html": html.page(document, folder / plots.FOLDER),
        folder / "report.md": markdown.text(document, plots.FOLDER),
    }
    for path, text in pages.items():
        part = path.with_name(f"{path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    return [*pages, *(folder / plots.FOLDER / name for name in document.files())]
