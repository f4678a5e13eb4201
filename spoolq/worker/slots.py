"""One slot of a worker: claim a message, have it handled, settle it, again until there is a reason to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from spoolq.clock import Clock
from spoolq.errors import NotCapable, SpoolqError, StorageError, TryAgain
from spoolq.interfaces import Queue, Slot
from spoolq.message import Message
from spoolq.worker.events import LOG, emit
from spoolq.worker.handler import Handler
from spoolq.worker.lease import lease_for
from spoolq.worker.outcome import Decision
from spoolq.worker.process import Terms
from spoolq.worker.settle import Backoff, Settler
from spoolq.worker.stop import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all slots of a worker have in common. fail: stop the worker, with this exit code, for this reason."""

    queue: Queue
    handler: Handler
    stop: Stop
    settler: Settler
    clock: Clock
    timeout_s: float | None
    grace_s: float
    lease_s: float | None
    once: bool
    drain: bool
    poll_s: float
    fail: Callable[[int, str], None]


class SlotLoop:
    """The life of one slot. `handled` counts its messages."""

    def __init__(self, job: Job, slot: Slot) -> None:
        self._job = job
        self._slot = slot
        self._backoff = Backoff()
        self.handled = 0

    def run(self) -> None:
        """To the end of the work; then the slot is closed. What goes wrong stops the worker."""
        try:
            with self._slot:
                self._loop()
        except SpoolqError as error:
            self._job.fail(error.exit_code, str(error))
        except Exception as error:  # a bug: a worker that goes on with a slot less would hide it
            LOG.exception("worker.bug")
            self._job.fail(1, repr(error))

    def _loop(self) -> None:
        job = self._job
        while not job.stop.draining:
            try:
                message = self._next()
            except (TryAgain, StorageError) as error:
                self._wait_after("dequeue", str(error))
                continue
            if message is not None:
                self._take(message)
                if job.once:
                    return
            elif job.once or job.drain:
                return

    def _next(self) -> Message | None:
        if not (self._job.once or self._job.drain):
            return self._slot.dequeue(wait_s=self._job.poll_s, lease_s=self._job.lease_s)
        more = True
        while True:
            message = self._slot.dequeue(lease_s=self._job.lease_s)
            if message is not None or not more or self._job.stop.draining:
                return message
            more = self._look_for_more()

    def _look_for_more(self) -> bool:
        """Have the engine take in what it has not looked at yet, before "nothing there" is believed."""
        try:
            return self._job.queue.maintain()
        except NotCapable:
            return False

    def _take(self, message: Message) -> None:
        job = self._job
        started_s = job.clock.mono_s()
        if job.stop.draining:  # it was claimed while we were being told
            decision = Decision(action="release", reason="the worker stopped")
        else:
            emit(logging.DEBUG, "message.started", id=message.id, attempt=message.attempts)
            decision = job.handler.handle(message, self._terms(message))
            self.handled += 1
        if decision.exit_code:
            job.fail(decision.exit_code, decision.reason)
        job.settler.settle(message, decision, job.clock.mono_s() - started_s)
        if decision.pause:
            self._wait_after("start", decision.reason)
        else:
            self._backoff.reset()

    def _terms(self, message: Message) -> Terms:
        job = self._job
        return Terms(
            receipt=message.receipt,
            queue_name=job.queue.name,
            queue_url=job.queue.url,
            stop=job.stop,
            clock=job.clock,
            lease=lease_for(job.queue, message, job.clock, job.lease_s),
            fds=self._slot.inheritable_fds,
            timeout_s=job.timeout_s,
            grace_s=job.grace_s,
        )

    def _wait_after(self, op: str, error: str) -> None:
        wait_s = self._backoff.next_s()
        emit(logging.WARNING, "worker.trouble", op=op, error=error, retry_s=wait_s)
        self._job.stop.wait_draining(wait_s)
