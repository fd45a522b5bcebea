"""What all tests share: one thread, no leaked random state, a small corpus, and main.py run inside this process."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the suite runs several processes

import hypothesis
import pytest
import torch

# No deadline: how long an example takes says more about the machine's neighbours than about the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

WORDS = "the king queen and of to in love sword night day thou art fair foul"


class Outcome(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


Main = Callable[..., Outcome]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def restored_state() -> Iterator[None]:
    """Random state, default dtype and environment, as they were before each test."""
    state, dtype, environment = torch.get_rng_state(), torch.get_default_dtype(), dict(os.environ)
    yield
    torch.set_rng_state(state)
    torch.set_default_dtype(dtype)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 600 lines of lower-case words."""
    draw, words = random.Random(0), WORDS.split()
    lines = (" ".join(draw.choice(words) for _ in range(8)) for _ in range(600))
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """Runs a command line of main.py in this process, in an empty working folder."""
    from experiments import launch
    from experiments.run import errors

    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", errors.FULL_ERROR_IS_OURS):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        try:
            status = launch.main()
        except SystemExit as stop:  # argparse, sweeps and interrupts end this way
            status = stop.code if isinstance(stop.code, int) else 1
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def smoke(main: Main, corpus: Path) -> Main:
    """`main` with the smallest run of GPT on the small corpus; further overrides win."""

    def run(*arguments: str) -> Outcome:
        chosen = [] if any(a.startswith("algorithm=") for a in arguments) else ["algorithm=gpt"]
        data = ["dataset=text_file", f"dataset.path={corpus}"]
        return main(*chosen, *data, "debug=smoke", *arguments)

    return run
