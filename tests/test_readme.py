"""Runs what README.md tells people to type, in its order, and looks up every file and config it names.

A line of a bash block that starts with `python main.py` is run with `debug=smoke`, one that starts with
`python -m experiments.` on the folders that are there by then. Before one that ends in `# needs a run of NAME`
such a run is trained where the newest is another's. What cannot run everywhere, as `# needs a GPU`, is only composed.
"""

import csv
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.conftest import Main, Outcome

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "README.md"
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LAUNCH, MODULE = "python main.py", "python -m experiments."
COMPOSED_FOR = ("a GPU", "a checkpoint", "documents", "slurm")  # what a machine may lack
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
    return list(dict.fromkeys(line for line in lines if line.startswith((LAUNCH, MODULE))))


def needs(command: str) -> str | None:
    """What stands behind `# needs`."""
    found = re.search(r"\s# needs (.+)$", command)
    return None if found is None else found[1]


def trained_before(command: str) -> str | None:
    """The algorithm of the run that a command starts from, or any; None where it starts from none."""
    found = re.fullmatch(r"a run(?: of (\w+))?", needs(command) or "")
    return None if found is None else found[1] or "any"


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


def clone(folder: Path) -> Path:
    """What somebody has who cloned this checkout: its files, and neither data, runs nor links."""
    for room in ("algorithms", "configs", "datasets", "docs", "experiments"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and not file.is_symlink():
            shutil.copyfile(file, folder / file.name)
    return folder


def latest_algorithm() -> str | None:
    """The algorithm of the run that latest-run leads to."""
    summary = Path("latest-run/summary.json")
    return json.loads(summary.read_text(encoding="utf-8"))["algorithm"] if summary.is_file() else None


def folder_named(out: str, what: str) -> Path:
    """The folder that a run says at its end that it has written to."""
    found = re.findall(rf"^{what} folder: (.+)$", out, re.MULTILINE)
    assert found, f"no {what} folder is named in\n{out[-1000:]}"
    return Path(found[-1])


def check_run(folder: Path) -> None:
    """A run is finished, and every task of it has left what README says it leaves."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished" and (folder / "main.log").stat().st_size
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    experiment = config["experiment"]["name"]
    for task in config["experiment"]["tasks"]:
        for name in LEFT_BEHIND.get((experiment, task), LEFT_BEHIND.get(("", task), ())):
            assert (folder / name).exists(), f"{folder} lacks {name} of the task {task}"


class Reader:
    """Types the commands of the page, one after the other, in the folder of a clone; runs made before stand in for
    RUN, FILE and the like."""

    def __init__(self, main: Main, here: Path, corpus: Path) -> None:
        self.main, self.here, self.corpus = main, here, corpus
        self.runs: dict[str, Path] = {}  # what the newest run is, or has -> its folder
        self.trained: list[Path] = []

    def type(self, command: str) -> None:
        if command.startswith(MODULE):
            self._run_module(command)
            return
        if wanted := trained_before(command):
            if wanted != "any" and latest_algorithm() != wanted:
                self._run(with_smoke([f"algorithm={wanted}", "experiment.tasks=[training]"]))
            self._check_latest_stays(command)
        else:
            self._run(self._words(command), apart=command == LAUNCH_LINE)

    def _words(self, command: str) -> list[str]:
        """The command line with debug=smoke, and with what stands in for the reader's own."""
        words = [word.replace("=RUN", f"={self.runs.get('gpt')}") for word in arguments(command)]
        words = [word.replace("=FILE", f"={self.corpus}") for word in words]
        if needs(command) in LONG:  # what the comparison before it has trained comes in
            done = self.runs["methods/masked_diffusion"]
            words += [f"experiment.methods.{name}.load={done / 'methods' / name}" for name in LONG[needs(command)]]
            words += [f"experiment.judges.load=[{done / 'judges' / '0'}]", "experiment.sampling.length=8"]
        if trained_before(command) and not any(w.startswith(("resume=", "experiment.sampling.length=")) for w in words):
            words.append("experiment.sampling.length=8")  # many settings and seeds, a little text of each
        return words if words[0].startswith("resume=") else with_smoke(words)

    def _check_latest_stays(self, command: str) -> None:
        before = Path("latest-run").resolve()
        self._run(self._words(command))
        assert Path("latest-run").resolve() == before  # what trains nothing has no weights to lead to

    def _run(self, words: list[str], apart: bool = False) -> None:
        """Run main.py: in this process, or in one of its own, from the clone's own code, where it starts others."""
        if apart or any(word.startswith(("launcher=", "trainer=")) for word in words):
            own = [sys.executable, str(self.here / "main.py"), *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            result = subprocess.run(own, env=environment, capture_output=True, encoding="utf-8", timeout=300)
            outcome = Outcome(result.returncode, result.stdout, result.stderr)
        else:
            outcome = self.main(*words)
        assert outcome.status == 0, f"{shlex.join(words)}\n{outcome.out[-2000:]}\n{outcome.err[-4000:]}"
        if "--multirun" in words:
            sweep = folder_named(outcome.out, "sweep")
            table = (sweep / "results.csv").read_text(encoding="utf-8").splitlines()
            assert len(table) > 2 and all(line.endswith(",ok") for line in table[1:])
            for job in sorted(sweep.glob("*/summary.json")):
                self._keep(job.parent)
        else:
            self._keep(folder_named(outcome.out, "run"))

    def _keep(self, run: Path) -> None:
        check_run(run)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        self.runs |= {summary["algorithm"]: run, summary["experiment"]: run}
        for name in ("results.csv", "traces", "likelihood_windows.csv", "report.html", "methods/masked_diffusion"):
            if (run / name).exists():
                self.runs[name] = run
        if (run / "metrics.csv").exists():
            self.trained.append(run)

    def _run_module(self, command: str) -> None:
        """Run a module of experiments on the folders that are there."""
        module, *words = shlex.split(command.removeprefix(MODULE), comments=True)
        run = self.trained[-1] if module == "analysis.curves" else self.runs[READ_BY[module]]
        if module == "analysis.blind_review":
            run = self.runs["flow_comparison"]
            sheet = (run / "blind_samples.csv").read_text(encoding="utf-8")
            Path("filled.csv").write_text(sheet.replace(',"",""\n', ',"1",""\n'), encoding="utf-8")
        setting = ""
        if "SETTING" in words:
            with (run / "results.csv").open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["weights"]]
            setting = f"{rows[0]['method']}: {rows[0]['setting']}"
        places = {"FILLED_SHEET": "filled.csv", "SETTING": setting, "FOLDER": "drawn"}
        places |= dict.fromkeys(("RUN", "RUN_A", "RUN_B"), str(run))
        places |= {"RUN_B": str(self.trained[-2])} if module == "analysis.curves" else {}
        words = [places.get(word, word.replace("RUN/", f"{run}/")) for word in words]
        name = f"experiments.{module}" + (".__main__" if module in ("analysis.report", "analysis.animation") else "")
        assert importlib.import_module(name).main(words) == 0, command
        for flag, file in pairwise(words):
            assert flag not in ("--gif", "--html", "--out") or Path(file).exists(), command
        assert module != "training.export" or Path(words[-1]).is_file()


LONG = {  # commands that train many models -> the methods of which there is a model
    "half an hour": ("masked_diffusion", "diffusion_flow"),
    "an hour or two": ("df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"),
}
LEFT_BEHIND = {  # by experiment (blank: any) and task
    ("", "training"): ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "plots/training_curve.png"),
    ("comparison", "training"): ("comparison.json",),  # what is loaded lies elsewhere
    ("", "sampling"): ("samples/samples.txt", "samples/samples.json"),
    ("", "likelihood"): ("likelihood.csv", "likelihood_windows.csv"),
    ("comparison", "likelihood"): ("likelihood.csv", "likelihoods"),
    ("", "sweep"): ("results.csv", "results.json", "results.md", "samples.txt"),
    ("", "ab"): ("ab.md", "ab.json", "analysis"),
    ("", "presets"): ("results.csv", "results.md", "analysis"),
    ("decoding", "visualize"): ("traces", "animation.gif", "animation.html"),
    ("comparison", "visualize"): ("traces",),
    ("", "report"): ("report.html", "report.md", "plots", "flags.json", "comparison.json"),
}
READ_BY = {  # what a module needs a run to have, or to be of
    "analysis.sweep": "results.csv",
    "analysis.animation": "traces",
    "analysis.blind_review": "report.html",
    "analysis.curves": "metrics.csv",
    "analysis.report": "report.html",
    "analysis.likelihood": "likelihood_windows.csv",
    "training.export": "gpt",
}
COMMANDS = commands(PAGE.read_text("utf-8"))
COMPOSED = [command for command in COMMANDS if needs(command) in COMPOSED_FOR]
IN_ORDER = [command for command in COMMANDS if command not in COMPOSED]


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_page(
    main: Main, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a documented command that fails, or works only in a folder that its reader does not have: they are typed
    one after the other in a clone, at the size of debug=smoke, and must leave what they promise."""
    reader = Reader(main, clone(tmp_path / "clone"), corpus)
    monkeypatch.chdir(tmp_path / "clone")
    for command in IN_ORDER:
        reader.type(command)
        if command == f"{LAUNCH} logger=wandb":
            assert list(Path().glob("latest-run/wandb/offline-run-*"))  # as the page sends them


def test_make_has_the_targets_of_the_page() -> None:
    """Catches a target that is gone, and a short form that no longer is the launch line."""
    targets = re.findall(r"^make (\w+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert targets == ["shakespeare", "test"]
    dry = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    assert LAUNCH_LINE.removeprefix("python ") in dry and "-m pytest" in dry


@pytest.mark.parametrize("command", COMPOSED)
def test_command_composes(command: str, main: Main) -> None:
    """Catches a config group or key that is gone in a documented command which cannot run here."""
    words = [word for word in arguments(command) if not word.startswith(("load=", "resume="))]  # no such run here
    outcome = main(*first_of_sweep(words), "--cfg", "job")
    assert outcome.status == 0, outcome.err[-4000:]


def test_readme_has_the_launch_line_and_little_is_excused() -> None:
    """Catches a README whose commands are not found, or all excused: the tests above would test nothing."""
    assert LAUNCH_LINE in IN_ORDER, "README.md lacks the launch line"
    assert len(COMPOSED) <= 5 and {trained_before(command) for command in IN_ORDER} > {"any", "df_lm"}
    modules = {command.removeprefix(MODULE).split()[0] for command in IN_ORDER if command.startswith(MODULE)}
    assert modules == {*READ_BY}


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
    assert trained_before(f"{LAUNCH} load=latest-run  # needs a run") == "any"
    assert trained_before(f"{LAUNCH} load=latest-run  # needs a run of df_lm") == "df_lm"
    assert with_smoke(arguments(second)) == ["-m", "debug=smoke", "seed=1,2", "trainer=gpu"]
    assert with_smoke(["--cfg", "job"]) == ["--cfg", "job", "debug=smoke"]
    assert first_of_sweep(arguments(second)) == ["seed=1", "trainer=gpu"]
    assert list(named_paths(page)) == ["docs/plan.md", "algorithms/common/optim.py", "main.py"]
    assert list(named_configs(page)) == ["algorithm/gpt.yaml", "algorithm/nonesuch.yaml"]
