"""Which process this is, by what launchers leave in the environment, and one command line for all of them."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from experiments import launch
from experiments.run import interrupts, processes
from experiments.run.processes import alone, find_launch, first_process_first, is_first_process
from tests.processes import forks, in_processes, ranks

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "a01",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "a[01-02]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "job-1",
}
SUBMITIT = {
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_LOCALID": "1",
    "SUBMITIT_LOCAL_NNODES": "1",
    "SUBMITIT_LOCAL_JOB_ID": "777",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, ("torchrun", 3, 4, 1, 2, "a01")),
        (SLURM, ("srun", 2, 4, 0, 2, "a01")),
        (SLURM | {"MASTER_ADDR": "10.0.0.1"}, ("srun", 2, 4, 0, 2, "10.0.0.1")),
        (SLURM | TORCHRUN, ("torchrun", 3, 4, 1, 2, "a01")),
        (OPEN_MPI, ("mpirun", 1, 2, 1, 2, "127.0.0.1")),
        (MPICH, ("mpiexec", 1, 2, 1, 2, "127.0.0.1")),
        (SLURM | {"PMI_RANK": "2", "PMI_SIZE": "4"}, ("srun", 2, 4, 0, 2, "a01")),  # srun --mpi=pmi2
        (SUBMITIT, ("submitit", 1, 2, 1, 2, "127.0.0.1")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ("torchrun", 1, 2, 1, 2, "127.0.0.1")),
    ],
)
def test_launchers_are_recognised(environment: dict[str, str], expected: tuple[Any, ...]) -> None:
    """Catches a launcher that is taken for a process on its own: each rank would get a run folder."""
    found = find_launch(environment)
    assert found is not None
    place = found.launcher, found.rank, found.world_size, found.local_rank, found.local_world_size, found.address
    assert place == expected
    assert find_launch(found.variables()) is not None
    assert is_first_process(environment) == (found.rank == 0)
    first = [key for key in environment if key.endswith(("RANK", "PROCID", "GLOBALID"))]
    assert is_first_process(environment | dict.fromkeys(first, "0"))


def test_a_launch_of_its_own_meets_elsewhere() -> None:
    """Catches two jobs on one node that meet at one port, and processes of one job that meet at several."""
    ports = [find_launch(SLURM | {"SLURM_PROCID": rank}).port for rank in "0123"]
    assert len({*ports}) == 1 and ports[0] in processes.PORTS
    assert find_launch(SLURM | {"SLURM_JOB_ID": "4243"}).port != ports[0]
    assert find_launch(SLURM | {"MASTER_PORT": "29501"}).port == 29501


@pytest.mark.parametrize(
    "environment",
    [
        {},
        LIGHTNING,
        SLURM | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0"},
        SLURM | {"SLURM_JOB_NAME": "interactive"},
        {key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"},  # a batch script without srun
        SLURM | {"SLURM_STEP_ID": "4294967291"},
        alone(TORCHRUN),
        alone(SLURM),
    ],
)
def test_what_is_no_launch(environment: dict[str, str]) -> None:
    """Catches a job of one task, a script without srun, or a process of Lightning's own, that waits for others."""
    assert find_launch(environment) is None
    assert is_first_process(environment) == (environment is not LIGHTNING)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (TORCHRUN | {"RANK": "4"}, "torchrun says RANK=4 and WORLD_SIZE=4"),
        (SLURM | {"SLURM_NTASKS": "3"}, "every node needs the same number"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "set MASTER_ADDR to the first one's"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two, which is not a whole number"),
    ],
)
def test_impossible_launches_are_one_sentence(environment: dict[str, str], sentence: str) -> None:
    """Catches a hang or a traceback for variables that contradict each other."""
    with pytest.raises(ValueError, match=sentence) as caught:
        find_launch(environment)
    assert "\n" not in str(caught.value)


def shared(folder: Path) -> tuple[list[str], list[str]]:
    """The command line that this process gets, and who was the first to work."""
    found = find_launch(os.environ)
    assert found is not None

    def read() -> list[str]:
        assert found.rank == 0
        return ["algorithm=gpt", "hydra.run.dir='x'"]

    words = processes.shared_command_line(found, read)
    with first_process_first("work"), (folder / "order").open("a", encoding="utf-8") as file:
        file.write(str(found.rank))
    while (
        len((folder / "order").read_text(encoding="utf-8")) < found.world_size
    ):  # the store ends with the first process
        time.sleep(0.01)
    return words, [(folder / "order").read_text(encoding="utf-8")[0]]


def failing() -> int:
    found = find_launch(os.environ)

    def read() -> list[str]:
        raise ValueError("a wrong key")

    try:
        processes.shared_command_line(found, read)
    except ValueError:
        return 1
    except SystemExit as stop:
        return 10 + int(stop.code)
    return 0


@forks
def test_all_processes_get_the_command_line_of_the_first(tmp_path: Path) -> None:
    """Catches a folder for each rank, ranks that log for Hydra, and ranks that wait for one that has failed."""
    (first, *_), (second, *_), (third, starter) = in_processes(ranks(3), shared, tmp_path)
    assert first == ["algorithm=gpt", "hydra.run.dir='x'"] and second == third
    assert second == [*first, "hydra/job_logging=disabled"] and starter == ["0"]
    assert in_processes(ranks(2), failing) == [1, 11]


def attempt() -> list[str]:
    """The command line of this attempt of torchrun."""
    found, name = find_launch(os.environ), "TORCHELASTIC_RESTART_COUNT"
    assert found is not None
    return processes.shared_command_line(found, lambda: [f"attempt={os.environ[name]}"])[:1]


@forks
def test_a_restarted_launch_reads_its_own_command_line() -> None:
    """Catches ranks that take what the first attempt left in torchrun's store, which outlives it: one would go on from
    a checkpoint and another start anew."""
    places = ranks(2)
    store = TCPStore("127.0.0.1", int(places[0]["MASTER_PORT"]), is_master=True, wait_for_workers=False)
    for number in ("0", "1"):
        agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": number}
        assert in_processes([place | agent for place in places], attempt) == [[f"attempt={number}"]] * 2
    del store


def waiting() -> str:
    """What ends a process that waits for another one."""
    found = find_launch(os.environ)
    assert found is not None
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    try:
        with interrupts.listening():
            processes.shared_command_line(found, list)
    except interrupts.Interrupted as stop:
        return str(stop)
    return "nothing"


@forks
def test_a_process_that_waits_hears_of_requests_to_stop() -> None:
    """Catches a process that nothing but SIGKILL ends while the others of its launch are missing."""
    assert in_processes(ranks(2)[:1], waiting) == ["SIGTERM"]


def test_a_sweep_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Catches a sweep that every rank runs in full."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--multirun", "seed=0,1"])
    for key, value in (TORCHRUN | {"RANK": "0"}).items():
        monkeypatch.setenv(key, value)
    assert launch.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --multirun would run the whole sweep in each of the 4 processes of torchrun")
