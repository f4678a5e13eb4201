"""A queue in memory, and every transition that a message of it can make: take it out, change it, place it.

Where it then stands is the business of `entries.py`. Nothing here checks an argument, waits, or locks: `queue.py` and
`consuming.py` do, and call with the store's lock held.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Literal

from spoolq import retry
from spoolq.clock import Clock, id_time_ms
from spoolq.errors import LeaseLost, MessageNotFound, MessageTooLarge, QueueFull
from spoolq.memory.entries import Entries, Entry, total_bytes
from spoolq.models import Attempt, NewMessage, State
from spoolq.reasons import summary
from spoolq.settings import Settings

KEY_KEPT_MS = 2 * 3_600_000
REMEMBER_MS = 600_000
"""How long after its message is gone an acknowledge is still answered with success."""

Ended = Literal["requeued", "given_back", "dead", "expired", "redriven", "replayed"]


class MemoryStore:
    """What queue objects of one name share. Give it to several `MemoryQueue`s, and they are several consumers."""

    def __init__(self, name: str = "default", settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.name = name
        self.settings = settings or Settings()
        self.clock = clock or Clock()
        self.changed = threading.Condition(threading.RLock())
        self.paused = False
        self.entries = Entries()
        self.totals = {"enqueued": 0, "acknowledged": 0, "failed": 0, "dead": 0}
        self._keys: dict[str, tuple[str, int]] = {}  # dedup key: first id, end of its window
        self._remembered: dict[str, int] = {}  # receipt whose message is gone: until when, boot clock

    def _place(self, entry: Entry, state: State) -> None:
        if state != entry.state or not entry.changed_at_ms:
            entry.changed_at_ms = self.clock.wall_ms()
        entry.state = state
        self.entries.place(entry)
        self.changed.notify_all()

    def next(self) -> Entry | None:
        """The message to deliver now."""
        return None if self.paused else self.entries.first_ready()

    # Into the queue

    def known_id(self, dedup_key: str | None) -> str | None:
        """The first id of a key within its window."""
        if dedup_key is None:
            return None
        id, ends_at_ms = self._keys.get(dedup_key, ("", 0))
        left_ms = ends_at_ms - self.clock.wall_ms()
        # A clock set back does not make a window longer than it and another.
        return id if 0 < left_ms <= 2 * _ms(self.settings.dedup_window_s) else None

    def enqueue(self, new: NewMessage, name: str | None) -> str:
        """Add a message, or answer the id that its key stands for."""
        known = self.known_id(new.dedup_key)
        if known is not None:
            return known
        self._check_room(len(new.body))
        now_ms = self.clock.wall_ms()
        id = self.clock.new_id()
        ttl_s = self.settings.ttl_s if new.ttl_s is None else new.ttl_s
        entry = Entry(
            id=id,
            body=new.body,
            priority=new.priority,
            name=name,
            headers=dict(new.headers),
            content_type=new.content_type,
            dedup_key=new.dedup_key,
            group=new.group,
            enqueued_at_ms=id_time_ms(id),
            expires_at_ms=now_ms + _ms(ttl_s) if ttl_s else None,
        )
        self._wait_for(entry, new.delay_s)
        if new.dedup_key is not None:
            self._keys[new.dedup_key] = (id, now_ms + _ms(self.settings.dedup_window_s))
        self.totals["enqueued"] += 1
        return id

    def _check_room(self, size: int) -> None:
        limits = self.settings.limits
        if limits.body_bytes and size > limits.body_bytes:
            raise MessageTooLarge(
                f"the body has {size} bytes, over limits.body_bytes = {limits.body_bytes}", op="enqueue"
            )
        waiting = self.entries.in_state("ready") + self.entries.in_state("scheduled")
        if limits.messages and len(waiting) >= limits.messages:
            raise QueueFull(f"{len(waiting)} messages wait: limits.messages = {limits.messages}", op="enqueue")
        if limits.bytes and total_bytes(waiting) + size > limits.bytes:
            raise QueueFull(f"no room for {size} bytes more: limits.bytes = {limits.bytes}", op="enqueue")

    def _wait_for(self, entry: Entry, delay_s: float) -> None:
        """To `ready`, or to `scheduled` where there is a delay."""
        delay_ms = _ms(delay_s)
        entry.due_at_ms = self.clock.wall_ms() + delay_ms if delay_ms else None
        self._place(entry, "scheduled" if delay_ms else "ready")

    # A delivery

    def claim(self, holder: str, nonce: str, lease_s: float | None) -> Entry | None:
        """Start a delivery of the next message, and count it."""
        entry = self.next()
        if entry is None:
            return None
        self.entries.remove(entry)
        entry.attempts += 1
        entry.nonce, entry.holder = nonce, holder
        entry.claimed_boot_ms = self.clock.boot_ms()
        ends_after_s = lease_s or self.settings.max_hold_s
        entry.deadline_boot_ms = entry.claimed_boot_ms + _ms(ends_after_s) if ends_after_s else None
        self._place(entry, "claimed")
        return entry

    def find_claim(self, receipt: str) -> Entry:
        """The message whose delivery under way this receipt proves; LeaseLost."""
        entry = self.entries.by_id.get(receipt.partition(".")[0])
        if entry is None or entry.state != "claimed" or entry.receipt != receipt:
            raise lease_lost(receipt)
        return entry

    def acknowledge(self, receipt: str) -> None:
        """To `done`, or away; again: nothing, for as long as it is remembered."""
        entry = self.entries.by_id.get(receipt.partition(".")[0])
        if entry is not None and entry.state == "done" and entry.receipt == receipt:
            return
        if self._remembered.get(receipt, 0) > self.clock.boot_ms():
            return
        entry = self.find_claim(receipt)
        self.entries.remove(entry)
        entry.holder, entry.deadline_boot_ms, entry.reason = None, None, ""
        self._place(entry, "done")
        self.totals["acknowledged"] += 1
        if not self.settings.retention.done_s:
            self.drop(entry)

    def release(self, entry: Entry) -> None:
        """Back, as if it had not been claimed."""
        self.entries.remove(entry)
        entry.attempts -= 1
        self._end_claim(entry)
        self._place(entry, "ready")

    def fail(
        self,
        entry: Entry,
        delay_s: float | None,
        reason: str,
        details: Attempt | None = None,
        outcome: Ended = "requeued",
    ) -> State:
        """Back after a delay, the attempt counted; dead after the last one."""
        self.totals["failed"] += 1
        if entry.attempts >= self.settings.max_attempts:
            self._die(entry, "dead", reason or (details and details.reason) or "failed", details)
            return entry.state
        self.entries.remove(entry)
        self._note(entry, outcome, reason, details)
        self._end_claim(entry)
        entry.reason = summary(reason)
        self._wait_for(entry, retry.delay_s(entry.attempts, self.settings.retry) if delay_s is None else delay_s)
        return entry.state

    def bury(self, entry: Entry, reason: str, details: Attempt | None) -> None:
        """Given up by its consumer: a decision, not a failure."""
        self._die(entry, "dead", reason, details)

    def extend(self, entry: Entry, lease_s: float) -> None:
        """Another end for the claim, where it has one."""
        if entry.nonce is not None and entry.nonce[0] == "k":
            return
        entry.deadline_boot_ms = self.clock.boot_ms() + _ms(lease_s)

    def _die(self, entry: Entry, outcome: Ended, reason: str, details: Attempt | None = None) -> None:
        self.entries.remove(entry)
        self._note(entry, outcome, reason, details)
        self._end_claim(entry)
        entry.due_at_ms, entry.reason = None, summary(reason)
        self._place(entry, "dead")
        self.totals["dead"] += 1

    def _end_claim(self, entry: Entry) -> None:
        entry.nonce = entry.holder = entry.deadline_boot_ms = None

    def _note(self, entry: Entry, outcome: Ended, reason: str, details: Attempt | None = None) -> None:
        """Write the end of a delivery, or what else happened, into the history."""
        claimed = entry.state == "claimed"
        taken_s = (self.clock.boot_ms() - entry.claimed_boot_ms) / 1000 if claimed else None
        known = details or Attempt(attempt=0, outcome="", ended_at_ms=0)
        entry.history.append(
            replace(
                known,
                attempt=entry.attempts,
                outcome=outcome,
                ended_at_ms=self.clock.wall_ms(),
                reason=reason or known.reason,
                nonce=entry.nonce or "" if claimed else "",
                duration_s=taken_s if known.duration_s is None else known.duration_s,
            )
        )

    # Time passes

    def do_what_is_due(self, *, reap: bool) -> None:
        """Make due messages ready, bury or delete the expired, and with `reap` take lapsed claims back."""
        now_ms = self.clock.wall_ms()
        if reap:
            for entry in self.entries.in_state("claimed"):
                if entry.deadline_boot_ms is not None and entry.deadline_boot_ms <= self.clock.boot_ms():
                    self.fail(entry, 0, "lease ended")
        while (due := self.entries.first_due(now_ms)) is not None:
            self.make_ready(due)
        while (expired := self.entries.first_expired(now_ms)) is not None:
            self._expire(expired)

    def _expire(self, entry: Entry) -> None:
        if self.settings.retention.expired == "delete":
            self.drop(entry)
        else:
            self._die(entry, "expired", "expired")

    def overdue(self) -> list[Entry]:
        """What retention says is to be deleted."""
        retention = self.settings.retention
        done = self._older_than("done", retention.done_s)
        return done + self._older_than("dead", retention.dead_s) if retention.dead_s else done

    def _older_than(self, state: State, age_s: float) -> list[Entry]:
        until_ms = self.clock.wall_ms() - _ms(age_s)
        return [entry for entry in self.entries.in_state(state) if entry.changed_at_ms <= until_ms]

    # By hand

    def find(self, message_id: str, *states: State) -> Entry:
        """A message in one of these states, any when none is given; MessageNotFound."""
        entry = self.entries.by_id.get(message_id)
        if entry is None or (states and entry.state not in states):
            what = f"no message {message_id}" + (f" is {' or '.join(states)}" if states and entry is not None else "")
            raise MessageNotFound(f"{what} in the queue {self.name!r}", message_id=message_id)
        return entry

    def make_ready(self, entry: Entry) -> None:
        """Out of its schedule."""
        self.entries.remove(entry)
        entry.due_at_ms = None
        self._place(entry, "ready")

    def start_again(self, entry: Entry, outcome: Ended) -> None:
        """A dead or done message as if new, its history kept. A person wants it, so it expires no more."""
        self._note(entry, outcome, "")
        self.entries.remove(entry)
        self._end_claim(entry)
        entry.attempts, entry.reason, entry.expires_at_ms = 0, "", None
        self._place(entry, "ready")

    def set_priority(self, entry: Entry, priority: int) -> None:
        """Another place in the line."""
        self.entries.remove(entry)
        entry.priority = priority
        self._place(entry, entry.state)

    def drop(self, entry: Entry) -> None:
        """Delete a message; its key lives on to the end of its window, its receipt for ten minutes."""
        self.entries.remove(entry)
        if entry.state == "done" and entry.receipt is not None:
            self._remembered[entry.receipt] = self.clock.boot_ms() + REMEMBER_MS
        self._forget()

    def _forget(self) -> None:
        boot_ms, now_ms = self.clock.boot_ms(), self.clock.wall_ms()
        self._remembered = {receipt: until for receipt, until in self._remembered.items() if until > boot_ms}
        # Not at once: a clock that is set back opens a window again.
        self._keys = {key: known for key, known in self._keys.items() if known[1] > now_ms - KEY_KEPT_MS}


def lease_lost(receipt: str) -> LeaseLost:
    """The error for a receipt whose claim has ended."""
    return LeaseLost(
        f"the claim of {receipt} has ended; nothing was changed",
        message_id=receipt.partition(".")[0],
        hint="Somebody else may hold the message now",
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
