"""Going on where the index cannot be written: claims and settling by names alone. Promise P9.

A disk that is full to the last block, the ballast gone, stops SQLite before it stops renames. `NamesOnly` answers an
index's questions from a listing and changes nothing, so that the code which claims and settles is the same. The rows
follow once the index can be written again: whoever meets a file where its row does not say it is mends it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from spoolq.errors import DiskFull, StorageError
from spoolq.spool.index import Index
from spoolq.spool.meta import read_arrival, read_meta
from spoolq.spool.names import Name, parse_name
from spoolq.spool.rebuilding import row_of_file
from spoolq.spool.rows import Row
from spoolq.spool.session import IndexDamaged, Session, translated

log = logging.getLogger("spoolq.spool")

T = TypeVar("T")


class NamesOnly(Index):
    """An index of nothing but names, for one operation under the write lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directory = session.directory
        self._waiting: list[Row] | None = None

    def _row_of(self, directory: str, text: str, name: Name) -> Row | None:
        try:
            found = os.lstat(f"{directory}/{text}")
        except FileNotFoundError:  # RACE: moved by hand since it was listed.
            return None
        has_meta = os.path.exists(self._directory.meta_path(name.id))
        meta = read_meta(self._directory, name.id)
        return row_of_file(directory, name, found, meta, has_meta, self._session.clock, self._session.settings)

    # Claiming

    def first_due(self) -> int | None:
        """None: what is due counts as ready here."""
        return None

    def first_ready_one(self, skip: int = 0) -> Row | None:
        """The next in delivery order, by a listing of `new/`; messages of a group wait for the index."""
        if self._waiting is None:
            self._waiting = self._listed()
        while skip < len(self._waiting):
            row = self._waiting[skip]
            if not row.has_meta or read_arrival(self._directory, row.id).group is None:
                return row
            del self._waiting[skip]
        return None

    def first_ready(self, count: int, skip: int = 0) -> list[Row]:
        """The next `count` of them."""
        found: list[Row] = []
        while len(found) < count and (row := self.first_ready_one(skip + len(found))) is not None:
            found.append(row)
        return found

    def _listed(self) -> list[Row]:
        now = self._session.clock.wall_ms()
        names = [name for text in self._directory.names(self._directory.new) if (name := parse_name(text)) is not None]
        ready = [name for name in names if name.nonce is None and (name.due_at_ms is None or name.due_at_ms <= now)]
        ready.sort(key=lambda name: (-name.priority, name.id))
        with_meta = {text[:36] for text in self._directory.names(self._directory.meta)}
        return [
            Row(
                id=name.id,
                state="ready",
                priority=name.priority,
                due_at_ms=name.due_at_ms,
                attempts=name.attempts,
                label=name.label,
                has_meta=int(name.id in with_meta),
            )
            for name in ready
        ]

    def claim(
        self, row: Row, nonce: str, now_ms: int, deadline_boot_ms: int | None, deadline_at_ms: int | None
    ) -> None:
        """It is in `cur/` now; that is all there is to say."""
        self._forget(row.id)

    def _forget(self, id: str) -> None:
        if self._waiting is not None:
            self._waiting = [row for row in self._waiting if row.id != id]

    def claims_marked(self, mark: str, limit: int) -> list[Row]:
        """Claims of a mark, by a listing of `cur/`."""
        names = [parse_name(text) for text in self._directory.names(self._directory.cur)]
        ids = sorted(name.id for name in names if name is not None and (name.nonce or "").startswith("t" + mark))
        return [row for id in ids[:limit] if (row := self.row(id)) is not None]

    # Settling

    def row(self, id: str) -> Row | None:
        """What the believed file of this id says."""
        for directory, text, name in self._directory.locate([id])[id]:
            return self._row_of(directory, text, name)
        return None

    def settle(
        self, id: str, nonce: str, state: str, now_ms: int
    ) -> tuple[int, int | None, int, str | None, int, int, str | None, int] | None:
        """The parts of the name of this claim, or None where it is not in `cur/`."""
        row = self.row(id)
        if row is None or row.state != "claimed" or row.nonce != nonce:
            return None
        parts = (row.priority, row.due_at_ms, row.attempts, row.label, row.body_bytes)
        return (*parts, row.claimed_at_ms or now_ms, row.grp, row.has_meta)

    def change(self, old: Row, new: Row, **totals: int) -> None:
        """The file has moved; its row follows later."""
        self._forget(old.id)

    def put(self, row: Row) -> None:
        """Later."""

    def remove(self, row: Row) -> None:
        """The file has gone; its row follows later."""
        self._forget(row.id)

    def extend(self, id: str, deadline_boot_ms: int | None, deadline_at_ms: int) -> None:
        """The file's time has been set; its row follows when it is reaped."""


def transact(session: Session, act: Callable[[Index], T]) -> T:
    """Do it in a transaction; once more where the index was damaged; by names alone where it cannot be written.

    What `act` did to files stands even where the commit then fails: rows follow files.
    """
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
            if not isinstance(error, IndexDamaged) and not session.directory.free_ballast():
                break
    with session.alone(), translated("index", session.directory.base):
        return act(NamesOnly(session))
