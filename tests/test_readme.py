"""Runs what README.md tells people to type, and looks up every file and config it names.

A line of a bash block that starts with `python main.py` is run with `debug=smoke`. One that ends in `# needs a run`
(of an algorithm) is run in a folder in which one was trained before. What cannot run everywhere, `# needs a GPU`, a
cluster or a file of the reader's, is only composed.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.conftest import Main

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "README.md"
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LAUNCH = "python main.py"
LAUNCH_LINE = "python main.py algorithm=df_lm experiment=shakespeare"
FEW_STEPS = [
    *(f"algorithm.backbone.{size}" for size in ("n_layer=1", "n_head=2", "n_embd=32", "block_size=64")),
    *("experiment.training.max_steps=4", "experiment.training.val_every_steps=4", "experiment.sampling.length=32"),
]
PLACES = ("algorithms/", "configs/", "datasets/", "experiments/", "tests/", ".ci/")
ROOT_FILE = re.compile(r"[\w-]+\.(py|md|toml|cff)|Makefile|LICENSE|constraints\.txt")
PLACEHOLDER = re.compile(r"[<>*{}$…]|\.\.\.|\b[A-Z]{2,}\b(?!\.md)")  # `configs/experiment/NAME.yaml`, `tests/*.py`


def commands(text: str) -> list[str]:
    """The launch lines of all bash blocks, each once, with continued lines joined."""
    blocks = "\n".join(body for language, body in FENCE.findall(text) if language == "bash")
    lines = (line.strip() for line in blocks.replace("\\\n", " ").splitlines())
    return list(dict.fromkeys(line for line in lines if line.startswith(LAUNCH)))


def needs(command: str) -> str | None:
    """What stands behind `# needs`."""
    found = re.search(r"\s# needs (.+)$", command)
    return None if found is None else found[1]


def trained_before(command: str) -> str | None:
    """The algorithm of the run that a command starts from, None where it starts from none."""
    found = re.fullmatch(r"a run(?: of (\w+))?", needs(command) or "")
    return None if found is None else found[1] or "gpt"


def arguments(command: str) -> list[str]:
    """What the shell would hand to main.py."""
    return shlex.split(command.removeprefix(LAUNCH), comments=True)


def with_smoke(words: list[str]) -> list[str]:
    """The command with debug=smoke, beside an override, as flags may not part them; with a few steps of a small model
    where it chooses another debug."""
    if any(word.startswith("debug=") for word in words):
        return [*words, *([] if "debug=smoke" in words else FEW_STEPS)]
    index = next((i for i, word in enumerate(words) if not word.startswith("-") and "=" in word), len(words))
    return [*words[:index], "debug=smoke", *words[index:]]


def first_of_sweep(words: list[str]) -> list[str]:
    """The first job of a sweep as a plain command line, because Hydra composes one job at a time."""
    flags = [word for word in words if word.startswith("-") and word not in ("-m", "--multirun")]
    overrides = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    return flags + [
        f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else override.input_line
        for override in overrides
    ]


def named_paths(text: str) -> Iterator[str]:
    """Relative links, and names in backticks that begin like a path of this project."""
    prose = FENCE.sub("", text)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target and not target.startswith("mailto:"):
            yield target
    for name in re.findall(r"`([^`\n]+)`", prose):
        is_path = name.startswith(PLACES) and " " not in name
        if (is_path or ROOT_FILE.fullmatch(name)) and not PLACEHOLDER.search(name):
            yield name.split("::")[0]  # `tests/x.py::test_y`


def named_configs(text: str) -> Iterator[str]:
    """Config files, below configs/, behind choices in backticks, as `algorithm/decoder=a`, `dataset=a|b`."""
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        for group, choices in re.findall(r"(?:^|\s)([a-z_/]+)=([\w|,\\]+)", span):
            if (CONFIGS / group).is_dir():
                for choice in re.split(r"[|,]", choices.replace("\\", "")):
                    if choice and not PLACEHOLDER.search(choice):
                        yield f"{group}/{choice}.yaml"


def start(words: list[str], folder: Path) -> None:
    """Starts main.py as a process in an empty folder, so that runs, data and links of this checkout stay as they
    are."""
    words = [sys.executable, str(ROOT / "main.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


COMMANDS = commands(PAGE.read_text("utf-8"))
FRESH = [command for command in COMMANDS if needs(command) is None]
FROM_A_RUN = [command for command in COMMANDS if trained_before(command)]
COMPOSED = [command for command in COMMANDS if needs(command) and not trained_before(command)]


@pytest.mark.parametrize("command", FRESH)
def test_command_runs(command: str, main: Main, tmp_path: Path) -> None:
    """Catches a documented command that stops with an error, for instance after a config key was renamed."""
    words = with_smoke(arguments(command))
    if command == LAUNCH_LINE or any(word.startswith(("launcher=", "trainer=")) for word in words):
        start(words, tmp_path)  # a process of its own, as workers start others
    else:
        outcome = main(*words)
        assert outcome.status == 0, f"{outcome.out[-2000:]}\n{outcome.err[-4000:]}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The working folder of a smoke run of an algorithm, made once."""

    @functools.cache
    def train(algorithm: str) -> Path:
        folder = tmp_path_factory.mktemp(algorithm)
        start([f"algorithm={algorithm}", "debug=smoke", "experiment.tasks=[training]"], folder)
        return folder

    return train


@pytest.mark.parametrize("command", FROM_A_RUN)
def test_command_runs_from_a_run(command: str, trained: Callable[[str], Path], main: Main, tmp_path: Path) -> None:
    """Catches a documented command that never worked: weights not found at `latest-run`, or not those that it means."""
    shutil.copytree(trained(trained_before(command) or ""), tmp_path, dirs_exist_ok=True, symlinks=True)
    judge = trained("gpt") / "latest-run"
    words = [word.replace("=RUN", f"={judge}") for word in arguments(command)]
    if not any(word.startswith(("resume=", "experiment.sampling.length=")) for word in words):
        words.append("experiment.sampling.length=8")  # many settings and seeds, a little text of each
    before = Path("latest-run").resolve()
    outcome = main(*(words if words[0].startswith("resume=") else with_smoke(words)))
    assert outcome.status == 0, f"{outcome.out[-2000:]}\n{outcome.err[-4000:]}"
    assert Path("latest-run").resolve() == before  # what trains nothing has no weights to lead to


@pytest.mark.parametrize("command", COMPOSED)
def test_command_composes(command: str, main: Main) -> None:
    """Catches a config group or key that is gone in a documented command which cannot run here."""
    words = [word for word in arguments(command) if not word.startswith(("load=", "resume="))]  # no such run here
    outcome = main(*first_of_sweep(words), "--cfg", "job")
    assert outcome.status == 0, outcome.err[-4000:]


def test_readme_has_the_launch_line_and_it_is_run() -> None:
    """Catches a README whose commands are not found, or all excused: the tests above would test nothing."""
    assert any(command.startswith(LAUNCH_LINE) for command in FRESH), "README.md lacks the launch line"
    assert len(FROM_A_RUN) >= 10 and {trained_before(command) for command in FROM_A_RUN} > {"gpt", "df_lm"}


def test_named_files_and_configs_exist() -> None:
    """Catches a page that names a file, folder or config choice which was moved, renamed or never written."""
    text = PAGE.read_text("utf-8")
    missing = [name for name in named_paths(text) if not (ROOT / name).exists()]
    missing += [f"configs/{name}" for name in named_configs(text) if not (CONFIGS / name).is_file()]
    assert missing == []


def test_extraction_on_a_small_page() -> None:
    """Catches an extraction that overlooks commands, paths or choices, or takes placeholders for them."""
    page = (
        "| `algorithms/common/optim.py` | `algorithm=gpt\\|nonesuch`, `algorithm=NAME`, `train/loss` |\n"
        "[plan](docs/plan.md#top), [paper](https://example.org/a), `configs/dataset/NAME.yaml`, `main.py`\n"
        "```bash\n"
        "python main.py seed=1 \\\n    'experiment.tasks=[training,test]'   # two tasks\n"
        "python main.py -m seed=1,2 trainer=gpu  # needs a GPU\n"
        "pip list\n"
        "```\n"
        "```text\npython main.py not_a_command=1\n```\n"
    )
    first, second = commands(page)
    assert arguments(first) == ["seed=1", "experiment.tasks=[training,test]"]
    assert needs(first) is None and needs(second) == "a GPU" and trained_before(second) is None
    assert trained_before(f"{LAUNCH} load=latest-run  # needs a run") == "gpt"
    assert trained_before(f"{LAUNCH} load=latest-run  # needs a run of df_lm") == "df_lm"
    assert with_smoke(arguments(second)) == ["-m", "debug=smoke", "seed=1,2", "trainer=gpu"]
    assert with_smoke(["--cfg", "job"]) == ["--cfg", "job", "debug=smoke"]
    assert first_of_sweep(arguments(second)) == ["seed=1", "trainer=gpu"]
    assert list(named_paths(page)) == ["docs/plan.md", "algorithms/common/optim.py", "main.py"]
    assert list(named_configs(page)) == ["algorithm/gpt.yaml", "algorithm/nonesuch.yaml"]
