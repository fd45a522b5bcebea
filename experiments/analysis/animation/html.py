"""Traces as a page that plays in any browser, offline: text, data, colours and player in one file, or in a fragment.

Nothing is fetched from anywhere, and the finished texts can be read without JavaScript, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.analysis.animation import frames
from experiments.analysis.animation.look import DARK, HIDDEN, LIGHT, NEWLINE, WHITE_FROM, columns_of, legend, shown
from experiments.analysis.files import write
from experiments.analysis.templates import render
from experiments.analysis.trace import TraceRecord, changes

TEMPLATE = Path(__file__).with_name("player.html.j2")


def html_fragment(records: Sequence[TraceRecord], *, fps: float = 12, max_frames: int = 120, page: bool = False) -> str:
    """The animation as an element for another page, with styles of its own and no ids, which shows the finished texts
    until it is played; or as a `page` of its own, which begins to play unless the reader prefers less motion.

    Playing takes `max_frames` frames; every state can be reached by the slider. Raises ValueError as `write_gif`.
    """
    return render(
        TEMPLATE,
        data=_payload(records, fps=fps, max_frames=max_frames, page=page),
        panels=[_panel(record) for record in records],
        legend=legend(records),
        light=LIGHT,
        dark=DARK,
        css=lambda colour: f"#{bytes(colour).hex()}",
    )


def write_html(records: Sequence[TraceRecord], path: Path, *, fps: float = 12, max_frames: int = 120) -> None:
    """Write the page of the records."""
    write(path, html_fragment(records, fps=fps, max_frames=max_frames, page=True))


def _payload(records: Sequence[TraceRecord], *, fps: float, max_frames: int, page: bool) -> dict[str, Any]:
    """What the player reads: of every record the first state and the changes, tokens as places in its vocabulary."""
    times = frames.times(records, fps=fps, max_frames=max_frames)
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
        "changes": [[[place, number[token], level] for place, token, level in changed] for changed in changes(record)],
    }


def _panel(record: TraceRecord) -> dict[str, str]:
    """What is shown of a record where it is not played: its end."""
    last = len(record.tokens) - 1
    text = shown("".join(record.tokens[last]))
    return {"title": frames.title(record), "counter": frames.counter(record, last), "text": text}
