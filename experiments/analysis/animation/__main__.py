"""python -m experiments.analysis.animation TRACE ...: how texts came into being, as GIF, page, or in the terminal."""

import argparse
import sys
from pathlib import Path

from experiments.analysis.animation import write_gif, write_html
from experiments.analysis.animation.terminal import replay
from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.trace import read_trace, trace_files


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analysis.animation",
        description="Play traces side by side, on a clock of forward passes: what needs fewer ends first.",
    )
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="a trace, or a run folder with traces/")
    parser.add_argument("--gif", type=Path, metavar="FILE", help="write a GIF")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that plays in a browser, offline")
    parser.add_argument("--terminal", action="store_true", help="replay here (what happens if no file is asked for)")
    parser.add_argument("--fps", type=float, default=12, help="frames per second (12)")
    parser.add_argument("--max-frames", type=int, default=120, help="frames of a whole play (120)")
    asked = parser.parse_args(arguments)
    pace = {"fps": asked.fps, "max_frames": asked.max_frames}
    records = [read_trace(file) for path in asked.traces for file in trace_files(path)]
    for write, file in ((write_gif, asked.gif), (write_html, asked.html)):
        if file is not None:
            write(records, file, **pace)
            print(file)
    if asked.terminal or not (asked.gif or asked.html):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not know all signs
        replay(records, **pace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
