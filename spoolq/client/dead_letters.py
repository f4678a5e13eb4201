"""The dead letters of a queue of a server."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from spoolq import validate
from spoolq.client import values
from spoolq.client.connection import BULK_S
from spoolq.interfaces import DeadLetterQueue, Progress
from spoolq.models import Filter, Page

if TYPE_CHECKING:
    from spoolq.client.queue import HttpQueue

_AT_ONCE = 200
"""Messages a request, where somebody is told of progress, or ids are given."""

_AT_ONCE_S = 10.0
"""With a rate, how long a request may take."""


class HttpDeadLetters(DeadLetterQueue):
    """What gave up in an HttpQueue."""

    def __init__(self, queue: HttpQueue) -> None:
        self._queue = queue

    def list(self, *, where: Filter | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of dead letters, oldest first."""
        validate.check_limit(limit)
        query = {**values.filter_parts(where), "limit": limit, "cursor": cursor}
        return self._queue.ask("GET", "/dead-letters", "list", values.page, query=query)

    def reasons(self) -> Sequence[tuple[str, int]]:
        """Each reason with its count, the most frequent first."""
        return self._queue.ask("GET", "/dead-letters/reasons", "reasons", _reasons)

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
        """Put dead letters back, attempts at 0, history kept. A lost connection: some may be back."""
        validate.check_most(limit)
        validate.check_rate(rate)
        if ids is not None:
            return self._each_of("redrive", ids, limit, rate, dry_run, progress)
        asked = _where(where)
        if dry_run or (rate is None and progress is None):
            return self._work("redrive", {**asked, **values.given(limit=limit), "dry_run": dry_run})
        total = self._work("redrive", {**asked, **values.given(limit=limit), "dry_run": True})
        done = 0
        while done < total:
            some = min(_slice(rate), total - done)
            count = self._work("redrive", {**asked, "limit": some, **values.given(rate=rate)})
            if not count:
                break
            done += count
            _go_on(done, total, rate, progress)
        return done

    def purge(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Delete dead letters for good. Without ids in one request: progress is told at its end."""
        if ids is not None:
            return self._each_of("purge", ids, None, None, dry_run, progress)
        count = self._work("purge", {**_where(where), "dry_run": dry_run})
        if count and not dry_run:
            _go_on(count, count, None, progress)
        return count

    def _each_of(
        self,
        work: str,
        ids: Iterable[str],
        limit: int | None,
        rate: float | None,
        dry_run: bool,
        progress: Progress | None,
    ) -> int:
        chosen = [validate.check_message_id(each) for each in ids][:limit]
        done = 0
        step = _slice(rate)
        for at in range(0, len(chosen), step):
            some = {"ids": chosen[at : at + step], "dry_run": dry_run, **values.given(rate=rate)}
            done += self._work(work, some)
            _go_on(min(at + step, len(chosen)), len(chosen), rate, progress)
        return done

    def _work(self, work: str, asked: dict[str, Any]) -> int:
        return self._queue.ask("POST", f"/dead-letters/{work}", work, values.count, json=asked, answer_s=BULK_S)


def _slice(rate: float | None) -> int:
    return _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate * _AT_ONCE_S)))


def _go_on(done: int, total: int, rate: float | None, progress: Progress | None) -> None:
    """Between two requests: tell, and keep to the rate."""
    if progress is not None:
        progress(done, total)
    if rate is not None and done < total:
        threading.Event().wait(1 / rate)


def _where(where: Filter | None) -> dict[str, Any]:
    return {} if where is None else {"where": values.filter_parts(where)}


def _reasons(data: Any) -> Sequence[tuple[str, int]]:
    return [(str(each["reason"]), int(each["count"])) for each in data["reasons"]]
