"""Making the index anew from the files. Sections 4, 8 and 9 of docs/spool-format.md.

The caller holds the write lock throughout, so nobody but a person's `mv` moves a file meanwhile. What is read here is
names, sizes and times, and the metadata of the messages that have some; never a body.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from collections.abc import Container, Iterator

from spoolq.clock import Clock, id_time_ms
from spoolq.errors import storage_error
from spoolq.interfaces import Progress
from spoolq.reasons import summary
from spoolq.settings import Settings
from spoolq.spool import index as sql
from spoolq.spool.directory import STATE_DIRECTORIES, QueueDirectory
from spoolq.spool.files import not_regular
from spoolq.spool.meta import Meta, is_anothers_body, read_meta
from spoolq.spool.names import Name, format_name, is_id, parse_name
from spoolq.spool.rows import Key, Row

log = logging.getLogger("spoolq.spool")

_NO_META = Meta()
_PROGRESS_EVERY = 5000
_DIRECTORY_STATES = {"done": "done", "dead": "dead", "cur": "claimed", "new": "ready"}
_SUFFIXES = ("", "-wal", "-shm", "-clean", "-journal")


def deadline_boot_ms(found: os.stat_result, nonce: str | None, clock: Clock, lease_s: float) -> int | None:
    """When a claim ends, on the boot clock, by its file's times (section 6); None where it lives by its holder alone.

    Never further away than the file's own times are apart, so that a wall clock set back does not stretch it.
    """
    if nonce is not None and nonce[0] == "k":
        return None
    changed = found.st_ctime_ns // 1_000_000
    end = found.st_mtime_ns // 1_000_000
    if end <= changed:
        end = changed + round(lease_s * 1000)
    return clock.boot_ms() + min(end - clock.wall_ms(), end - changed)


def row_of_file(
    directory: str, name: Name, found: os.stat_result, meta: Meta, has_meta: bool, clock: Clock, settings: Settings
) -> Row:
    """The row that a file's place, name, times and metadata call for."""
    state = _DIRECTORY_STATES[directory[directory.rindex("/") + 1 :]]
    now = clock.wall_ms()
    changed = found.st_ctime_ns // 1_000_000
    if state == "ready" and name.due_at_ms is not None and name.due_at_ms > now:
        state = "scheduled"
    enqueued = id_time_ms(name.id)
    ready = name.due_at_ms or max(enqueued, min(changed, now))
    due, attempts, nonce, label = name.due_at_ms, name.attempts, name.nonce, name.label
    # By position, since a rebuild makes a million of these.
    row = Row(name.id, state, 0, name.priority, due, attempts, nonce, label, found.st_size, enqueued, ready)
    if state == "claimed":
        row = row._replace(
            claimed_at_ms=changed,
            deadline_boot_ms=deadline_boot_ms(found, nonce, clock, settings.lease_s),
            deadline_at_ms=found.st_mtime_ns // 1_000_000,
        )
    elif state in ("done", "dead"):
        died = _died_at_ms(meta) if state == "dead" else None
        row = row._replace(ended_at_ms=changed if died is None else died)
    if has_meta or not stat.S_ISREG(found.st_mode):
        row = row._replace(
            expires_at_ms=_expires_at_ms(meta),
            grp=meta.arrival.group,
            has_meta=int(has_meta),
            reason=_reason(meta, found),
        )
    return row


def _reason(meta: Meta, found: os.stat_result) -> str | None:
    """Of the last delivery; what was never one, and is not a regular file, says by itself why it is dead."""
    if meta.history:
        return summary(meta.history[-1].reason)
    return None if stat.S_ISREG(found.st_mode) else not_regular(found.st_mode)


def _died_at_ms(meta: Meta) -> int | None:
    """When its last delivery ended it; None where a person moved it to `dead/`."""
    last = meta.history[-1] if meta.history else None
    return last.ended_at_ms if last is not None and last.outcome in ("dead", "expired") else None


def _expires_at_ms(meta: Meta) -> int | None:
    """As it was enqueued; who was sent again by a person does not expire any more."""
    if any(attempt.outcome in ("redriven", "replayed") for attempt in meta.history):
        return None
    return meta.arrival.expires_at_ms


class _Reading:
    """One pass over the files of a queue."""

    def __init__(self, directory: QueueDirectory, clock: Clock, settings: Settings, progress: Progress | None) -> None:
        self._directory = directory
        self._clock = clock
        self._settings = settings
        self._progress = progress
        self.given = 0
        self.keys: dict[str, Key] = {}
        self._with_meta = {
            text[:36] for text in directory.names(directory.meta) if text.endswith(".jsonl") and is_id(text[:36])
        }
        self._names = {kind: sorted(directory.names(f"{directory.base}/{kind}")) for kind in STATE_DIRECTORIES}
        self._all = sum(map(len, self._names.values()))

    def rows(self) -> Iterator[Row]:
        """Rows in the order in which directories are believed, each directory sorted by id."""
        for kind, texts in self._names.items():
            path = f"{self._directory.base}/{kind}"
            for text in texts:
                name = parse_name(text)
                if name is None:
                    continue
                try:
                    found = os.lstat(f"{path}/{text}")
                except FileNotFoundError:  # RACE: moved by hand since it was listed; the next scan or check sees it.
                    continue
                if kind != "cur" and stat.S_ISDIR(found.st_mode):
                    continue  # no message, whatever its name: the scan reports it, or check
                self.given += 1
                if self._progress is not None and self.given % _PROGRESS_EVERY == 0:
                    self._progress(self.given, self._all)
                yield self._row(path, name, found)
        self._read_settled_keys()

    def _row(self, path: str, name: Name, found: os.stat_result) -> Row:
        has_meta = name.id in self._with_meta
        meta = read_meta(self._directory, name.id) if has_meta else _NO_META
        if has_meta:
            self._with_meta.discard(name.id)
            self._keep_key(name.id, meta)
        return row_of_file(path, name, found, meta, has_meta, self._clock, self._settings)

    def _read_settled_keys(self) -> None:
        """Metadata whose message is gone is there for its deduplication window only.

        Where the body is still in `tmp/` there has never been a message: its key is reserved, and its writer may live.
        """
        for id in self._with_meta:
            there = os.path.lexists(self._directory.temporary(id))
            reserved = there and not is_anothers_body(self._directory, id)
            self._keep_key(id, read_meta(self._directory, id), reserved=reserved)

    def _keep_key(self, id: str, meta: Meta, *, reserved: bool = False) -> None:
        key, until = meta.arrival.dedup_key, meta.arrival.dedup_until_ms
        if key is not None and until is not None and until > self._clock.wall_ms():
            known = self.keys.get(key)
            if known is None or (reserved, id) < (known.reserved, known.id):
                self.keys[key] = Key(id, until, reserved)


def rebuild(
    directory: QueueDirectory,
    clock: Clock,
    settings: Settings,
    *,
    boot: str,
    mount: str,
    progress: Progress | None = None,
) -> int:
    """Make the index anew: aside, in `tmp/`, then in place of the old one. Under the lock. How many messages."""
    try:
        with _aside(directory, clock) as temporary:
            reading = _Reading(directory, clock, settings, progress)
            directory.files.close(directory.helped(lambda: directory.files.create(temporary)))
            count = sql.create(temporary, boot, mount, clock.wall_ms(), reading.rows())
            if count == reading.given:
                _keep_keys(temporary, reading.keys, clock.wall_ms())
                # A left WAL would be played into the new index: the old files go first. CRASH: no index; the next
                # opener.
                _drop(directory, directory.index)
                directory.files.rename(temporary, directory.index)
                return count
            separate_twins(directory, clock)
            _drop(directory, temporary)
    except sqlite3.Error as error:
        if "disk is full" in str(error) or "I/O" in str(error):
            raise storage_error(OSError(28, ""), "rebuild", directory.index) from error
        raise
    except OSError as error:
        raise storage_error(error, "rebuild", directory.index) from error
    return rebuild(directory, clock, settings, boot=boot, mount=mount, progress=progress)


@contextlib.contextmanager
def _aside(directory: QueueDirectory, clock: Clock) -> Iterator[str]:
    """Where it is made; nothing is left there by what fails.

    In a `tmp/` that others may write to it has a directory of its own: SQLite believes a WAL that lies beside its file.
    """
    place = directory.tmp
    if os.stat(place).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        place = directory.temporary(f"index-{clock.new_id()}")
        directory.files.mkdir(place)
    temporary = f"{place}/index-{clock.new_id()}.db"
    try:
        yield temporary
    except (sqlite3.Error, OSError):
        _discard(directory, temporary)
        _leave(directory, place)
        raise
    _leave(directory, place)


def _leave(directory: QueueDirectory, place: str) -> None:
    if place != directory.tmp:
        directory.files.remove_tree(place)  # CRASH: a directory in tmp/, which is swept


def _keep_keys(path: str, keys: dict[str, Key], now_ms: int) -> None:
    if not keys:
        return
    index = sql.Index(path)
    try:
        index.begin(now_ms)
        for dedup_key, key in keys.items():
            index.keep_key(dedup_key, key)
        index.commit()
    finally:
        index.close()


def _drop(directory: QueueDirectory, path: str) -> None:
    """Remove an index and all beside it."""
    for suffix in _SUFFIXES:
        directory.files.unlink_if_there(path + suffix)


def _discard(directory: QueueDirectory, path: str) -> None:
    """The same for one that could not be made."""
    for suffix in _SUFFIXES:
        directory.files.discard(path + suffix)


def separate_twins(directory: QueueDirectory, clock: Clock, named: Container[str] = ()) -> int:
    """One id in several places: of one inode the later state stays, a copy by hand gets a new id. Under the lock.

    named: paths that rows call for; of several copies such a one keeps the id, else the later state does.
    """
    places: dict[str, list[str]] = {}
    for kind in STATE_DIRECTORIES:
        for text in directory.names(f"{directory.base}/{kind}"):
            name = parse_name(text)
            if name is not None:
                places.setdefault(name.id, []).append(f"{directory.base}/{kind}/{text}")
    twins = 0
    for paths in places.values():
        if len(paths) > 1:
            twins += len(paths) - 1
            copies = _drop_links(directory, paths)
            copies.sort(key=lambda path: path not in named)
            for path in copies[1:]:
                _rename_copy(directory, clock, path)
    return twins


def _drop_links(directory: QueueDirectory, paths: list[str]) -> list[str]:
    """Of the names of one inode only the first stays; which ones stay. Nothing else is ever deleted on doubt."""
    kept: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            found = os.lstat(path)
        except FileNotFoundError:  # RACE: moved by hand meanwhile.
            continue
        first = kept.setdefault((found.st_dev, found.st_ino), path)
        if first != path:
            log.warning("twin.removed path=%s kept=%s", path, first)
            directory.files.unlink_if_there(path)
    return list(kept.values())


def _rename_copy(directory: QueueDirectory, clock: Clock, path: str) -> None:
    place, _, text = path.rpartition("/")
    name = parse_name(text)
    assert name is not None
    renamed = name._replace(id=clock.new_id())
    log.warning("twin.renamed path=%s id=%s", path, renamed.id)
    directory.files.rename(path, f"{place}/{format_name(*renamed)}")
