"""The one place from which the file system is changed: every create, write, sync, rename, unlink goes through here.

Tests put another `Files` in its place, to die, to fail, or to record at the n-th operation. Reading is not kept here,
except for the one way in which a message is opened (section 5 of docs/spool-format.md).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable
from typing import BinaryIO

from spoolq.errors import UnsafeFile

log = logging.getLogger("spoolq.spool")

COPY_BYTES = 1 << 20
_OPEN_MESSAGE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def _find_renameat2() -> Callable[..., int] | None:
    """The C library's renameat2, or None on a system without it."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _copy_file_range(source: int, target: int, count: int) -> int:
    """The system's, or an error like its own on a system without it."""
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.copy_file_range(source, target, count)


class Files:
    """Changes to the file system, each one operation. `mode` and `directory_mode` are those of new entries.

    Errors are the system's own OSError; the caller knows what they mean.
    """

    def __init__(self, mode: int = 0o600, directory_mode: int = 0o700) -> None:
        self.mode = mode
        self.directory_mode = directory_mode
        self._renameat2: Callable[..., int] | None = None
        self._renameat2_sought = False

    def create(self, path: str) -> int:
        """Create a file that was not there, open it for writing, and return its descriptor."""
        return os.open(path, _CREATE, self.mode)

    def open_append(self, path: str) -> int:
        """Open for appending, reading allowed, creating it where it is not there."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self.mode)

    def open_lock(self, path: str) -> int:
        """Open a file to lock, creating it where it is not there."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self.mode)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it."""
        written = os.write(fd, data)
        if written != len(data):
            view = memoryview(data)
            while written < len(data):
                written += os.write(fd, view[written:])

    def copy(self, source: BinaryIO, fd: int, limit: int) -> int:
        """Write what is left of an open file, in pieces; how many bytes. Stops one piece after `limit`, if > 0."""
        total = 0
        while piece := source.read(COPY_BYTES):
            self.write(fd, piece)
            total += len(piece)
            if 0 < limit < total:
                break
        return total

    def copy_range(self, source: int, fd: int, size: int) -> int:
        """Copy up to the end of the source within the kernel, where it can; returns how many bytes."""
        total = 0
        try:
            while True:
                copied = _copy_file_range(source, fd, max(size - total, COPY_BYTES))
                if copied == 0:
                    return total
                total += copied
        except OSError as error:
            # Not between these two, or not on this system: by hand, from where it stopped.
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        while piece := os.read(source, COPY_BYTES):
            self.write(fd, piece)
            total += len(piece)
        return total

    def fsync(self, fd: int) -> None:
        """Bring a file to the disk. A failure is final: never call it again for the same data."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        """Bring a directory's names to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor that was written to."""
        os.close(fd)

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing what is there: for names that only this caller can make, as those of a new id are."""
        os.rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        """Rename where the target must not be there: FileExistsError if it is."""
        if not self._renameat2_sought:
            self._renameat2 = _find_renameat2()
            self._renameat2_sought = True
        if self._renameat2 is not None:
            arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
            if self._renameat2(*arguments) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(code, os.strerror(code), source, None, target)
        if os.path.isdir(source) and not os.path.islink(source):
            # A directory has no links; a rename fails where the target is there and not empty.
            os.rename(source, target)
            return
        # A file system or system without it: a link fails where the target is there. CRASH: both names stay. Those of
        # one id: twins. A drop that is put back, or a file that the user gets back: a message too.
        os.link(source, target, follow_symlinks=False)
        os.unlink(source)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def unlink_if_there(self, path: str) -> bool:
        """Remove a name; False where it was not there."""
        try:
            self.unlink(path)
        except FileNotFoundError:  # RACE: somebody else removed it, which is what was wanted.
            return False
        return True

    def discard(self, path: str) -> None:
        """Remove what a failed operation leaves, if that can be done: its own error is the one to be told of."""
        try:
            self.unlink_if_there(path)
        except OSError as error:
            # CRASH: likewise left; sweep removes it.
            log.warning("litter.left path=%s error=%s", path, error)

    def utime_ns(self, path: str | int, ns: int) -> None:
        """Set both times; of a descriptor, or a path."""
        os.utime(path, ns=(ns, ns))

    def touch(self, path: str) -> None:
        """Set both times to now; made where somebody removed it."""
        try:
            os.utime(path)
        except FileNotFoundError:
            os.close(self.open_lock(path))

    def mkdir(self, path: str) -> None:
        """Make a directory; it may be there."""
        try:
            os.mkdir(path, self.directory_mode)
        except FileExistsError:  # RACE: two openers; either's is the same.
            if not os.path.isdir(path):
                raise

    def make_root(self, path: str) -> None:
        """Make a directory, and those above it where they are not there; it may be there."""
        os.makedirs(path, self.directory_mode, exist_ok=True)

    def share(self, path: str, gid: int, mode: int) -> None:
        """Give a directory to a group, with a mode that is set outright, whatever the umask."""
        os.chown(path, -1, gid)
        os.chmod(path, mode)

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it."""
        shutil.rmtree(path, ignore_errors=False)

    def allocate(self, path: str, size: int) -> None:
        """Make a file of this size whose blocks are really there."""
        fd = self.create(path)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            else:
                self.write(fd, bytes(size))
        finally:
            os.close(fd)

    def write_aside(self, temporary: str, data: bytes, *, sync: bool, mode: int | None = None) -> None:
        """The first half of `write_whole`: in `tmp/`, [synced]; nothing is left where that fails."""
        fd = self.create(temporary)
        try:
            try:
                if mode is not None:
                    os.fchmod(fd, mode)
                self.write(fd, data)
                if sync:
                    self.fsync(fd)
            finally:
                self.close(fd)
        except BaseException:
            self.discard(temporary)
            raise

    def write_whole(
        self, temporary: str, target: str, data: bytes, *, sync: bool, mode: int | None = None, replace: bool = True
    ) -> None:
        """Write a small file so that it is there whole or not at all: aside, [synced,] renamed, [directory synced].

        Without `replace` FileExistsError where there is one.
        """
        self.write_aside(temporary, data, sync=sync, mode=mode)
        try:
            (self.rename if replace else self.rename_new)(temporary, target)
        except BaseException:
            self.discard(temporary)
            raise
        if sync:
            self.sync_directory(os.path.dirname(target))


def open_message(path: str) -> int:
    """Open a message to read it, in the only way messages are opened. Not a regular file: UnsafeFile."""
    try:
        fd = os.open(path, _OPEN_MESSAGE)
    except OSError as error:
        # A symbolic link says ELOOP; a socket, and a device without a driver, ENXIO.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise UnsafeFile(not_regular(os.lstat(path).st_mode), op="open", path=path) from error
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise UnsafeFile(not_regular(mode), op="open", path=path)
    return fd


def is_directory(path: str) -> bool:
    """Whether a directory stands under this name, not a link to one. False for nothing."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def not_regular(mode: int) -> str:
    """Why what has this mode is no message."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return f"not a regular file: {kinds.get(stat.S_IFMT(mode), 'device')}"


def open_to_read(path: str) -> BinaryIO:
    """A small file of the spool, opened as messages are: a link is not followed, a FIFO not waited for. UnsafeFile."""
    return os.fdopen(open_message(path), "rb")
