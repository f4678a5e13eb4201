"""The dead letters of a queue in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.interfaces import DeadLetterQueue, Progress
from spoolq.memory import look
from spoolq.models import Filter, Page

if TYPE_CHECKING:
    from spoolq.memory.entries import Entry
    from spoolq.memory.store import MemoryStore


class MemoryDeadLetters(DeadLetterQueue):
    """What gave up in a `MemoryQueue`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def list(self, *, where: Filter | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of dead letters, oldest first."""
        validate.check_limit(limit)
        with self._store.changed:
            return look.page(self._store, look.admitted(self._store, "dead", where), limit, cursor)

    def reasons(self) -> Sequence[tuple[str, int]]:
        """Each reason with its count, the most frequent first."""
        with self._store.changed:
            counts = Counter(entry.reason for entry in self._store.entries.in_state("dead"))
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))

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
        count = 0
        for entry in self._chosen(ids, where, limit, progress):
            if not dry_run:
                if rate is not None and count:
                    threading.Event().wait(1 / rate)
                with self._store.changed:
                    self._store.start_again(self._store.find(entry.id, "dead"), "redriven")
            count += 1
        return count

    def purge(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Delete dead letters for good."""
        count = 0
        for entry in self._chosen(ids, where, None, progress):
            if not dry_run:
                with self._store.changed:
                    self._store.drop(self._store.find(entry.id, "dead"))
            count += 1
        return count

    def _chosen(
        self, ids: Iterable[str] | None, where: Filter | None, limit: int | None, progress: Progress | None
    ) -> Iterator[Entry]:
        """The dead letters meant, one by one, so that those before an unknown id have been dealt with."""
        if ids is None:
            with self._store.changed:
                chosen = [entry.id for entry in look.admitted(self._store, "dead", where)][:limit]
        else:
            chosen = [validate.check_message_id(each) for each in ids][:limit]
        for number, message_id in enumerate(chosen, 1):
            with self._store.changed:
                entry = self._store.find(message_id, "dead")
            yield entry
            if progress is not None:
                progress(number, len(chosen))
