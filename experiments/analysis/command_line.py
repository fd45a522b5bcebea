"""What every `python -m experiments.analysis...` has in common: a mistake is one sentence, and status 1."""

import sys
from collections.abc import Callable
from functools import wraps


def in_one_sentence(main: Callable[[list[str]], None]) -> Callable[[list[str]], int]:
    """`main` with its mistakes printed; the exit status."""

    @wraps(main)
    def run(arguments: list[str]) -> int:
        try:
            main(arguments)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        return 0

    return run
