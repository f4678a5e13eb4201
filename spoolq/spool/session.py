"""An open queue: directory, index, write lock, and the transactions in which files and rows change together.

Owns opening the index or making it anew, noticing that somebody removed it, forking, and closing; whether the one that
is there may be believed is for `believing` to say. What is done in a transaction is the business of `producer`,
`claiming`, `settling`, `dead_letters`, `drops`, `recovery` and `cleanup`. Sections 1 and 8 of docs/spool-format.md.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from spoolq import settings as settings_module
from spoolq.clock import Clock
from spoolq.errors import (
    DiskFull,
    NotASpool,
    QueueClosed,
    QueueNotFound,
    SpoolqError,
    StorageError,
    UnknownFormat,
    UnsafeSpool,
    UnsupportedFileSystem,
    storage_error,
)
from spoolq.interfaces import Progress
from spoolq.settings import Settings
from spoolq.spool import index as sql
from spoolq.spool import mounts, rebuilding
from spoolq.spool.believing import SQL_ERRORS, Identity, Standing
from spoolq.spool.directory import DIRECTORIES, FORMAT_TEXT, QueueDirectory
from spoolq.spool.holders import Holder
from spoolq.spool.index import Index
from spoolq.spool.lock import WriteLock

log = logging.getLogger("spoolq.spool")

_SETTINGS_LOOK_S = 0.2
_STAMP_GRAIN_NS = 100_000_000
_TRIES = (False, False, True)
"""Whether each is the last."""

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class IndexDamaged(StorageError):
    """The index cannot be read; the next transaction makes it anew. Whoever sees this tries once more."""


class Session:
    """One open queue. Make it with `Session.open`; thread-safe, and safe after a fork."""

    def __init__(self, directory: QueueDirectory, name: str, clock: Clock) -> None:
        self.directory = directory
        self.name = name
        self.clock = clock
        self.settings = settings_module.load(Path(directory.settings), os.environ)
        self.holders: dict[str, Holder] = {}
        self.scan_due = True
        self.is_paused = False
        """As of the last transaction, under whose lock it was looked at."""
        self.on_fork: Callable[[], None] = lambda: None
        self._settings_seen = self._settings_stamp()
        self._settings_next_s = 0.0
        with translated("open", directory.base):
            self._boot = clock.boot_id()
        self._index: Index | None = None
        self._identity: Identity | None = None
        self._damaged = False
        self._root_stamp_ns = 0
        self._read_mutex = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._reader_identity: Identity | None = None
        self._closed = False
        self._lock = WriteLock(directory.lock, -1)
        self._format_fd = -1
        self._begin_files()
        _sessions.add(self)

    @classmethod
    def open(cls, directory: QueueDirectory, name: str, clock: Clock) -> Session:
        """Open a queue that is there. Checks what it stands on, and makes or mends its index."""
        check_place(directory)
        session = cls(directory, name, clock)
        try:
            session._open_at_once()
        except BaseException:
            session._let_go()
            raise
        return session

    def _open_at_once(self) -> None:
        """Open or make the index now. On a disk without a block left it waits, and claims go on by names alone."""
        for _ in range(2):
            try:
                with self.write():
                    return
            except DiskFull as error:
                if not self.directory.free_ballast():
                    log.warning("index.not_opened queue=%s error=%s", self.name, error.message)
                    return

    def _begin_files(self) -> None:
        """Open what locks are taken on."""
        with translated("open", self.directory.base):
            self._lock.forget(self.directory.files.open_lock(self.directory.lock))
            self._format_fd = os.open(self.directory.format, os.O_RDONLY | os.O_CLOEXEC)
            mount = mounts.mount_of(self.directory.base).identity
            self._lock_inode = os.fstat(self._lock.fd).st_ino
        self._standing = Standing(
            directory=self.directory, queue=self.name, boot=self._boot, mount=mount, format_fd=self._format_fd
        )

    # Settings

    def _settings_stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.directory.settings)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def refresh_settings(self) -> None:
        """Read `queue.toml` again where it has changed; a broken one is reported and the last good one kept."""
        now = self.clock.mono_s()
        if now < self._settings_next_s:
            return
        self._settings_next_s = now + _SETTINGS_LOOK_S
        stamp = self._settings_stamp()
        if stamp != self._settings_seen:
            self._settings_seen = stamp
            try:
                self.settings = settings_module.load(Path(self.directory.settings), os.environ)
            except SpoolqError as error:
                log.error("settings.refused queue=%s error=%s", self.name, error)

    def change_settings(self, settings: Settings) -> None:
        """Write `queue.toml`, whole or not at all."""
        text = settings_module.dump(settings)
        directory = self.directory
        with self.write(), translated("settings", directory.settings):
            temporary = directory.temporary(f"queue.toml.{self.clock.new_id()}")
            directory.files.write_whole(temporary, directory.settings, text.encode(), sync=True)
        for session in list(_sessions):
            if session.directory.base == directory.base:
                session._settings_next_s = 0.0
                session.refresh_settings()

    @property
    def syncs(self) -> bool:
        """Whether an enqueue is brought to the disk before it returns."""
        return self.settings.durability != "process"

    @property
    def syncs_moves(self) -> bool:
        """Whether the other transitions are, too."""
        return self.settings.durability == "full"

    # Transactions

    def write(self, busy_s: float | None = None) -> _Write:
        """`with session.write() as index:` the lock, a transaction; committed at the end, rolled back on an exception.

        Raises Busy after `busy_s` (the queue's, unless given), IndexDamaged where the index broke under it (try
        again: it is made anew), QueueNotFound where the queue has been deleted.
        """
        return _Write(self, self.settings.busy_s if busy_s is None else busy_s)

    @contextlib.contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """A connection to look with. Neither waits for writers nor keeps them waiting."""
        with self._read_mutex:
            try:
                yield self._current_reader()
            except SQL_ERRORS as error:
                raise self._translated(error, self._reader_identity) from error

    def _identity_if_known(self) -> Identity | None:
        """The same where the disk does not answer: what was open was not removed."""
        try:
            return self._standing.identity()
        except OSError:
            return self._identity

    def _current_reader(self) -> sqlite3.Connection:
        """A reader of the index that is under its name now, which is opened, or made, where it must be."""
        with translated("index", self.directory.index):
            identity = self._standing.identity()
        if self._reader is None or identity is None or identity != self._reader_identity or self._damaged:
            self._close_reader()
            if self._index is None or identity is None or identity != self._identity:
                with self.write():
                    identity = self._identity
            self._reader = sql.open_reader(self.directory.index)
            self._reader_identity = identity
        return self._reader

    def _close_reader(self) -> None:
        reader, self._reader, self._reader_identity = self._reader, None, None
        if reader is not None:
            reader.close()

    def is_free(self) -> bool:
        """Whether a transaction could begin at once: no lock to wait for, no index to be made. A hint."""
        if self._closed or self._index is None or self._standing.identity() != self._identity:
            return False
        return self._lock.is_free()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The write lock without a transaction."""
        self._lock.acquire(self.settings.busy_s)
        try:
            yield
        finally:
            self._lock.release()

    def _translated(self, error: sqlite3.Error | UnicodeDecodeError, opened: Identity | None = None) -> SpoolqError:
        """What an error of SQLite means. opened: the index that gave it."""
        text = str(error)
        if "disk is full" in text:
            return storage_error(OSError(errno.ENOSPC, "", self.directory.index), "index")
        # Removed beneath it, it may say anything; and what somebody has made anew by now is not damaged.
        now = self._identity_if_known()
        removed = now is None or (opened is not None and now != opened)
        if removed or sql.is_damage(error):
            self._damaged = self._damaged or not removed
            self._identity = None
            self._root_stamp_ns = 0
            log.warning("index.damaged queue=%s error=%s", self.name, text)
            hint = "It is made anew from the files at the next try; if it fails again, look at the disk"
            return IndexDamaged(f"the index is damaged: {text}", op="index", path=self.directory.index, hint=hint)
        hint = "Look at the disk and in the kernel log; `spoolq rebuild` makes the index anew"
        return StorageError(f"the index cannot be used: {text}", op="index", path=self.directory.index, hint=hint)

    # The index

    def _ensure_index(self) -> Index:
        """The open index, if it is still the one under its name; else opened again, or made anew. Under the lock."""
        try:
            stamp = os.stat(self.directory.base).st_ctime_ns
        except FileNotFoundError:
            stamp = -1
        if stamp == self._root_stamp_ns and self._index is not None:
            return self._index
        identity = self._standing.identity()
        if identity is not None and identity == self._identity and self._index is not None:
            self._keep_stamp(stamp)
            return self._index
        self._root_stamp_ns = 0
        known = self._index is not None
        self.check_still_there()
        self._close_index()
        self._index = self._open_index(removed=self._damaged or (known and identity is None))
        self._damaged = False
        self._identity = self._standing.identity()
        self.is_paused = os.path.exists(self.directory.paused)
        return self._index

    def _keep_stamp(self, stamp_ns: int) -> None:
        """The names in the queue's directory are as they were while its change time is: one question instead of two.

        Believed only once it is older than the grain of the file system's clock, within which a change does not show.
        """
        self.is_paused = os.path.exists(self.directory.paused)
        old = self.clock.wall_ms() * 1_000_000 - stamp_ns > _STAMP_GRAIN_NS
        self._root_stamp_ns = stamp_ns if old else 0

    def check_still_there(self) -> None:
        """A queue that was deleted, and perhaps made again, is not the one that was opened."""
        try:
            there = os.stat(self.directory.lock).st_ino == self._lock_inode and os.path.exists(self.directory.format)
        except FileNotFoundError:
            there = False
        if os.path.exists(self.directory.format) and not os.path.exists(self.directory.lock):
            hint = "Who has it open locks what is no longer there: close it everywhere, and open it again"
            raise StorageError("the lock file was removed", op="lock", path=self.directory.lock, hint=hint)
        if not there:
            hint = "It was deleted while open; open it again if it has been made anew"
            raise QueueNotFound(f"there is no queue {self.name!r} any more", path=self.directory.base, hint=hint)

    def _open_index(self, *, removed: bool) -> Index:
        """Open the index if it can be believed (section 8), else make it anew. Under the lock."""
        index = self._standing.believed(removed=removed)
        if index is not None:
            self.scan_due = True
            try:
                return self._opened(index)
            except SQL_ERRORS as error:
                index.close()
                if isinstance(self._translated(error), DiskFull):
                    raise
        self._make_anew(None)
        return self._opened(Index(self.directory.index))

    def _opened(self, index: Index) -> Index:
        """The first write makes the WAL, whose identity is compared from now on."""
        try:
            index.begin(self.clock.wall_ms())
            index.set_info(boot=self._standing.boot, mount=self._standing.mount)
            index.commit()
        except BaseException:
            index.close()
            raise
        return index

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the index anew from the files, in place of the one that is there, and open it."""
        with self.alone():
            self.check_still_there()
            try:
                count = self._make_anew(progress)
                # What was made just now is whole: it must not be doubted for want of a WAL, and made once more.
                self._index = self._opened(Index(self.directory.index))
            except sqlite3.Error as error:
                raise self._translated(error) from error
            self._identity = self._standing.identity()
        return count

    def _make_anew(self, progress: Progress | None) -> int:
        """Make the index anew. Under the lock."""
        self._close_index()
        now = self._standing
        count = rebuilding.rebuild(
            self.directory, self.clock, self.settings, boot=now.boot, mount=now.mount, progress=progress
        )
        self.scan_due = True
        log.info("index.rebuilt queue=%s messages=%d", self.name, count)
        return count

    def _close_index(self) -> None:
        index, self._index, self._identity = self._index, None, None
        self._root_stamp_ns = 0
        if index is not None:
            index.close()

    # Forking and closing

    def before_fork(self) -> None:
        """SQLite cannot be carried over a fork: not even forgotten, for its table of locks would be. So close it."""
        self._read_mutex.acquire()
        self._close_reader()
        try:
            self._lock.acquire(self.settings.busy_s)
        except SpoolqError:
            # Somebody else has the lock and so the index open: closing ours copies nothing back.
            self._lock.acquire_threads()
            self._close_index()
        else:
            self._close_for_fork()
            self._lock.release_file()

    def _close_for_fork(self) -> None:
        """Where it was the last one open, its WAL goes with it: both sides are told that nobody removed it."""
        whole = self._identity is not None and self._identity == self._standing.identity()
        self._close_index()
        if whole and not os.path.exists(self.directory.index + "-wal"):
            try:
                self._standing.mark_clean(sync=False)
            except OSError as error:
                log.warning("index.not_marked queue=%s error=%s", self.name, error)

    def after_fork_in_parent(self) -> None:
        """Go on; the index is opened again when it is needed."""
        self._lock.release_threads()
        self._read_mutex.release()

    def after_fork_in_child(self) -> None:
        """The parent's claims and locks stay the parent's: the child has none, and opens its own files."""
        self._read_mutex = threading.Lock()
        for holder in self.holders.values():
            holder.forget()
        self.holders = {}
        self.scan_due = True
        # First of all let go of what is the parent's: two that lock through one open file do not exclude each other.
        self._lock.forget(-1)
        os.close(self._format_fd)
        self._format_fd = -1
        self.on_fork()
        try:
            self._begin_files()
        except SpoolqError as error:
            log.error("fork.closed queue=%s error=%s", self.name, error.message)
            self._closed = True

    def check_open(self) -> None:
        """QueueClosed where it is not."""
        if self._closed:
            raise QueueClosed(f"the queue {self.name!r} is closed", op="lock")

    @property
    def is_closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    def close(self) -> None:
        """Let go; the last one leaves the index synced and marked as whole."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._index is not None:
                self._close_in_order()
        finally:
            self._let_go()

    def _close_in_order(self) -> None:
        """Under the lock, since the last one's closing copies the WAL back, which must meet no writer."""
        with self._read_mutex, self.alone():
            self._close_reader()
            index = self._index
            try:
                whole = self._identity is not None and self._identity == self._standing.identity()
                last = self._standing.users_but_me() == []
            except OSError as error:
                # The disk does not answer any more: it is as after a kill.
                log.warning("index.not_marked queue=%s error=%s", self.name, error)
                whole = last = False
            if index is None or not whole or not last:
                self._close_index()
                return
            try:
                index.sync()
                self._close_index()
                self._standing.mark_clean()
            except (sqlite3.Error, OSError) as error:
                # No mark: the next opener after a reboot makes the index anew. Nothing else is lost.
                log.warning("index.not_marked queue=%s error=%s", self.name, error)

    def abandon(self) -> None:
        """Let go at once, where what was open is no longer there."""
        self._close_reader()
        self._let_go()

    def _let_go(self) -> None:
        _sessions.discard(self)
        self._closed = True
        self._close_index()
        for holder in self.holders.values():
            holder.forget()
        self.holders = {}
        self._lock.close()
        if self._format_fd >= 0:
            os.close(self._format_fd)
            self._format_fd = -1


class _Write:
    """The transaction of `Session.write`."""

    __slots__ = ("_busy_s", "_index", "_session")

    def __init__(self, session: Session, busy_s: float) -> None:
        self._session = session
        self._busy_s = busy_s

    def __enter__(self) -> Index:
        session = self._session
        self._acquire()
        try:
            try:
                index = session._ensure_index()
                index.begin(session.clock.wall_ms())
            except SQL_ERRORS as error:
                raise session._translated(error, session._identity) from error
            except OSError as error:
                raise storage_error(error, "index", session.directory.index) from error
        except BaseException:
            session._lock.release()
            raise
        self._index = index
        return index

    def _acquire(self) -> None:
        """Take the write lock of a queue that is open; another thread may close it while this one waits."""
        session = self._session
        session.check_open()
        try:
            session._lock.acquire(self._busy_s)
        except (OSError, ValueError) as error:
            session.check_open()
            if isinstance(error, OSError):
                raise storage_error(error, "lock", session.directory.lock) from error
            raise
        try:
            session.check_open()
        except QueueClosed:
            session._lock.release_threads()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._session
        try:
            if error is None:
                try:
                    self._index.commit()
                    return
                except SQL_ERRORS as failed:
                    said = session._translated(failed, session._identity)
                    self._undo()
                    raise said from failed
            opened = session._identity
            self._undo()
            if isinstance(error, SQL_ERRORS):
                raise session._translated(error, opened) from error
        finally:
            session._lock.release()

    def _undo(self) -> None:
        try:
            self._index.rollback()
        except sqlite3.Error:
            # It cannot even be undone: whoever comes next opens it anew, which undoes it.
            self._session._close_index()


def answerable(method: Callable[..., Any]) -> Callable[..., Any]:
    """An operation of something with a `_session`: again where the index was found damaged, since it is made anew by
    then; and where files are missing because the whole queue is, that is said.
    """

    @functools.wraps(method)
    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        for last_try in _TRIES:
            try:
                return method(self, *args, **kwargs)
            except IndexDamaged:
                if last_try:
                    raise
            except StorageError as error:
                if error.errno == errno.ENOENT:
                    self._session.check_still_there()
                raise
            except OSError as error:
                if error.errno == errno.ENOENT:
                    self._session.check_still_there()
                # A look at the disk that nobody thought could fail: told like every other.
                raise storage_error(error, method.__name__, self._session.directory.base) from error
        raise AssertionError("there was a last try")

    return answer


@contextlib.contextmanager
def translated(op: str, path: str = "") -> Iterator[None]:
    """Turn what the system says into a SpoolqError that names the operation."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, op, path) from error


def check_place(directory: QueueDirectory) -> None:
    """Refuse what cannot be used as a queue: each with what to do. Reads only."""
    base = directory.base
    try:
        with open(directory.format, "rb") as file:
            text = file.read(64).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotASpool(
            f"{base} is not a spool", op="open", path=base, hint=f"Make one with: spoolq init {base}"
        ) from error
    except OSError as error:
        raise storage_error(error, "open", directory.format) from error
    if text != FORMAT_TEXT:
        raise UnknownFormat(
            f"{directory.format} says {text.strip()!r}, and this spoolq knows {FORMAT_TEXT.strip()!r}",
            op="open",
            path=directory.format,
            hint="Use the spoolq that made it, or a newer one",
        )
    check_file_system(base)
    device = os.stat(base).st_dev
    for name in ("", *DIRECTORIES):
        path = f"{base}/{name}" if name else base
        try:
            found = os.stat(path)
        except FileNotFoundError:
            directory.files.mkdir(path)
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise NotASpool(f"{path} is not a directory", op="open", path=path, hint="Move it away")
        if found.st_dev != device:
            hint = "All of a queue must lie on one device, since a rename across devices is a copy"
            raise UnsupportedFileSystem(f"{path} is on another device than {base}", op="open", path=path, hint=hint)
        if found.st_mode & stat.S_IWOTH:
            hint = f"chmod o-w '{path}'; to let others drop files: spoolq init --group GROUP"
            raise UnsafeSpool(f"everybody may write to {path}", op="open", path=path, hint=hint)


def check_file_system(path: str) -> None:
    """Refuse file systems on which the protocol does not hold."""
    with translated("open", path):
        kind = mounts.mount_of(path).kind
    if kind in mounts.NETWORK:
        hint = "Put the spool on a local disk; for several machines use the PostgreSQL engine or the relay"
        raise UnsupportedFileSystem(f"{path} is on a network file system ({kind})", op="open", path=path, hint=hint)
    if kind in mounts.LACKING:
        hint = "Use a local Linux file system such as ext4, xfs or btrfs"
        raise UnsupportedFileSystem(f"{kind} cannot hold a spool ({path})", op="open", path=path, hint=hint)


_forking = threading.local()
"""The sessions that were made ready for the fork under way in this thread; others may be opened in the same moment."""


def _before_fork() -> None:
    _forking.sessions = list(_sessions)
    for session in _forking.sessions:
        session.before_fork()


def _after_fork_in_parent() -> None:
    for session in _forking.sessions:
        session.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for session in list(_sessions):
        session.after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
