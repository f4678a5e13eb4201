"""A command as the handler of messages: its arguments, environment and standard input; what its not starting means.

The body is its standard input, `{}` in its arguments the path of the body, and SPOOLQ_ variables say the rest. There is
no shell, so no name can be read as anything but a name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from spoolq.errors import LeaseLost, NotFound, SpoolqError, UnsafeFile
from spoolq.message import Message
from spoolq.worker.guard import Guard
from spoolq.worker.handler import CommandNotFound, Handler
from spoolq.worker.outcome import CANNOT_RUN, Decision, decide
from spoolq.worker.process import Program, Terms, run

PLACEHOLDER = "{}"
_LABEL_CHARS = 80
_NOT_RUNNABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
_COME_AGAIN = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.ENOSPC, errno.EDQUOT}


class CommandHandler(Handler):
    """Runs a command for each message.

    argv: the command and its arguments; `{}` within an argument, though not in the command itself, is replaced by the
    path of the body. Raises ValueError for none, CommandNotFound where it is not there or cannot be executed.
    """

    can_end = True

    def __init__(self, argv: Sequence[str]) -> None:
        if not argv or not argv[0]:
            raise ValueError("there is no command to run; it is given after --")
        self.argv = tuple(argv)
        self.label = " ".join(argv)[:_LABEL_CHARS].strip()
        self._executable = find_executable(argv[0])
        self._environ = dict(os.environb)
        self._guard: Guard | None = None

    def open(self) -> None:
        """Start the guard."""
        self._guard = Guard()

    def close(self) -> None:
        """End the guard."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def handle(self, message: Message, terms: Terms) -> Decision:
        """Run it for a message."""
        assert self._guard is not None, "open() comes first"
        try:
            with body_of(message) as (stdin, path):
                program = Program(self._executable, self._arguments(path), self._environment(message, path, terms))
                return self._run(program, stdin, terms, self._guard)
        except SpoolqError as error:
            return _without_body(error)
        except OSError as error:  # no room for a temporary file
            return Decision(action="release", reason=f"cannot make a file of the body: {error}", pause=True)

    def _run(self, program: Program, stdin: BinaryIO, terms: Terms, guard: Guard) -> Decision:
        try:
            ending = run(program, stdin, terms, guard)
        except OSError as error:
            return _not_started(self.argv[0], error)
        return decide(ending, stopping=terms.stop.draining)

    def _arguments(self, path: str) -> list[str]:
        return [self.argv[0], *(each.replace(PLACEHOLDER, path) for each in self.argv[1:])]

    def _environment(self, message: Message, path: str, terms: Terms) -> dict[bytes, bytes]:
        own = {
            "ID": message.id,
            "ATTEMPT": str(message.attempts),
            "NAME": message.name or "",
            "ORIGINAL_NAME": message.original_name or message.name or "",
            "RECEIPT": message.receipt,
            "PATH": path,
            "HEADERS": json.dumps(dict(message.headers), ensure_ascii=False),
            "QUEUE": terms.queue_name,
            "SPOOL": spool_of(terms.queue_url),
        }
        return self._environ | {b"SPOOLQ_%s" % key.encode(): as_bytes(value) for key, value in own.items()}


def find_executable(command: str) -> str:
    """Where the command is: on PATH, or where it says, from the current directory."""
    found = shutil.which(command)
    if found is not None:
        return os.path.abspath(found)
    if os.sep in command and os.path.isdir(command):
        why, hint = "is a directory", "Name the program in it"
    elif os.sep in command and os.path.exists(command):
        why, hint = "is not executable", f"chmod +x {command}"
    elif os.sep in command:
        why, hint = "is not there", f"The current directory is {os.getcwd()}"
    else:
        why, hint = "is not on PATH", "Give its path, such as ./name, or mend PATH; for a shell: -- sh -c '...'"
    raise CommandNotFound(f"cannot run {command}: it {why}", op="work", path=command, hint=hint)


def spool_of(url: str) -> str:
    """The spool of a queue's URL, for SPOOLQ_SPOOL: right from any directory."""
    spool = url.partition("?")[0]
    return spool if ":" in spool.partition("/")[0] else os.path.abspath(spool)


def as_bytes(text: str) -> bytes:
    """Text for the environment: names of any bytes come out as they were; what an environment cannot hold goes."""
    text = text.replace("\0", "")
    try:
        return text.encode(sys.getfilesystemencoding(), "surrogateescape")
    except UnicodeEncodeError:
        return text.encode(sys.getfilesystemencoding(), "replace")


@contextmanager
def body_of(message: Message) -> Iterator[tuple[BinaryIO, str]]:
    """The body, opened, and the path it has: its own, or a temporary file's where the engine has none."""
    with message.open() as source:
        if message.path is not None:
            yield source, os.path.abspath(message.path)
            return
        suffix = Path(message.name or "").suffix
        with tempfile.NamedTemporaryFile(prefix="spoolq-", suffix=suffix if suffix.isascii() else "") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            with open(file.name, "rb") as body:
                yield body, file.name


def _without_body(error: SpoolqError) -> Decision:
    if isinstance(error, (LeaseLost, NotFound)):
        return Decision(action="none", reason=str(error))
    if isinstance(error, UnsafeFile):
        return Decision(action="dead", reason=str(error))
    return Decision(action="requeue", reason=str(error))


def _not_started(command: str, error: OSError) -> Decision:
    why = f"cannot run {command}: {os.strerror(error.errno or 0)}"
    if error.errno in _NOT_RUNNABLE:
        return Decision(action="release", reason=why, exit_code=CANNOT_RUN)
    if error.errno in _COME_AGAIN:
        return Decision(action="release", reason=why, pause=True)
    return Decision(action="requeue", reason=why)  # E2BIG: headers too large for an environment
