"""Dead letters: looking at them, sending them again, deleting them. Section 5 of docs/spool-format.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from spoolq import validate
from spoolq.interfaces import DeadLetterQueue, Progress
from spoolq.models import Attempt, Filter, Page
from spoolq.spool import looks, mending, moves
from spoolq.spool.index import Index
from spoolq.spool.reading import Reading, not_found
from spoolq.spool.rows import Row
from spoolq.spool.session import IndexDamaged, Session, answerable, translated

SLICE = 100


class SpoolDeadLetters(DeadLetterQueue):
    """The dead letters of one open queue."""

    def __init__(self, session: Session, reading: Reading) -> None:
        self._session = session
        self._reading = reading

    def list(self, *, where: Filter | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        return self._reading.page("dead", where, limit, cursor)

    def reasons(self) -> Sequence[tuple[str, int]]:
        with self._session.look() as db:
            return looks.reasons(db)

    def redrive(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        validate.check_most(limit)
        validate.check_rate(rate)
        part = 1 if rate is not None and rate < SLICE else SLICE
        done = self._for_each(self._redrive_one, ids, where, limit, rate, dry_run, progress, part)
        if done and not dry_run:
            directory = self._session.directory
            with translated("redrive", directory.wake):
                moves.sync_moved(self._session, directory.new, directory.dead)
                directory.files.touch(directory.wake)
        return done

    def purge(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        with_meta: list[str] = []

        def purge_one(index: Index, row: Row) -> None:
            moves.remove(self._session, index, row)
            if row.has_meta:
                with_meta.append(row.id)

        try:
            return self._for_each(purge_one, ids, where, None, None, dry_run, progress, SLICE)
        finally:
            if not dry_run:
                with translated("purge", self._session.directory.dead):
                    moves.sync_moved(self._session, self._session.directory.dead)
                    moves.remove_meta(self._session, with_meta, "dead")

    def _redrive_one(self, index: Index, row: Row) -> None:
        now = self._session.clock.wall_ms()
        entry = Attempt(attempt=row.attempts, outcome="redriven", ended_at_ms=now, host=moves.host())
        if moves.back_to_new(self._session, index, row, attempts=0, entry=entry) is None:
            mending.mend(self._session, index, [row])

    def _for_each(
        self,
        act: Callable[[Index, Row], None],
        ids: Iterable[str] | None,
        where: Filter | None,
        limit: int | None,
        rate: float | None,
        dry_run: bool,
        progress: Progress | None,
        part: int,
    ) -> int:
        """Do it to each that is meant, a part at a time under the lock; a rate spreads the parts over time."""
        chosen = self._chosen(ids, where, limit)
        if dry_run:
            for id in chosen if ids is not None else ():
                if self._reading.row(id).state != "dead":
                    raise not_found(id, "dead")
            return len(chosen)
        done = 0
        begun = time.monotonic()
        for some in _parts(chosen, part):
            if rate is not None and (ahead := done / rate - (time.monotonic() - begun)) > 0:
                time.sleep(ahead)
            count, missing = self._do_part(act, some, stop=ids is not None)
            done += count
            if progress is not None:
                progress(done, len(chosen))
            if missing is not None:
                raise not_found(missing, "dead")
        return done

    def _do_part(self, act: Callable[[Index, Row], None], ids: Sequence[str], *, stop: bool) -> tuple[int, str | None]:
        """Do it to these; how many it was done to, and the one that is no dead letter, where that stops it.

        Again where the index broke: what was done to a file stands, and counts.
        """
        done: set[str] = set()
        for last_try in (False, True):
            try:
                missing = self._do_in_one(act, ids, done, stop=stop)
                return len(done), missing
            except IndexDamaged:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    def _do_in_one(
        self, act: Callable[[Index, Row], None], ids: Sequence[str], done: set[str], *, stop: bool
    ) -> str | None:
        with self._session.write() as index, translated("dead_letters"):
            for id in ids:
                row = index.row(id)
                if row is None or row.state != "dead":
                    if stop and id not in done:
                        return id
                    continue
                done.add(id)
                act(index, row)
        return None

    def _chosen(self, ids: Iterable[str] | None, where: Filter | None, limit: int | None) -> Sequence[str]:
        if ids is not None:
            named = [*ids]
            for id in named:
                validate.check_message_id(id)
            return named[:limit]
        wanted = looks.conditions(where, "dead", self._session.clock.wall_ms())
        with self._session.look() as db:
            return looks.page_ids(db, "dead", wanted, -1 if limit is None else limit)


for _operation in DeadLetterQueue.__abstractmethods__:
    setattr(SpoolDeadLetters, _operation, answerable(getattr(SpoolDeadLetters, _operation)))


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
