"""A consumer of a queue in memory: the nonces of its deliveries, waiting for a message, and giving back at its end."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.interfaces import POLL_S, Slot
from spoolq.message import Message
from spoolq.models import HolderInfo
from spoolq.spool.holders import random_letters, to_base36

if TYPE_CHECKING:
    from spoolq.memory.entries import Entry
    from spoolq.memory.queue import MemoryQueue
    from spoolq.memory.store import MemoryStore


class Consumer(Slot):
    """A queue object as a consumer, or one slot of it: a name of its own, and a serial for each delivery."""

    def __init__(self, queue: MemoryQueue, label: str) -> None:
        self.id = random_letters(6)
        self._queue = queue
        self._store = queue.store
        self._label = label
        self._since_at_ms = self._store.clock.wall_ms()
        self._serial = 0
        self._closed = False

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message."""
        return next(iter(self._queue._claim(self, 1, wait_s, lease_s)), None)

    def claim(self, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        """Claim up to `count` messages; wait for the first."""
        validate.check_wait(wait_s)
        validate.check_lease(lease_s)
        ends_s = self._store.clock.mono_s() + wait_s
        with self._store.changed:
            while True:
                claimed = self._claim_now(count, lease_s)
                if claimed or not await_change(self._store, ends_s):
                    return [self._message(entry) for entry in claimed]

    def _claim_now(self, count: int, lease_s: float | None) -> list[Entry]:
        if self._closed:
            raise ValueError(f"the queue {self._store.name!r}, or this slot of it, is closed")
        self._store.do_what_is_due(reap=True)
        claimed: list[Entry] = []
        while len(claimed) < count:
            entry = self._store.claim(self.id, self._nonce(lease_s), lease_s)
            if entry is None:
                break
            claimed.append(entry)
        return claimed

    def _nonce(self, lease_s: float | None) -> str:
        """The next delivery's; `l` where it has a hard end."""
        self._serial += 1
        return f"{'k' if lease_s is None else 'l'}{self.id}{to_base36(self._serial)}"

    def _message(self, entry: Entry) -> Message:
        assert entry.receipt is not None
        return Message(
            self._queue,
            id=entry.id,
            receipt=entry.receipt,
            attempts=entry.attempts,
            priority=entry.priority,
            name=entry.name,
            body_bytes=len(entry.body),
            enqueued_at_ms=entry.enqueued_at_ms,
            body=entry.body,
            headers=dict(entry.headers),
            content_type=entry.content_type,
            group=entry.group,
        )

    def info(self, claims: int) -> HolderInfo:
        """Who it is, to somebody who has counted its claims."""
        return HolderInfo(
            holder=self.id,
            pid=os.getpid(),
            host=socket.gethostname(),
            command=self._label or sys.argv[0],
            since_at_ms=self._since_at_ms,
            alive=True,
            claims=claims,
        )

    def close(self) -> None:
        """Give back, uncounted, what it holds. Again: nothing."""
        with self._store.changed:
            self._closed = True
            for entry in self._store.entries.in_state("claimed"):
                if entry.holder == self.id:
                    self._store.release(entry)
        self._queue.consumer_ended(self)

    def crash(self) -> None:
        """End as a killed process does: what it holds goes back, counted."""
        with self._store.changed:
            self._closed = True
            for entry in self._store.entries.in_state("claimed"):
                if entry.holder == self.id:
                    self._store.fail(entry, 0, "holder died")


def await_change(store: MemoryStore, ends_s: float) -> bool:
    """Wait, with the store's lock, for a change or a moment: that time has passed nobody tells. False past `ends_s`."""
    left_s = ends_s - store.clock.mono_s()
    if left_s <= 0:
        return False
    store.changed.wait(min(left_s, POLL_S))
    return True
