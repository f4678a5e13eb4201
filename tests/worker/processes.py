"""Helpers of these tests: workers as real processes, and looking at processes from outside."""

from __future__ import annotations

import json
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
    """Whether a process runs. A zombie does not: nothing in a container may ever wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> dict[int, str]:
    """Pid and command line of a process's children."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            except FileNotFoundError:
                pass
    return found


def guard_of(pid: int) -> int:
    """The guard of a worker."""
    return int(wait_for(lambda: next((p for p, line in children(pid).items() if "guard_process" in line), 0)))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def pid_in(path: Path) -> int:
    """The pid that a command wrote, once it has written a whole line."""
    text = wait_for(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text())
    return int(text.split()[-1])


# Workers


@contextmanager
def worker_process(spool: Path, *command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own; killed at the end, if it has not ended."""
    argv = [sys.executable, str(Path(__file__).with_name("work.py")), str(spool), json.dumps(options), *command]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    reader = threading.Thread(target=_copy, args=(process,), daemon=True)
    reader.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(LIMIT_S)
        assert process.stderr is not None
        process.stderr.close()


def _copy(process: subprocess.Popen[bytes]) -> None:
    """Its log to ours, so that pytest shows it with a failure."""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line.decode("utf-8", "replace"))


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
