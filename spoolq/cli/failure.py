"""How a command fails: which exit status, and in which words. Expected errors never show a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable

from spoolq.cli.text import safe_lines
from spoolq.errors import LeaseLost, NotFound, SpoolqError, StorageError, UnsafeFile

__all__ = ["LeaseLost", "SpoolqError", "StorageError", "UnsafeFile", "each", "report"]

DONE = 0
FAILED = 1
USAGE = 2
NOTHING = 3
INTERRUPTED = 130
PIPE_CLOSED = 141
"""What a shell reports of a program that SIGPIPE ended."""


class Refused(ValueError):
    """A command line that is right, but not enough for what it asks. `hint` says what is missing."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def report(error: Exception, *, as_json: bool, hint: str = "") -> int:
    """Say on standard error what went wrong, and return the exit status for it."""
    status, message = _read(error)
    hint = getattr(error, "hint", "") or hint
    if as_json:
        sys.stderr.write(json.dumps(_object(error, message, hint, status)) + "\n")
    else:
        sys.stderr.write(f"spoolq: {safe_lines(message)}\n" + (f"  {safe_lines(hint)}\n" if hint else ""))
    return status


def _read(error: Exception) -> tuple[int, str]:
    """The exit status for an error, and its words."""
    if isinstance(error, SpoolqError):
        return error.exit_code, error.message
    if isinstance(error, OSError):
        return FAILED, f"{error.strerror or error}: {error.filename or 'standard input or output'}"
    return USAGE, str(error)


def _object(error: Exception, message: str, hint: str, status: int) -> dict[str, object]:
    kind = "UsageError" if status == USAGE else type(error).__name__
    made: dict[str, object] = {"error": kind, "message": message, "hint": hint, "exit_code": status}
    if isinstance(error, SpoolqError):
        known = {"op": error.op, "path": error.path, "message_id": error.message_id}
        made.update({name: value for name, value in known.items() if value})
    return made


def each(
    items: Iterable[str], act: Callable[[str], None], *, as_json: bool, also: tuple[type[SpoolqError], ...] = ()
) -> int:
    """Do something to each of several things; one that is not there, or not right, does not keep the rest from it.

    Returns the status of the first that failed. What would fail for all of them (a full disk) ends it. also: further
    errors that concern one thing only.
    """
    alone: tuple[type[Exception], ...] = (NotFound, LeaseLost, ValueError, *also)
    status = DONE
    for item in items:
        try:
            act(item)
        except alone as error:
            status = status or report(error, as_json=as_json)
    return status
