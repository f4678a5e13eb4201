"""Whether the index that stands there may be believed, and the mark that says so of one that was closed in order.

Knows which files are under the index's names, who else has the queue open, and which boot and mount it is. Opens an
index and changes nothing but the mark; what is not believed `session.py` makes anew. Section 8 of docs/spool-format.md.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from dataclasses import dataclass

from spoolq.errors import IndexInUse
from spoolq.spool import index as sql
from spoolq.spool.directory import QueueDirectory
from spoolq.spool.index import Index
from spoolq.spool.lock import lock_holders
from spoolq.spool.rows import Info

log = logging.getLogger("spoolq.spool")

SQL_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The second is an error of SQLite whose own text is made of what was damaged."""

Identity = tuple[int, int, int, int]
"""Which files an index and its WAL are: inode and device of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an open queue judges its index by. format_fd: of the file that everybody who has the queue open has locked.

    All but `identity` under the write lock.
    """

    directory: QueueDirectory
    queue: str
    boot: str
    mount: str
    format_fd: int

    def identity(self) -> Identity | None:
        """Which files stand under the index's names; None where one is missing."""
        try:
            index, wal = os.stat(self.directory.index), os.stat(self.directory.index + "-wal")
        except FileNotFoundError:
            return None
        return index.st_ino, index.st_dev, wal.st_ino, wal.st_dev

    def users_but_me(self) -> list[int] | None:
        """Who else has the queue open: [] for nobody. Leaves this one known as a user."""
        try:
            fcntl.flock(self.format_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return []
        except BlockingIOError:
            return sorted(set(lock_holders(self.format_fd)) - {os.getpid()}) or None
        finally:
            fcntl.flock(self.format_fd, fcntl.LOCK_SH)

    def believed(self, *, removed: bool) -> Index | None:
        """The index as it is on the disk, or None where it must be made anew; `removed`: it must, whatever is there."""
        alone = self.users_but_me() == []
        path = self.directory.index
        if removed or not os.path.exists(path):
            return None
        clean = self._take_clean_mark()
        if not alone and not clean and not os.path.exists(path + "-wal"):
            return None
        try:
            index = Index(path)
        except SQL_ERRORS as error:
            log.warning("index.unreadable queue=%s error=%s", self.queue, error)
            return None
        try:
            if index.version not in (sql.USER_VERSION, 0):
                self._refuse_unless_alone(index.version)
            elif index.version == 0:
                log.warning("index.unreadable queue=%s error=it is empty", self.queue)
            elif not alone or clean or self._is_of_now(index.info()):
                return index
        except SQL_ERRORS as error:
            log.warning("index.unreadable queue=%s error=%s", self.queue, error)
        except BaseException:
            index.close()
            raise
        index.close()
        return None

    def _is_of_now(self, info: Info) -> bool:
        """Written under this boot and mount, so that nothing of it can have been lost. A system may know neither."""
        return self.boot != "" and (info.boot, info.mount) == (self.boot, self.mount)

    def _refuse_unless_alone(self, version: int) -> None:
        pids = self.users_but_me()
        if pids != []:
            raise IndexInUse(
                f"the index is of version {version}, this spoolq's is {sql.USER_VERSION}",
                op="open",
                path=self.directory.index,
                hint=f"Stop the other spoolq first: pid {', '.join(map(str, pids or ())) or 'unknown'}",
            )

    def _take_clean_mark(self) -> bool:
        """Whether the index was closed in order; from now on it no longer is."""
        mark = self.directory.clean_mark
        try:
            with open(mark, "rb") as file:
                size = file.read(100)
        except FileNotFoundError:
            return False
        there = str(os.stat(self.directory.index).st_size)
        clean = size in (there.encode(), f"{there} {self.boot}".encode())
        self.directory.files.unlink_if_there(mark)
        self.directory.files.sync_directory(self.directory.base)
        return clean

    def mark_clean(self, *, sync: bool = True) -> None:
        """Say that the index is whole: on the disk, or where nothing was synced, for this boot."""
        mark = str(os.stat(self.directory.index).st_size) + ("" if sync else f" {self.boot}")
        self.directory.files.write_whole(
            self.directory.aside("clean"), self.directory.clean_mark, mark.encode(), sync=sync
        )
