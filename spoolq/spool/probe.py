"""Whether somebody is writing a file: the kernel's read lease. Section 7 of docs/spool-format.md.

`F_SETLEASE F_RDLCK` fails while any process has the file open for writing, a shared mapping included, so the answer
is exact where it can be had: for one's own files, or with CAP_LEASE, on a local Linux file system.
"""

from __future__ import annotations

import errno
import fcntl
import signal
from enum import Enum

_SETLEASE = getattr(fcntl, "F_SETLEASE", None)
_GETLEASE = getattr(fcntl, "F_GETLEASE", None)
_SETSIG = getattr(fcntl, "F_SETSIG", None)
_UNKNOWN = frozenset((errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK))


class Writer(Enum):
    """What the probe found."""

    NONE = "none"
    WRITING = "writing"
    UNKNOWN = "unknown"


def take_lease(fd: int) -> Writer:
    """Ask for a read lease on a file open for reading. NONE: the lease is held, until `end_lease` or the closing.

    A writer who comes while it is held waits in its open() for at most /proc/sys/fs/lease-break-time, and the kernel
    sends SIGURG, which is ignored unless the program asked for it (the default, SIGIO, kills).
    """
    if _SETLEASE is None or _SETSIG is None:
        return Writer.UNKNOWN
    try:
        fcntl.fcntl(fd, _SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, _SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return Writer.WRITING
        if error.errno in _UNKNOWN:
            return Writer.UNKNOWN
        raise
    return Writer.NONE


def lease_holds(fd: int) -> bool:
    """Whether the lease is still whole: False means that a writer is waiting for the file."""
    return _GETLEASE is not None and fcntl.fcntl(fd, _GETLEASE) == fcntl.F_RDLCK


def end_lease(fd: int) -> None:
    """Give the lease up; a waiting writer goes on."""
    if _SETLEASE is not None:
        fcntl.fcntl(fd, _SETLEASE, fcntl.F_UNLCK)
