"""main.log: what the terminal showed of a run, each printed line once, from the process that speaks for it.

Nothing is written before the run has passed its checks; what was said until then comes first.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, Any

ERASE = "\033[K"
_recording: list["Transcript"] = []


class Transcript:
    """Lines, kept until there is a file for them."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.file: IO[str] | None = None

    def add(self, line: str) -> None:
        """Keep a finished line; of one that was drawn again and again, what stood there last."""
        shown = line.rstrip("\r").rpartition("\r")[2].replace(ERASE, "")
        self.waiting.append(f"{shown}\n")
        if self.file is not None:
            self.file.writelines(self.waiting)
            self.file.flush()
            self.waiting = []


class _Copied:
    """A stream whose lines are also added to a transcript."""

    def __init__(self, stream: Any, transcript: Transcript) -> None:
        self.stream, self.transcript, self.begun = stream, transcript, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.transcript.add(line)
        return self.stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)


def recorded(main: Callable[[], int]) -> Callable[[], int]:
    """`main`, recorded while it runs."""

    @wraps(main)
    def run() -> int:
        streams, transcript = (sys.stdout, sys.stderr), Transcript()
        copies = [_Copied(stream, transcript) for stream in streams]
        sys.stdout, sys.stderr = copies
        _recording.append(transcript)
        try:
            return main()
        finally:
            sys.stdout, sys.stderr = streams
            _recording.remove(transcript)
            for copy in copies:
                if copy.begun:
                    transcript.add(copy.begun)
            if transcript.file is not None:
                transcript.file.close()
                transcript.file = None

    return run


def write_to(path: Path) -> None:
    """Everything recorded goes to the end of the file at `path` from now on, and what was said before first."""
    for transcript in _recording:
        transcript.file = path.open("a", encoding="utf-8", errors="surrogateescape")  # closed when the recording ends
        transcript.file.writelines(transcript.waiting)
        transcript.file.flush()
        transcript.waiting = []
