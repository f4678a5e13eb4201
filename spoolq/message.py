"""A claimed message, as a consumer sees it, on any engine.

It owns no claim: the queue does, so an object that is dropped loses nothing. Settling it twice is refused here, with
words, before the queue is asked.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from spoolq.errors import LeaseLost
from spoolq.models import Attempt, State

if TYPE_CHECKING:
    from spoolq.interfaces import Queue


class Message:
    """One delivery of a message. Use as a context manager: acknowledged at the end, requeued on an exception.

    name: what it was dropped or sent as, made safe to show and to use in a shell, or None. original_name: exactly that,
    where it differs.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_path",
        "_queue",
        "attempts",
        "body_bytes",
        "content_type",
        "enqueued_at_ms",
        "group",
        "id",
        "name",
        "original_name",
        "priority",
        "receipt",
        "settled",
    )

    def __init__(
        self,
        queue: Queue,
        *,
        id: str,
        receipt: str,
        attempts: int,
        priority: int,
        name: str | None,
        body_bytes: int,
        enqueued_at_ms: int,
        body: bytes | None = None,
        path: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        group: str | None = None,
        original_name: str | None = None,
    ) -> None:
        self._queue = queue
        self._body = body
        self._headers = headers
        self.id = id
        self.receipt = receipt
        self.attempts = attempts
        self.priority = priority
        self.name = name
        self.original_name = original_name
        self.body_bytes = body_bytes
        self.enqueued_at_ms = enqueued_at_ms
        self._path = path
        self.content_type = content_type
        self.group = group
        self.settled: State | None = None

    def __repr__(self) -> str:
        settled = f", {self.settled}" if self.settled else ""
        return f"<Message {self.id} attempt {self.attempts}, {self.body_bytes} bytes{settled}>"

    @property
    def path(self) -> Path | None:
        """Where the body is a file, or None where the engine has none."""
        return None if self._path is None else Path(self._path)

    @property
    def headers(self) -> Mapping[str, str]:
        """What came with it; empty when nothing did."""
        return self._headers or {}

    @property
    def body(self) -> bytes:
        """The whole body. For a large one prefer `open()`."""
        if self._body is None:
            with self.open() as file:
                self._body = file.read()
        return self._body

    def open(self) -> BinaryIO:
        """The body as a file, from its beginning; the caller closes it."""
        return self._queue.open_body(self.receipt)

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)

    def ack(self) -> None:
        """Processed. Raises LeaseLost when the claim has ended."""
        self._queue.acknowledge(self.receipt)
        self.settled = "done"

    def requeue(self, delay_s: float | None = None, reason: str = "", *, details: Attempt | None = None) -> State:
        """Failed: back after `delay_s`, or the queue's backoff; the attempt counts. Returns its state now."""
        self.settled = self._queue.requeue(self.receipt, delay_s=delay_s, reason=reason, details=details)
        return self.settled

    def release(self) -> None:
        """Give back untouched; the attempt does not count."""
        self._queue.release(self.receipt)
        self.settled = "ready"

    def extend(self, lease_s: float) -> None:
        """The claim now ends `lease_s` from now."""
        self._queue.extend(self.receipt, lease_s)

    def dead_letter(self, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it."""
        self._queue.move_to_dead_letter_queue(self.receipt, reason, details=details)
        self.settled = "dead"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled is not None:
            return
        if error is None:
            self.ack()
            return
        # What was raised matters more than a claim that has ended meanwhile.
        with suppress(LeaseLost):
            if isinstance(error, Exception):
                self.requeue(reason="".join(traceback.format_exception(error))[-4000:])
            else:
                self.release()
