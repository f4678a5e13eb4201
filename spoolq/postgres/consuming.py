"""A consumer of a queue in PostgreSQL: the nonces of its deliveries, and what it holds, to give that back at its end.

A claim whose answer was lost is asked for again by its nonce, and answered with the same messages.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spoolq import validate
from spoolq.holding import Holding
from spoolq.interfaces import Slot
from spoolq.message import Message
from spoolq.postgres import statements, values
from spoolq.postgres.connection import Call, Rows
from spoolq.postgres.listening import AWAIT_MS, POLL_S

if TYPE_CHECKING:
    from spoolq.postgres.queue import PostgresQueue

log = logging.getLogger("spoolq.postgres")

EARLY_BODY_BYTES = 64 * 1024
"""A body up to this comes with its claim; a larger one when it is asked for, so that many claims stay small."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SERIAL_DIGITS = 8
_LEAST_PACE_S = 0.01
_NOTHING: dict[str, Any] = {}


class Consumer(Slot):
    """A queue object as a consumer, or one slot of it. Forgets its claims in a forked child: they are the parent's.

    keeps: what it claims is given back at its end.
    """

    def __init__(self, queue: PostgresQueue, label: str, *, keeps: bool) -> None:
        self._queue = queue
        self._label = label
        self._keeps = keeps
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._id = _random(6)
        self._serial = 0
        self._held = Holding(self._queue.name)
        self._holder = statements.storable(f"{socket.gethostname()} {self._pid} {self._label}".strip())

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message."""
        return next(iter(self.claim(1, wait_s, lease_s)), None)

    def claim(self, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        """Claim up to `count` messages; wait for the first."""
        validate.check_wait(wait_s)
        validate.check_lease(lease_s)
        found = self.claim_now(count, lease_s)
        if found or wait_s <= 0:
            return found
        ends_s = self._queue.clock.mono_s() + wait_s
        awake = threading.Event()
        stop = self._queue.listener.add(awake.set)
        try:
            while True:
                awake.clear()
                pace_s = self._queue.awaited(AWAIT_MS)
                found = self.claim_now(count, lease_s)
                left_s = ends_s - self._queue.clock.mono_s()
                if found or left_s <= 0:
                    return found
                awake.wait(min(left_s, pace_s))
        finally:
            stop()

    def claim_now(self, count: int, lease_s: float | None, mark: str | None = None) -> list[Message]:
        """Claim up to `count` messages."""
        self._forget_the_parents()
        if self._closed:
            raise ValueError(f"the queue {self._queue.name!r}, or this slot of it, is closed")
        lease_ms = None if lease_s is None else values.ms(lease_s)
        nonce = f"t{mark}{_random(8)}" if mark else self._nonce()
        fixed = (self._queue.id, count, nonce, mark, self._holder, lease_ms)
        call = Call(
            op="dequeue",
            sql=statements.CLAIM,
            parameters=(*fixed, False, EARLY_BODY_BYTES),
            again=(*fixed, True, EARLY_BODY_BYTES),
            repeats=True,
        )
        found = self._messages(self._queue.database.ask(call))
        if self._keeps and mark is None:
            self._held.add(message.receipt for message in found)
        self._queue.keep_in_order()
        return found

    def settled(self, receipts: Iterable[str]) -> None:
        """These claims have ended."""
        self._forget_the_parents()
        self._held.ended(receipts)

    def close(self) -> None:
        """Give back, uncounted, what it holds. Where the database does not answer, the claims end by time."""
        self._forget_the_parents()
        self._closed = True
        self._held.give_back(self._queue.release, log)
        self._queue.consumer_ended(self)

    def _nonce(self) -> str:
        """Of one claim; each message of it has a number after this. Of one length, so that no two can meet."""
        with self._mutex:
            self._serial += 1
            return f"t{self._id}{_base36(self._serial)}"

    def _messages(self, rows: Rows) -> list[Message]:
        """Of the columns of statements.CLAIM, in the order that they are delivered in."""
        queue = self._queue
        if len(rows) > 1:
            rows.sort(key=lambda row: (-row[3], row[0]))
        return [
            Message(
                queue,
                id=id,
                receipt=f"{id}.{nonce}",
                attempts=attempts,
                priority=priority,
                name=name,
                body_bytes=size,
                enqueued_at_ms=enqueued_at_ms,
                body=body,
                group=group,
                **(values.came_with(meta) if meta else _NOTHING),
            )
            for id, nonce, attempts, priority, name, size, enqueued_at_ms, meta, group, body in rows
        ]

    def _forget_the_parents(self) -> None:
        if self._pid != os.getpid():
            self._begin()


def pace_s(due_ms: int | None, longest_s: float = POLL_S) -> float:
    """How soon to look again where something is due in so many ms."""
    if due_ms is None:
        return longest_s
    return min(longest_s, max(_LEAST_PACE_S, due_ms / 1000))


def _random(digits: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(digits))


def _base36(number: int) -> str:
    digits = ""
    for _ in range(_SERIAL_DIGITS):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
