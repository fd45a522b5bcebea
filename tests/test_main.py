"""main.py as a process of its own: what it imports, how it ends, and two processes that train together."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from tests.conftest import Main

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
HEAVY = ("torch", "lightning", "wandb", "matplotlib", "numpy")


def start(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = (sys.executable, *command)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )


def test_showing_the_config_imports_nothing_heavy(tmp_path: Path) -> None:
    """Catches an import that makes --cfg job and shell completion take seconds, and a run folder made by looking."""
    script = (
        "import sys; sys.argv[1:] = ['--cfg', 'job']; from experiments.launch import main; status = main(); "
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules], status)"
    )
    done = start("-c", script, folder=tmp_path)
    shown, _, heavy = done.stdout.partition("heavy:")
    assert heavy.strip() == "[] 0", done.stderr
    assert yaml.safe_load(shown)["experiment"]["name"] == "language_modeling"
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    """Catches lines that Hydra adds, or a status of 0, in a real process."""
    done = start(str(ROOT / "main.py"), "algorithm.backbone.n_layers=2", folder=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: unknown config key") and done.stderr.count("\n") == 1


def test_two_processes_train_as_one(tmp_path: Path, corpus: Path) -> None:
    """Catches a DDP run whose processes use two folders, count tokens once, write twice, or speak twice."""
    overrides = ["algorithm=gpt", "debug=smoke", "trainer=ddp_sim", "dataset=text_file", f"dataset.path={corpus}"]
    done = start(str(ROOT / "main.py"), *overrides, "experiment.tasks=[training,test]", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- training") == 1 and done.stdout.count("run folder:") == 1
    folders = list(tmp_path.glob("outputs/*/*"))
    assert len(folders) == 1
    with (folders[0] / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["train/tokens"] for row in rows] == [str(n * 2 * 4 * 64) for n in (1, 2)]


def test_help_shows_groups_and_commands(main: Main) -> None:
    """Catches a help page without the choices, or whose commands are gone."""
    outcome = main("--help")
    assert outcome.status == 0
    for line in ("algorithm: ", "dataset: ", "algorithm/decoder: ", "launcher: basic, joblib"):
        assert f"\n{line}" in outcome.out
    started = outcome.out.partition("Five commands")[2].partition("Flags:")[0]
    assert sum(line.strip().startswith("python main.py") for line in started.splitlines()) == 5


def test_two_runs_in_one_second_get_two_folders() -> None:
    """Catches run folders named by time alone: two runs or sweeps begun in one second would share one."""
    folders = set()
    for _ in range(3):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("config", overrides=["hydra.job.num=0"], return_hydra_config=True)
        folders |= {str(cfg.hydra.run.dir), str(cfg.hydra.sweep.dir)}
        assert cfg.hydra.run.dir == cfg.hydra.run.dir
    assert len(folders) == 6


OURS = ("callbacks", "debug", "experiment", "launcher", "logger", "trainer")
FILES = [path for group in OURS for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_composes_and_says_who_reads_it(path: Path) -> None:
    """Catches a config that Hydra cannot compose, and one without the comment that names its receiver."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("config", overrides=[f"{path.parent.name}={path.stem}", "algorithm=gpt"])
    head = path.read_text(encoding="utf-8").splitlines()[:3]
    assert any(line.startswith("# ->") for line in head)


BASES = ["config", "callbacks/default", "experiment/language_modeling", "logger/csv", "trainer/auto"]


@pytest.mark.parametrize("name", BASES)
def test_keys_are_commented_where_they_are_declared(name: str) -> None:
    """Catches a key that a reader must look up in the code: files that others inherit from comment every key."""
    body = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0].splitlines()
    keys = [line for line in body if line.strip() and not line.startswith("#") and not line.strip().startswith("-")]
    bare = [line for line in keys if "#" not in line and not line.rstrip().endswith(":")]
    assert bare == []
