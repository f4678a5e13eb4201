"""What is kept of a message beside its body: what came with it, and the history of its deliveries.

Section 3 of docs/spool-format.md: one JSON object a line in `meta/<id>.jsonl`, which is there only where there is
something to say. Reading never fails on what it finds there: a line that is not whole is left out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spoolq.errors import UnsafeFile
from spoolq.models import Attempt
from spoolq.spool.directory import QueueDirectory
from spoolq.spool.files import open_to_read
from spoolq.validate import MAX_KEY_CHARS

log = logging.getLogger("spoolq.spool")

_ATTEMPT_DEFAULTS = {"reason": "", "nonce": "", "stderr": "", "host": "", "pid": 0}
_BY_HAND = ("redriven", "replayed")
_HISTORY = ("attempt", *_BY_HAND)
_READ_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What came with a message. name: the exact one, where it is not the label of the file name."""

    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    dedup_key: str | None = None
    dedup_until_ms: int | None = None
    group: str | None = None
    expires_at_ms: int | None = None
    name: str | None = None

    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return self == _NOTHING


_NOTHING = Arrival()


@dataclass(frozen=True, slots=True)
class Meta:
    """A whole metadata file."""

    arrival: Arrival = _NOTHING
    history: tuple[Attempt, ...] = ()


def arrival_line(arrival: Arrival) -> bytes:
    """The first line of a metadata file."""
    value: dict[str, Any] = {"kind": "message"}
    for key in ("content_type", "dedup_key", "dedup_until_ms", "group", "expires_at_ms"):
        if (part := getattr(arrival, key)) is not None:
            value[key] = part
    if arrival.headers:
        value["headers"] = dict(arrival.headers)
    if arrival.name is not None:
        try:
            arrival.name.encode()
            value["name"] = arrival.name
        except UnicodeEncodeError:
            value["name_b64"] = base64.b64encode(os.fsencode(arrival.name)).decode("ascii")
    return _line(value)


def attempt_line(attempt: Attempt) -> bytes:
    """A further line: a delivery that ended, or a person's redrive or replay."""
    by_hand = attempt.outcome in _BY_HAND
    value: dict[str, Any] = {"kind": attempt.outcome if by_hand else "attempt"}
    return _line(
        value
        | {
            key: part
            for key, part in asdict(attempt).items()
            if part is not None and part != _ATTEMPT_DEFAULTS.get(key) and not (by_hand and key == "outcome")
        }
    )


def _line(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_arrival(directory: QueueDirectory, id: str, arrival: Arrival, *, sync: bool) -> None:
    """Write the first line, before the message is there: in `tmp/`, [synced,] renamed, [directory synced]."""
    directory.files.write_whole(_temporary(directory, id), directory.meta_path(id), arrival_line(arrival), sync=sync)


def prepare_arrival(directory: QueueDirectory, id: str, arrival: Arrival, *, sync: bool) -> None:
    """The first half of `write_arrival`, for a message whose key is to be reserved: in `tmp/`, [synced]."""
    directory.files.write_aside(_temporary(directory, id), arrival_line(arrival), sync=sync)


def place_arrival(directory: QueueDirectory, id: str) -> None:
    """The second half, which the caller syncs: renamed, unless it is there already."""
    with contextlib.suppress(FileNotFoundError):
        directory.files.rename(_temporary(directory, id), directory.meta_path(id))


def discard_arrival(directory: QueueDirectory, id: str) -> None:
    """Wherever it is."""
    directory.files.discard(directory.meta_path(id))
    directory.files.discard(_temporary(directory, id))


def is_anothers_body(directory: QueueDirectory, id: str) -> bool:
    """Whether the file of this id in `tmp/` was not made by who wrote its metadata: it is no body of a reservation.

    Whoever may drop sees the ids in `new/`, and can name a file there after any of them.
    """
    try:
        return os.lstat(directory.temporary(id)).st_uid != os.lstat(directory.meta_path(id)).st_uid
    except FileNotFoundError:  # RACE: renamed into `new/`, or no metadata is left to compare it with.
        return False


def _temporary(directory: QueueDirectory, id: str) -> str:
    return directory.temporary(id + ".meta")


def append_attempt(directory: QueueDirectory, id: str, attempt: Attempt, *, sync: bool) -> bool:
    """Append a delivery that ended, by one write; False, with a warning, where that cannot be done."""
    files = directory.files
    line = attempt_line(attempt)
    try:
        fd = directory.helped(lambda: files.open_append(directory.meta_path(id)))
        try:
            end = os.lseek(fd, 0, os.SEEK_END)
            torn = end > 0 and os.pread(fd, 1, end - 1) != b"\n"
            directory.helped(lambda: files.write(fd, b"\n" + line if torn else line))
            if sync:
                files.fsync(fd)
                if end == 0:
                    files.sync_directory(directory.meta)
        finally:
            files.close(fd)
    except OSError as error:
        log.warning("history.not_written id=%s error=%s", id, error)
        return False
    return True


def read_meta(directory: QueueDirectory, id: str) -> Meta:
    """What is kept of a message; nothing where there is no file."""
    try:
        with open_to_read(directory.meta_path(id)) as file:
            lines = file.read(_READ_MAX_BYTES).split(b"\n")
    except FileNotFoundError:
        return Meta()
    except UnsafeFile as error:
        _say_unsafe(error)
        return Meta()
    arrival, history = _NOTHING, []
    for line in lines:
        value = _read_line(line)
        if value.get("kind") == "message" and arrival is _NOTHING:
            arrival = _arrival(value)
        elif value.get("kind") in _HISTORY and (attempt := _attempt(value)) is not None:
            history.append(attempt)
    return Meta(arrival, tuple(history))


def read_arrival(directory: QueueDirectory, id: str) -> Arrival:
    """What came with a message; nothing where there is no file."""
    try:
        with open_to_read(directory.meta_path(id)) as file:
            value = _read_line(file.readline(_READ_MAX_BYTES))
    except FileNotFoundError:
        return _NOTHING
    except UnsafeFile as error:
        _say_unsafe(error)
        return _NOTHING
    return _arrival(value) if value.get("kind") == "message" else _NOTHING


def _say_unsafe(error: UnsafeFile) -> None:
    log.warning("meta.not_read path=%s error=%s", error.path, error.message)


def _read_line(line: bytes) -> dict[str, Any]:
    """A line's object; an empty one where it is torn or is something else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    """Text that UTF-8 can carry: JSON can spell halves of characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _printable(value: object) -> str | None:
    """What may stand in a header of HTTP, where it goes."""
    fits = isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= MAX_KEY_CHARS
    return str(value) if fits else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _arrival(value: Mapping[str, Any]) -> Arrival:
    """Only what has the right type: the file may have been edited by hand."""
    headers = value.get("headers")
    name = _text(value.get("name"))
    if (encoded := _text(value.get("name_b64"))) is not None:
        try:
            name = os.fsdecode(base64.b64decode(encoded, validate=True))
        except ValueError:
            name = None
    return Arrival(
        headers={k: v for k, v in headers.items() if isinstance(v, str)} if isinstance(headers, dict) else {},
        content_type=_printable(value.get("content_type")),
        dedup_key=_text(value.get("dedup_key")),
        dedup_until_ms=_whole(value.get("dedup_until_ms")),
        group=_text(value.get("group")),
        expires_at_ms=_whole(value.get("expires_at_ms")),
        name=name,
    )


def _attempt(value: Mapping[str, Any]) -> Attempt | None:
    attempt, outcome, ended = (
        _whole(value.get("attempt")),
        _text(value.get("outcome")),
        _whole(value.get("ended_at_ms")),
    )
    if value.get("kind") in _BY_HAND:
        attempt, outcome = attempt or 0, _text(value["kind"])
    if attempt is None or outcome is None or ended is None:
        return None
    return Attempt(
        attempt=attempt,
        outcome=outcome,
        ended_at_ms=ended,
        reason=_text(value.get("reason")) or "",
        nonce=_text(value.get("nonce")) or "",
        duration_s=_number(value.get("duration_s")),
        exit_status=_whole(value.get("exit_status")),
        signal=_whole(value.get("signal")),
        stderr=_text(value.get("stderr")) or "",
        host=_text(value.get("host")) or "",
        pid=_whole(value.get("pid")) or 0,
    )
