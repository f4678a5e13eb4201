"""Retention: deleting what was processed, oldest first, in slices. Transition clean of docs/spool-format.md."""

from __future__ import annotations

import logging

from spoolq.errors import SpoolqError
from spoolq.interfaces import Progress
from spoolq.spool import looks, moves
from spoolq.spool.room import Room
from spoolq.spool.rows import Row
from spoolq.spool.session import Session, translated

log = logging.getLogger("spoolq.spool")

SLICE = 200
_ROOM_SLICES = 10


class Cleanup:
    """Deletes for one open queue what its retention says."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def due(self) -> dict[str, tuple[int, int]]:
        """How many messages and bytes would go now, by state."""
        found = {}
        with self._session.look() as db:
            for state, before_ms in self._cutoffs():
                found[state] = looks.ended_totals(db, state, before_ms)
        return found

    def _cutoffs(self) -> list[tuple[str, int]]:
        now = self._session.clock.wall_ms()
        retention = self._session.settings.retention
        cutoffs = [("done", now - round(retention.done_s * 1000))]
        if retention.dead_s:
            cutoffs.append(("dead", now - round(retention.dead_s * 1000)))
        return cutoffs

    def run(self, *, budget_s: float | None = None, progress: Progress | None = None) -> dict[str, int]:
        """Delete what is due, for about `budget_s`; counts and bytes by state, and `left` where it was not all."""
        end = None if budget_s is None else self._session.clock.mono_s() + budget_s
        due = self.due() if progress is not None else {}
        in_all = sum(count for count, _ in due.values())
        result: dict[str, int] = {}
        for state, before_ms in self._cutoffs():
            result[state] = result[f"{state}_bytes"] = 0
            while rows := self._delete_slice(state, before_ms):
                result[state] += len(rows)
                result[f"{state}_bytes"] += sum(row.body_bytes for row in rows)
                if progress is not None:
                    progress(result.get("done", 0) + result.get("dead", 0), in_all)
                if end is not None and self._session.clock.mono_s() > end:
                    result["left"] = 1
                    return result
        if result["done"] or result.get("dead"):
            log.info("clean.done %s", " ".join(f"{key}={value}" for key, value in result.items()))
        return result

    def _delete_slice(self, state: str, before_ms: int) -> list[Row]:
        with self._session.write() as index, translated("clean"):
            rows = index.ended(state, before_ms, SLICE)
            for row in rows:
                moves.remove(self._session, index, row)
        with translated("clean", self._session.directory.meta):
            if rows:
                moves.sync_moved(self._session, self._session.directory.of_state(state))
            moves.remove_meta(self._session, [row.id for row in rows if row.has_meta], state)
        return rows

    def make_room(self, room: Room) -> bool:
        """Before an enqueue is refused: delete done messages early, oldest first. Whether there is room then."""
        for _ in range(_ROOM_SLICES):
            try:
                rows = self._delete_slice("done", self._session.clock.wall_ms())
            except SpoolqError as error:
                log.warning("clean.early_failed error=%s", error.message)
                return False
            if rows:
                log.warning("clean.early done=%d", len(rows))
            if room.has_room():
                return True
            if not rows:
                return False
        return room.has_room()
