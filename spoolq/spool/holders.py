"""Who holds claims: one flocked file in `holders/` for each live consumer. Section 6 of docs/spool-format.md.

The kernel drops the lock within a millisecond of a kill, whatever the process was doing; a pid or a clock is never
asked whether somebody lives.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Sequence
from typing import Any

from spoolq.errors import UnsafeFile
from spoolq.spool.directory import NO_SPACE, QueueDirectory
from spoolq.spool.files import open_message, open_to_read

log = logging.getLogger("spoolq.spool")

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_TRIES = 100
_PASSWORD = re.compile(r"(://[^\s/@:]*):[^\s@]*@")
_PARAMETER = re.compile(r"([?&](?:token|password)=)[^\s&]*")


def to_base36(number: int) -> str:
    """A number in the digits and letters of a nonce."""
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = _LETTERS[digit] + text
        if not number:
            return text


def random_letters(count: int) -> str:
    """Letters that nobody guesses."""
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


class Holder:
    """A consumer's proof of life. Open it with `Holder.open`; whoever inherits `fd` keeps it alive."""

    def __init__(self, name: str, path: str, fd: int) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self._serial = 0

    @classmethod
    def open(cls, directory: QueueDirectory, label: str, now_ms: int) -> Holder:
        """Make the file in `tmp/`, flock it, and only then rename it in."""
        from portalocker import LockFlags
        from portalocker.portalocker import FlockLocker

        content = json.dumps(describe(label, now_ms)).encode()
        for _ in range(_TRIES):
            name = random_letters(6)
            temporary = directory.temporary(f"{name}.holder")
            fd = directory.helped(lambda path=temporary: directory.files.open_lock(path))  # type: ignore[misc]
            try:
                FlockLocker().lock(fd, LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING)
                _describe_in(directory, fd, content)
                path = f"{directory.holders}/{name}"
                directory.helped(lambda source=temporary, target=path: directory.files.rename_new(source, target))  # type: ignore[misc]
            except FileExistsError:
                os.close(fd)
                directory.files.discard(temporary)
                continue
            except BaseException:
                os.close(fd)
                directory.files.discard(temporary)
                raise
            return cls(name, path, fd)
        raise RuntimeError("no free name in holders/")

    def nonce(self, letter: str) -> str:
        """The nonce of this consumer's next delivery. The caller has the write lock."""
        self._serial += 1
        return f"{letter}{self.name}{to_base36(self._serial)}"

    def is_there(self) -> bool:
        """Whether the file is still the one that is open: somebody may have removed it."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        mine = os.fstat(self.fd)
        return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)

    def close(self, directory: QueueDirectory) -> None:
        """Its claims have been given back: remove the file and let go of the lock."""
        if self.fd >= 0:
            directory.files.unlink_if_there(self.path)
            self.forget()

    def forget(self) -> None:
        """Close the descriptor alone: in a forked child, whose parent lives on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _describe_in(directory: QueueDirectory, fd: int, content: bytes) -> None:
    """What people read. The lock is what counts: on a disk that is full to the last block a consumer has only that."""
    try:
        directory.helped(lambda: directory.files.write(fd, content))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        log.warning("holder.not_described error=%s", error)


def describe(label: str, now_ms: int) -> dict[str, Any]:
    """What people want to know of a consumer."""
    return {
        "pid": os.getpid(),
        "start": process_start(os.getpid()),
        "host": socket.gethostname(),
        "command": _command(sys.argv),
        "label": label,
        "since_at_ms": now_ms,
    }


def _command(argv: Sequence[str]) -> str:
    """A command line for people, who see it on a page: without what URLs in it keep secret."""
    text = _PASSWORD.sub(r"\1@", " ".join(argv))
    return _PARAMETER.sub(r"\1...", text)[:500]


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot: tells two of the same pid apart. 0 where unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_alive(directory: QueueDirectory, name: str) -> bool:
    """Whether the lock on a holder's file is held. No file: dead. One that we may not open: alive, for all we know."""
    import portalocker
    from portalocker.portalocker import FlockLocker

    try:
        fd = open_message(f"{directory.holders}/{name}")
    except (FileNotFoundError, UnsafeFile):  # a link or a FIFO is no proof
        return False
    except PermissionError:
        return True
    try:
        FlockLocker().lock(fd, portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.exceptions.AlreadyLocked:
        return True
    finally:
        os.close(fd)
    return False


def read_holder(directory: QueueDirectory, name: str) -> dict[str, Any]:
    """What a holder's file says of it; nothing where there is none, or it is not whole."""
    try:
        with open_to_read(f"{directory.holders}/{name}") as file:
            value = json.loads(file.read(1 << 16))
    except (FileNotFoundError, PermissionError, UnsafeFile, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    # Only what has the right type: it may have been edited by hand.
    numbers = ("pid", "start", "since_at_ms")
    return {key: part for key, part in value.items() if type(part) is (int if key in numbers else str)}
