"""Kills runs at random moments and goes on with them until they finish: python -m tests.experiments.run.random_kills

Every run, of each method in turn, is started and continued by one and the same line, `resume=auto hydra.run.dir=X ...`,
with a cache of its own, so that data preparation, training, evaluation and sampling are all hit. What it ends with must
be what a run that was never stopped has, bit for bit. Each start is a fork, so that imports are paid once.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from experiments import language_modeling, launch  # noqa: F401  # imported before the forks
from tests.experiments.run.equal_runs import differences

METHODS = ("gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion")
OVERRIDES = [
    "debug=smoke",
    "dataset=text_file",
    "algorithm.backbone.n_embd=16",
    "algorithm.backbone.block_size=32",
    "algorithm.backbone.dropout=0.1",
    "experiment.training.max_steps=24",
    "experiment.training.val_every_steps=8",
    "experiment.training.checkpoint_every_steps=3",
    "experiment.training.accumulate_grad_batches=2",
    "experiment.training.ema_decay=0.9",
    "experiment.evaluation.max_batches=1",
    "experiment.sampling.length=8",
    "logger.log_every_steps=3",
]
PHASES = ("preparing", "training", "validation", "test", "sampling")


def start(arguments: list[str], log: Path) -> int:
    """The process id of main.py in a fork that writes to `log`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["main.py", *arguments]
        os._exit(launch.main())
    return child


def wait(child: int, seconds: float) -> int | None:
    """Exit status of a process that ends within so many seconds, None of one that does not."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def phase(log: Path) -> str:
    """What a run was doing when its log ended."""
    tasks = re.findall(r"^--- (\w+)$", log.read_text(encoding="utf-8"), re.MULTILINE)
    return tasks[-1] if tasks else PHASES[0]


class Runs:
    """Runs of one command line in `folder`, whole ones and killed ones."""

    def __init__(self, folder: Path, method: str, overrides: list[str]) -> None:
        self.method, self.folder = method, folder
        self.overrides = [f"algorithm={method}", *overrides]
        self.whole = folder / f"{method}-whole"
        began = time.perf_counter()
        child = start(self._line(self.whole), log := folder / f"{method}-whole.log")
        status = wait(child, 600)
        if status != 0:
            raise SystemExit(f"{method}: status {status}\n{log.read_text(encoding='utf-8')}")
        self.seconds = time.perf_counter() - began

    def _line(self, place: Path) -> list[str]:
        return [*self.overrides, "resume=auto", f"hydra.run.dir={place}", f"dataset.cache_dir={place}-data"]

    def survive(self, number: int, draw: random.Random, most: int) -> list[str]:
        """The phases in which run `number` was killed, at most so often, before it finished as the whole one."""
        place, log, hit = self.folder / f"{self.method}-{number}", self.folder / "killed.log", []
        while True:
            child = start(self._line(place), log)
            status = wait(child, draw.uniform(0, self.seconds) if len(hit) < most else 600)
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                hit.append(phase(log))
            elif status != 0:
                raise SystemExit(f"{place}: status {status} after {hit}\n{log.read_text(encoding='utf-8')}")
            else:
                break
        if found := differences(self.whole, place):
            raise SystemExit(f"{place} differs after kills in {hit}: {', '.join(found[:5])}")
        for rest in (place, Path(f"{place}-data")):
            shutil.rmtree(rest)
        return hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("corpus", type=Path, help="a text file")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--each", type=int, default=5, help="of one run, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(options.seed)
    overrides = [*OVERRIDES, f"dataset.path={options.corpus.resolve()}"]
    runs = [Runs(options.folder.resolve(), method, overrides) for method in METHODS]
    hits: Counter[tuple[str, str]] = Counter()
    finished = 0
    for place, one in enumerate(runs):
        while (left := options.kills * (place + 1) // len(runs) - hits.total()) > 0:
            hit = one.survive(finished, draw, min(options.each, left))
            hits.update((one.method, name) for name in hit)
            finished += 1
            print(f"{hits.total()}/{options.kills} kills, {finished} runs as if never stopped", flush=True)
    print("\n| killed while | " + " | ".join(METHODS) + " | all |\n|---|" + "---|" * (len(METHODS) + 1))
    for name in PHASES:
        counts = [hits[method, name] for method in METHODS]
        print(f"| {name} | " + " | ".join(map(str, [*counts, sum(counts)])) + " |")


if __name__ == "__main__":
    main()
