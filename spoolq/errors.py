"""Every error spoolq raises on purpose.

    SpoolqError
    ├── LeaseLost            the claim behind this receipt has ended; nothing was changed        exit 4
    ├── NotFound                                                                               exit 5
    │   ├── MessageNotFound  no message has this id
    │   └── QueueNotFound    no queue has this name, or it was deleted while open
    ├── TryAgain                                                                               exit 75
    │   ├── Busy             somebody held the write lock for longer than `busy_s`
    │   ├── Unreachable      no server answers; nothing was changed
    │   └── Full
    │       ├── DiskFull     the disk's reserve is reached, or the system said ENOSPC or EDQUOT
    │       └── QueueFull    `limits.messages` or `limits.bytes` is reached
    ├── QueueClosed          this queue object has been closed; a ValueError as well                exit 1
    ├── MessageTooLarge      the body is over `limits.body_bytes`                                exit 1
    ├── UnsafeFile           not a regular file, or a link: never opened                         exit 1
    ├── StorageError         the system refused an operation: EIO, EROFS, EACCES, EMFILE ...      exit 1
    │   └── OutcomeUnknown   the connection was lost under a request: it was carried out, or not
    ├── NotAllowed           the server wants a token, or one that may do this                   exit 1
    ├── SpoolError           what is at this path cannot be used as a spool                      exit 1
    │   ├── NotASpool        it is something else
    │   ├── UnknownFormat    FORMAT names a version this spoolq does not know
    │   ├── UnsupportedFileSystem  a network file system, two devices, or one without what is needed
    │   ├── UnsafeSpool      everybody may write to it
    │   └── IndexInUse       another version of spoolq has the index open
    ├── QueueExists          a queue of this name is there already                               exit 1
    ├── SettingsError        a setting that is not allowed: key, value, what is allowed           exit 1
    └── NotCapable           this engine does not do that (see `Queue.capabilities`)             exit 1

A wrong argument is a plain ValueError or TypeError; the command line answers it with exit 2.
"""

from __future__ import annotations

import errno
import os


class SpoolqError(Exception):
    """The world was not as needed. `hint` says what to do about it."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        op: str = "",
        path: str | os.PathLike[str] = "",
        message_id: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.op = op
        self.path = os.fspath(path)
        self.message_id = message_id
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class LeaseLost(SpoolqError):
    """The claim behind this receipt has ended, and nothing was changed."""

    exit_code = 4


class NotFound(SpoolqError):
    """What was named does not exist."""

    exit_code = 5


class MessageNotFound(NotFound):
    """No message has this id."""


class QueueNotFound(NotFound):
    """No queue has this name, or it was deleted while it was open."""


class QueueClosed(SpoolqError, ValueError):
    """This queue object has been closed, here or by another thread."""


class TryAgain(SpoolqError):
    """Nothing is wrong with the request; later it may succeed."""

    exit_code = 75


class Busy(TryAgain):
    """The write lock was held for longer than `busy_s`."""


class Unreachable(TryAgain):
    """No server answers there, and nothing was changed."""


class Full(TryAgain):
    """There is no room for another message."""


class DiskFull(Full):
    """The disk's reserve is reached, or the system reported no space, quota or inodes."""


class QueueFull(Full):
    """The queue's own limit of messages or bytes is reached."""


class MessageTooLarge(SpoolqError):
    """The body is over `limits.body_bytes`."""


class UnsafeFile(SpoolqError):
    """Not a regular file, or reached through a link; it was not opened."""


class StorageError(SpoolqError):
    """The system refused an operation. `errno` is the system's number."""

    def __init__(self, message: str, *, errno: int = 0, op: str = "", path: str = "", hint: str = "") -> None:
        super().__init__(message, op=op, path=path, hint=hint)
        self.errno = errno


class OutcomeUnknown(StorageError):
    """The connection was lost after the request was sent: it was carried out, or it was not."""


class NotAllowed(SpoolqError):
    """The server wants a token, or one that may do this."""


class SpoolError(SpoolqError):
    """What is at this path cannot be used as a spool."""


class NotASpool(SpoolError):
    """The path is something else than a spool."""


class UnknownFormat(SpoolError):
    """FORMAT names a version that this spoolq does not know."""


class UnsupportedFileSystem(SpoolError):
    """A network file system, several devices, or a system without what is needed."""


class UnsafeSpool(SpoolError):
    """Everybody may write to the spool."""


class IndexInUse(SpoolError):
    """Another version of spoolq has the index open."""


class QueueExists(SpoolqError):
    """A queue of this name is there already."""


class NotCapable(SpoolqError):
    """This engine does not do that; `Queue.capabilities` says what it does."""


class SettingsError(SpoolqError):
    """A setting that is not allowed. Names the key, the value, and what is allowed."""

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        value: object = None,
        path: str | os.PathLike[str] = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, op="settings", path=path, hint=hint)
        self.key = key
        self.value = value


_HINTS = {
    errno.EROFS: "The file system is read-only: mount it writable, or look in the kernel log for why it was remounted",
    errno.EACCES: "Check who owns the spool and its mode",
    errno.EPERM: "Check who owns the spool and its mode",
    errno.EMFILE: "This process has too many files open: raise `ulimit -n`",
    errno.ENFILE: "The system has too many files open: raise fs.file-max",
    errno.EIO: "The disk reported an error: look in the kernel log before trusting it again",
}


def storage_error(error: OSError, op: str, path: str = "") -> SpoolqError:
    """The SpoolqError for what the system said, with a hint for the usual causes.

    ENOSPC and EDQUOT become `DiskFull`, everything else `StorageError`.
    """
    where = path or os.fsdecode(error.filename or "")
    said = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Free some space, or lower retention.done_s; nothing was lost"
        return DiskFull(f"{op}: {said}: {where}", op=op, path=where, hint=hint)
    hint = _HINTS.get(error.errno or 0, "")
    return StorageError(f"{op}: {said}: {where}", errno=error.errno or 0, op=op, path=where, hint=hint)
