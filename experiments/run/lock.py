"""A run folder belongs to one process at a time: a file in it says which, and beats as long as that one lives."""

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

LOCK = "lock.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # without a beat, after which a process of another machine counts as gone


class RunLock:
    """Holds `folder` for this process while entered; takes it over from a process that is gone.

    Raises ValueError where a live process has it. `note` says what was taken over. Of a process on another machine only
    the beats are known, so that a young lock of one is watched until it beats or turns stale.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.note: str | None = None
        self._own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
        self._own["token"] = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        while not self._create():
            holder = self._read()
            if holder is None:
                continue  # it ended just now
            if not self._is_gone(holder):
                raise ValueError(
                    f"{self.path.parent} is in use by process {holder.get('pid')} on {holder.get('host')}: wait for it "
                    "to end, or stop it"
                )
            if self._remove(holder):
                self.note = f"{self.path.parent}: process {holder.get('pid')} on {holder.get('host')} is gone, going on"
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._remove(self._own)

    def _create(self) -> bool:
        """Whether the file could be made, which one process can."""
        try:
            with self.path.open("x", encoding="utf-8") as file:
                json.dump(self._own | {"heartbeat": time.time()}, file)
        except FileExistsError:
            return False
        return True

    def _read(self) -> dict[str, Any] | None:
        """Whose the file is, None without one. One that is being written, or was cut short, has its time alone."""
        try:
            text, written = self.path.read_text(encoding="utf-8"), self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        return _content(text) or {"heartbeat": written}

    def _is_gone(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") == self._own["host"]:
            return started(holder["pid"]) is None or started(holder["pid"]) != holder["started"]
        left = holder["heartbeat"] + STALE_SECONDS - time.time()
        left = min(max(left, 2 * BEAT_SECONDS), STALE_SECONDS)  # the clocks of two machines need not agree
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        print(f"{self.path.parent}: waiting up to {left:.0f} s for a sign of life of {who}", file=sys.stderr)
        ends = time.monotonic() + left
        while time.monotonic() < ends:
            time.sleep(min(1.0, BEAT_SECONDS))
            now = self._read()
            if now is None:
                return True
            if now["heartbeat"] != holder["heartbeat"]:
                holder.update(now)  # it was being written, or was taken over by another process
                return False
        return True

    def _remove(self, holder: dict[str, Any]) -> bool:
        """Remove the file if it is still that of `holder`."""
        aside = self.path.with_name(f".{LOCK}.{self._own['token']}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        found = _content(aside.read_text(encoding="utf-8"))
        if found.get("token") != holder.get("token"):  # another process was faster: it is its file
            aside.rename(self.path)
            return False
        aside.unlink()
        return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            temporary = self.path.with_name(f".{LOCK}.beat.{self._own['token']}")
            with suppress(OSError):  # a full disk, or a folder that is gone: the run itself will tell
                if (self._read() or self._own).get("token") != self._own["token"]:
                    self._leave()
                temporary.write_text(json.dumps(self._own | {"heartbeat": time.time()}), encoding="utf-8")
                temporary.replace(self.path)

    def _leave(self) -> None:
        """End this process, which stood still for so long that another one has taken over: nothing more is written."""
        print(
            f"{self.path.parent} was taken over by another process: leaving it to that one", file=sys.stderr, flush=True
        )
        os._exit(1)


def _content(text: str) -> dict[str, Any]:
    """What a lock file says; nothing where it is being written, or was cut short."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def started(pid: int) -> str | None:
    """When a process of this machine was started, None where there is none: tells it from a later one of its number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
    except OSError:
        pass  # no process, or no /proc
    if os.name == "nt":  # where a signal 0 would end it
        listed = subprocess.run(
            ["tasklist", "/FI", f"PID eq {pid}"], capture_output=True, text=True, encoding="utf-8", errors="replace"
        ).stdout
        return "running" if str(pid) in listed else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    return "running"
