"""Helpers of these tests: workers as real processes, and looking at processes from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spoolq.interfaces import Queue
from spoolq.worker import CommandHandler, Handler, Worker

LIMIT_S = 10.0
ROOT = Path(__file__).parents[2]


def wait_for(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """The first true value of `what`; looked for every few milliseconds, an error after the limit."""
    ends_s = time.monotonic() + limit_s
    while not (found := what()):
        if time.monotonic() > ends_s:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.002)
    return found


# Processes from outside


def lives(pid: int) -> bool:
    """Whether a process runs. A zombie does not: in a container nothing may ever wait for it."""
    return read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in [[], ["Z"], ["X"]]


def children(pid: int) -> dict[int, str]:
    """Pid and command line of a process's children."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in read(task / "children").split():
            found[int(child)] = read(Path(f"/proc/{child}/cmdline")).replace("\0", " ")
    return found


def read(path: Path) -> str:
    """What is there; nothing where the process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def guard_of(pid: int) -> int:
    """The guard of a worker."""
    return int(wait_for(lambda: next((p for p, line in children(pid).items() if "guard_process" in line), 0)))


def is_told(guard: int, pid: int) -> bool:
    """Whether the guard knows of a command: then it has a pidfd of it."""
    infos = [read(path) for path in Path(f"/proc/{guard}/fdinfo").iterdir()]
    return any(f"Pid:\t{pid}\n" in info for info in infos)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def pid_in(path: Path) -> int:
    """The pid that a command wrote, once it has written a whole line."""
    text = wait_for(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text())
    return int(text.split()[-1])


# Workers


class Workers:
    """Workers as people start them, `spoolq work`, each in a process of its own; killed at the end."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "spoolq", "work", "--spool", str(self.spool), *arguments]
        process = subprocess.Popen(argv, cwd=self.spool.parent, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> int:
        """Until it ends; its exit status."""
        return self.start(*arguments).wait(LIMIT_S)

    def kill_all(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


def work(queue: Queue, *command: str, handler: Handler | None = None, **options: Any) -> int:
    """A worker here, until nothing is ready; its exit status."""
    return Worker(queue, handler or CommandHandler(command), **({"drain": True} | options)).run()


class Told(Worker):
    """A worker that remembers whether it was told to stop."""

    told = False

    def stop(self) -> None:
        self.told = True
        super().stop()

    def drain(self) -> None:
        """Tell it to stop once, and wait until it has heard."""
        self.stop()
        wait_for(lambda: self._stop.draining)


@contextmanager
def working(queue: Queue, *command: str, handler: Handler | None = None, **options: Any) -> Iterator[Told]:
    """A worker in a thread; told to stop at the end, if it has not been, and waited for. It has to exit with 0."""
    worker = Told(queue, handler or CommandHandler(command), **({"poll_s": 0.02} | options))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    try:
        yield worker
    finally:
        if not worker.told:
            worker.stop()
        thread.join(LIMIT_S)
    assert codes == [0]
