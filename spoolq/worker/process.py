"""One run of a command: start it, copy its standard error, end it when it must, say how it ended.

The command leads a process group of its own, and inherits what proves the claim. Until it is waited for, its pid cannot
mean another process, so whatever is sent to the group is sent before that. Everything happens in the slot's thread, in
one poll of three descriptors: the command (a pidfd), its standard error, and the worker's word to end.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from spoolq.clock import Clock
from spoolq.worker.events import emit
from spoolq.worker.guard import Guard
from spoolq.worker.lease import Lease
from spoolq.worker.outcome import Cause, Ending
from spoolq.worker.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAIL_BYTES = 2048
END_S = 2.0
"""What a command gets between TERM and KILL when its worker ends, or its claim has ended."""

_PIECE_BYTES = 65536
_PIPEFULS = 2  # all that an ended command can have left in its pipe, and the pipe's end
_NO_PIDFD_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms on which a message is worked on. fds: what the command inherits to hold the claim. Times in seconds."""

    receipt: str
    queue_name: str
    queue_url: str
    stop: Stop
    clock: Clock
    lease: Lease
    fds: tuple[int, ...] = ()
    timeout_s: float | None = None
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute."""

    executable: str
    argv: Sequence[str]
    env: Mapping[bytes, bytes]


class Tail:
    """A command's standard error: passed on as it comes, its end kept. Bytes, never decoded on the way."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._kept = b""

    def copy(self) -> bool:
        """Pass on what is there; False after its end."""
        try:
            piece = os.read(self.fd, _PIECE_BYTES)
        except BlockingIOError:
            return True
        self._kept = (self._kept + piece)[-TAIL_BYTES:]
        pass_on(piece)
        return bool(piece)

    def finish(self) -> None:
        """Pass on the rest, and close. What still writes there, started by the command and left, goes on doing so."""
        pipe = select.poll()
        pipe.register(self.fd, select.POLLIN)
        for _ in range(_PIPEFULS):
            if pipe.poll(0) and not self.copy():
                os.close(self.fd)
                return
        threading.Thread(target=_copy_on, args=(self.fd,), name="spoolq-stderr", daemon=True).start()

    def text(self) -> str:
        """The end of it, whole characters only."""
        kept = self._kept
        if len(kept) == TAIL_BYTES:
            kept = kept[next((n for n in range(4) if kept[n] & 0xC0 != 0x80), 0) :]
        return kept.decode("utf-8", "replace")


def pass_on(piece: bytes) -> None:
    """Write to our own standard error; if that cannot be, the message goes on all the same."""
    left = memoryview(piece)
    try:
        while left:
            left = left[os.write(2, left) :]
    except OSError:  # closed, its reader gone, or nobody reads and it does not wait: as if there were none
        pass


def _copy_on(fd: int) -> None:
    os.set_blocking(fd, True)
    while piece := os.read(fd, _PIECE_BYTES):
        pass_on(piece)
    os.close(fd)


class Run:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[bytes], tail: Tail, terms: Terms) -> None:
        self._process = process
        self._tail = tail
        self._terms = terms
        self._clock = terms.clock
        self._started_s = terms.clock.mono_s()
        self._cause: Cause = "itself"
        self._kill_s: float | None = None
        self._pidfd = _open_pidfd(process.pid)

    def wait(self) -> Ending:
        """Until it has ended, by itself or because it must."""
        try:
            self._watch()
        except BaseException:
            self._signal(signal.SIGKILL)
            self._process.wait()
            raise
        if self._cause != "itself":
            self._signal(signal.SIGKILL)  # what is left of its group
        exit_status, signal_number = self._status()
        self._process.wait()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._tail.finish()
        return Ending(
            exit_status=exit_status,
            signal=signal_number,
            cause=self._cause,
            limit_s=self._terms.timeout_s or 0,
            duration_s=self._clock.mono_s() - self._started_s,
            stderr=self._tail.text(),
        )

    def _watch(self) -> None:
        poll = select.poll()
        for fd in (self._pidfd, self._tail.fd, self._terms.stop.fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while True:
            self._end_if_due()
            ready = {fd for fd, _ in poll.poll(self._wait_ms())}
            if self._tail.fd in ready and not self._tail.copy():
                poll.unregister(self._tail.fd)
            if self._terms.stop.fd in ready:
                poll.unregister(self._terms.stop.fd)
            if self._pidfd in ready or (self._pidfd is None and self._has_ended()):
                return

    # When it must end

    def _end_if_due(self) -> None:
        if self._terms.stop.ending:
            self._end("stop", END_S)
        if not self._terms.lease.keep():
            self._end("lease", END_S)
        if self._timeout_s is not None and self._clock.mono_s() >= self._timeout_s:
            self._end("timeout", self._terms.grace_s)
        if self._kill_s is not None and self._clock.mono_s() >= self._kill_s:
            self._kill_s = None
            self._signal(signal.SIGKILL)

    def _end(self, cause: Cause, wait_s: float) -> None:
        """TERM, once, for the first cause; a later one can only bring the KILL nearer."""
        kill_s = self._clock.mono_s() + wait_s
        if self._cause == "itself":
            self._cause = cause
            self._kill_s = kill_s
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # one that is stopped, by a terminal say, would not hear it
        elif self._kill_s is not None:
            self._kill_s = min(self._kill_s, kill_s)

    @property
    def _timeout_s(self) -> float | None:
        limit_s = self._terms.timeout_s
        return self._started_s + limit_s if limit_s is not None and self._cause == "itself" else None

    def _wait_ms(self) -> int | None:
        due = [at for at in (self._timeout_s, self._kill_s, self._terms.lease.due_s) if at is not None]
        if self._pidfd is None:
            due.append(self._clock.mono_s() + _NO_PIDFD_LOOK_S)
        if not due:
            return None
        return max(0, int((min(due) - self._clock.mono_s()) * 1000) + 1)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError) as error:  # it ended, or runs as somebody else (sudo)
            emit(logging.DEBUG, "command.signal_refused", pid=self._process.pid, signal=number, error=str(error))

    # How it ended

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def _status(self) -> tuple[int | None, int | None]:
        """Exit status and signal. Asked of the system: Popen says 0 for a child that somebody else waited for."""
        try:
            found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return None, None
        assert found is not None
        if found.si_code == os.CLD_EXITED:
            return found.si_status, None
        return None, found.si_status


def run(program: Program, stdin: BinaryIO, terms: Terms, guard: Guard) -> Ending:
    """Start a command and see it to its end. OSError and ValueError: it did not start."""
    read_fd, write_fd = os.pipe()
    key = os.fstat(write_fd).st_ino
    guard.starting(key, terms.receipt)
    try:
        try:
            process = subprocess.Popen(
                program.argv,
                executable=program.executable,
                env=program.env,
                stdin=stdin,
                stderr=write_fd,
                pass_fds=terms.fds,
                process_group=0,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        guard.started(key, process.pid)
        return Run(process, Tail(read_fd), terms).wait()
    finally:
        guard.ended(key)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old one, or no descriptor left: look now and then instead
        return None
