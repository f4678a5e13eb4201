"""Dequeueing over HTTP: a consumer's requests for messages, and what it holds, so that its end gives that back.

A dequeue has a Request-Id. Asked again with the same one the server answers with the same claim, so a lost answer loses
no time: it is asked for again at once, and by the next dequeue that asks the same.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from spoolq import validate
from spoolq.client.connection import ANSWER_S
from spoolq.clock import Clock
from spoolq.holding import Holding
from spoolq.interfaces import Slot
from spoolq.message import Message

if TYPE_CHECKING:
    from spoolq.client.queue import HttpQueue

log = logging.getLogger("spoolq.client")

POLL_S = 25.0
"""How long one request waits for a message; a longer wait is several."""

_EARLY_PAUSE_S = 0.1


class Consumer(Slot):
    """A queue object as a consumer, or one slot of it. Forgets its claims in a forked child: they are the parent's.

    keeps: what it claims is given back at its end.
    """

    def __init__(self, queue: HttpQueue, *, keeps: bool) -> None:
        self._queue = queue
        self._keeps = keeps
        self._clock = Clock()
        self._closed = False
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._held = Holding(queue.name)
        self._unanswered: tuple[str, int, float | None] | None = None

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message."""
        return next(iter(self.claim(1, wait_s, lease_s)), None)

    def claim(self, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        """Claim up to `count` messages; wait for the first."""
        validate.check_wait(wait_s)
        validate.check_lease(lease_s)
        ends_s = self._clock.mono_s() + wait_s
        asked_s = min(wait_s, POLL_S)
        while True:
            began_s = self._clock.mono_s()
            found = self._claim_once(count, asked_s, lease_s)
            now_s = self._clock.mono_s()
            if found or now_s >= ends_s:
                return found
            if now_s - began_s < asked_s / 2:  # a server that stops, or waits less than it was asked to
                threading.Event().wait(min(_EARLY_PAUSE_S, ends_s - now_s))
            asked_s = max(0.0, min(ends_s - self._clock.mono_s(), POLL_S))

    def settled(self, receipts: Iterable[str]) -> None:
        """These claims have ended."""
        self._forget_the_parents()
        self._held.ended(receipts)

    def close(self) -> None:
        """Give back, uncounted, what it holds. Where the server does not answer, the claims end by time."""
        self._forget_the_parents()
        self._closed = True
        self._held.give_back(self._queue.release, log)
        self._queue.consumer_ended(self)

    def _claim_once(self, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        self._forget_the_parents()
        if self._closed:
            raise ValueError(f"the queue {self._queue.name!r}, or this slot of it, is closed")
        request_id = self._begin(count, lease_s)
        asked = {"count": count, "wait_s": wait_s} | ({} if lease_s is None else {"lease_s": lease_s})
        try:
            found = self._queue.ask(
                "POST",
                "/claims",
                "dequeue",
                self._messages,
                headers={"Request-Id": request_id},
                json=asked,
                repeats=True,
                answer_s=wait_s + ANSWER_S,
            )
        except BaseException:
            # Also where nothing was sent: it may be a request that was sent before, whose claim still waits.
            self._unanswered = (request_id, count, lease_s)
            raise
        if self._keeps:
            self._held.add(message.receipt for message in found)
        return found

    def _begin(self, count: int, lease_s: float | None) -> str:
        """The Request-Id: that of the last dequeue, where its answer was lost and this one asks the same."""
        with self._mutex:
            lost, self._unanswered = self._unanswered, None
        if lost is not None and lost[1:] == (count, lease_s):
            return lost[0]
        return uuid.uuid4().hex

    def _messages(self, data: Mapping[str, Any]) -> list[Message]:
        return [self._message(each) for each in data["messages"]]

    def _message(self, envelope: Mapping[str, Any]) -> Message:
        body = envelope["body"].encode() if "body" in envelope else None
        if "body_base64" in envelope:
            body = b64decode(envelope["body_base64"])
        return Message(
            self._queue,
            id=envelope["id"],
            receipt=envelope["receipt"],
            attempts=envelope["attempts"],
            priority=envelope["priority"],
            name=envelope["name"],
            original_name=envelope["original_name"],
            body_bytes=envelope["body_bytes"],
            enqueued_at_ms=envelope["enqueued_at_ms"],
            body=body,
            headers=envelope["headers"],
            content_type=envelope["content_type"],
            group=envelope["group"],
        )

    def _forget_the_parents(self) -> None:
        if self._pid != os.getpid():
            self._mutex = threading.Lock()  # another thread may have held it when the process forked
            self._held, self._unanswered = Holding(self._queue.name), None
            self._pid = os.getpid()
