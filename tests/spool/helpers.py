"""For the tests of the spool with real files, processes and signals."""

from __future__ import annotations

import ast
import json
import os
import queue as queues
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spoolq.interfaces import Queue
from tests.helpers import LIMIT_S, STATE_DIRECTORIES

ROOT = Path(__file__).parents[2]
NOBODY = 65534


class ChildError(Exception):
    """What a line raised in the child; `kind` is its class's name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Child:
    """A Python process with a queue open, told what to do as at a prompt: `child("message = queue.dequeue()")`.

    `start` gives a line without waiting for its answer, `result` waits for it. without: capabilities of root that it
    is not to have.
    """

    def __init__(self, spool: Path, name: str = "default", *, without: Sequence[str] = (), **options: Any) -> None:
        argv = [sys.executable, str(Path(__file__).with_name("prompt.py")), str(spool), name, json.dumps(options)]
        if without:
            argv = ["setpriv", f"--bounding-set=-{',-'.join(without)}", *argv]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        self._answers: queues.Queue[bytes] = queues.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._opened = False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def __call__(self, line: str) -> Any:
        """The value of a line; ChildError for what it raised."""
        self.start(line)
        return self.result()

    def start(self, line: str) -> None:
        """Tell it to run a line."""
        if not self._opened:
            self.opened()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def opened(self) -> None:
        """Wait until it has opened the queue."""
        self._opened = True
        self.result()

    def result(self, limit_s: float = LIMIT_S * 3) -> Any:
        """The answer to the line that was started before."""
        answer = json.loads(self._answers.get(timeout=limit_s) or b'{"error": "Died", "text": "no answer"}')
        if "error" in answer:
            raise ChildError(answer["error"], answer["text"])
        try:
            return ast.literal_eval(answer["value"])
        except (ValueError, SyntaxError):
            return answer["value"]

    def answered(self) -> bool:
        """Whether the line that was started has been answered."""
        return not self._answers.empty()

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has cleaned up after it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Close its input: it closes the queue and exits."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(LIMIT_S) == 0

    def dispose(self) -> None:
        """At the end of a test, whatever it has come to."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


def in_fork(function: Callable[[], Any], *, uid: int | None = None) -> Any:
    """Run a function in a forked child, as another user if asked; its value, or AssertionError with its traceback."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            answer = {"value": repr(function())}
            status = 0
        except BaseException:
            answer = {"error": traceback.format_exc()}
        try:
            with os.fdopen(write_fd, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(status)
    os.close(write_fd)
    with os.fdopen(read_fd) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(text)
    assert "error" not in answer, answer["error"]
    return ast.literal_eval(answer["value"])


def bodies(root: Path) -> list[bytes]:
    """The bodies of all messages and drops that are there, sorted."""
    found = []
    for kind in STATE_DIRECTORIES:
        with os.scandir(root / kind) as entries:
            found += [Path(entry).read_bytes() for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(found)


def drain(queue: Queue) -> list[bytes]:
    """Deliver and acknowledge everything that is there now; the bodies in the order of delivery."""
    found = []
    while (message := queue.dequeue()) is not None:
        found.append(message.body)
        message.ack()
    return found


class Taker:
    """A thread that does what `spoolq watch` does, and a consumer: what it got, in order."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._stop = threading.Event()
        self.bodies: list[bytes] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                message = self._queue.dequeue(wait_s=0.05)
                if message is not None:
                    self.bodies.append(message.body)
                    message.ack()
        except BaseException as error:
            self._error = error

    def stop(self) -> list[bytes]:
        """End it; what it got."""
        self._stop.set()
        self._thread.join(LIMIT_S)
        if self._error is not None:
            raise self._error
        return self.bodies
