"""The report of a comparison, from the files of its folder alone: report.html, report.md and plots/."""

from pathlib import Path

from experiments.analysis.files import write
from experiments.analysis.report import html, markdown, plots, sections
from experiments.analysis.report.reading import read_comparison


def write_report(folder: Path) -> list[Path]:
    """Writes the report of a comparison into its folder; the files that it consists of, the page first.

    Raises FileNotFoundError where the folder is none of a comparison, ValueError where its files are damaged or of
    another schema; an older report then stays as it was.
    """
    folder = Path(folder)
    document = sections.build(read_comparison(folder))
    pages = [folder / "report.html", folder / "report.md"]
    write(pages[0], html.page(document, folder / plots.FOLDER))
    write(pages[1], markdown.text(document, plots.FOLDER))
    return [*pages, *(folder / plots.FOLDER / name for name in document.files())]
