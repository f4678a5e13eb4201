"""Looking at a queue: changes nothing, claims nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from spoolq import validate
from spoolq.models import Filter, HolderInfo, MessageInfo, Minute, Page, State, Stats
from spoolq.postgres import bodies, statements, values
from spoolq.postgres.calls import Calls


class Reading:
    """What is known of messages and of the queue, as the database has it now."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def peek(self) -> MessageInfo | None:
        """The message that the next dequeue would claim."""
        rows = self._calls.ask("peek", statements.PEEK, self._calls.id, self._calls.id, self._calls.id, repeats=True)
        return values.info(self._calls.name, rows[0]) if rows else None

    def get(self, message_id: str) -> MessageInfo:
        """All that is known of a message."""
        rows = self._calls.ask(
            "get", statements.GET, self._calls.id, validate.check_message_id(message_id), repeats=True
        )
        if not rows:
            raise self._calls.not_found(message_id)
        return values.info(self._calls.name, rows[0])

    def read_body(self, message_id: str) -> BinaryIO:
        """The body of a message in any state; a large one is read chunk by chunk."""
        rows = self._calls.ask(
            "read_body", statements.BODY, self._calls.id, validate.check_message_id(message_id), repeats=True
        )
        if not rows:
            raise self._calls.not_found(message_id)
        return bodies.opened(self._calls.database.ask, message_id, rows[0])

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of the messages in a state."""
        validate.check_state(state)
        validate.check_limit(limit)
        sql, parameters = statements.page(self._calls.id, state, where, limit + 1, _after(cursor))
        found = [values.info(self._calls.name, row) for row in self._calls.ask("list", sql, *parameters, repeats=True)]
        shown = found[:limit]
        more = len(found) > limit
        return Page(messages=tuple(shown), cursor="{}:{}".format(*values.order_of(shown[-1])) if more else None)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        """Messages in any state whose id begins with, or whose name or reason contains `text`."""
        validate.check_limit(limit)
        part = statements.storable(text)
        rows = self._calls.ask(
            "search", statements.SEARCH, self._calls.id, part.lower(), part, part, limit, repeats=True
        )
        return [values.info(self._calls.name, row) for row in rows]

    def stats(self) -> Stats:
        """Counts, bytes and totals."""
        return values.stats(self._calls.name, self._calls.row("stats", statements.STATS, self._calls.id))

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        """Counted in the database, one by one."""
        validate.check_bounds(bounds_s)
        validate.check_state(state)
        bounds_ms = [int(bound * 1000) for bound in bounds_s]
        rows = self._calls.ask("ages", statements.AGES, bounds_ms, self._calls.id, state, repeats=True)
        found: dict[int, int] = dict(rows)
        return [found.get(at, 0) for at in range(len(bounds_s) + 1)]

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        """The history, minute by minute; eight days of it."""
        rows = self._calls.ask(
            "minutes", statements.HISTORY, self._calls.id, max(0, since_at_ms) // 60_000, repeats=True
        )
        return [values.minute(row) for row in rows]

    def holders(self) -> Sequence[HolderInfo]:
        """Who holds claims. Alive: the latest of its leases has not ended; whether the process lives nobody can see."""
        return [
            values.holder(row) for row in self._calls.ask("holders", statements.HOLDERS, self._calls.id, repeats=True)
        ]


def _after(cursor: str | None) -> tuple[int, str] | None:
    """The place that a cursor names."""
    if cursor is None:
        return None
    key, _, message_id = cursor.partition(":")
    try:
        return int(key), validate.check_message_id(message_id)
    except ValueError:
        raise ValueError(f"cursor must be one that a page returned, not {cursor!r}") from None
