"""Files that are sent away: opened without following a link, removed once what was sent is safe elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO

from spoolq.errors import UnsafeFile, storage_error


@contextmanager
def sending(path: str, *, move: bool) -> Iterator[BinaryIO]:
    """For a `with`: a file to send, which with `move` is removed once it has been sent."""
    with closing(open_regular(path)) as file:
        yield file
        if move:
            remove_sent(path, file)


def open_regular(path: str) -> BinaryIO:
    """A file to send. UnsafeFile for anything but a regular one, which is not opened; a link is not followed."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise UnsafeFile(f"{path} is not a regular file", op="enqueue_file", path=path)
        # RACE: it may have become something else since. O_NONBLOCK, so that a FIFO does not stop us.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        file = open(fd, "rb")  # noqa: SIM115 the caller closes it
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise UnsafeFile(f"{path} is not a regular file", op="enqueue_file", path=path)
    except OSError as error:
        raise storage_error(error, "enqueue_file", path) from error
    return file


def remove_sent(path: str, file: BinaryIO) -> None:
    """Remove the file that was sent, if it is still the one at this path."""
    sent = os.fstat(file.fileno())
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (sent.st_dev, sent.st_ino):
            os.unlink(path)
    except FileNotFoundError:  # RACE: somebody else removed it, which is what was asked for
        pass
    except OSError as error:
        raise storage_error(error, "enqueue_file", path) from error
