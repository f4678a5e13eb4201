"""The audit trail: what people did in the administration console, one line of JSON each, only ever appended to.

`audit.jsonl` lies in the spool, mode 0600; for a server's spool in this user's state directory. A line is one synced
write under O_APPEND, so that several consoles can write at once. A line that is not whole is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from spoolq.errors import storage_error

T = TypeVar("T")

NAME = "audit.jsonl"
_LAST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Something that somebody did. count: of what it was done to; outcome: what came of it, in words."""

    at_ms: int
    who: str
    what: str
    queue: str = ""
    count: int | None = None
    outcome: str = ""
    spool: str = ""


def path_for(spool: str, environ: Mapping[str, str]) -> Path:
    """Where the trail of a spool, or of a server's URL, is."""
    if "://" not in spool:
        return Path(spool.partition("?")[0]) / NAME
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/") / ".local" / "state"
    return Path(state) / "spoolq" / NAME


def add(path: Path, done: Done) -> None:
    """Append it; it survives a power cut when this returns. StorageError where it cannot be written."""
    line = json.dumps(asdict(done)).encode() + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            written = os.write(descriptor, line)
            if written < len(line):
                # CRASH: the torn line is ended by the next one's failure to parse; `last` passes over it.
                os.write(descriptor, b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, "audit", str(path)) from error


def last(path: Path, limit: int) -> list[Done]:
    """The last ones, newest first; [] where nothing was done yet."""
    return list(islice(last_lines(path, _LAST_BYTES, _read, op="audit"), limit))


def last_lines(path: Path, most_bytes: int, read: Callable[[Any], T], *, op: str) -> Iterator[T]:
    """What `read` makes of the lines of JSON at the end of a file, newest first; nothing where there is no file.

    A line that is torn, or that `read` refuses with ValueError, TypeError or KeyError, is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, op, str(path)) from error
    for line in reversed(lines):
        try:
            yield read(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue


def _read(data: Any) -> Done:
    known = {each.name: data[each.name] for each in fields(Done) if each.name in data}
    if not isinstance(known["at_ms"], int):
        raise TypeError("at_ms is an instant")
    return Done(**known)
