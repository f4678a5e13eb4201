"""A disk in user space that keeps every block write and every flush, in order. Needs libfuse, at import."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import mfusepy

from tests.helpers import wait_for
from tests.reliability.disks import FLUSH, Disk, unmount

NOTE = struct.Struct("<qq")
"""Of each write: where, how much."""


class Recording(mfusepy.Operations):  # type: ignore[misc]
    """A disk of one file that notes each write and each flush before it answers."""

    use_ns = True

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._data = os.open(log / "data", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._notes = os.open(log / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._size = os.fstat(self._image).st_size

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": 0o040700, "st_nlink": 2}
        if path == "/disk":
            return {"st_mode": 0o100600, "st_nlink": 1, "st_size": self._size}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "disk"]

    def open(self, path: str, flags: int) -> int:
        return self._image

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        os.pwrite(self._image, data, offset)
        os.write(self._data, data)
        os.write(self._notes, NOTE.pack(offset, len(data)))
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.write(self._notes, NOTE.pack(FLUSH, 0))
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> int:
        # A discard: nothing depends on it.
        raise mfusepy.FuseOSError(errno.EOPNOTSUPP)


class RecordingDisk(Disk):
    """An ext4 whose every block write is kept, in order, with the flushes between them."""

    def __init__(self, home: Path, size: int) -> None:
        super().__init__(home, "ext4", size=size)
        self.log = home / "log"
        self.log.mkdir()
        self.base = home / "base.img"
        shutil.copyfile(self.image, self.base)
        self._at = home / "fuse"
        self._at.mkdir()
        self._pid = 0
        (self.log / "notes").touch()
        (self.log / "data").touch()

    def attach(self) -> None:
        """The file system in user space first, and then the device on its only file."""
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            signal.alarm(0)
            try:
                operations = Recording(self.image, self.log)
                mfusepy.FUSE(
                    operations, os.fspath(self._at), foreground=True, nothreads=True, direct_io=True, big_writes=True
                )
            finally:
                os._exit(0)
        wait_for((self._at / "disk").exists)
        self.image, kept = self._at / "disk", self.image
        try:
            super().attach()
        finally:
            self.image = kept

    def position(self) -> int:
        """How many writes and flushes there have been."""
        return (self.log / "notes").stat().st_size // NOTE.size

    def detach(self) -> None:
        super().detach()
        if self._pid:
            unmount(self._at)
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def history(self) -> list[tuple[int, bytes]]:
        """Every write, (place, data), and every flush, (FLUSH, b""), in order."""
        data = (self.log / "data").read_bytes()
        found, start = [], 0
        for place, size in NOTE.iter_unpack((self.log / "notes").read_bytes()):
            found.append((place, data[start : start + size]))
            start += size
        return found
