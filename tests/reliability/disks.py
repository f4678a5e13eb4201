"""File systems in image files on loop devices, and ways of taking them away. For a process with mounts of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mfusepy

from tests.faults.mounts import mount
from tests.helpers import needs, wait_for

SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of ext4 and xfs: with NO_LOG_FLUSH all that is not on the device is gone, as by a power cut."""

NO_LOG_FLUSH = 2
MNT_DETACH = 2
FICLONE = 0x40049409
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
SIZE = {"ext4": 192 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
OPTIONS = {"xfs": "nouuid"}

_libc = ctypes.CDLL(None, use_errno=True)


def needs_disks(*kinds: str) -> None:
    """Skip where file systems of our own cannot be made; a failure where CI is set."""
    needs(os.geteuid() == 0, "root")
    needs(Path("/dev/loop-control").exists(), "loop devices")
    for kind in kinds:
        needs(shutil.which(f"mkfs.{kind}") is not None, f"mkfs.{kind}")


def memory() -> Path:
    """Where images lie: in memory, since a sync of a sync is not what is tested."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/var/tmp")


def unmount(path: Path) -> None:
    """Take a mount away, whoever is in it."""
    if _libc.umount2(os.fsencode(path), 0) != 0 and _libc.umount2(os.fsencode(path), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount", path)


class Disk:
    """An image, its loop device, and where it is mounted. The device goes with the process that has this open."""

    def __init__(self, home: Path, kind: str, *, size: int = 0, name: str = "disk") -> None:
        self.kind = kind
        self.image = home / f"{name}.img"
        self.path = home / name
        self.path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(size or SIZE[kind])
        subprocess.run([*MAKE[kind], os.fspath(self.image)], check=True, capture_output=True)
        self._device = ""
        self._fd = -1

    def attach(self) -> None:
        """Make the loop device."""
        asked = subprocess.run(
            ["losetup", "--find", "--show", os.fspath(self.image)], check=True, capture_output=True, text=True
        )
        self._device = asked.stdout.strip()
        self._fd = os.open(self._device, os.O_RDONLY | os.O_CLOEXEC)
        # Kept by the open descriptor and the mount, and gone with the last of them, whatever becomes of this process.
        subprocess.run(["losetup", "--detach", self._device], check=True, capture_output=True)

    def mount(self) -> None:
        """Mount it, its journal played back."""
        if self._fd < 0:
            self.attach()
        mount(self._device, self.path, self.kind, options=OPTIONS.get(self.kind, ""))
        self.path.chmod(0o700)
        shutil.rmtree(self.path / "lost+found", ignore_errors=True)

    def cut(self) -> None:
        """The power goes: what is not on the device is gone, and nobody can do anything any more."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Once nobody uses it any more. The device goes, too: a new one has nothing of the old one's in memory."""
        unmount(self.path)
        self.detach()

    def detach(self) -> None:
        """Let go of the loop device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
        raise mfusepy.FuseOSError(2)

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
        raise mfusepy.FuseOSError(95)


NOTE = struct.Struct("<qq")
FLUSH = -1


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
