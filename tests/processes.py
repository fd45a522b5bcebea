"""Work that several processes do together: forked from the test, so that nothing is imported anew."""

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

forks = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that have imported torch")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ranks(number: int) -> list[dict[str, str]]:
    """What torchrun tells each of `number` processes of one node."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    size = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "GROUP_RANK": "0"}
    return [place | size | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def in_processes(environments: list[dict[str, str]], work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` returns in a process for each of the environments; AssertionError with the trace of a failure."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in environments]
    children = [
        context.Process(target=_run, args=(pipe[1], environment, work, arguments))
        for pipe, environment in zip(pipes, environments, strict=True)
    ]
    for child in children:
        child.start()
    for _, writer in pipes:
        writer.close()
    found: list[Any] = []
    try:
        for reader, _ in pipes:
            assert reader.poll(120), "a process is stuck"
            found.append(pickle.loads(reader.recv_bytes()))  # a pipe would share tensors, which end with their process
    finally:
        for child in children:
            child.terminate()
            child.join()
    failed = [result for ok, result in found if not ok]
    assert not failed, failed[0]
    return [result for _, result in found]


def _run(pipe: Any, environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    os.environ.update(environment)
    rank_zero_only.rank = int(environment.get("RANK", "0"))  # set when Lightning was imported
    try:
        result = True, work(*arguments)
    except BaseException:
        result = False, traceback.format_exc()
    pipe.send_bytes(pickle.dumps(result))
