"""The dead letters of a queue in PostgreSQL: many at once in one transaction, one by one where a rate is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.errors import MessageNotFound
from spoolq.interfaces import DeadLetterQueue, Progress
from spoolq.models import Filter, Page
from spoolq.postgres import statements
from spoolq.postgres.connection import Call

if TYPE_CHECKING:
    from spoolq.postgres.queue import PostgresQueue

AT_ONCE = 100


class PostgresDeadLetters(DeadLetterQueue):
    """What gave up in a `PostgresQueue`."""

    def __init__(self, queue: PostgresQueue) -> None:
        self._queue = queue

    def list(self, *, where: Filter | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of dead letters, oldest first."""
        return self._queue.list("dead", where=where, limit=limit, cursor=cursor)

    def reasons(self) -> Sequence[tuple[str, int]]:
        """Each reason with its count, the most frequent first."""
        call = Call(op="reasons", sql=statements.REASONS, parameters=(self._queue.id,), repeats=True)
        return [(reason, count) for reason, count in self._queue.database.ask(call)]

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
        """Put dead letters back, attempts at 0, history kept."""
        validate.check_most(limit)
        validate.check_rate(rate)
        chosen = self._chosen(ids, where, limit)
        if dry_run:
            return self._counted(chosen)

        def again(some: Sequence[str]) -> int:
            return self._queue.start_again("redrive", some, "dead", "redriven")

        return self._worked(chosen, again, rate, progress)

    def purge(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Delete dead letters for good."""
        chosen = self._chosen(ids, where, None)
        if dry_run:
            return self._counted(chosen)
        return self._worked(chosen, lambda some: self._queue.remove("purge", some, ("dead",)), None, progress)

    def _chosen(self, ids: Iterable[str] | None, where: Filter | None, limit: int | None) -> Sequence[str]:
        if ids is not None:
            return [validate.check_message_id(each) for each in ids][:limit]
        sql, parameters = statements.ids(self._queue.id, "dead", where, limit)
        return [
            row[0] for row in self._queue.database.ask(Call(op="list", sql=sql, parameters=parameters, repeats=True))
        ]

    def _counted(self, chosen: Sequence[str]) -> int:
        """How many, all of them dead letters; MessageNotFound."""
        for message_id in chosen:
            if self._queue.get(message_id).state != "dead":
                raise self._not_found(message_id)
        return len(chosen)

    def _worked(
        self, chosen: Sequence[str], work: Callable[[Sequence[str]], int], rate: float | None, progress: Progress | None
    ) -> int:
        step = AT_ONCE if rate is None else 1
        for at in range(0, len(chosen), step):
            if rate is not None and at:
                threading.Event().wait(1 / rate)
            some = chosen[at : at + step]
            done = work(some)
            if done < len(some):
                raise self._not_found(some[done])
            if progress is not None:
                progress(at + done, len(chosen))
        return len(chosen)

    def _not_found(self, message_id: str) -> MessageNotFound:
        return MessageNotFound(
            f"no message {message_id} is dead in the queue {self._queue.name!r}", message_id=message_id
        )
