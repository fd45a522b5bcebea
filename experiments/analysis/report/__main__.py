"""python -m experiments.analysis.report RUN: writes the report of a comparison anew, from its files alone."""

import sys
from pathlib import Path

from experiments.analysis.report import write_report


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m experiments.analysis.report RUN", file=sys.stderr)
        return 2
    try:
        written = write_report(Path(arguments[0]))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
