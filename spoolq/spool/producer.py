"""Enqueueing: a body and what came with it become a file in `new/`, and then a row.

Section 5 of docs/spool-format.md, transitions enqueue, enqueue_keyed and enqueue_file_move. The rename into `new/` is
the commit point; the row is a convenience, and an enqueue does not fail for want of it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from spoolq import validate
from spoolq.errors import Busy, QueueNotFound, SpoolqError, StorageError, TryAgain, UnsafeFile, storage_error
from spoolq.models import NewMessage
from spoolq.spool.files import open_message
from spoolq.spool.index import Index
from spoolq.spool.keys import Keys, discard_reservation, discard_unplaced
from spoolq.spool.meta import Arrival, prepare_arrival, write_arrival
from spoolq.spool.names import clean_name, format_name
from spoolq.spool.probe import Writer, take_lease
from spoolq.spool.room import Room
from spoolq.spool.rows import Key
from spoolq.spool.session import IndexDamaged, Session, translated

log = logging.getLogger("spoolq.spool")

ROW_BUSY_S = 1.0
"""An enqueue waits at most this long for the lock: its message is safe already, and the next scan adds the row.

One of a group waits as long as anybody, for a group is in order by its rows: without one the next would be its head.
"""

BATCH = 256
PLAIN = NewMessage(body=b"")
"""A message that asks for nothing."""

_SYNC_THREADS = 8

Body = bytes | bytearray | memoryview | BinaryIO
Write = Callable[[int], int]
"""Writes a body to a descriptor, and returns its size."""


@dataclass(slots=True)
class _Prepared:
    """A message on its way to `new/`: all is decided but its size, which is known once the body is in `tmp/`.

    fd: the open body while it serves as a lock.
    """

    id: str
    file_name: str
    label: str | None
    new: NewMessage
    arrival: Arrival
    due_at_ms: int | None
    enqueued_at_ms: int
    size: int = 0
    fd: int = -1


class Producer:
    """Everything that puts messages into one queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files
        self._keys = Keys(session)
        self.room = Room(session)
        self._syncers: ThreadPoolExecutor | None = None

    # The three ways in

    def enqueue(self, body: Body, new: NewMessage) -> str:
        """One message; `new` holds everything but the body."""
        if new.dedup_key is not None and (known := self._keys.known(new.dedup_key)) is not None:
            return known
        if isinstance(body, bytes | bytearray | memoryview):
            size = len(body) if not isinstance(body, memoryview) else body.nbytes
            self.room.check_size(size)
            self.room.check(size)
            data = body
            return self._enqueue(lambda fd: self._write(fd, data, size), new)
        if not hasattr(body, "read") or hasattr(body, "encoding"):
            raise validate.wrong_body(body)
        self.room.check(0)
        file = body
        return self._enqueue(lambda fd: self._copy(fd, file), new)

    def enqueue_file(self, path: str, new: NewMessage, *, move: bool) -> str:
        """A file: copied within the kernel, or with `move` renamed, where it is on the same device."""
        with translated("enqueue_file", path):
            source = open_message(path)
        try:
            found = os.fstat(source)
            self.room.check_size(found.st_size)
            same_device = found.st_dev == os.stat(self._directory.new).st_dev
            if move and same_device:
                self.room.check_limits(found.st_size)
                return self._enqueue_moved(path, source, found, new)
            self.room.check(found.st_size)
            id = self._enqueue(lambda fd: self._copy_range(source, fd, found.st_size), new)
        finally:
            os.close(source)
        if move:
            with translated("enqueue_file", path):
                self._files.unlink_if_there(path)
        return id

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Many, in order: in runs of those without a key, which share a directory sync and a transaction."""
        ids: list[str] = []
        run: list[NewMessage] = []
        for message in messages:
            new = validate.as_new_message(message)
            if new.dedup_key is None:
                run.append(new)
                if len(run) < BATCH:
                    continue
            ids += self._enqueue_run(run)
            run = []
            if new.dedup_key is not None:
                ids.append(self.enqueue(new.body, new))
        return ids + self._enqueue_run(run)

    # Bodies

    def _write(self, fd: int, data: bytes | bytearray | memoryview, size: int) -> int:
        self._files.write(fd, data)
        return size

    def _copy(self, fd: int, file: BinaryIO) -> int:
        limit = self._session.settings.limits.body_bytes
        size = self._files.copy(_Metered(file, self.room), fd, limit)  # type: ignore[arg-type]
        self.room.check_size(size, so_far=True)
        return size

    def _copy_range(self, source: int, fd: int, size: int) -> int:
        copied = self._files.copy_range(source, fd, size)
        self.room.check_size(copied)
        return copied

    # One message

    def _enqueue(self, write: Write, new: NewMessage) -> str:
        self._session.refresh_settings()
        if new.dedup_key is not None:
            return self._enqueue_keyed(write, new, new.dedup_key)
        prepared = self._plan(new)
        self._write_body(prepared, write)
        self._put_in_place([prepared])
        self._add_rows([prepared])
        return prepared.id

    def _plan(self, new: NewMessage) -> _Prepared:
        """Decide everything about a message but its size."""
        now = self._session.clock.wall_ms()
        id = self._session.clock.new_id(now)
        due = now + round(new.delay_s * 1000) if new.delay_s else None
        label = (clean_name(new.name) or None) if new.name is not None else None
        arrival = self._arrival(new, label, now)
        file_name = format_name(id, new.priority, due, 0, None, label)
        return _Prepared(id, file_name, label, new, arrival, due, now)

    def _arrival(self, new: NewMessage, label: str | None, now: int) -> Arrival:
        """What is to be kept beside the body; `_NOTHING` for most."""
        settings = self._session.settings
        ttl_s = settings.ttl_s if new.ttl_s is None else new.ttl_s
        if new is PLAIN and not ttl_s:
            return _NOTHING
        arrival = Arrival(
            headers=dict(new.headers),
            content_type=new.content_type,
            dedup_key=new.dedup_key,
            dedup_until_ms=None if new.dedup_key is None else now + round(settings.dedup_window_s * 1000),
            group=new.group,
            expires_at_ms=now + round(ttl_s * 1000) if ttl_s else None,
            name=new.name if label != new.name else None,
        )
        return _NOTHING if arrival.is_empty() else arrival

    def _write_body(self, plan: _Prepared, write: Write, *, keep_open: bool = False) -> None:
        """The body, whole and synced, in `tmp/`; nothing is left where that fails."""
        path = self._directory.temporary(plan.id)
        fd = -1
        try:
            fd = self._files.create(path)
            if keep_open:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            plan.size = write(fd)
            if self._session.syncs:
                self._files.fsync(fd)
            if keep_open:
                plan.fd = fd
            else:
                closing, fd = fd, -1
                self._files.close(closing)
        except BaseException as error:
            self._give_up(plan.id, fd)
            if isinstance(error, OSError):
                raise storage_error(error, "enqueue", path) from error
            raise

    def _give_up(self, id: str, fd: int = -1) -> None:
        """Leave no litter of an enqueue that failed before its commit point."""
        if fd >= 0:
            os.close(fd)
        discard_unplaced(self._directory, id)

    def _put_in_place(self, run: list[_Prepared], *, noted: bool = False) -> None:
        """Metadata, then the rename of each (its commit point), then one sync of the directory.

        noted: the metadata is there, and only its directory is to be synced.
        """
        syncs = self._session.syncs
        placed: list[_Prepared] = []
        try:
            if noted and syncs:
                self._files.sync_directory(self._directory.meta)
            for prepared in run:
                if not noted and prepared.arrival is not _NOTHING:
                    write_arrival(self._directory, prepared.id, prepared.arrival, sync=syncs)
            for prepared in run:
                target = f"{self._directory.new}/{prepared.file_name}"
                self._files.rename(self._directory.temporary(prepared.id), target)
                placed.append(prepared)
            if syncs:
                self._files.sync_directory(self._directory.new)
        except BaseException as error:
            # Not promised to anybody yet.
            for prepared in run:
                if prepared not in placed or self._taken_back(prepared):
                    discard_reservation(self._session, prepared.id) if noted else self._give_up(prepared.id)
            if isinstance(error, OSError):
                raise storage_error(error, "enqueue", self._directory.new) from error
            raise

    def _taken_back(self, prepared: _Prepared) -> bool:
        """Whether it is out of `new/` again. RACE: what was claimed meanwhile is delivered, with its metadata.

        CRASH: back in `tmp/` it is a message that never was, whatever is left of it.
        """
        placed = f"{self._directory.new}/{prepared.file_name}"
        try:
            self._files.rename(placed, self._directory.temporary(prepared.id))
            return True
        except FileNotFoundError:
            return False
        except OSError:
            pass  # A full disk may refuse a new name, but not that one goes.
        try:
            return self._files.unlink_if_there(placed)
        except OSError as error:
            log.warning("enqueue.not_taken_back id=%s error=%s", prepared.id, error)
            return False

    def _add_rows(self, run: list[_Prepared]) -> None:
        """The rows, and a wake-up. What goes wrong here is mended by the next scan, and fails nobody's enqueue."""
        try:
            with self._session.write(self._row_busy_s(run)) as index:
                self._add_to(index, run)
        except (TryAgain, StorageError) as error:
            self._session.scan_due = True
            level = logging.INFO if isinstance(error, Busy | IndexDamaged) else logging.WARNING
            log.log(level, "row.left_to_scan messages=%d error=%s", len(run), error.message)
        except QueueNotFound:
            # What stands at this path by now is another queue, made since.
            for prepared in run:
                self._files.unlink_if_there(f"{self._directory.new}/{prepared.file_name}")
                self._give_up(prepared.id)
            raise
        self._wake()

    def _row_busy_s(self, run: Sequence[_Prepared]) -> float:
        busy_s = self._session.settings.busy_s
        return busy_s if any(prepared.new.group is not None for prepared in run) else min(ROW_BUSY_S, busy_s)

    def _add_to(self, index: Index, run: Sequence[_Prepared]) -> None:
        if len(run) == 1:
            (one,) = run
            if self._add_row(index, one):
                index.count_enqueued("ready" if one.due_at_ms is None else "scheduled", 1, one.size)
            return
        added = [prepared for prepared in run if self._add_row(index, prepared)]
        for state, some in (
            ("ready", [each.size for each in added if each.due_at_ms is None]),
            ("scheduled", [each.size for each in added if each.due_at_ms is not None]),
        ):
            if some:
                index.count_enqueued(state, len(some), sum(some))

    def _add_row(self, index: Index, prepared: _Prepared) -> bool:
        due = prepared.due_at_ms
        return index.add(
            prepared.id,
            state="ready" if due is None else "scheduled",
            priority=prepared.new.priority,
            due_at_ms=due,
            attempts=0,
            label=prepared.label,
            body_bytes=prepared.size,
            enqueued_at_ms=prepared.enqueued_at_ms,
            ready_at_ms=due or prepared.enqueued_at_ms,
            expires_at_ms=prepared.arrival.expires_at_ms,
            grp=prepared.new.group,
            has_meta=int(prepared.arrival is not _NOTHING),
        )

    def _wake(self) -> None:
        try:
            self._files.touch(self._directory.wake)
        except OSError as error:
            # A hint only: waiters look every few seconds by themselves.
            log.warning("wake.not_touched error=%s", error)

    # Many

    def _enqueue_run(self, run: list[NewMessage]) -> list[str]:
        """Bodies first, synced side by side, since concurrent syncs share a journal commit; then as one."""
        if not run:
            return []
        self._session.refresh_settings()
        for new in run:
            self.room.check_size(len(new.body))
        self.room.check(sum(len(new.body) for new in run), len(run))
        prepared: list[_Prepared] = []
        fds: list[int] = []
        try:
            for new in run:
                plan = self._plan(new)
                fd = self._files.create(self._directory.temporary(plan.id))
                fds.append(fd)
                plan.size = len(new.body)
                prepared.append(plan)
                self._files.write(fd, new.body)
                if not self._session.syncs:
                    self._files.close(fds.pop())
            self._sync_all(fds)
        except BaseException as error:
            for plan in prepared:
                self._give_up(plan.id)
            if isinstance(error, OSError):
                raise storage_error(error, "enqueue_many", self._directory.tmp) from error
            raise
        finally:
            for fd in fds:
                os.close(fd)
        self._put_in_place(prepared)
        self._add_rows(prepared)
        return [plan.id for plan in prepared]

    def _sync_all(self, fds: list[int]) -> None:
        if len(fds) < 2:
            for fd in fds:
                self._files.fsync(fd)
            return
        # Kept: starting threads for each batch costs more than syncing a few files one after another.
        if self._syncers is None:
            self._syncers = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="spoolq-sync")
        failed = [future.exception() for future in [self._syncers.submit(self._files.fsync, fd) for fd in fds]]
        for error in failed:
            if error is not None:
                raise error

    def close(self) -> None:
        """Let the threads end that sync batches."""
        syncers, self._syncers = self._syncers, None
        if syncers is not None:
            syncers.shutdown(wait=False)

    def forget(self) -> None:
        """In a forked child: the threads are the parent's."""
        self._syncers = None

    # One message a key

    def _enqueue_keyed(self, write: Write, new: NewMessage, key: str) -> str:
        """The first of a key is enqueued; the others are answered its id once it is safe (transition enqueue_keyed)."""
        plan = self._plan(new)
        until = plan.arrival.dedup_until_ms
        assert until is not None
        # The file that a reservation names exists, locked, before the reservation does.
        self._write_body(plan, write, keep_open=True)
        try:
            with translated("enqueue", self._directory.tmp):
                prepare_arrival(self._directory, plan.id, plan.arrival, sync=self._session.syncs)
            known = self._keys.reserve(key, plan.id, until)
            if known is not None:
                self._give_up(plan.id)
                return known
            # Where this fails the reservation stays: the next of this key sees whether there is a message.
            self._put_in_place([plan], noted=True)
        except BaseException:
            # Where the message is there, and could not be taken back, its metadata stays.
            if os.path.lexists(self._directory.temporary(plan.id)):
                discard_reservation(self._session, plan.id)
            raise
        else:
            return self._finish_keyed(key, plan)
        finally:
            os.close(plan.fd)

    def _finish_keyed(self, key: str, plan: _Prepared) -> str:
        """The row, and the end of the reservation, in one transaction; the id of the message that has the key.

        If another has the key by now, since this one's window ended on the way, or somebody removed its metadata, this
        message gives way, unless it was claimed already.
        """
        id = plan.id
        for last_try in (False, False, True):
            try:
                with self._session.write(self._row_busy_s([plan])) as index:
                    id = self._settle_key(index, key, plan)
                break
            except IndexDamaged as error:
                # Made anew by the next try, which must be made: without it another of this key is not known of.
                if last_try or id != plan.id:
                    # Or this one has given way, and has no row to add.
                    self._left_to_scan(error)
                    break
            except (TryAgain, StorageError) as error:
                self._left_to_scan(error)
                break
        self._wake()
        return id

    def _left_to_scan(self, error: SpoolqError) -> None:
        self._session.scan_due = True
        log.info("row.left_to_scan messages=1 error=%s", error.message)

    def _settle_key(self, index: Index, key: str, plan: _Prepared) -> str:
        """Whose the key is now: another's, where this message has given way, else its own."""
        known = index.key(key)
        gone = known is not None and (known.reserved or self._keys.is_over(known))
        if known is not None and not gone and known.id != plan.id and self._taken_back(plan):
            row = index.row(plan.id)
            if row is not None:
                index.remove(row)
            self._give_up(plan.id)
            return known.id
        self._add_to(index, [plan])
        until = plan.arrival.dedup_until_ms
        assert until is not None
        index.keep_key(key, Key(plan.id, until, False))
        return plan.id

    # The file itself

    def _enqueue_moved(self, path: str, source: int, found: os.stat_result, new: NewMessage) -> str:
        """Rename the user's own file into `new/`; nobody may be writing it. The lease ends when `source` is closed."""
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeFile("not a regular file", op="enqueue_file", path=path)
        if new.dedup_key is not None:
            id = self._enqueue(lambda fd: self._copy_range(source, fd, found.st_size), new)
            with translated("enqueue_file", path):
                self._files.unlink_if_there(path)
            return id
        self._session.refresh_settings()
        plan = self._plan(new)
        plan.size = found.st_size
        with translated("enqueue_file", path):
            if take_lease(source) is Writer.WRITING:
                hint = "Close it there first, or enqueue a copy"
                raise UnsafeFile(f"somebody is writing {path}", op="enqueue_file", path=path, hint=hint)
            target = f"{self._directory.new}/{plan.file_name}"
            placed = False
            try:
                if plan.arrival is not _NOTHING:
                    write_arrival(self._directory, plan.id, plan.arrival, sync=self._session.syncs)
                if self._session.syncs:
                    self._files.fsync(source)
                self._files.rename(path, target)
                placed = True
                if self._session.syncs:
                    self._files.sync_directory(self._directory.new)
                    self._files.sync_directory(os.path.dirname(path) or ".")
            except BaseException:
                if not placed or self._moved_back(target, path):
                    self._files.discard(self._directory.meta_path(plan.id))
                raise
        self._add_rows([plan])
        return plan.id

    def _moved_back(self, target: str, path: str) -> bool:
        """Whether the user has the file again. RACE: claimed meanwhile, it is a message, and is delivered."""
        try:
            self._files.rename_new(target, path)
        except OSError as error:
            self._session.scan_due = True
            log.warning("enqueue.not_taken_back path=%s error=%s", target, error)
            return False
        return True


_NOTHING = Arrival()


class _Metered:
    """An open file whose reading checks that there is still room, piece by piece."""

    def __init__(self, file: BinaryIO, room: Room) -> None:
        self._file = file
        self._room = room

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        if piece:
            self._room.check(len(piece), 0)
        return piece
