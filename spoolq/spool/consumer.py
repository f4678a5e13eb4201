"""Dequeueing, and what a consumer does with what it got: acknowledge, requeue, release, extend, dead letter.

Section 5 of docs/spool-format.md. The name in `cur/` is the claim: it carries the attempt and the nonce, so the
attempt is counted by the very rename that claims, and a late acknowledge finds its name gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, NamedTuple, TypeVar

from spoolq import validate
from spoolq.errors import DiskFull, LeaseLost, SpoolqError, StorageError, UnsafeFile, storage_error
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.models import Attempt, State
from spoolq.retry import delay_s as retry_delay_s
from spoolq.spool import index as sql
from spoolq.spool import looks, mending, moves
from spoolq.spool.by_names import NamesOnly
from spoolq.spool.directory import path_in
from spoolq.spool.files import is_directory, open_message
from spoolq.spool.holders import Holder, to_base36
from spoolq.spool.index import Index
from spoolq.spool.meta import Arrival, read_arrival
from spoolq.spool.names import clean_name, format_name, parse_name
from spoolq.spool.probe import Writer, lease_holds, take_lease
from spoolq.spool.rows import Row
from spoolq.spool.session import IndexDamaged, Session, translated

log = logging.getLogger("spoolq.spool")

T = TypeVar("T")

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


class Consumer:
    """Claims and settles for one queue. `owner` is the queue that messages refer to."""

    def __init__(self, session: Session, owner: Queue) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files
        self._owner = owner
        self._uid = os.geteuid()
        self._troubled: set[str] = set()

    # Claiming

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
            self._transact(act)
        except BaseException:
            self._undo(taken)
            raise
        try:
            if taken or taking.buried:
                cur = [self._directory.cur] if taken else []
                dead = [self._directory.dead] if taking.buried else []
                moves.sync_moved(session, *cur, *dead, self._directory.new)
                # CRASH: only now, so that no message comes back without its time to live. Metadata alone: sweep.
                moves.remove_meta(session, taking.gone)
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
                self.release(f"{each.row.id}.{each.nonce}")
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

    def _transact(self, act: Callable[[Index], T]) -> T:
        """Do it in a transaction; once more where the index was damaged; by names alone where it cannot be written.

        What `act` did to files stands even where the commit then fails: rows follow files.
        """
        session = self._session
        for _ in range(3):
            done: list[T] = []
            try:
                with session.write() as index:
                    done.append(act(index))
                return done[0]
            except (DiskFull, StorageError) as error:
                if error.op not in {"index", "rebuild"}:
                    raise
                if done:
                    session.scan_due = True
                    log.warning("row.left_behind error=%s", error.message)
                    return done[0]
                if not isinstance(error, IndexDamaged) and not self._directory.free_ballast():
                    break
        with session.alone(), translated("index", self._directory.base):
            return act(NamesOnly(session))

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
        taken = taking.taken
        while len(taken) < taking.count:
            row = index.first_ready_one(skip)
            if row is None:
                return
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
            elif result is _Trouble.GONE:
                mending.mend_ready(self._session, index)
            elif result is _Trouble.LATER:
                skip += 1

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
            deadline_at = self._set_deadline(fd, lease_s)
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

    def _set_deadline(self, path: str | int, lease_s: float) -> int:
        """The deadline as the file's time, for whoever has no row; that time, whatever it is now."""
        at_ms = self._session.clock.wall_ms() + round(lease_s * 1000)
        try:
            self._files.utime_ns(path, at_ms * 1_000_000)
        except PermissionError as error:
            # Somebody else's file: without the row it has the queue's lease_s from its last change.
            log.info("deadline.not_on_file path=%s error=%s", path, error)
            return os.stat(path).st_mtime_ns // 1_000_000
        return at_ms

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

    def open_body(self, receipt: str) -> BinaryIO:
        """The file of a claim, from its beginning."""
        id, nonce = validate.parse_receipt(receipt)
        row: Row | None = None
        for _ in range(2):
            with self._session.look() as db:
                row = looks.row(db, id)
            if row is None or row.nonce != nonce or row.state != "claimed":
                break
            path = moves.path_of(self._session, row)
            try:
                return os.fdopen(open_message(path), "rb")
            except FileNotFoundError:  # RACE: settled meanwhile, or its priority was not what the row said: look again.
                continue
            except OSError as error:
                raise storage_error(error, "open", path) from error
        raise moves.lease_lost(id, "open", row)

    # Settling

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done/`, or deleted where nothing is kept."""
        id, nonce = validate.parse_receipt(receipt)
        keep = self._session.settings.retention.done_s > 0
        lost, has_meta = self._transact(lambda index: self._acknowledge(index, id, nonce, keep))
        if lost is not None:
            raise lost
        self._after_acknowledging([id] if has_meta else [], keep)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Many in one transaction; the receipts whose claim had ended."""
        parsed = [(receipt, *validate.parse_receipt(receipt)) for receipt in receipts]
        keep = self._session.settings.retention.done_s > 0
        results: dict[str, tuple[LeaseLost | None, bool]] = {}

        def act(index: Index) -> None:
            # Again, where the index failed: what was done to a file stands, and is not asked for twice.
            for receipt, id, nonce in parsed:
                if receipt not in results:
                    results[receipt] = self._acknowledge(index, id, nonce, keep)

        self._transact(act)
        with_meta = [id for receipt, id, _ in parsed if results[receipt] == (None, True)]
        self._after_acknowledging(with_meta, keep)
        return [receipt for receipt, _, _ in parsed if results[receipt][0] is not None]

    def _acknowledge(self, index: Index, id: str, nonce: str, keep: bool) -> tuple[LeaseLost | None, bool]:
        """Settle one; an error to raise once the transaction has ended, and whether metadata is to go."""
        now = self._session.clock.wall_ms()
        state = "done" if keep else "settled"
        found = index.settle(id, nonce, state, now)
        if found is None and mending.adopt_claim(self._session, index, id, nonce):
            found = index.settle(id, nonce, state, now)
        if found is None:
            row = index.row(id)
            if row is not None and row.nonce == nonce and row.state in ("done", "settled"):
                return None, False
            return moves.lease_lost(id, "acknowledge", row), False
        priority, due, attempts, label, _, _, _, has_meta = found
        name = format_name(id, priority, due, attempts, nonce, label)
        source = f"{self._directory.cur}/{name}"
        try:
            if keep:
                there = self._to_done(index, id, source, f"{self._directory.done}/{name}")
            else:
                there = self._directory.remove(source)
        except OSError as error:
            raise storage_error(error, "acknowledge", source) from error
        if not there:
            return self._acknowledge_without_file(index, id, name), bool(has_meta and not keep)
        return None, bool(has_meta and not keep)

    def _to_done(self, index: Index, id: str, source: str, target: str) -> bool:
        """Rename; where not even the ballast makes room for a name, delete it instead: it is processed."""
        try:
            return self._directory.move(source, target)
        except OSError as error:
            if storage_error(error, "").exit_code != 75:
                raise
            log.warning("done.not_kept id=%s error=%s", id, error)
            row = index.row(id)
            assert row is not None
            index.change(row, row._replace(state="settled"))
            return self._directory.remove(source)

    def _acknowledge_without_file(self, index: Index, id: str, name: str) -> LeaseLost | None:
        """The consumer took the file away itself: success. A person moved it: only to `done/` is it success."""
        row = index.row(id)
        assert row is not None
        if row.state == "done" and os.path.lexists(f"{self._directory.done}/{name}"):
            return None
        if any(os.path.lexists(f"{self._directory.base}/{kind}/{name}") for kind in ("new", "dead", "cur")):
            claimed = row._replace(state="claimed", ended_at_ms=None)
            index.change(row, claimed)
            mending.mend(self._session, index, [claimed])
            return moves.lease_lost(id, "acknowledge", index.row(id))
        label = self._keep_product(id, name)
        if label is not None:
            index.change(row, row._replace(state="done", label=label))
        elif row.state == "done":
            index.change(row, row._replace(state="settled"))
        return None

    def _keep_product(self, id: str, name: str) -> str | None:
        """What the consumer made of the file beside it (`gzip {}`): to `done/`, since it is this message; its label."""
        for text in self._directory.names(self._directory.cur):
            if text.startswith(name) and (parsed := parse_name(name)) is not None:
                label = clean_name(text[text.index(",n=") + 3 :] if parsed.label else text[len(name) :])
                self._directory.move(
                    f"{self._directory.cur}/{text}", path_in(self._directory.done, parsed._replace(label=label))
                )
                return label
        return None

    def _after_acknowledging(self, ids: list[str], kept: bool) -> None:
        if self._session.syncs_moves:
            with translated("acknowledge"):
                moves.sync_moved(self._session, *([self._directory.done] if kept else []), self._directory.cur)
        if ids:
            # CRASH: only now, so that no message comes back without what came with it.
            with translated("acknowledge", self._directory.meta):
                moves.remove_meta(self._session, ids)

    def requeue(self, receipt: str, delay_s: float | None, reason: str, details: Attempt | None) -> State:
        """Failed: back to `new/` after the backoff, or to `dead/` where the attempts are used up."""
        validate.check_delay(delay_s)
        id, nonce = validate.parse_receipt(receipt)
        self._session.refresh_settings()
        settings = self._session.settings

        def put_back(index: Index, row: Row) -> Row | None:
            now = self._session.clock.wall_ms()
            if row.attempts >= settings.max_attempts:
                entry = moves.history_entry(row, "dead", reason, now, details)
                return moves.to_dead(self._session, index, row, entry.reason or "failed", entry, failed=1)
            wait_s = retry_delay_s(row.attempts, settings.retry) if delay_s is None else delay_s
            due = now + round(wait_s * 1000) if wait_s > 0 else None
            entry = moves.history_entry(row, "requeued", reason, now, details)
            return moves.back_to_new(self._session, index, row, due_at_ms=due, entry=entry, failed=1)

        return self._settle(id, nonce, "requeue", put_back)

    def release(self, receipt: str) -> None:
        """Give back untouched: one attempt less."""
        id, nonce = validate.parse_receipt(receipt)
        self._settle(id, nonce, "release", self.give_back_uncounted)

    def give_back_uncounted(self, index: Index, row: Row) -> Row | None:
        """A claim ends as if it had not begun."""
        return moves.back_to_new(self._session, index, row, attempts=max(0, row.attempts - 1))

    def dead_letter(self, receipt: str, reason: str, details: Attempt | None) -> None:
        """Give up on it."""
        id, nonce = validate.parse_receipt(receipt)

        def bury(index: Index, row: Row) -> Row | None:
            entry = moves.history_entry(row, "dead", reason, self._session.clock.wall_ms(), details)
            return moves.to_dead(self._session, index, row, entry.reason, entry)

        self._settle(id, nonce, "move_to_dead_letter_queue", bury)

    def _settle(self, id: str, nonce: str, op: str, act: Callable[[Index, Row], Row | None]) -> State:
        """End this very delivery by `act`; the state the message is in then. LeaseLost where it has ended already."""

        def fenced(index: Index) -> Row | LeaseLost:
            with translated(op):
                row = self._fenced(index, id, nonce)
                if row is None:
                    return moves.lease_lost(id, op, index.row(id))
                new = act(index, row)
                if new is None:
                    # Moved by hand: the row is mended now, and the caller told once the transaction has ended.
                    mending.mend(self._session, index, [row])
                    return moves.lease_lost(id, op, index.row(id))
                return new

        new = self._transact(fenced)
        if isinstance(new, LeaseLost):
            raise new
        with translated(op):
            moves.sync_moved(self._session, self._directory.of_state(new.state), self._directory.cur)
            if new.state == "ready":
                self._files.touch(self._directory.wake)
        return new.state  # type: ignore[return-value]

    def _fenced(self, index: Index, id: str, nonce: str) -> Row | None:
        """The row of this very delivery, or None where it has ended. The file's name decides, not the row."""
        row = index.row(id)
        if row is not None and row.nonce == nonce and row.state == "claimed":
            return row
        if mending.adopt_claim(self._session, index, id, nonce):
            return index.row(id)
        return None

    def extend(self, receipt: str, lease_s: float) -> None:
        """A later, or earlier, deadline; a claim that lives by its holder alone has none, and keeps none."""
        validate.check_extension(lease_s)
        id, nonce = validate.parse_receipt(receipt)
        moved: list[str] = []

        def move_deadline(index: Index) -> LeaseLost | None:
            row = self._fenced(index, id, nonce)
            if row is None:
                return moves.lease_lost(id, "extend", index.row(id))
            if nonce[0] == "k":
                return None
            path = moves.path_of(self._session, row)
            with translated("extend"):
                try:
                    at_ms = self._set_deadline(path, lease_s)
                except FileNotFoundError:  # RACE: moved by hand.
                    mending.mend(self._session, index, [row])
                    return moves.lease_lost(id, "extend", index.row(id))
            index.extend(id, self._session.clock.boot_ms() + round(lease_s * 1000), at_ms)
            moved.append(path)
            return None

        lost = self._transact(move_deadline)
        if lost is not None:
            raise lost
        with translated("extend"):
            for path in moved:
                moves.sync_deadline(self._session, path)


_NOTHING = Arrival()
