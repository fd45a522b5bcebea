"""Traces as a page that plays in any browser, offline: text, data, colours and player in one file, or in a fragment.

Nothing is fetched from anywhere, and the finished texts can be read without JavaScript, too.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.analysis.animation import frames
from experiments.analysis.animation.look import (
    DARK,
    HIDDEN,
    LIGHT,
    NEWLINE,
    WHITE_FROM,
    Colour,
    Kind,
    Theme,
    columns_of,
    legend,
    shown,
)
from experiments.analysis.trace import TraceRecord, changes, replace_file

CSS = Path(__file__).with_name("player.css")
JS = Path(__file__).with_name("player.js")
SPEEDS = {"0.25": "¼×", "0.5": "½×", "1": "1×", "2": "2×", "4": "4×"}


def html_fragment(records: Sequence[TraceRecord], *, fps: float = 12, max_frames: int = 120) -> str:
    """The animation as an element for another page, with styles of its own and no ids; it shows the finished texts
    until it is played.

    Playing takes `max_frames` frames; every state can be reached by the slider. Raises ValueError as `write_gif`.
    """
    return _element(records, fps, max_frames, page=False)


def html_page(records: Sequence[TraceRecord], *, fps: float = 12, max_frames: int = 120) -> str:
    """The animation as a page of its own, which begins to play unless the reader prefers less motion."""
    element = _element(records, fps, max_frames, page=True)
    title = html.escape(", ".join(frames.title(record) for record in records))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>\n'
        "html { color-scheme: light dark; }\n"
        "body { margin: 0 auto; max-width: 1100px; padding: clamp(12px, 3vw, 32px); }\n"
        f"body {{ background: {_css(LIGHT.page)}; }}\n"
        f"@media (prefers-color-scheme: dark) {{ body {{ background: {_css(DARK.page)}; }} }}\n"
        f"</style>\n</head>\n<body>\n{element}</body>\n</html>\n"
    )


def write_html(records: Sequence[TraceRecord], path: Path, *, fps: float = 12, max_frames: int = 120) -> None:
    """Write the page of the records."""
    replace_file(path, html_page(records, fps=fps, max_frames=max_frames).encode())


def payload(records: Sequence[TraceRecord], *, fps: float, max_frames: int, page: bool) -> dict[str, Any]:
    """What the player reads: of every record the first state and the changes, tokens as places in its vocabulary."""
    times = frames.times(records, max_frames)
    return {
        "records": [_packed(record) for record in records],
        "first": times[0],
        "last": times[-1],
        "frames": len(times),
        "interval": 1000 / fps,
        "hidden": HIDDEN,
        "newline": NEWLINE,
        "whiteFrom": WHITE_FROM,
        "page": page,
    }


def _packed(record: TraceRecord) -> dict[str, Any]:
    vocabulary = sorted({token for row in record.tokens for token in row})
    number = {token: index for index, token in enumerate(vocabulary)}
    return {
        "scale": record.scale,
        "given": record.given.astype(int).tolist(),
        "vocabulary": [shown(token) for token in vocabulary],
        "wide": sorted({sign for token in record.tokens[-1] for sign in token if columns_of(sign) > 1}),
        "clock": record.forwards.tolist(),
        "first": {"tokens": [number[token] for token in record.tokens[0]], "levels": record.levels[0].tolist()},
        "changes": [
            [[position, number[token], level] for position, token, level in changed] for changed in changes(record)
        ],
    }


def _element(records: Sequence[TraceRecord], fps: float, max_frames: int, *, page: bool) -> str:
    frames.check(records, fps)
    data = payload(records, fps=fps, max_frames=max_frames, page=page)
    packed = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text can end the element
    return (
        f'<div class="decoding-animation{" da-page" if page else ""}" role="group" '
        'aria-label="Texts as they are decoded" tabindex="-1">\n'
        f"<style>\n{_themes()}{CSS.read_text(encoding='utf-8')}</style>\n"
        f"{_controls(data)}"
        f'<div class="da-panels">\n{"".join(_panel(record) for record in records)}</div>\n'
        f"{_legend(list(records))}"
        f'<script type="application/json">{packed}</script>\n'
        f"<script>\n{JS.read_text(encoding='utf-8')}</script>\n</div>\n"
    )


def _controls(data: dict[str, Any]) -> str:
    speeds = "".join(
        f'<option value="{value}"{" selected" if value == "1" else ""}>{name}</option>'
        for value, name in SPEEDS.items()
    )
    first, last = data["first"], data["last"]
    return (
        '<div class="da-controls" hidden>\n<button type="button" class="da-play">Play</button>\n'
        '<button type="button" class="da-back" aria-label="one step back">‹</button>\n'
        '<button type="button" class="da-forward" aria-label="one step on">›</button>\n'
        f'<input type="range" class="da-slider" min="{first}" max="{last}" step="1" value="{last}" '
        f'aria-label="forwards">\n'
        '<span class="da-time"></span>\n'
        f'<select class="da-speed" aria-label="speed">{speeds}</select>\n</div>\n'
    )


def _panel(record: TraceRecord) -> str:
    final = len(record.tokens) - 1
    text = html.escape(shown("".join(record.tokens[final])))
    return (
        f'<div class="da-panel">\n<div class="da-title">{html.escape(frames.title(record))}</div>\n'
        f'<div class="da-counter">{html.escape(frames.counter(record, final))}</div>\n'
        f'<div class="da-bar"><i></i></div>\n<div class="da-text">{text}</div>\n</div>\n'
    )


def _legend(records: list[TraceRecord]) -> str:
    entries = []
    for kind, name in legend(records):
        key = f'<span class="da-key da-{kind}">{HIDDEN if kind is Kind.MASKED else "a"}</span>{name}'
        if kind is Kind.NOISE:
            key = 'clean<span class="da-scale"></span>noise'
        entries.append(f"<span>{key}</span>")
    return f'<div class="da-legend">{"".join(entries)}</div>\n'


def _themes() -> str:
    dark = _theme(DARK)
    return f"{_theme(LIGHT)}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _theme(theme: Theme) -> str:
    colours = {name: getattr(theme, name) for name in ("page", "card", "line", "text", "soft", "accent")}
    variables = "".join(f" --da-{name}: {_css(colour)};" for name, colour in colours.items())
    variables += f" --da-noise: {' '.join(map(str, theme.noise))};"
    variables += f" --da-noise-text: {_css(theme.kinds[Kind.NOISE].text)};"
    rules = [f".decoding-animation {{{variables} }}"]
    for kind, colours_of_kind in theme.kinds.items():
        if kind is not Kind.NOISE:
            back = "transparent" if colours_of_kind.back is None else _css(colours_of_kind.back)
            rules.append(
                f".decoding-animation .da-{kind} {{ color: {_css(colours_of_kind.text)}; background: {back}; }}"
            )
    return "\n".join(rules) + "\n"


def _css(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
