"""Carry messages from one queue to another, by `interfaces` alone: the local spool as an outbox for a database.

The order of things makes it safe: claim here, enqueue there with the message's id as its key, acknowledge here.
Whatever dies in between, the message is sent again, and the target knows it by its key: each arrives, each once, for as
long as the target remembers keys (WINDOW_S). Within a group a message is claimed when the one before is acknowledged,
so order is kept. An outage of the target gives messages back uncounted and makes a pause that grows; what the target
refuses for what it is goes to `dead`, with its words.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spoolq.clock import Clock
from spoolq.errors import LeaseLost, MessageTooLarge, SettingsError, SpoolqError
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.models import NewMessage

log = logging.getLogger("spoolq.relay")

WINDOW_S = 7 * 86_400.0
"""How long the target must remember keys: longer than a relay, or its source, is down before it goes on."""

WHOLE_BYTES = 1 << 20
"""A body up to this travels in a batch; a larger one alone, streamed."""

PAUSES_S = (0.5, 60.0)
"""While the target is away: the first pause, doubled each time, and the longest."""

_LOOK_S = 1.0
_REFUSALS = (MessageTooLarge, ValueError, TypeError)
"""What is wrong with a message rather than with the target; everything else can pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a relay has done and what is before it. lag_s: how long the oldest waits; backlog: how many wait."""

    sent: int = 0
    refused: int = 0
    outages: int = 0
    is_away: bool = False
    backlog: int = 0
    lag_s: float = 0.0


class Relay:
    """From `source` to `target` until `stop` is set. Several may serve one source.

    batch: at most so many in flight. rate: at most so many a second. told: called with the figures after each turn.
    """

    def __init__(
        self,
        source: Queue,
        target: Queue,
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
        self._target = target
        self._batch = batch if rate is None else max(1, min(batch, int(rate)))
        self._rate = rate
        self._first_pause_s, self._longest_pause_s = pauses_s
        self._pause_s = 0.0
        self._stop = stop or threading.Event()
        self._told = told
        self._clock = clock or Clock()
        self.figures = Figures()

    def run(self, *, drain: bool = False) -> Figures:
        """Carry until stopped, or with `drain` until nothing is ready. SettingsError: the target forgets too soon."""
        self._check_window()
        while not self._stop.is_set():
            count = self._turn(0 if drain else _LOOK_S)
            self._tell()
            if drain and not count and not self._pause_s:
                break
            self._wait(count)
        return self.figures

    def _check_window(self) -> None:
        known_s = self._target.settings.dedup_window_s
        if known_s < WINDOW_S:
            raise SettingsError(
                f"the target remembers keys for {known_s:g} s: a message that is sent again later would be another one",
                key="dedup_window_s",
                value=known_s,
                hint=f"spoolq queues settings {self._target.name} dedup_window_s={WINDOW_S:g}, at the target",
            )

    def _turn(self, wait_s: float) -> int:
        """One batch; how many were claimed. After an outage a single message shows whether it is over."""
        messages = self._source.dequeue_many(1 if self._pause_s else self._batch, wait_s=wait_s)
        left = list(messages)
        try:
            self._send(left)
        except SpoolqError as error:
            self._away(error)
        else:
            if messages:
                self._back()
        finally:
            self._give_back(left)
        return len(messages)

    # There

    def _send(self, left: list[Message]) -> None:
        """Send and acknowledge, taking out of `left` what has been settled. Raises what can pass."""
        small = [message for message in left if message.body_bytes <= WHOLE_BYTES]
        if len(small) > 1:
            try:
                self._target.enqueue_many([self._copy_of(message) for message in small])
            except _REFUSALS as error:
                # One by one shows which; those that the batch carried already are known by their keys.
                log.info("relay.one_by_one error=%s", error)
            else:
                self._sent(small, left)
        for message in tuple(left):
            if self._stop.is_set():
                return
            try:
                self._send_one(message)
            except _REFUSALS as error:
                self._refused(message, error)
                left.remove(message)
            else:
                self._sent([message], left)

    def _send_one(self, message: Message) -> None:
        if message.body_bytes <= WHOLE_BYTES:
            self._target.enqueue_many([self._copy_of(message)])
            return
        new = self._copy_of(message, body=b"")
        with message.open() as file:
            self._target.enqueue(
                file,
                priority=new.priority,
                headers=new.headers,
                content_type=new.content_type,
                name=new.name,
                dedup_key=new.dedup_key,
                group=new.group,
                ttl_s=new.ttl_s,
            )

    def _copy_of(self, message: Message, body: bytes | None = None) -> NewMessage:
        """The message for the target: all that came with it, its id as its key, and what is left of its time."""
        expires_at_ms = self._source.get(message.id).expires_at_ms
        left_s = None if expires_at_ms is None else max(0.001, (expires_at_ms - self._clock.wall_ms()) / 1000)
        return NewMessage(
            body=message.body if body is None else body,
            priority=message.priority,
            headers=message.headers,
            content_type=message.content_type,
            name=message.original_name or message.name,
            dedup_key=message.id,
            group=message.group,
            ttl_s=left_s,
        )

    # Here

    def _sent(self, messages: Sequence[Message], left: list[Message]) -> None:
        """The target has committed. A claim that had ended is sent again, and known there by its key."""
        for message in messages:
            left.remove(message)
        lost = self._source.acknowledge_many([message.receipt for message in messages])
        if lost:
            log.warning("relay.lease_lost count=%d", len(lost))
        self.figures = replace(self.figures, sent=self.figures.sent + len(messages) - len(lost))

    def _refused(self, message: Message, error: Exception) -> None:
        log.warning("relay.refused id=%s error=%s", message.id, error)
        try:
            message.dead_letter(f"refused by the target: {error}")
        except LeaseLost:
            return
        self.figures = replace(self.figures, refused=self.figures.refused + 1)

    def _give_back(self, left: Sequence[Message]) -> None:
        """What was not settled, uncounted: an outage is no fault of a message."""
        for message in left:
            try:
                message.release()
            except LeaseLost:
                continue

    # The circuit breaker

    def _away(self, error: SpoolqError) -> None:
        if not self._pause_s:
            log.warning("relay.away error=%s", error)
            self.figures = replace(self.figures, outages=self.figures.outages + 1, is_away=True)
        self._pause_s = min(self._longest_pause_s, self._pause_s * 2 or self._first_pause_s)

    def _back(self) -> None:
        if self._pause_s:
            log.info("relay.back")
            self._pause_s = 0.0
            self.figures = replace(self.figures, is_away=False)

    def _wait(self, count: int) -> None:
        if self._pause_s:
            self._stop.wait(self._pause_s)
        elif self._rate is not None and count:
            self._stop.wait(count / self._rate)

    def _tell(self) -> None:
        if self._told is None:
            return
        stats = self._source.stats()
        oldest = stats.oldest_ready_at_ms
        lag_s = 0.0 if oldest is None else max(0.0, (self._clock.wall_ms() - oldest) / 1000)
        self.figures = replace(self.figures, backlog=stats.ready + stats.scheduled + stats.claimed, lag_s=lag_s)
        self._told(self.figures)
