"""Drops: files that somebody put into `new/` under a name of their own, and how they become messages.

Section 7 of docs/spool-format.md. Everything that takes time (the probe, the sync, the metadata) is done before the
lock, with the lease held, so that no writer comes between; under the lock there is a rename, a question to the lease,
and a row.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from spoolq.errors import DiskFull, Full, MessageTooLarge, SpoolqError, StorageError, UnsafeFile, storage_error
from spoolq.models import DropInfo
from spoolq.spool import moves
from spoolq.spool.files import not_regular, open_message
from spoolq.spool.index import Index
from spoolq.spool.meta import Arrival, write_arrival
from spoolq.spool.names import Name, clean_name, format_name, is_name
from spoolq.spool.probe import Writer, lease_holds, take_lease
from spoolq.spool.room import Room
from spoolq.spool.rows import Row
from spoolq.spool.session import Session, translated

log = logging.getLogger("spoolq.spool")

AT_ONCE = 32
SCHEDULE_MIN_MS = 60_000
CLOCK_GRAIN_NS = 50_000_000
_MOST_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class _Ready:
    """A drop that can be taken in: probed, synced, named; its descriptor holds the lease."""

    dropped_as: str
    name: Name
    file_name: str
    size: int
    fd: int
    leased: bool
    has_meta: bool
    expires_at_ms: int | None


class Drops:
    """Takes drops in. `waiting` says of each drop that is not taken in yet why not, for people to look at."""

    def __init__(self, session: Session, room: Room) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files
        self._room = room
        self._seen: dict[str, tuple[int, int, float]] = {}
        self._unsynced: dict[tuple[int, int], int] = {}
        """Files that could not be synced, by inode, with their change time then: another may get the inode."""

        self._listed: tuple[int, list[str]] = (0, [])
        self.waiting: dict[str, str] = {}

    def is_ignored(self, text: str) -> bool:
        """Whether nobody looks at this name until it is renamed."""
        return text[0] == "." or any(fnmatchcase(text, pattern) for pattern in self._session.settings.drops.ignore)

    def look(self, limit: int) -> list[DropInfo]:
        """What is in `new/` and no message, by name. By a listing: another process may have looked at them last."""
        found: list[DropInfo] = []
        for text in self._strange():
            if len(found) == limit:
                break
            try:
                known = os.lstat(f"{self._directory.new}/{text}")
            except FileNotFoundError:  # RACE: renamed, removed, or taken in by somebody else.
                continue
            ignored = self.is_ignored(text)
            found.append(
                DropInfo(
                    name=os.fsencode(text).decode(errors="backslashreplace"),
                    why=self._why(text, known, ignored),
                    ignored=ignored,
                    body_bytes=known.st_size,
                    changed_at_ms=known.st_ctime_ns // 1_000_000,
                )
            )
        return found

    def _strange(self) -> list[str]:
        """The entries that are no messages; listed again only where `new/` has changed, since it may be large."""
        stamp_ns = os.stat(self._directory.new).st_mtime_ns
        if stamp_ns != self._listed[0]:
            with os.scandir(self._directory.new) as entries:
                strange = (name for entry in entries if not is_name(name := entry.name))
                found = sorted(islice(strange, _MOST_LOOKED_AT))
            rested_ns = self._session.clock.wall_ms() * 1_000_000 - stamp_ns
            # A change within the same tick of the clock would not be seen by this stamp.
            self._listed = (stamp_ns if rested_ns > CLOCK_GRAIN_NS else 0, found)
        return self._listed[1]

    def _why(self, text: str, known: os.stat_result, ignored: bool) -> str:
        if text[0] == ".":
            return "its name begins with a dot"
        if ignored:
            patterns = self._session.settings.drops.ignore
            return f"its name is one of {', '.join(each for each in patterns if fnmatchcase(text, each))}"
        if stat.S_ISDIR(known.st_mode):
            return "a directory cannot be a message"
        return self.waiting.get(text, "it waits to be taken in")

    def forget_gone(self, names: set[str]) -> None:
        """After a listing: what is not there any more is not waiting any more."""
        for text in [text for text in self.waiting if text not in names]:
            self.waiting.pop(text, None)
            self._seen.pop(text, None)

    def take_in(self, names: Iterable[str]) -> int:
        """Take in those of these entries of `new/` that can be now; how many became messages."""
        taken = 0
        batch: list[_Ready] = []
        try:
            for text in names:
                if self.is_ignored(text):
                    continue
                ready = self._prepare(text, batch)
                if ready is not None:
                    batch.append(ready)
                if len(batch) >= AT_ONCE:
                    taken += self._finish(batch)
            taken += self._finish(batch)
        finally:
            for ready in batch:
                os.close(ready.fd)
                self._forget_meta(ready)
        return taken

    # Before the lock

    def _prepare(self, text: str, batch: list[_Ready]) -> _Ready | None:
        """Probe, sync and name a drop; None where it is not to be taken in now, and `waiting` says why."""
        path = f"{self._directory.new}/{text}"
        fd = self._open(text, path)
        if fd is None:
            return None
        ready = None
        try:
            ready = self._judge(text, path, fd, batch)
        except (DiskFull, StorageError) as error:
            # Its trouble is no reason why others should wait.
            self._wait(text, error.message, loud=True)
        finally:
            if ready is None:
                os.close(fd)
        return ready

    def _open(self, text: str, path: str) -> int | None:
        try:
            return open_message(path)
        except FileNotFoundError:  # RACE: renamed, removed, or taken in by somebody else.
            self.waiting.pop(text, None)
        except PermissionError as error:
            self._wait(text, f"we may not read it ({error.strerror})", loud=True)
        except UnsafeFile:
            if os.path.isdir(path) and not os.path.islink(path):
                self._wait(text, "a directory cannot be a message", loud=True)
            else:
                self._quarantine(text)
        except OSError as error:
            raise storage_error(error, "take_in", path) from error
        return None

    def _judge(self, text: str, path: str, fd: int, batch: list[_Ready]) -> _Ready | None:
        writer = take_lease(fd)
        found = os.fstat(fd)
        if writer is Writer.WRITING:
            self._wait(text, "somebody is writing it")
            return None
        if self._unsynced.get((found.st_dev, found.st_ino)) == found.st_ctime_ns:
            self._wait(text, "the disk reported an error as it was synced: put a new copy in its place", loud=True)
            return None
        if writer is Writer.UNKNOWN and not self.at_rest(text, found):
            self._wait(text, f"changed within the last {self._session.settings.drops.settle_s:g} s")
            return None
        try:
            self._room.check_size(found.st_size)
            self._room.check_limits(found.st_size + sum(ready.size for ready in batch), len(batch) + 1)
            self._room.check(0)
        except (Full, MessageTooLarge) as error:
            self._wait(text, error.message, loud=True)
            return None
        return self._named(text, path, fd, found, writer is Writer.NONE)

    def at_rest(self, text: str, found: os.stat_result) -> bool:
        """Where no lease can be had: size and change time, which `cp -p` cannot set, have not moved for settle_s."""
        settle_s = self._session.settings.drops.settle_s
        now = self._session.clock.mono_s()
        size, changed, since = self._seen.get(text, (-1, -1, now))
        if (size, changed) != (found.st_size, found.st_ctime_ns):
            self._seen[text] = (found.st_size, found.st_ctime_ns, now)
            since = now
        rested_s = (self._session.clock.wall_ms() - found.st_ctime_ns // 1_000_000) / 1000
        return rested_s >= settle_s or now - since >= settle_s

    def _named(self, text: str, path: str, fd: int, found: os.stat_result, leased: bool) -> _Ready:
        """The name, time and metadata it gets; brought to the disk as the durability says."""
        now = self._session.clock.wall_ms()
        label = clean_name(os.fsencode(text)) or None
        due = self._scheduled_at(text, found, now)
        name = Name(self._session.clock.new_id(now), due_at_ms=due, label=label)
        ttl_s = self._session.settings.ttl_s
        expires = now + round(ttl_s * 1000) if ttl_s else None
        arrival = Arrival(name=text if label != text else None, expires_at_ms=expires)
        try:
            if due is None:
                # Not before the rename where it schedules: a drop that is not taken in after all keeps its time.
                self._set_time(fd, path, now)
            if self._session.syncs:
                self._sync(fd, found)
            if not arrival.is_empty():
                write_arrival(self._directory, name.id, arrival, sync=self._session.syncs)
        except OSError as error:
            raise storage_error(error, "take_in", path) from error
        return _Ready(text, name, format_name(*name), found.st_size, fd, leased, not arrival.is_empty(), expires)

    def _sync(self, fd: int, found: os.stat_result) -> None:
        """Once only: after a failed one the next succeeds, and the bytes are gone all the same."""
        try:
            self._files.fsync(fd)
        except OSError:
            self._unsynced[found.st_dev, found.st_ino] = os.fstat(fd).st_ctime_ns
            raise

    def _set_time(self, fd: int, path: str, now: int) -> None:
        """By its descriptor: what stands under the name by now may be a link to somewhere else."""
        try:
            self._files.utime_ns(fd, now * 1_000_000)
        except PermissionError as error:
            log.debug("time.not_set path=%s error=%s", path, error)

    def _scheduled_at(self, text: str, found: os.stat_result, now: int) -> int | None:
        """`touch -d '+2 hours'` schedules; a time further ahead than is allowed is a mistake, and means now."""
        ahead = found.st_mtime_ns // 1_000_000 - now
        if ahead < SCHEDULE_MIN_MS:
            return None
        if ahead > self._session.settings.drops.schedule_max_s * 1000:
            log.warning("drop.time_too_far name=%r days=%.1f", text, ahead / 86_400_000)
            return None
        return now + ahead

    # Under the lock

    def _finish(self, batch: list[_Ready]) -> int:
        """Rename and add rows, in one transaction; empties the batch."""
        if not batch:
            return 0
        all_ready, batch[:] = [*batch], []
        taken: list[_Ready] = []
        try:
            with self._session.write() as index:
                for ready in all_ready:
                    if self._rename(ready):
                        taken.append(ready)
                        self._add_row(index, ready)
        except SpoolqError:
            # What was renamed is there without a row: the next scan adds it.
            self._session.scan_due = True
            raise
        finally:
            kept = {ready.file_name for ready in taken}
            for ready in all_ready:
                os.close(ready.fd)
                if ready.file_name not in kept:
                    self._forget_meta(ready)
        if taken and self._session.syncs:
            self._files.sync_directory(self._directory.new)
        if taken:
            self._files.touch(self._directory.wake)
        return len(taken)

    def _rename(self, ready: _Ready) -> bool:
        """The commit point; undone where a writer came meanwhile, who would overwrite what was taken in."""
        source = f"{self._directory.new}/{ready.dropped_as}"
        target = f"{self._directory.new}/{ready.file_name}"
        try:
            if not os.path.samestat(os.lstat(source), os.fstat(ready.fd)):
                return False
            self._files.rename(source, target)
        except FileNotFoundError:  # RACE: taken in, renamed, or removed by somebody else.
            return False
        except OSError as error:
            raise storage_error(error, "take_in", source) from error
        if ready.leased and not lease_holds(ready.fd) and self._put_back(target, source):
            self._wait(ready.dropped_as, "somebody is writing it")
            return False
        self.waiting.pop(ready.dropped_as, None)
        self._seen.pop(ready.dropped_as, None)
        log.info("drop.taken_in id=%s name=%r bytes=%d", ready.name.id, ready.dropped_as, ready.size)
        return True

    def _put_back(self, target: str, source: str) -> bool:
        """False where a second drop of this name has come: this one stays, and its claim waits for its writer."""
        try:
            self._files.rename_new(target, source)
        except FileExistsError:
            return False
        return True

    def _add_row(self, index: Index, ready: _Ready) -> None:
        due = ready.name.due_at_ms
        now = self._session.clock.wall_ms()
        state = "ready" if due is None else "scheduled"
        added = index.add(
            ready.name.id,
            state=state,
            priority=ready.name.priority,
            due_at_ms=due,
            attempts=0,
            label=ready.name.label,
            body_bytes=ready.size,
            enqueued_at_ms=now,
            ready_at_ms=due or now,
            expires_at_ms=ready.expires_at_ms,
            has_meta=int(ready.has_meta),
        )
        if added:
            index.count_enqueued(state, 1, ready.size)

    def _forget_meta(self, ready: _Ready) -> None:
        if ready.has_meta:
            self._files.discard(self._directory.meta_path(ready.name.id))

    def _quarantine(self, text: str) -> None:
        """A link, FIFO, socket or device: to `dead/`, unopened."""
        source = f"{self._directory.new}/{text}"
        now = self._session.clock.wall_ms()
        name = Name(self._session.clock.new_id(now), label=clean_name(os.fsencode(text)) or None)
        with self._session.write() as index:
            try:
                found = os.lstat(source)
                if stat.S_ISREG(found.st_mode):
                    return
                self._files.rename(source, f"{self._directory.dead}/{format_name(*name)}")
            except FileNotFoundError:  # RACE: removed meanwhile.
                return
            except OSError as error:
                raise storage_error(error, "quarantine", source) from error
            reason = not_regular(found.st_mode)
            index.put(
                Row(
                    id=name.id,
                    state="dead",
                    label=name.label,
                    enqueued_at_ms=now,
                    ready_at_ms=now,
                    ended_at_ms=now,
                    reason=reason,
                )
            )
        with translated("quarantine", source):
            moves.sync_moved(self._session, self._directory.dead, self._directory.new)
        self.waiting.pop(text, None)
        log.warning("drop.quarantined name=%r id=%s reason=%s", text, name.id, reason)

    def _wait(self, text: str, why: str, *, loud: bool = False) -> None:
        """Not now; said once where a person must do something."""
        if self.waiting.get(text) != why:
            self.waiting[text] = why
            if loud:
                log.warning("drop.waits name=%r reason=%s", text, why)
