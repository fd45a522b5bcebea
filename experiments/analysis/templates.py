"""Pages made from jinja2 templates that lie beside the modules that fill them: `page.html.j2` and what it includes."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: Path, **values: Any) -> str:
    """The template filled in: every text escaped, and what passes `tojson`, too, which nothing in it can end."""
    pages = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return pages.get_template(template.name).render(values)
