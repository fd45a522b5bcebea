"""The terminal that a run speaks to. Nothing heavy is imported here."""

import io
import sys


def show_what_can_be_shown() -> None:
    """Let standard output and error write `?` for what their encoding lacks, as cp1252 and ASCII lack bars and dashes:
    a sample must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a program or a test has put something else there
            stream.reconfigure(errors="replace")
