"""What the file system can do of what a spool needs, each tried once in a directory of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from spoolq.spool.files import Files
from spoolq.spool.index import library_version
from spoolq.spool.mounts import mount_of
from spoolq.spool.probe import Writer, take_lease
from spoolq.spool.queue import SpoolQueue

WAKE_LIMIT_S = 5.0
WOKEN_S = 0.2
"""A poll comes after a quarter of a second; what is faster was woken."""

_TIMES = 50


@dataclass(frozen=True)
class Ability:
    """One thing that was tried. needed: without it there is no spool; else it works with what `found` says."""

    name: str
    works: bool
    found: str
    needed: bool = True


def abilities(directory: Path) -> list[Ability]:
    """Try everything in this empty directory; nothing raises."""
    files = Files()
    return [
        Ability("file system", True, mount_of(os.fspath(directory)).kind or "unknown"),
        *(
            _tried(name, needed, partial(act, files, os.fspath(directory)))
            for name, needed, act in (
                ("rename", True, _rename),
                ("rename without replacing", True, _rename_new),
                ("locks (flock)", True, _lock),
                ("fsync of a file", True, _sync_file),
                ("fsync of a directory", True, _sync_directory),
                ("leases on drops", False, _lease),
                ("times of files", True, _times),
            )
        ),
        _tried("wake-up", False, partial(_wake, directory / "wake")),
        Ability("SQLite", True, library_version()),
    ]


def _tried(name: str, needed: bool, act: Callable[[], tuple[bool, str]]) -> Ability:
    try:
        works, found = act()
    except OSError as error:
        works, found = False, f"{os.strerror(error.errno or 0)} ({errno.errorcode.get(error.errno or 0, '?')})"
    return Ability(name, works, found, needed)


def _make(files: Files, path: str, body: bytes = b"x") -> None:
    fd = files.create(path)
    try:
        files.write(fd, body)
    finally:
        files.close(fd)


def _rename(files: Files, base: str) -> tuple[bool, str]:
    _make(files, f"{base}/a", b"new")
    _make(files, f"{base}/b", b"old")
    files.rename(f"{base}/a", f"{base}/b")
    with open(f"{base}/b", "rb") as file:
        whole = file.read() == b"new" and not os.path.lexists(f"{base}/a")
    return whole, "replaces at once" if whole else "leaves something between"


def _rename_new(files: Files, base: str) -> tuple[bool, str]:
    _make(files, f"{base}/c")
    _make(files, f"{base}/d")
    try:
        files.rename_new(f"{base}/c", f"{base}/d")
    except FileExistsError:
        files.unlink(f"{base}/d")
        files.rename_new(f"{base}/c", f"{base}/d")
        return os.path.lexists(f"{base}/d"), "refuses where the name is taken"
    return False, "replaced a name that was taken"


def _lock(files: Files, base: str) -> tuple[bool, str]:
    fd = files.open_lock(f"{base}/lock")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        other = files.open_lock(f"{base}/lock")
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True, "exclude each other"
        finally:
            files.close(other)
    finally:
        files.close(fd)
    return False, "two have it at once"


def _sync_file(files: Files, base: str) -> tuple[bool, str]:
    fd = files.create(f"{base}/synced")
    try:
        files.write(fd, b"x" * 4096)
        began_s = time.monotonic()
        files.fsync(fd)
        return True, f"{(time.monotonic() - began_s) * 1000:.2f} ms"
    finally:
        files.close(fd)


def _sync_directory(files: Files, base: str) -> tuple[bool, str]:
    began_s = time.monotonic()
    files.sync_directory(base)
    return True, f"{(time.monotonic() - began_s) * 1000:.2f} ms"


def _lease(files: Files, base: str) -> tuple[bool, str]:
    """It must see a writer, and see that there is none."""
    _make(files, f"{base}/drop")
    reading = os.open(f"{base}/drop", os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = files.open_append(f"{base}/drop")
        try:
            seen = take_lease(reading)
        finally:
            files.close(writing)
        exact = seen is Writer.WRITING and take_lease(reading) is Writer.NONE
    finally:
        os.close(reading)
    return exact, "a writer is seen" if exact else "none: a drop is taken in once it was at rest for drops.settle_s"


def _times(files: Files, base: str) -> tuple[bool, str]:
    """The smallest step between the times of files made one after another."""
    stamps = []
    for number in range(_TIMES):
        _make(files, f"{base}/time{number}")
        stamps.append(os.stat(f"{base}/time{number}").st_mtime_ns)
        time.sleep(0.001)
    steps = [later - sooner for sooner, later in pairwise(stamps) if later > sooner]
    if not steps:
        return False, f"all the same over {_TIMES} ms: deadlines need at least a tenth of a second"
    return min(steps) <= 100_000_000, f"in steps of {min(steps) / 1e6:.1f} ms"


def _wake(path: Path) -> tuple[bool, str]:
    """How long a waiting consumer takes to have what another process enqueues."""
    with SpoolQueue.open(path) as queue:
        pid = os.fork()
        if pid == 0:
            try:
                time.sleep(0.3)
                with SpoolQueue.open(path) as other:
                    other.enqueue(str(time.monotonic()).encode())
            finally:
                os._exit(0)
        message = queue.dequeue(wait_s=WAKE_LIMIT_S)
        took_s = time.monotonic() - float(message.body) if message is not None else WAKE_LIMIT_S
        os.waitpid(pid, 0)
        if message is not None:
            message.ack()
    return took_s < WOKEN_S, f"{took_s * 1000:.1f} ms" + ("" if took_s < WOKEN_S else ": waiting is polling here")
