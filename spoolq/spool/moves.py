"""The moves that end a delivery or start a message anew: a file and its row, changed together.

Every function here runs inside `with session.write() as index`: it renames (the commit point) and changes the row,
which the end of the `with` commits. Section 5 of docs/spool-format.md: the "back to new" transitions are one function.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace
from functools import cache

from spoolq.errors import LeaseLost
from spoolq.models import STATES, Attempt
from spoolq.reasons import summary
from spoolq.spool.directory import path_in
from spoolq.spool.files import is_directory, open_message
from spoolq.spool.index import Contradiction, Index
from spoolq.spool.meta import append_attempt, read_arrival
from spoolq.spool.names import Name, format_name
from spoolq.spool.rows import SETTLED_KEPT_MS, Row
from spoolq.spool.session import Session

log = logging.getLogger("spoolq.spool")

_STATES = frozenset((*STATES, "settled"))


@cache
def host() -> str:
    """This machine's name, for the history."""
    return socket.gethostname()


def name_of(row: Row) -> str:
    """The file name that a row calls for. Contradiction where it is none, and leads elsewhere: a forged row.

    Likewise of a state that is none, since it says in which directory.
    """
    if row.state not in _STATES:
        raise Contradiction(f"{row.state!r} is no state")
    text = format_name(row.id, row.priority, row.due_at_ms, row.attempts, _nonce_in_name(row), row.label)
    if "/" in text or "\0" in text:
        raise Contradiction(f"{text!r} is no name")
    return text


def _nonce_in_name(row: Row) -> str | None:
    return row.nonce if row.state in ("claimed", "done") else None


def path_of(session: Session, row: Row) -> str:
    """Where the file of a row should be."""
    return f"{session.directory.of_state(row.state)}/{name_of(row)}"


def lease_lost(id: str, op: str, row: Row | None) -> LeaseLost:
    """The error for a receipt whose claim has ended."""
    now = "is gone" if row is None or row.state == "settled" else f"is {row.state} now"
    hint = "Stop working on it: it has been, or will be, delivered to somebody else"
    return LeaseLost(f"this delivery of {id} has ended, and the message {now}", op=op, message_id=id, hint=hint)


def history_entry(row: Row, outcome: str, reason: str, now_ms: int, details: Attempt | None = None) -> Attempt:
    """The line of history for a delivery that ends now."""
    base = details or Attempt(attempt=0, outcome="", ended_at_ms=0, host=host(), pid=os.getpid())
    duration = base.duration_s
    if duration is None and row.claimed_at_ms is not None:
        duration = max(0, now_ms - row.claimed_at_ms) / 1000
    return replace(
        base,
        attempt=row.attempts,
        outcome=outcome,
        ended_at_ms=now_ms,
        reason=reason or base.reason,
        nonce=row.nonce or "",
        duration_s=duration,
        host=base.host or host(),
        pid=base.pid or os.getpid(),
    )


def note(session: Session, row: Row, entry: Attempt | None) -> Row:
    """Append to the history; the row then knows that there is metadata."""
    if entry is None or not append_attempt(session.directory, row.id, entry, sync=session.syncs_moves):
        return row
    return row._replace(has_meta=1)


def back_to_new(
    session: Session,
    index: Index,
    row: Row,
    *,
    due_at_ms: int | None = None,
    attempts: int | None = None,
    priority: int | None = None,
    entry: Attempt | None = None,
    **totals: int,
) -> Row | None:
    """Any state to `new/`: requeue, release, reap, redrive, replay, run now, change of priority.

    due_at_ms: `t=` of the new name, None for at once. attempts, priority: as they were unless given. entry: the line
    of history, written first. totals: what the ledger counts, such as failed=1. Returns the new row, or None where
    the file is not where the row says: the caller mends it.
    """
    now = session.clock.wall_ms()
    noted = note(session, row, entry)
    attempts = row.attempts if attempts is None else attempts
    priority = row.priority if priority is None else priority
    name = Name(row.id, priority, due_at_ms, attempts, None, row.label)
    if not session.directory.move(path_of(session, row), path_in(session.directory.new, name)):
        return None
    waiting = row.state in ("ready", "scheduled")
    new = noted._replace(
        state="scheduled" if due_at_ms is not None and due_at_ms > now else "ready",
        priority=priority,
        due_at_ms=due_at_ms,
        attempts=attempts,
        nonce=None,
        ready_at_ms=due_at_ms or (row.ready_at_ms if waiting and row.state == "ready" else now),
        claimed_at_ms=None,
        ended_at_ms=None,
        deadline_boot_ms=None,
        deadline_at_ms=None,
        expires_at_ms=None if row.state in ("dead", "done") else row.expires_at_ms,
        reason=summary(entry.reason) if entry is not None and entry.reason else row.reason,
    )
    index.change(row, new, **totals)
    return new


def to_dead(
    session: Session,
    index: Index,
    row: Row,
    reason: str,
    entry: Attempt | None,
    *,
    attempts: int | None = None,
    **totals: int,
) -> Row | None:
    """Any state to `dead/`; None where the file is not where the row says. attempts, totals: as in `back_to_new`."""
    noted = note(session, row, entry)
    attempts = row.attempts if attempts is None else attempts
    name = Name(row.id, row.priority, row.due_at_ms, attempts, None, row.label)
    if not session.directory.move(path_of(session, row), path_in(session.directory.dead, name)):
        return None
    new = noted._replace(
        state="dead",
        attempts=attempts,
        nonce=None,
        held=0,
        claimed_at_ms=None,
        ended_at_ms=session.clock.wall_ms() if entry is None else entry.ended_at_ms,
        deadline_boot_ms=None,
        deadline_at_ms=None,
        reason=summary(reason),
    )
    index.change(row, new, gave_up=1, **totals)
    return new


def remove(session: Session, index: Index, row: Row) -> None:
    """Delete a message for good; that its file is gone already is as well. Its receipt is answered to the end.

    A directory that somebody put in its place stays, and is no message.
    """
    path = path_of(session, row)
    try:
        session.directory.remove(path)
    except (IsADirectoryError, PermissionError) as error:  # the second on macOS
        if not is_directory(path):
            raise
        log.warning("directory.left path=%s error=%s", path, error)
    since_ms = session.clock.wall_ms() - SETTLED_KEPT_MS
    if row.state == "done" and row.nonce is not None and (row.ended_at_ms or 0) > since_ms:
        index.change(row, row._replace(state="settled"))
    else:
        index.remove(row)


def remove_meta(session: Session, ids: list[str], state: str) -> None:
    """After a deletion: the metadata goes, unless a deduplication window still needs it (sweep sees to those).

    state: what they were. Of what was waiting or dead the deletion is synced first with durability "power", too: what
    comes back would be delivered without its time to live. Not of what was acknowledged, for which it costs too much.
    """
    now = session.clock.wall_ms()
    over = [id for id in ids if (read_arrival(session.directory, id).dedup_until_ms or 0) <= now]
    if over and session.syncs and not session.syncs_moves and state not in ("claimed", "done"):
        session.directory.files.sync_directory(session.directory.of_state(state))
    for id in over:
        session.directory.remove(session.directory.meta_path(id))


def sync_moved(session: Session, *directories: str) -> None:
    """With durability "full": bring what was renamed to the disk, destination first, after the lock is free."""
    if session.syncs_moves:
        for directory in dict.fromkeys(directories):
            session.directory.files.sync_directory(directory)


def set_deadline(session: Session, path: str | int, lease_s: float) -> int:
    """The deadline as the file's time, for whoever has no row; that time, whatever it is now."""
    at_ms = session.clock.wall_ms() + round(lease_s * 1000)
    try:
        session.directory.files.utime_ns(path, at_ms * 1_000_000)
    except PermissionError as error:
        # Somebody else's file: without the row it has the queue's lease_s from its last change.
        log.info("deadline.not_on_file path=%s error=%s", path, error)
        return os.stat(path).st_mtime_ns // 1_000_000
    return at_ms


def sync_deadline(session: Session, path: str) -> None:
    """With durability "full": bring a deadline, which is the file's time, to the disk, after the lock is free."""
    if session.syncs_moves:
        try:
            fd = open_message(path)
        except FileNotFoundError:  # RACE: settled, or moved by hand, meanwhile: its time means nothing any more.
            return
        try:
            session.directory.files.fsync(fd)
        finally:
            os.close(fd)
