"""File systems in image files on loop devices, and ways of taking them away. For a process with mounts of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from tests.faults.mounts import mount
from tests.helpers import needs

SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of ext4 and xfs: with NO_LOG_FLUSH all that is not on the device is gone, as by a power cut."""

NO_LOG_FLUSH = 2
MNT_DETACH = 2
FLUSH = -1
"""Where a write would tell its place."""

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


def has_btrfs() -> bool:
    """Whether this kernel knows it."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "btrfs"], check=False)
    return "\tbtrfs\n" in Path("/proc/filesystems").read_text()


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
