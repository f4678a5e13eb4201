"""The relay itself: claim, send, acknowledge, in turns; give back what could not be sent.

Errors of the target are an outage (`Away`) unless they are about a message; errors of the source are not, and what may
pass of them (`_PASSING`) is tried again. What is in hand (`_left`) is settled, given back, or given back later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from spoolq.clock import Clock
from spoolq.errors import (
    LeaseLost,
    MessageTooLarge,
    NotFound,
    OutcomeUnknown,
    SettingsError,
    SpoolqError,
    StorageError,
    TryAgain,
)
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.models import NewMessage
from spoolq.relay.breaker import PAUSES_S, Breaker
from spoolq.relay.figures import Figures, backlog, lag_s, waiting_since_ms
from spoolq.relay.holding import held

log = logging.getLogger("spoolq.relay")

T = TypeVar("T")

WINDOW_S = 7 * 86_400.0
"""How long the target must remember keys: longer than a relay, or its source, is down before it goes on."""

WHOLE_BYTES = 1 << 20
"""A body up to this travels in a batch; a larger one alone, streamed."""

BATCH_BYTES = 8 << 20
"""Bodies of a batch are in memory, here and there: at most so many bytes at once."""

_LOOK_S = 1.0
_REFUSALS = (MessageTooLarge, ValueError, TypeError)
"""What is wrong with a message rather than with the target; everything else can pass."""

_PASSING = (TryAgain, OutcomeUnknown)
"""Of the source, and of a target that was never reached: trouble that may be over soon."""


class Away(Exception):
    """The target did not take what it was given, for no fault of the message."""

    def __init__(self, error: SpoolqError) -> None:
        super().__init__(str(error))
        self.error = error


class Relay:
    """From `source` to `target` until `stop` is set. Several may serve one source.

    target: a queue, or what opens one: that may be away at first, and is closed at the end. batch: at most so many in
    flight. rate: at most so many a second. told: called with the figures after each turn.
    """

    def __init__(
        self,
        source: Queue,
        target: Queue | Callable[[], Queue],
        *,
        batch: int = 100,
        rate: float | None = None,
        pauses_s: tuple[float, float] = PAUSES_S,
        stop: threading.Event | None = None,
        told: Callable[[Figures], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, not {batch}")
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be over 0 a second, not {rate}")
        self._source = source
        self._reach = target
        self._batch = batch if rate is None else max(1, min(batch, int(rate)))
        self._rate = rate
        self._breaker = Breaker(pauses_s)
        self._first_pause_s = pauses_s[0]
        self._left: list[Message] = []
        self._stop = stop or threading.Event()
        self._told = told
        self._clock = clock or Clock()
        self.figures = Figures()

    def run(self, *, drain: bool = False) -> Figures:
        """Carry until stopped, or with `drain` until nothing is ready. SettingsError: the target forgets too soon."""
        if isinstance(self._reach, Queue):
            self._check_window(self._reach)
            self._carry(self._reach, drain)
        elif (target := self._reached(self._reach)) is not None:
            with target:
                self._carry(target, drain)
        return self.figures

    # Reaching it

    def _reached(self, reach: Callable[[], Queue]) -> Queue | None:
        """The target, as soon as it answers; None where somebody says stop before."""
        while not self._stop.is_set():
            try:
                return self._opened(reach)
            except _PASSING as error:
                self._away(error)
            self._tell()
            self._stop.wait(self._breaker.pause_s)
        return None

    def _opened(self, reach: Callable[[], Queue]) -> Queue:
        target = reach()
        try:
            self._check_window(target)
        except BaseException:
            target.close()
            raise
        return target

    def _check_window(self, target: Queue) -> None:
        known_s = target.settings.dedup_window_s
        if known_s < WINDOW_S:
            raise SettingsError(
                f"the target remembers keys for {known_s:g} s: a message that is sent again later would be another one",
                key="dedup_window_s",
                value=known_s,
                hint=f"spoolq queues settings {target.name} dedup_window_s={WINDOW_S:g}, at the target",
            )

    # Turns

    def _carry(self, target: Queue, drain: bool) -> None:
        while not self._stop.is_set():
            try:
                count = self._turn(target, 0 if drain else _LOOK_S)
                self._tell()
            except _PASSING as error:
                log.warning("relay.source error=%s", error)
                self._stop.wait(self._first_pause_s)
                continue
            if drain and not count:
                break
            self._wait(count)

    def _turn(self, target: Queue, wait_s: float) -> int:
        """One batch; how many were claimed. After an outage a single message shows whether it is over."""
        self._give_back()
        messages = self._source.dequeue_many(1 if self._breaker.is_open else self._batch, wait_s=wait_s)
        self._left += messages
        try:
            if self._left:
                self._send(target)
                self._back()
        except Away as away:
            self._away(away.error)
        finally:
            self._give_back()
        return len(messages)

    def _wait(self, count: int) -> None:
        if self._breaker.is_open:
            self._stop.wait(self._breaker.pause_s)
        elif self._rate is not None and count:
            self._stop.wait(count / self._rate)

    def _tell(self) -> None:
        if self._told is None:
            return
        stats = self._source.stats()
        since_ms = waiting_since_ms(stats, self.figures.waiting_since_ms if self.figures.is_away else None)
        lag = lag_s(stats, self._clock.wall_ms(), since_ms)
        self.figures = replace(self.figures, backlog=backlog(stats), lag_s=lag, waiting_since_ms=since_ms)
        self._told(self.figures)

    # There

    def _send(self, target: Queue) -> None:
        """Send and acknowledge what is in hand. Raises Away."""
        if self._breaker.is_open:  # it may have been put back from a backup, with other settings
            _there(lambda: target.settings)
            self._check_window(target)
        with held(self._source, self._left):
            for batch in _batches(self._left):
                if self._stop.is_set():
                    return
                self._send_batch(target, batch)

    def _send_batch(self, target: Queue, batch: Sequence[Message]) -> None:
        if len(batch) > 1:
            copies = list(self._copies(batch))
            try:
                _there(lambda: target.enqueue_many([copy for _, copy in copies]))
            except _REFUSALS as error:
                # One by one shows which; those that the batch carried already are known by their keys.
                log.info("relay.one_by_one error=%s", error)
            else:
                self._sent([message for message, _ in copies])
                return
        for message in batch:
            if self._stop.is_set():
                return
            if message in self._left:
                self._send_one(target, message)

    def _send_one(self, target: Queue, message: Message) -> None:
        for _, copy in self._copies([message]):
            try:
                if message.body_bytes <= WHOLE_BYTES:
                    _there(lambda copy=copy: target.enqueue_many([copy]))  # type: ignore[misc]
                else:
                    self._stream(target, message, copy)
            except _REFUSALS as error:
                self._refused(message, error)
            else:
                self._sent([message])

    def _stream(self, target: Queue, message: Message, copy: NewMessage) -> None:
        with message.open() as file:
            _there(
                lambda: target.enqueue(
                    file,
                    priority=copy.priority,
                    headers=copy.headers,
                    content_type=copy.content_type,
                    name=copy.name,
                    dedup_key=copy.dedup_key,
                    group=copy.group,
                    ttl_s=copy.ttl_s,
                )
            )

    def _copies(self, messages: Sequence[Message]) -> Iterator[tuple[Message, NewMessage]]:
        """Each message with what to send; without those that are gone from here, or cannot be read."""
        for message in messages:
            try:
                yield message, self._copy_of(message)
            except (LeaseLost, NotFound):  # RACE: it was given back, or deleted, while we held it
                self._left.remove(message)
                log.warning("relay.lease_lost count=1")
            except OutcomeUnknown:
                raise
            except StorageError as error:
                log.warning("relay.unreadable id=%s error=%s", message.id, error)
                message.requeue(reason=f"cannot be read: {error}")
                self._left.remove(message)

    def _copy_of(self, message: Message) -> NewMessage:
        """All that came with it, its id as its key, and what is left of its time. Without the body of a large one."""
        expires_at_ms = self._source.get(message.id).expires_at_ms
        left_s = None if expires_at_ms is None else max(0.001, (expires_at_ms - self._clock.wall_ms()) / 1000)
        return NewMessage(
            body=message.body if message.body_bytes <= WHOLE_BYTES else b"",
            priority=message.priority,
            headers=message.headers,
            content_type=message.content_type,
            name=message.original_name or message.name,
            dedup_key=message.id,
            group=message.group,
            ttl_s=left_s,
        )

    # Here

    def _sent(self, messages: Sequence[Message]) -> None:
        """The target has committed. A claim that had ended is sent again, and known there by its key."""
        lost = self._source.acknowledge_many([message.receipt for message in messages])
        for message in messages:
            self._left.remove(message)
        if lost:
            log.warning("relay.lease_lost count=%d", len(lost))
        self.figures = replace(self.figures, sent=self.figures.sent + len(messages) - len(lost))

    def _refused(self, message: Message, error: Exception) -> None:
        log.warning("relay.refused id=%s error=%s", message.id, error)
        try:
            message.dead_letter(f"refused by the target: {error}")
        except LeaseLost:
            log.warning("relay.lease_lost count=1")
        else:
            self.figures = replace(self.figures, refused=self.figures.refused + 1)
        self._left.remove(message)

    def _give_back(self) -> None:
        """What was not settled, uncounted: an outage is no fault of a message. What fails is done in the next turn."""
        while self._left:
            try:
                self._left[0].release()
            except LeaseLost:  # it was given back already, and counted
                pass
            del self._left[0]

    # Outages

    def _away(self, error: SpoolqError) -> None:
        if self._breaker.failed():
            log.warning("relay.away error=%s", error)
            self.figures = replace(self.figures, outages=self.figures.outages + 1)
        self.figures = replace(self.figures, is_away=True, error=str(error))

    def _back(self) -> None:
        if self._breaker.worked():
            log.info("relay.back")
            self.figures = replace(self.figures, is_away=False, error="")


def _there(call: Callable[[], T]) -> T:
    """A call of the target. Away where it failed, except for what the message itself is to blame for."""
    try:
        return call()
    except SpoolqError as error:
        if isinstance(error, MessageTooLarge):
            raise
        raise Away(error) from error


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Small ones together, up to BATCH_BYTES; then each large one alone."""
    batch: list[Message] = []
    size = 0
    for message in [each for each in messages if each.body_bytes <= WHOLE_BYTES]:
        if batch and size + message.body_bytes > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.body_bytes
    if batch:
        yield batch
    yield from ([message] for message in list(messages) if message.body_bytes > WHOLE_BYTES)
