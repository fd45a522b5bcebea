"""Several processes that work on one run, as torchrun, srun, mpirun and submitit start them.

Their variables are brought to those of torchrun (RANK, WORLD_SIZE and so on), which torch and Lightning read. The first
process reads the command line for all, so that they share one run folder and agree on what resume=auto means. Processes
that Lightning itself starts (trainer=ddp without a launcher) are told both by Lightning.
"""

import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

PATIENCE = timedelta(days=1)  # of a process, for the others
SILENCE = 15.0  # seconds of waiting after which a process says what for
PORTS = range(15_000, 30_000)  # below those that operating systems give out themselves


class Variables(NamedTuple):
    """What a launcher calls a process's rank, the number of processes, both on its node or the number of nodes, and
    what tells one launch from another."""

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_world_size: str = ""
    nodes: str = ""
    job: tuple[str, ...] = ()


LAUNCHERS = (  # the innermost first: torchrun and mpirun may run inside a job of Slurm
    Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", job=("TORCHELASTIC_RUN_ID",)),
    Variables(
        "submitit",
        "SUBMITIT_LOCAL_GLOBALID",
        "SUBMITIT_LOCAL_NTASKS",
        "SUBMITIT_LOCAL_LOCALID",
        nodes="SUBMITIT_LOCAL_NNODES",
        job=("SUBMITIT_LOCAL_JOB_ID",),
    ),
    Variables(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        job=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    ),
    Variables("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Variables(
        "srun",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_LOCALID",
        nodes="SLURM_NNODES",
        job=("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
)
INTERACTIVE = ("bash", "interactive")  # names of Slurm jobs in which a person starts programs by hand
NO_STEP = (None, "4294967290", "4294967291")  # Slurm's numbers of an interactive shell and of a batch script itself
_meeting: list[Any] = []  # the store stays open: torch's process group meets at the same address


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher has started, and where the first of them is to be met."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int

    @property
    def nodes(self) -> int:
        return self.world_size // self.local_world_size

    def variables(self) -> dict[str, str]:
        """The same as torchrun says it."""
        values = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
            "GROUP_RANK": self.rank // self.local_world_size,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
        }
        return {name: str(value) for name, value in values.items()}


def find_launch(environment: Mapping[str, str]) -> Launch | None:
    """What a launcher has left in the environment; None for a process on its own, or one that Lightning started.

    Raises ValueError in one sentence on variables that contradict each other or leave out where to meet.
    """
    for names in LAUNCHERS:
        if _several(names, environment):
            return _launch(names, environment)
    return None


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of all processes that work on the run, on whatever node: it speaks and writes."""
    for names in LAUNCHERS:
        if _several(names, environment):
            return environment[names.rank] == "0"
    return environment.get("LOCAL_RANK", "0") == "0" and environment.get("NODE_RANK", "0") == "0"


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a launcher says of this process: for a child that is a run of its own."""
    own = {"GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
    for names in LAUNCHERS:
        own |= {names.rank, names.world_size, names.local_rank, names.local_world_size}
    return {key: value for key, value in environment.items() if key not in own and not key.startswith("TORCHELASTIC_")}


def shared_command_line(launch: Launch, read: Callable[[], list[str]]) -> list[str]:
    """What `read` makes of the command line in the first process, in all of them; the others do not log what Hydra
    says.

    Exits with status 1 where the first process fails, which says why.
    """
    os.environ.update(launch.variables())
    if launch.world_size == 1:
        return read()
    store = _meet(launch)
    if launch.rank == 0:
        words = None
        try:
            words = read()
        finally:
            store.set("command line", json.dumps(words))
            others = [f"read by {rank}" for rank in range(1, launch.world_size)]
            _hearing(lambda: store.wait(others, PATIENCE))  # the store ends with this process
        return words
    try:
        words = json.loads(_hearing(lambda: store.get("command line")))
        store.set(f"read by {launch.rank}", "yes")
    except RuntimeError:  # the first process is gone
        words = None
    if words is None:
        raise SystemExit(1)
    return [*words, "hydra/job_logging=disabled"]


@contextmanager
def first_process_first(what: str) -> Iterator[None]:
    """Where a launcher started several processes: the first does the work of this block before the others begin it."""
    if not _meeting:
        yield
        return
    (store,) = _meeting
    if not is_first_process():
        _hearing(lambda: store.wait([what], PATIENCE))
        yield
        return
    try:
        yield
    finally:
        store.set(what, "done")


def _meet(launch: Launch) -> Any:
    """A store that all processes have joined, at the address where torch's process group will meet."""
    from torch.distributed import PrefixStore, rendezvous  # torch: only where processes are many

    number = launch.world_size - 1
    who = "the other process" if number == 1 else f"the other {number} processes"
    others = f"{who} of {launch.launcher} at {launch.address}:{launch.port}"
    notice = threading.Timer(SILENCE, print, [f"waiting for {others}"], {"file": sys.stderr, "flush": True})
    notice.daemon = True
    notice.start()
    try:
        store, _, _ = _hearing(lambda: next(rendezvous("env://", timeout=PATIENCE)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot meet {others} ({reason}): set MASTER_ADDR and MASTER_PORT to a free port") from error
    finally:
        notice.cancel()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store when it starts anew
    _meeting[:] = [PrefixStore(f"main.py {attempt}", store)]
    return _meeting[0]


def _hearing(wait: Callable[[], Any]) -> Any:
    """What `wait` returns, a call that blocks outside of Python: in a thread, so that the process hears of requests to
    stop meanwhile."""
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(wait())
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found.result()


def _several(names: Variables, environment: Mapping[str, str]) -> bool:
    """Whether this launcher has started the process, and, but for torchrun, as one of several."""
    if names.rank not in environment or names.world_size not in environment:
        return False
    if names.launcher == "mpiexec" and names.local_rank not in environment:
        return False  # srun --mpi=pmi2 sets PMI_RANK and PMI_SIZE, too
    if names.launcher == "srun" and environment.get("SLURM_STEP_ID") in NO_STEP:
        return False  # a script has the numbers of the whole job, and is one process
    if names.launcher == "srun" and environment.get("SLURM_JOB_NAME") in INTERACTIVE:
        return False
    return names.launcher == "torchrun" or environment[names.world_size] != "1"


def _launch(names: Variables, environment: Mapping[str, str]) -> Launch:
    rank, world_size = (_number(environment, name) for name in (names.rank, names.world_size))
    nodes = max(1, _number(environment, names.nodes)) if names.nodes in environment else None
    if nodes is not None:
        local_world_size = world_size // nodes if world_size % nodes == 0 else 0
    elif names.local_world_size in environment:
        local_world_size = _number(environment, names.local_world_size)
    else:
        local_world_size = world_size
    even = 0 < local_world_size <= world_size and world_size % local_world_size == 0
    if not (even and 0 <= rank < world_size):
        where = f"{nodes} nodes" if nodes is not None else f"{local_world_size} on this node"
        raise ValueError(
            f"{names.launcher} says {names.rank}={rank} and {names.world_size}={world_size}, {where}: ranks count from "
            "0, and every node needs the same number of processes"
        )
    local_rank = _number(environment, names.local_rank) if names.local_rank in environment else rank % local_world_size
    job = ".".join(environment.get(name, "") for name in names.job)
    port = environment.get("MASTER_PORT") or PORTS[zlib.crc32(job.encode()) % len(PORTS)]
    address = environment.get("MASTER_ADDR") or _first_host(environment)
    if address is None:
        if local_world_size < world_size:
            raise ValueError(f"{names.launcher} started processes on several nodes: set MASTER_ADDR to the first one's")
        address = "127.0.0.1"
    return Launch(names.launcher, rank, world_size, local_rank, local_world_size, address, int(port))


def _first_host(environment: Mapping[str, str]) -> str | None:
    """The first node of a Slurm job: `a01` of `a[01-03,7],b2`."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST")
    if not nodes:
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.resolve_root_node_address(nodes)


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(f"the environment has {name}={environment[name]}, which is not a whole number") from None
