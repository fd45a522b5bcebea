"""Runs what README.md tells people to type, and looks up every file and config it names.

A line of a bash block that starts with `python main.py` is run with `debug=smoke`. One that cannot run
everywhere ends in `# needs ...` (a GPU, a cluster, an earlier run): its configuration is only composed.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "README.md"
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LAUNCH = "python main.py"
LAUNCH_LINE = "python main.py algorithm=df_lm experiment=shakespeare"
PLACES = ("algorithms/", "configs/", "datasets/", "experiments/", "tests/", ".ci/")
ROOT_FILE = re.compile(r"[\w-]+\.(py|md|toml|cff)|Makefile|LICENSE|constraints\.txt")
PLACEHOLDER = re.compile(r"[<>*{}$…]|\.\.\.|\b[A-Z]{2,}\b(?!\.md)")  # `configs/experiment/NAME.yaml`, `tests/*.py`


def commands(text: str) -> list[str]:
    """The launch lines of all bash blocks, each once, with continued lines joined."""
    blocks = "\n".join(body for language, body in FENCE.findall(text) if language == "bash")
    lines = (line.strip() for line in blocks.replace("\\\n", " ").splitlines())
    return list(dict.fromkeys(line for line in lines if line.startswith(LAUNCH)))


def needs(command: str) -> bool:
    return re.search(r"\s# needs \w+", command) is not None


def arguments(command: str) -> list[str]:
    """What the shell would hand to main.py."""
    return shlex.split(command.removeprefix(LAUNCH), comments=True)


def with_smoke(words: list[str]) -> list[str]:
    """The command with debug=smoke, unless it chooses another; beside an override, as flags may not part them."""
    if any(word.startswith("debug=") for word in words):
        return words
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


def run(words: list[str], folder: Path) -> None:
    """Starts main.py in an empty folder, so that runs, data and links of this checkout stay as they are."""
    words = [sys.executable, str(ROOT / "main.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


COMMANDS = commands(PAGE.read_text("utf-8"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if not needs(command)])
def test_command_runs(command: str, tmp_path: Path) -> None:
    """Catches a documented command that stops with an error, for instance after a config key was renamed."""
    run(with_smoke(arguments(command)), tmp_path)


@pytest.mark.parametrize("command", [LAUNCH_LINE, *(command for command in COMMANDS if needs(command))])
def test_command_composes(command: str, tmp_path: Path) -> None:
    """Catches a config group or key that is gone in a documented command which cannot run here."""
    words = [word for word in arguments(command) if not word.startswith(("load=", "resume="))]  # no such run here
    run([*first_of_sweep(words), "--cfg", "job"], tmp_path)


def test_readme_has_the_launch_line_and_it_is_run() -> None:
    """Catches a README whose commands are not found, or all excused: the tests above would test nothing."""
    runnable = [command for command in COMMANDS if not needs(command)]
    assert any(command.startswith(LAUNCH_LINE) for command in runnable), "README.md lacks the launch line"


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
    assert not needs(first) and needs(second)
    assert with_smoke(arguments(second)) == ["-m", "debug=smoke", "seed=1,2", "trainer=gpu"]
    assert with_smoke(["--cfg", "job"]) == ["--cfg", "job", "debug=smoke"]
    assert first_of_sweep(arguments(second)) == ["seed=1", "trainer=gpu"]
    assert list(named_paths(page)) == ["docs/plan.md", "algorithms/common/optim.py", "main.py"]
    assert list(named_configs(page)) == ["algorithm/gpt.yaml", "algorithm/nonesuch.yaml"]
