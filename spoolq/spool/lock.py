"""The write lock of a queue: one writer at a time, over all processes and threads.

A kernel lock (`flock`) on the file `lock`, so that it ends with its process, and a mutex before it, since `flock` does
not tell threads of one open file apart. Uncontended it costs two system calls. Contended, the wait is in the kernel,
not in a loop of tries (measured: three to five times the messages a second), in a helper thread, because a wait must
have an end and a blocking `flock` has none.

`fcntl.flock` is called by itself here: it is the same kernel lock that portalocker takes for `holders/`, whose checks
around it cost 6 us of a transaction's 30, and 60 ms at import.
"""

from __future__ import annotations

import fcntl
import os
import threading

from spoolq.errors import Busy


class _Waiter:
    """One blocking `flock` in a thread of its own. Who gives up leaves it there for the next who comes.

    On a descriptor of its own, of the same open file: the lock may be closed meanwhile, and the number be another's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        self._mutex = threading.Lock()
        self._wanted = True
        self._ended = threading.Event()
        self._error: OSError | None = None
        threading.Thread(target=self._run, name="spoolq-lock", daemon=True).start()

    def _run(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            self._error = error
        with self._mutex:
            if not self._wanted and self._error is None:
                fcntl.flock(self.fd, fcntl.LOCK_UN)
            self.forget()
            self._ended.set()

    def forget(self) -> None:
        """Close its descriptor: at the end, or in a forked child, where there is no such thread."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the lock: True when it is ours. After a False the thread lets go of the lock when it comes."""
        if not self._ended.wait(timeout_s):
            with self._mutex:
                if not self._ended.is_set():
                    self._wanted = False
                    return False
        if self._error is not None:
            raise self._error
        return True

    def adopt(self) -> bool:
        """Want the lock after all; False where the thread has ended, so that a new one is needed."""
        with self._mutex:
            if self._ended.is_set():
                return False
            self._wanted = True
            return True


class WriteLock:
    """The write lock on `path`. Not re-entrant. After a fork call `forget` in the child."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._mutex = threading.Lock()
        self._waiter: _Waiter | None = None

    def acquire(self, busy_s: float) -> None:
        """Take it, or raise Busy, naming the process that has it, after `busy_s` seconds."""
        if not self._mutex.acquire(blocking=False) and not self._mutex.acquire(timeout=busy_s):
            raise self._busy(busy_s)
        try:
            self._check_open()
            if self._waiter is None:
                try:
                    fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    self._waiter = _Waiter(self.fd)
            self._wait_for_file(busy_s)
        except BaseException:
            self._mutex.release()
            raise

    def _check_open(self) -> None:
        if self.fd < 0:
            raise ValueError("the queue is closed")

    def _wait_for_file(self, busy_s: float) -> None:
        """Wait with the thread that waits already, or a new one where that has ended."""
        waiter = self._waiter
        if waiter is None or not waiter.adopt():
            waiter = self._waiter = _Waiter(self.fd)
        if not waiter.wait(busy_s):
            raise self._busy(busy_s)
        self._waiter = None

    def is_free(self) -> bool:
        """Whether it could be had at once, just now: for those who would rather do something else than wait."""
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            if self._waiter is not None or self.fd < 0:
                return False
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
        finally:
            self._mutex.release()
        return True

    def release(self) -> None:
        """Let go of it."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self._mutex.release()

    def acquire_threads(self) -> None:
        """Keep this process's threads out, and nobody else: around a fork."""
        self._mutex.acquire()

    def release_file(self) -> None:
        """Let other processes in, and keep this one's threads out: around a fork."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def release_threads(self) -> None:
        """Let this process's threads in again."""
        self._mutex.release()

    def held_here(self) -> bool:
        """Whether a thread of this process has it."""
        return self._mutex.locked()

    def close(self) -> None:
        """Close the file, once no thread of this process has the lock or is about to take it."""
        with self._mutex:
            self._close_file()

    def _close_file(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def forget(self, fd: int) -> None:
        """In a forked child: the parent's lock stays the parent's, and this object starts anew on `fd`."""
        self._close_file()
        self.fd = fd
        self._mutex = threading.Lock()
        if self._waiter is not None:
            self._waiter.forget()
            self._waiter = None

    def _busy(self, busy_s: float) -> Busy:
        pids = lock_holders(self.fd) or ([os.getpid()] if self.held_here() else [])
        who = ", ".join(f"pid {pid}" for pid in pids) or "another process"
        return Busy(
            f"the write lock was held for {busy_s:g} s by {who}",
            op="lock",
            path=self.path,
            hint="Look whether that process is stopped; end it if it is, and nothing is lost. Or raise busy_s",
        )


def lock_holders(fd: int) -> list[int]:
    """The pids that hold a `flock` on this open file's inode, as far as the system tells (/proc/locks)."""
    entry = os.fstat(fd)
    inode = f"{os.major(entry.st_dev):02x}:{os.minor(entry.st_dev):02x}:{entry.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return []
    # "1: FLOCK  ADVISORY  WRITE 712 08:01:123 0 EOF"; a waiter's line has "->" after the number.
    return sorted({int(parts[4]) for parts in lines if parts[1] == "FLOCK" and parts[5] == inode} - {-1})
