"""Being asked to stop: by Ctrl-C, by a scheduler (SIGTERM, SIGUSR1, SIGUSR2), or by a terminal that closes (SIGHUP).

The first request ends the process from wherever it is by the exception Interrupted, except inside of `postponed()`,
where the work at hand asks `requested()` and ends by itself, at a point from which it can go on. A second Ctrl-C leaves
at once.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from experiments.run.processes import is_first_process

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]  # Windows has fewer
EXIT_STATUSES = [128 + number for number in SIGNALS]  # as a shell reports them: 130 for Ctrl-C, 143 for SIGTERM
SILENT = "INTERRUPTS_TOLD_BY_PARENT"  # in the environment of a child, which leaves what is said to its parent
OWN_GROUP: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}  # of Popen: see `forwarded`

_requested: list[int] = []
_postponing: list[tuple[str, Callable[[], None] | None]] = []
_listening = False
_children: list[subprocess.Popen] = []


class Interrupted(BaseException):
    """Raised where the work ends on request. No Exception, so that nothing on its way takes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        return 128 + self.signum

    def __str__(self) -> str:
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name


@contextmanager
def listening() -> Iterator[None]:
    """Take requests to stop while entered; what was set before comes back. SIGHUP stays ignored under nohup, and only
    the main thread of a process can take any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _listening
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _requested.clear()
    _listening = True
    for number, handler in before.items():
        if number == signal.SIGINT or handler != signal.SIG_IGN:
            signal.signal(number, _take)
    try:
        yield
    finally:
        _listening = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def postponed(what: str, then: Callable[[], None] | None = None) -> Iterator[None]:
    """A request waits while entered, for the end at the latest: it says `what` is done and calls `then`, and the work
    at hand may ask `requested()`."""
    _postponing.append((what, then))
    try:
        yield
    finally:
        _postponing.pop()
    if _requested:
        raise Interrupted(_requested[0])


@contextmanager
def forwarded(child: subprocess.Popen) -> Iterator[None]:
    """Requests go on to `child`, each once: it was started with OWN_GROUP, so that a terminal does not tell it, too."""
    _children.append(child)
    if _requested:  # came between its start and here
        _tell(child, _requested[0])
    try:
        yield
    finally:
        _children.remove(child)


def is_listening() -> bool:
    """Whether this process takes requests, which a launcher's worker does not by itself."""
    return _listening


def requested() -> int | None:
    """The signal by which this process was asked to stop."""
    return _requested[0] if _requested else None


def _take(signum: int, frame: Any) -> None:
    again = signum == signal.SIGINT and signal.SIGINT in _requested
    if _requested and not again:
        return  # a scheduler and a launcher may both ask
    _requested.append(signum)
    for child in _children:
        _tell(child, signum)
    if again:
        _write("\nleaving at once\n")
        os._exit(128 + signum)
    if not _postponing:
        raise Interrupted(signum)
    what, then = _postponing[-1]
    if SILENT not in os.environ and is_first_process():
        _write(f"\n{Interrupted(signum)}: {what}; Ctrl-C again leaves at once\n")
    if then is not None:
        then()


def _tell(child: subprocess.Popen, signum: int) -> None:
    if child.poll() is None:
        child.send_signal(signum)


def _write(text: str) -> None:
    os.write(2, text.encode())  # print() must not be entered from a signal handler
