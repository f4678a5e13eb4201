"""The guard, from the worker's side: a small process that kills the commands of a worker that was killed itself.

A command holds its worker's claim (it inherits the holder's lock), so after a `kill -9` of the worker its message would
come back only when the command ends. The guard ends it at once. It lives in a session of its own, so that what a
terminal sends does not reach it, and holds nothing but its end of a pipe.

How no command escapes. The guard must know of a command before the worker can die, and a pid is known only after the
fork. Rejected: a shell or launcher that waits for a word before it executes the command (measured: 1.1 ms instead of
0.56 for each message, and shells change the environment); starting commands through the guard (its death would take
their exit statuses with it); `preexec_fn` (unsafe with threads, and no vfork). Instead the guard is told, before the
fork, two things that only this command will have (the inode of the pipe that is its standard error, the receipt in its
environment), and after it, the pid. If the worker died in between, it finds in /proc who has them: only then, so that
it costs nothing.

With the guard killed as well, the command runs on, holds the claim, and no second run starts until it has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from spoolq.worker.events import emit

_PROGRAM = Path(__file__).with_name("guard_process.py")
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_LEFT_MAX = 64
_GOODBYE_S = 2.0


class Guard:
    """Tells the guard process what runs; starts it again when it is lost. May be used by several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._commands: dict[int, tuple[str, int]] = {}
        self._left: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._write_fd = -1
        self._start()

    @property
    def pid(self) -> int | None:
        """The guard's pid; None where it could not be started."""
        return self._process.pid if self._process else None

    def starting(self, key: int, receipt: str) -> None:
        """A command is about to start, whose standard error is the pipe with this inode."""
        with self._mutex:
            self._commands[key] = (receipt, 0)
            self._tell(f"+ {key} {receipt}\n")

    def started(self, key: int, pid: int) -> None:
        """It runs, in a process group of its own."""
        with self._mutex:
            self._commands[key] = ("", pid)
            self._tell(f"= {key} {pid}\n")

    def ended(self, key: int) -> None:
        """It has ended, and was waited for, or did not start.

        What it left behind in its group still holds the claims of its slot, so it stays known until it has gone. (Of
        many of these the oldest are let go.)
        """
        with self._mutex:
            self._left[key] = self._commands.pop(key)[1]
            gone = [each for each, pid in self._left.items() if not has_group(pid)]
            for each in [*gone, *list(self._left)[:-_LEFT_MAX]]:
                if self._left.pop(each, None) is not None:
                    self._tell(f"- {each}\n")

    def close(self) -> None:
        """End in order. A command that runs even now is killed, as after a death."""
        with self._mutex:
            if self._process is None:
                return
            if not self._commands:
                self._send("q\n")
            os.close(self._write_fd)
            try:
                self._process.wait(_GOODBYE_S)
            except subprocess.TimeoutExpired:
                self._kill()
            self._process = None

    def _tell(self, line: str) -> None:
        if self._process is None or self._send(line):
            return
        emit(logging.WARNING, "guard.lost", pid=self.pid)
        self._kill()  # before its pipe ends: one that was only stopped must not wake up and think us dead
        os.close(self._write_fd)
        self._left.clear()  # their leaders were waited for, so these numbers may mean others to a new guard
        self._start()
        for key, (receipt, pid) in self._commands.items():
            self._send(f"= {key} {pid}\n" if pid else f"+ {key} {receipt}\n")

    def _send(self, line: str) -> bool:
        try:
            return os.write(self._write_fd, line.encode()) == len(line)
        except (BrokenPipeError, BlockingIOError):  # dead, or stopped for so long that the pipe is full
            return False

    def _start(self) -> None:
        read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        # The mask passes on to the guard, so that no TERM for everybody can meet it before it is ready.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getsid(0))],
                stdin=read_fd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            self._process = None
            os.close(self._write_fd)
            emit(logging.WARNING, "guard.unavailable", error=str(error))
        else:
            emit(logging.DEBUG, "guard.started", pid=self._process.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(read_fd)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def has_group(pid: int) -> bool:
    """Whether anything is left in the process group; 0 has none."""
    if pid == 0:
        return False
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's: a command that changed its user, or a number used again
        return True
    return True
