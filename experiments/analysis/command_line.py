"""What every `python -m experiments.analysis...` has in common: a mistake is one sentence, and status 1;
what the terminal cannot show does not end it."""

import sys
from collections.abc import Callable
from functools import wraps


def in_one_sentence(main: Callable[[list[str]], None]) -> Callable[[list[str]], int]:
    """`main` with its mistakes printed; the exit status."""

    @wraps(main)
    def run(arguments: list[str]) -> int:
        show_what_can_be_shown()
        try:
            main(arguments)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        return 0

    return run


def show_what_can_be_shown() -> None:
    """Let standard output and error write `?` for what their encoding lacks, as cp1252 and ASCII lack bars and dashes:
    a text must not end a program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a program has put something else there
            stream.reconfigure(errors="replace")
