"""Dequeueing: from what is ready to messages that somebody holds. What follows is in settling.py.

Section 5 of docs/spool-format.md. The name in `cur/` is the claim: it carries the attempt and the nonce, so the
attempt is counted by the very rename that claims, and a late acknowledge finds its name gone.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from spoolq.errors import DiskFull, SpoolqError, StorageError, UnsafeFile, storage_error
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.spool import index as sql
from spoolq.spool import mending, moves
from spoolq.spool.by_names import transact
from spoolq.spool.files import is_directory, open_message
from spoolq.spool.holders import Holder, to_base36
from spoolq.spool.index import Index
from spoolq.spool.meta import Arrival, read_arrival
from spoolq.spool.names import format_name
from spoolq.spool.probe import Writer, lease_holds, take_lease
from spoolq.spool.rows import Row
from spoolq.spool.session import Session
from spoolq.spool.settling import Settler

log = logging.getLogger("spoolq.spool")

READ_AT_ONCE_BYTES = 65_536
"""Bodies up to this are read while the file is open for the probe anyway."""


class _Taken(NamedTuple):
    """A message that was claimed in the transaction under way."""

    row: Row
    nonce: str
    path: str
    was_at: str
    size: int
    body: bytes | None


class _Trouble(Enum):
    """Why the first ready message was not claimed."""

    GONE = "its file is not there"
    LATER = "somebody writes it, or we may not read it"
    SETTLED = "it went elsewhere: expired, or quarantined"


def random_nonce() -> str:
    """The nonce of a claim that lives by time alone."""
    return "t" + to_base36(int.from_bytes(os.urandom(8), "big")).zfill(12)[-12:]


class Mark:
    """In a holder's place: the nonces of claims that can be found again by whoever knows the mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def nonce(self, letter: str) -> str:
        """A nonce that lives by time; the part left to chance makes each delivery's its own."""
        return f"t{self.mark}{random_nonce()[-4:]}"


Owner = Holder | Mark
"""Whose nonces a claim gets, where it is not left to chance."""


@dataclass(slots=True)
class _Taking:
    """One call that claims. taken: what is claimed. buried: whether it met what expired, or is no file.

    gone: what expired and was deleted, its metadata not yet.
    """

    holder: Owner | None
    count: int
    lease_s: float | None
    taken: list[_Taken] = field(default_factory=list)
    buried: bool = False
    gone: list[str] = field(default_factory=list)


class Claimer:
    """Claims for one queue. `owner` is the queue that messages refer to."""

    def __init__(self, session: Session, owner: Queue, settler: Settler) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files
        self._owner = owner
        self._settler = settler
        self._uid = os.geteuid()
        self._troubled: set[str] = set()

    def take(self, holder: Owner | None, count: int, lease_s: float | None) -> list[Message]:
        """Claim up to `count` messages now; an empty list where there is nothing ready.

        With a mark, the claims under it that last are answered instead: in one transaction, so never both.
        """
        session = self._session
        if lease_s is None:
            lives = isinstance(holder, Holder)
            lease_s = session.settings.max_hold_s or None if lives else session.settings.lease_s
        taking = _Taking(holder, count, lease_s)
        taken = taking.taken
        again: list[_Taken] = []

        def act(index: Index) -> None:
            if isinstance(holder, Mark):
                again[:] = [
                    each for row in index.claims_marked(holder.mark, count) if (each := self._taken_before(row))
                ]
            if not again:
                self._take_into(taking, index)

        try:
            transact(self._session, act)
        except BaseException:
            self._undo(taken)
            raise
        try:
            if taken or taking.buried:
                cur = [self._directory.cur] if taken else []
                dead = [self._directory.dead] if taking.buried else []
                moves.sync_moved(session, *cur, *dead, self._directory.new)
                # CRASH: only now, so that no message comes back without its time to live. Metadata alone: sweep.
                moves.remove_meta(session, taking.gone, "ready")
            if lease_s is not None:
                for each in taken:
                    moves.sync_deadline(session, each.path)
            return [self._message(each) for each in again or taken]
        except OSError as error:
            self._give_back(taken)
            raise storage_error(error, "dequeue", self._directory.cur) from error

    def _give_back(self, taken: list[_Taken]) -> None:
        """They cannot be synced, or what came with them cannot be read: nobody gets them, so nobody may hold them."""
        for each in taken:
            try:
                self._settler.release(f"{each.row.id}.{each.nonce}")
            except SpoolqError as error:
                log.warning("claim.left id=%s error=%s", each.row.id, error.message)

    def _taken_before(self, row: Row) -> _Taken | None:
        """A claim that lasts, as it was when it was taken; None where its file was moved by hand."""
        path = moves.path_of(self._session, row)
        try:
            size = os.lstat(path).st_size
        except FileNotFoundError:
            return None
        return _Taken(row._replace(attempts=row.attempts - 1), row.nonce or "", path, path, size, None)

    def _take_into(self, taking: _Taking, index: Index) -> None:
        # Whatever an earlier try renamed has been put back, or stands: never claim it twice.
        if self._session.is_paused:
            return
        now = self._session.clock.wall_ms()
        looked = index.may_be_scheduled
        if looked:
            self._promote(index, now)
        try:
            self._take_up_to(taking, index, now)
            if not taking.taken and not looked and self._promote(index, now):
                self._take_up_to(taking, index, now)
        except BaseException:
            self._undo(taking.taken)
            taking.taken.clear()
            raise

    def _promote(self, index: Index, now: int) -> bool:
        due = index.first_due()
        return due is not None and due <= now and index.promote(now, sql.PROMOTE_AT_ONCE) > 0

    def _take_up_to(self, taking: _Taking, index: Index, now: int) -> None:
        skip = 0
        ahead: list[Row] = []
        taken = taking.taken
        while len(taken) < taking.count:
            ahead = ahead or self._following(index, skip)
            if not ahead:
                return
            row = ahead.pop()
            try:
                result = self._take_one(taking, index, row, now)
            except (DiskFull, StorageError) as error:
                if not taken:
                    raise
                # What was claimed before it is delivered; to put it back might fail just so.
                log.warning("claim.fewer claimed=%d error=%s", len(taken), error.message)
                return
            if isinstance(result, _Taken):
                taken.append(result)
            elif result is _Trouble.LATER:
                skip += 1
            else:
                ahead = []  # that may have changed what is ready
                if result is _Trouble.GONE:
                    mending.mend_ready(self._session, index, skip)

    def _following(self, index: Index, skip: int) -> list[Row]:
        """What is ready after those that there was trouble with, the next one last.

        As many as those: each look passes over them, and one by one that would be their square.
        """
        if skip:
            return index.first_ready(skip, skip)[::-1]
        first = index.first_ready_one()
        return [] if first is None else [first]

    def _take_one(self, taking: _Taking, index: Index, row: Row, now: int) -> _Taken | _Trouble:
        """Open it, see that nobody writes it, rename it: the commit point. Then the row."""
        if row.expires_at_ms is not None and row.expires_at_ms <= now:
            taking.gone += mending.expire(self._session, index, row)
            taking.buried = True
            return _Trouble.SETTLED
        source = f"{self._directory.new}/{moves.name_of(row)}"
        try:
            fd = open_message(source)
        except FileNotFoundError:
            return _Trouble.GONE
        except UnsafeFile as error:
            if is_directory(source):
                index.remove(row)  # it stays, and the scan reports it
                return _Trouble.SETTLED
            moves.to_dead(self._session, index, row, error.message, None)
            taking.buried = True
            return _Trouble.SETTLED
        except PermissionError as error:
            self._report_trouble(row.id, "not readable", error)
            return _Trouble.LATER
        except OSError as error:
            raise storage_error(error, "dequeue", source) from error
        try:
            return self._take_open(taking, index, row, now, source, fd)
        except OSError as error:
            raise storage_error(error, "dequeue", source) from error
        finally:
            os.close(fd)

    def _take_open(self, taking: _Taking, index: Index, row: Row, now: int, source: str, fd: int) -> _Taken | _Trouble:
        writer = take_lease(fd)
        if writer is Writer.WRITING:
            return _Trouble.LATER
        found = os.fstat(fd)
        size = found.st_size
        body = None
        if size <= READ_AT_ONCE_BYTES:
            body = os.read(fd, READ_AT_ONCE_BYTES + 1)
            if len(body) != size:
                body = None
        deadline = deadline_at = None
        holder, lease_s = taking.holder, taking.lease_s
        if lease_s is not None:
            deadline = self._session.clock.boot_ms() + round(lease_s * 1000)
            deadline_at = moves.set_deadline(self._session, fd, lease_s)
        nonce = random_nonce() if holder is None else holder.nonce("k" if lease_s is None else "l")
        name = format_name(row.id, row.priority, row.due_at_ms, row.attempts + 1, nonce, row.label)
        target = f"{self._directory.cur}/{name}"
        if not self._directory.move(source, target):
            return _Trouble.GONE
        if (writer is Writer.NONE and not lease_holds(fd)) or not self._is_what_was_opened(target, found):
            # Somebody opened it for writing while it moved, and waits: let them write it first. Or its owner put
            # something else in its place: that is judged for itself.
            self._directory.move(target, source)
            return _Trouble.LATER
        try:
            index.claim(row, nonce, now, deadline, deadline_at)
        except BaseException:
            # Nobody gets it: it must not stand there as claimed by one who lives.
            self._directory.move(target, source)
            raise
        return _Taken(row, nonce, target, source, size, body)

    def _is_what_was_opened(self, target: str, found: os.stat_result) -> bool:
        """Whoever drops here can rename what is his at any moment; nobody but us what is ours."""
        return found.st_uid == self._uid or os.path.samestat(os.lstat(target), found)

    def _report_trouble(self, id: str, what: str, error: OSError) -> None:
        """Once for each message and process."""
        if id not in self._troubled:
            self._troubled.add(id)
            log.warning("message.skipped id=%s reason=%s error=%s", id, what, error)

    def _undo(self, taken: list[_Taken]) -> None:
        """The transaction failed after renames: put the names back, so that nothing was counted."""
        for each in taken:
            try:
                self._directory.move(each.path, each.was_at)
            except OSError as error:
                log.warning("claim.left id=%s error=%s", each.row.id, error)

    def _message(self, taken: _Taken) -> Message:
        row = taken.row
        arrival = read_arrival(self._directory, row.id) if row.has_meta else _NOTHING
        return Message(
            self._owner,
            id=row.id,
            receipt=f"{row.id}.{taken.nonce}",
            attempts=row.attempts + 1,
            priority=row.priority,
            name=row.label,
            original_name=arrival.name,
            body_bytes=taken.size,
            enqueued_at_ms=row.enqueued_at_ms,
            body=taken.body,
            path=taken.path,
            headers=arrival.headers,
            content_type=arrival.content_type,
            group=row.grp,
        )


_NOTHING = Arrival()
