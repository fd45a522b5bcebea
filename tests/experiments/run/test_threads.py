"""How torch's threads wait is settled before torch is there to read it, and by the user first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run.threads import CHOICES, wait_politely

ROOT = Path(__file__).parents[3]
AT_IMPORT = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("at import:", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
"""
STARTS = {
    "main.py": f"sys.argv[1:] = ['debug=smoke']\nrunpy.run_path({str(ROOT / 'main.py')!r}, None, '__main__')",
    "load": "from experiments import load\nload('nowhere')",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("chosen", "found"), [({}, "100"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_it_is_settled_before_torch_is_imported(start: str, chosen: dict[str, str], found: str, tmp_path: Path) -> None:
    """Catches an import that brings in torch first: libgomp has read its variables by then."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    environment |= {"PYTHONPATH": str(ROOT)} | chosen
    program = [sys.executable, "-c", AT_IMPORT + STARTS[start]]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.stdout.splitlines()[-1] == f"at import: {found}", done.stderr


@pytest.mark.parametrize("name", CHOICES)
def test_the_choice_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches OMP_WAIT_POLICY=ACTIVE, of somebody with cores to spare, that a number of spins overrules."""
    for one in CHOICES:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "ACTIVE")
    wait_politely()
    assert {one: os.environ.get(one) for one in CHOICES} == dict.fromkeys(CHOICES) | {name: "ACTIVE"}
