"""Small file systems of a test's own, in a mount namespace of its own: nothing outside sees them, nothing is left."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import needs

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
LIMIT_S = 100
NOT_HERE = 77

_libc = ctypes.CDLL(None, use_errno=True)


def _called(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """The system call of this name."""
    texts = [os.fsencode(text) or None for text in (source, target, kind)]
    _called(_libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options) or None))


def _be_alone() -> None:
    """A mount namespace of one's own; without root, a user namespace with it."""
    uid, gid = os.geteuid(), os.getegid()
    _called(_libc.unshare(CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER))
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def alone(act: Callable[[], None], limit_s: int = LIMIT_S) -> None:
    """Run it in a child that has mounts of its own; its failure is this test's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(limit_s)
            try:
                _be_alone()
            except OSError as error:
                os.write(writing, str(error).encode())
                os._exit(NOT_HERE)
            act()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode()
    _, code = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(code)
    if status == NOT_HERE:
        needs(os.geteuid() != 0 and not os.environ.get("CI"), f"mounts of its own ({text})")
        pytest.skip(f"no mounts of its own: {text}")
    assert status == 0, text or f"the child ended with {status}"


def tmpfs(path: Path, size: int, inodes: int) -> None:
    """A file system in memory."""
    path.mkdir(exist_ok=True)
    mount("tmpfs", path, "tmpfs", options=f"size={size},nr_inodes={inodes},mode=0700")


def has_ext4() -> bool:
    """Whether an ext4 of our own can be made and mounted."""
    return os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None and Path("/dev/loop-control").exists()


def ext4(path: Path, size: int, inodes: int) -> None:
    """A file system in a file, beside the directory."""
    image = path.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(size)
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(inodes), "-J", "size=4", os.fspath(image)]
    subprocess.run(make, check=True, capture_output=True)
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", os.fspath(image), os.fspath(path)], check=True, capture_output=True)
    shutil.rmtree(path / "lost+found")
    path.chmod(0o700)


def fill(path: Path, leave: int = 0) -> int:
    """Write a file until the disk is full, to the last block; leave so many bytes free."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 4096, 512):
            try:
                while True:
                    os.write(fd, b"x" * size)
            except OSError:
                continue
        there = os.fstat(fd).st_size
        if leave:
            os.ftruncate(fd, max(0, there - leave))
        os.fsync(fd)
        return there
    finally:
        os.close(fd)


def fill_inodes(path: Path) -> int:
    """Make empty files until there are no inodes left; how many."""
    path.mkdir()
    count = 0
    try:
        while True:
            (path / str(count)).touch()
            count += 1
    except OSError:
        return count
