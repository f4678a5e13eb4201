"""How long the claim in hand lasts, and keeping it where it lives by time.

Three kinds, decided once for each message: it lives as long as this process (nothing to do); it lives by time (extended
at a third of the lease); it ends at a time that was asked for, and what works on it must end with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from spoolq.clock import Clock
from spoolq.errors import LeaseLost, NotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.worker.events import emit

_PART = 3
_RETRY_PART = 10


class Lease:
    """The claim on one message. `lost`: it has ended, and somebody else may hold the message."""

    def __init__(
        self, message: Message, clock: Clock, *, extend_s: float | None = None, hard_s: float | None = None
    ) -> None:
        self._message = message
        self._clock = clock
        self._extend_s = extend_s
        now_s = clock.mono_s()
        self._next_s = now_s + extend_s / _PART if extend_s else None
        length_s = hard_s or extend_s
        self._ends_s = now_s + length_s if length_s else None
        self.lost = False

    @property
    def extends(self) -> bool:
        """Whether `keep` has to be called for the claim to last."""
        return self._extend_s is not None

    @property
    def due_s(self) -> float | None:
        """When `keep` has something to do, on the monotonic clock; None for never."""
        if self.lost:
            return None
        return min((at for at in (self._next_s, self._ends_s) if at is not None), default=None)

    def keep(self) -> bool:
        """Extend it if that is due. False when it has ended."""
        now_s = self._clock.mono_s()
        if self._next_s is not None and now_s >= self._next_s:
            self._extend(now_s)
        if self._ends_s is not None and self._clock.mono_s() >= self._ends_s:
            self.lost = True
        return not self.lost

    def _extend(self, now_s: float) -> None:
        assert self._extend_s is not None
        try:
            self._message.extend(self._extend_s)
        except (LeaseLost, NotFound):
            self.lost = True
        except SpoolqError as error:
            # It may work yet: there is time until the claim ends.
            emit(logging.WARNING, "worker.trouble", op="extend", id=self._message.id, error=str(error))
            self._next_s = now_s + self._extend_s / _RETRY_PART
        else:
            self._next_s = now_s + self._extend_s / _PART
            self._ends_s = now_s + self._extend_s


def lease_for(queue: Queue, message: Message, clock: Clock, lease_s: float | None) -> Lease:
    """The lease of a message that was claimed with `lease_s`."""
    if lease_s is not None:
        return Lease(message, clock, hard_s=lease_s)
    settings = queue.settings
    if queue.capabilities.holders:
        return Lease(message, clock, hard_s=settings.max_hold_s or None)
    return Lease(message, clock, extend_s=settings.lease_s, hard_s=None)


@contextmanager
def kept(lease: Lease, clock: Clock) -> Iterator[None]:
    """Keep a lease from a thread of its own, while this one is busy. Only where it has to be kept."""
    if not lease.extends:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(lease, clock, over), name="spoolq-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep(lease: Lease, clock: Clock, over: threading.Event) -> None:
    while (due_s := lease.due_s) is not None and not over.wait(max(0.0, due_s - clock.mono_s())):
        lease.keep()
