"""python -m experiments.analysis.report RUN: writes the report of a comparison anew, from its files alone."""

import argparse
import sys
from pathlib import Path

from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.report import write_report


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m experiments.analysis.report", description="Write a report anew.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of experiment=comparison")
    print(*write_report(parser.parse_args(arguments).run), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
