"""Holds the table of imports: main -> experiments -> algorithms/<method> -> algorithms/common.

Sources are only parsed, never imported; imports inside functions count for the table, too.
"""

import ast
import graphlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.name for path in (ROOT / "algorithms").iterdir() if path.is_dir())
METHODS = tuple(name for name in FOLDERS if name not in ("common", "__pycache__"))
ALGORITHMS = ("algorithms", *(f"algorithms.{room}" for room in (*METHODS, "common")))
ROOMS = ("evaluation", "training", "run", "analysis")  # of experiments/

# Room -> what of this project it may import besides itself. A module belongs to the longest room that fits.
TABLE: dict[str, tuple[str, ...]] = {
    "main": ("experiments",),
    "experiments": (*ALGORITHMS, "datasets", *(f"experiments.{room}" for room in ROOMS)),
    # Each room sees those to its right.
    **{
        f"experiments.{room}": (*ALGORITHMS, "datasets", *(f"experiments.{below}" for below in ROOMS[place + 1 :]))
        for place, room in enumerate(ROOMS)
    },
    "experiments.analysis": (),
    "algorithms": (),
    **{f"algorithms.{method}": ("algorithms.common",) for method in METHODS},
    "algorithms.block_diffusion": ("algorithms.common", "algorithms.masked_diffusion"),
    "algorithms.diffusion_flow": ("algorithms.common", "algorithms.masked_diffusion"),
    "algorithms.common": (),
    "datasets": (),
}
TORCH = {"torch", "lightning", "pytorch_lightning", "torchmetrics"}
CONFIGURATION = {"hydra", "omegaconf"}
CONFIGURED = ("main", "experiments.launch", "experiments.run")  # what sees it
SLOW_TO_IMPORT = TORCH | {"jinja2", "matplotlib", "pandas", "pyarrow", "rich", "scipy"}
SLOW_TO_IMPORT |= {"tensorboard", "tokenizers", "transformers", "wandb"}


@dataclass(frozen=True)
class Import:
    name: str  # the dotted name, with the imported one at its end: `from a import b` is a.b
    line: int
    at_import: bool  # runs when its module is imported: not inside a function, not for type checkers only


def module_name(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: str, source: str) -> Iterator[Import]:
    package = path.removesuffix(".py").split("/")[:-1]

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield Import(".".join([*base, alias.name]), node.lineno, at_import)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            at_import = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_import = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import)

    yield from visit(ast.parse(source, path), True)


def room_of(name: str) -> str | None:
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in TABLE), None)


def violations(sources: dict[str, str]) -> list[str]:
    """One sentence for each import in `sources` (path from the root -> text) that the table forbids."""
    found = []
    for path, source in sources.items():
        room = room_of(module_name(path))
        if room is None:
            found.append(f"{path} stands in no room of the table")
            continue
        for item in imports(path, source):
            where = f"{path}:{item.line} imports {item.name}"
            target, outside = room_of(item.name), item.name.split(".")[0]
            if target is not None and target != room and target not in TABLE[room]:
                found.append(f"{where}; {room} may import only {', '.join(TABLE[room]) or 'itself'}")
            if room == "experiments.analysis" and outside in TORCH:
                found.append(f"{where}; analysis reads files and knows no model")
            if outside in CONFIGURATION and not module_name(path).startswith(CONFIGURED):
                found.append(f"{where}; configuration stops at experiments/run")
    return found


def reached(sources: dict[str, str], start: str) -> dict[str, str]:
    """Packages from outside that importing the module `start` brings in: name -> the file which does."""
    files = {module_name(path): path for path in sources}
    outside: dict[str, str] = {}
    todo, seen = [start], set()
    while todo:
        parts = todo.pop().split(".")
        for end in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b first
            module = ".".join(parts[:end])
            if module not in files or module in seen:
                continue
            seen.add(module)
            for item in imports(files[module], sources[files[module]]):
                if item.at_import:
                    todo.append(item.name)
                    if room_of(item.name) is None:
                        outside.setdefault(item.name.split(".")[0], files[module])
    return outside


def circles(sources: dict[str, str]) -> list[str]:
    """Modules that import each other, directly or not; imports inside functions and for type checkers count, too."""
    files = {module_name(path): path for path in sources}

    def modules_of(name: str) -> Iterator[str]:  # `from a import b` is a.b, a module or a name in one
        parent = name.rpartition(".")[0]
        yield from (module for module in (name, parent) if module in files)

    graph = {
        module: {
            target
            for item in imports(path, sources[path])
            for target in itertools.islice(modules_of(item.name), 1)
            if target != module
        }
        for module, path in files.items()
    }
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def slow_imports(sources: dict[str, str], start: str, forbidden: set[str]) -> list[str]:
    return sorted(f"{file} imports {name}" for name, file in reached(sources, start).items() if name in forbidden)


def project_sources() -> dict[str, str]:
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests"}
    packages |= {"algorithms", "datasets", "experiments"}
    files = [*ROOT.glob("*.py"), *(file for package in packages for file in (ROOT / package).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_imports_run_downhill() -> None:
    """Catches a method that reaches into another, or code below experiments/ that reads a DictConfig."""
    sources = project_sources()
    assert {
        "main.py",
        "algorithms/common/base_algorithm.py",
        "experiments/analysis/plots.py",
    } <= sources.keys()
    assert violations(sources) == []


def test_no_modules_import_each_other() -> None:
    """Catches a circle, which makes two files one and the order of imports matter."""
    assert circles(project_sources()) == []


def test_a_planted_circle_is_found() -> None:
    """Catches a search that overlooks imports of packages, in functions, or over a third module."""
    sources = {
        "experiments/__init__.py": "",
        "experiments/a.py": "from experiments.b import f",
        "experiments/b.py": "def f():\n    from experiments import c",
        "experiments/c.py": "if TYPE_CHECKING:\n    import experiments.a",
    }
    (found,) = circles(sources)
    assert set(found.split(" -> ")) == {"experiments.a", "experiments.b", "experiments.c"}
    assert circles(sources | {"experiments/c.py": "import experiments.d"}) == []


def test_starting_imports_nothing_slow() -> None:
    """Catches an import, in main.py or below it, that makes `--cfg job` and shell completion wait."""
    assert slow_imports(project_sources(), "main", SLOW_TO_IMPORT) == []


def test_analysis_runs_without_torch() -> None:
    """Catches torch brought in by experiments/__init__.py, which importing experiments.analysis runs."""
    sources = project_sources()
    for path in sources:
        if path.startswith("experiments/analysis/"):
            assert slow_imports(sources, module_name(path), TORCH) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("algorithms/teacher_forcing/x.py", "from algorithms.diffusion_forcing import df_lm"),
        ("algorithms/masked_diffusion/x.py", "import algorithms.diffusion_flow.flow"),
        ("algorithms/masked_diffusion/decoding/x.py", "from ...diffusion_flow import flow"),
        ("algorithms/common/backbone/x.py", "def f():\n    from algorithms import teacher_forcing"),
        ("algorithms/common/x.py", "import experiments"),
        ("algorithms/common/x.py", "from omegaconf import DictConfig"),
        ("algorithms/diffusion_flow/x.py", "from ..teacher_forcing.gpt import GPT"),
        ("datasets/x.py", "from algorithms.common import generation"),
        ("datasets/x.py", "import hydra.utils"),
        ("experiments/x.py", "import main"),
        ("experiments/analysis/x.py", "from experiments import checkpoint"),
        ("experiments/analysis/x.py", "from .. import checkpoint"),
        ("experiments/analysis/x.py", "def f():\n    import torch"),
        ("experiments/analysis/x.py", "from hydra import compose"),
        ("main.py", "from algorithms.teacher_forcing import gpt"),
        ("scripts/x.py", "import os"),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    """Catches a blind walk: each line breaks one row of the table and must be reported once."""
    found = violations({path: source})
    assert len(found) == 1 and path in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("main.py", "import hydra\nfrom experiments.base_experiment import run"),
        (
            "experiments/x.py",
            "from algorithms.common.decoder import Trace\nfrom experiments.analysis import plots",
        ),
        ("experiments/analysis/x.py", "import numpy\nfrom . import records"),
        (
            "algorithms/diffusion_flow/x.py",
            "from ..masked_diffusion import masking\nfrom ..common import optim",
        ),
        ("algorithms/masked_diffusion/decoding/x.py", "from ..masking import mask\nfrom .loop import run"),
        ("datasets/x.py", "import torch\nfrom datasets.config import DatasetConfig"),
    ],
)
def test_what_the_table_allows_is_not_reported(path: str, source: str) -> None:
    """Catches a walk that resolves relative imports wrongly and would forbid what the table allows."""
    assert violations({path: source}) == []


def test_a_planted_slow_import_is_found_through_other_modules() -> None:
    """Catches a check that sees main.py's own lines only, or that counts imports which wait in functions."""
    sources = {
        "main.py": "from experiments.run import start\ndef f():\n    import wandb",
        "experiments/__init__.py": "",
        "experiments/run.py": "if TYPE_CHECKING:\n    import torchmetrics\nfrom datasets import config",
        "datasets/__init__.py": "try:\n    import torch.utils.data\nexcept ImportError:\n    pass",
        "datasets/config.py": "",
    }
    assert slow_imports(sources, "main", SLOW_TO_IMPORT) == ["datasets/__init__.py imports torch"]
