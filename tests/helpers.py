"""For all tests: waiting for a condition, and the seam through which the spool changes the file system, watched.

`SeamFiles` calls `before(operation, paths)` ahead of each single operation; what stands in its place records, dies or
fails. It never syncs for real (no test here can tell), and makes a small ballast.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolq.spool.files import Files
from spoolq.spool.names import Name, parse_name

LIMIT_S = 10.0
STATE_DIRECTORIES = ("new", "cur", "done", "dead")
BALLAST_BYTES = 1


def wait_for(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """The first true value of `what`; looked for every few milliseconds, an error after the limit."""
    ends_s = time.monotonic() + limit_s
    while not (found := what()):
        if time.monotonic() > ends_s:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.002)
    return found


def needs(there: bool, what: str) -> None:
    """Skip where the machine lacks something; under CI that is a failure."""
    if not there:
        if os.environ.get("CI"):
            pytest.fail(f"not on this machine: {what}")
        pytest.skip(f"not on this machine: {what}")


def messages(root: Path) -> dict[str, list[tuple[str, Name]]]:
    """Every message of a queue by its files alone: id to (directory, parsed name), in as many places as it is."""
    found: dict[str, list[tuple[str, Name]]] = {}
    for kind in STATE_DIRECTORIES:
        for text in sorted(os.listdir(root / kind)):
            name = parse_name(text)
            if name is not None:
                found.setdefault(name.id, []).append((kind, name))
    return found


def names(root: Path, kind: str) -> list[str]:
    """What is in one directory of a queue."""
    return sorted(os.listdir(root / kind))


class SeamFiles(Files):
    """Files whose every single operation is announced to `before`. Composite methods announce their parts."""

    SINGLE = frozenset(
        (
            *("create", "open_append", "open_lock", "write", "copy_range", "fsync", "sync_directory", "close"),
            *(
                "rename",
                "rename_new",
                "unlink",
                "utime_ns",
                "touch",
                "mkdir",
                "make_root",
                "share",
                "remove_tree",
                "allocate",
            ),
        )
    )
    COMPOSITE = frozenset(("copy", "unlink_if_there", "discard", "write_aside", "write_whole"))

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[int, str] = {}
        """What each descriptor was opened as."""

    def before(self, operation: str, *paths: str) -> None:
        """An operation is about to happen."""

    def _opened(self, fd: int, path: str) -> int:
        self.paths[fd] = path
        return fd

    def _path(self, what: str | int) -> str:
        if isinstance(what, str):
            return what
        return self.paths.get(what) or os.readlink(f"/proc/self/fd/{what}")

    def create(self, path: str) -> int:
        self.before("create", path)
        return self._opened(super().create(path), path)

    def open_append(self, path: str) -> int:
        self.before("open_append", path)
        return self._opened(super().open_append(path), path)

    def open_lock(self, path: str) -> int:
        self.before("open_lock", path)
        return self._opened(super().open_lock(path), path)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        self.before("write", self._path(fd))
        super().write(fd, data)

    def copy_range(self, source: int, fd: int, size: int) -> int:
        self.before("copy_range", self._path(fd))
        return super().copy_range(source, fd, size)

    def fsync(self, fd: int) -> None:
        self.before("fsync", self._path(fd))

    def sync_directory(self, path: str) -> None:
        self.before("sync_directory", path)

    def close(self, fd: int) -> None:
        self.before("close", self._path(fd))
        super().close(fd)
        self.paths.pop(fd, None)

    def rename(self, source: str, target: str) -> None:
        self.before("rename", source, target)
        super().rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        self.before("rename_new", source, target)
        super().rename_new(source, target)

    def unlink(self, path: str) -> None:
        self.before("unlink", path)
        super().unlink(path)

    def utime_ns(self, path: str | int, ns: int) -> None:
        self.before("utime_ns", self._path(path))
        super().utime_ns(path, ns)

    def touch(self, path: str) -> None:
        self.before("touch", path)
        super().touch(path)

    def mkdir(self, path: str) -> None:
        self.before("mkdir", path)
        super().mkdir(path)

    def make_root(self, path: str) -> None:
        self.before("make_root", path)
        super().make_root(path)

    def share(self, path: str, gid: int, mode: int) -> None:
        self.before("share", path)
        super().share(path, gid, mode)

    def remove_tree(self, path: str) -> None:
        self.before("remove_tree", path)
        super().remove_tree(path)

    def allocate(self, path: str, size: int) -> None:
        self.before("allocate", path)
        super().allocate(path, BALLAST_BYTES)


class NthFiles(SeamFiles):
    """Counts operations from `arm` on, and does something at the n-th: `reached` is called before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.armed = False
        self._mutex = threading.Lock()

    def arm(self) -> None:
        """From here on operations count."""
        self.armed = True

    def before(self, operation: str, *paths: str) -> None:
        if self.armed:
            with self._mutex:
                self.count += 1
                now = self.count
            self.reached(now, operation, *paths)

    def reached(self, number: int, operation: str, *paths: str) -> None:
        """The operation of this number, from 1 on, is about to happen."""
