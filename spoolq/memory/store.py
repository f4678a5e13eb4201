"""The messages of one queue in memory, and every transition a message can make.

`_place` and `_unplace` are the only functions that keep the order, the groups and the states; each transition is: take
it out, change it, place it. Nothing here checks an argument, waits, or locks: `queue.py` does, and calls with the
store's lock held.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from spoolq import retry
from spoolq.clock import Clock, id_time_ms
from spoolq.errors import LeaseLost, MessageNotFound, MessageTooLarge, QueueFull
from spoolq.models import STATES, Attempt, MessageInfo, NewMessage, State
from spoolq.reasons import summary
from spoolq.settings import Settings

KEY_KEPT_MS = 2 * 3_600_000
REMEMBER_MS = 600_000
"""How long after its message is gone an acknowledge is still answered with success."""

_Key = TypeVar("_Key", str, tuple[int, str])
Ended = Literal["requeued", "given_back", "dead", "expired", "redriven", "replayed"]


@dataclass(slots=True, kw_only=True)
class Entry:
    """A message. nonce: of the delivery under way or acknowledged; deadline_boot_ms: the hard end of its claim."""

    id: str
    body: bytes
    priority: int
    name: str | None
    headers: Mapping[str, str]
    content_type: str | None
    dedup_key: str | None
    group: str | None
    enqueued_at_ms: int
    expires_at_ms: int | None
    state: State = "ready"
    changed_at_ms: int = 0
    due_at_ms: int | None = None
    attempts: int = 0
    reason: str = ""
    nonce: str | None = None
    holder: str | None = None
    claimed_boot_ms: int = 0
    deadline_boot_ms: int | None = None
    history: list[Attempt] = field(default_factory=list)

    @property
    def receipt(self) -> str | None:
        """Proof of its delivery."""
        return f"{self.id}.{self.nonce}" if self.nonce else None

    @property
    def order(self) -> tuple[int, str]:
        """Where it stands in the list of its state: delivery order, time, or age."""
        if self.state == "ready":
            return (-self.priority, self.id)
        return (self.changed_at_ms if self.due_at_ms is None else self.due_at_ms, self.id)


class MemoryStore:
    """What queue objects of one name share. Give it to several `MemoryQueue`s, and they are several consumers."""

    def __init__(self, name: str = "default", settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.name = name
        self.settings = settings or Settings()
        self.clock = clock or Clock()
        self.changed = threading.Condition(threading.RLock())
        self.paused = False
        self.entries: dict[str, Entry] = {}
        self.totals = {"enqueued": 0, "acknowledged": 0, "failed": 0, "dead": 0}
        self._by_state: dict[State, list[tuple[int, str]]] = {state: [] for state in STATES}
        self._expiries: list[tuple[int, str]] = []  # of what waits
        self._groups: dict[str, list[str]] = {}  # of what waits or is claimed
        self._group_claims: dict[str, str] = {}
        self._keys: dict[str, tuple[str, int]] = {}  # dedup key: first id, end of its window
        self._remembered: dict[str, int] = {}  # receipt whose message is gone: until when, boot clock

    # Order

    def _place(self, entry: Entry, state: State) -> None:
        if state != entry.state or not entry.changed_at_ms:
            entry.changed_at_ms = self.clock.wall_ms()
        entry.state = state
        insort(self._by_state[state], entry.order)
        if state in ("ready", "scheduled") and entry.expires_at_ms is not None:
            insort(self._expiries, (entry.expires_at_ms, entry.id))
        if entry.group is not None and state in ("ready", "scheduled", "claimed"):
            insort(self._groups.setdefault(entry.group, []), entry.id)
            if state == "claimed":
                self._group_claims[entry.group] = entry.id
        self.changed.notify_all()

    def _unplace(self, entry: Entry) -> None:
        _remove(self._by_state[entry.state], entry.order)
        if entry.state in ("ready", "scheduled") and entry.expires_at_ms is not None:
            _remove(self._expiries, (entry.expires_at_ms, entry.id))
        if entry.group is not None and entry.state in ("ready", "scheduled", "claimed"):
            _remove(self._groups[entry.group], entry.id)
            if entry.state == "claimed":
                del self._group_claims[entry.group]

    def is_held(self, entry: Entry) -> bool:
        """Whether an earlier message of its group, or one under way, is in front of it."""
        if entry.group is None or entry.state not in ("ready", "scheduled"):
            return False
        return entry.group in self._group_claims or self._groups[entry.group][0] != entry.id

    def in_state(self, state: State) -> list[Entry]:
        """The messages of a state, in its order."""
        return [self.entries[id] for _, id in self._by_state[state]]

    def next(self) -> Entry | None:
        """The message to deliver now."""
        if self.paused:
            return None
        ready = (self.entries[id] for _, id in self._by_state["ready"])
        return next((entry for entry in ready if not self.is_held(entry)), None)

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
        self.entries[id] = entry
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
        waiting = self.in_state("ready") + self.in_state("scheduled")
        if limits.messages and len(waiting) >= limits.messages:
            raise QueueFull(f"{len(waiting)} messages wait: limits.messages = {limits.messages}", op="enqueue")
        if limits.bytes and sum(len(entry.body) for entry in waiting) + size > limits.bytes:
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
        self._unplace(entry)
        entry.attempts += 1
        entry.nonce, entry.holder = nonce, holder
        entry.claimed_boot_ms = self.clock.boot_ms()
        ends_after_s = lease_s or self.settings.max_hold_s
        entry.deadline_boot_ms = entry.claimed_boot_ms + _ms(ends_after_s) if ends_after_s else None
        self._place(entry, "claimed")
        return entry

    def find_claim(self, receipt: str) -> Entry:
        """The message whose delivery under way this receipt proves; LeaseLost."""
        entry = self.entries.get(receipt.partition(".")[0])
        if entry is None or entry.state != "claimed" or entry.receipt != receipt:
            raise lease_lost(receipt)
        return entry

    def acknowledge(self, receipt: str) -> None:
        """To `done`, or away; again: nothing, for as long as it is remembered."""
        entry = self.entries.get(receipt.partition(".")[0])
        if entry is not None and entry.state == "done" and entry.receipt == receipt:
            return
        if self._remembered.get(receipt, 0) > self.clock.boot_ms():
            return
        entry = self.find_claim(receipt)
        self._unplace(entry)
        entry.holder, entry.deadline_boot_ms, entry.reason = None, None, ""
        self._place(entry, "done")
        self.totals["acknowledged"] += 1
        if not self.settings.retention.done_s:
            self.drop(entry)

    def release(self, entry: Entry) -> None:
        """Back, as if it had not been claimed."""
        self._unplace(entry)
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
        self._unplace(entry)
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
        self._unplace(entry)
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
            for entry in self.in_state("claimed"):
                if entry.deadline_boot_ms is not None and entry.deadline_boot_ms <= self.clock.boot_ms():
                    self.fail(entry, 0, "lease ended")
        while self._by_state["scheduled"] and self._by_state["scheduled"][0][0] <= now_ms:
            self.make_ready(self.entries[self._by_state["scheduled"][0][1]])
        while self._expiries and self._expiries[0][0] <= now_ms:
            self._expire(self.entries[self._expiries[0][1]])

    def _expire(self, entry: Entry) -> None:
        if self.settings.retention.expired == "delete":
            self.drop(entry)
        else:
            self._die(entry, "expired", "expired")

    def overdue(self) -> list[Entry]:
        """What retention says is to be deleted."""
        now_ms, retention = self.clock.wall_ms(), self.settings.retention
        done = [entry for entry in self.in_state("done") if entry.changed_at_ms + _ms(retention.done_s) <= now_ms]
        if not retention.dead_s:
            return done
        return done + [e for e in self.in_state("dead") if e.changed_at_ms + _ms(retention.dead_s) <= now_ms]

    # By hand

    def find(self, message_id: str, *states: State) -> Entry:
        """A message in one of these states, any when none is given; MessageNotFound."""
        entry = self.entries.get(message_id)
        if entry is None or (states and entry.state not in states):
            what = f"no message {message_id}" + (f" is {' or '.join(states)}" if states and entry is not None else "")
            raise MessageNotFound(f"{what} in the queue {self.name!r}", message_id=message_id)
        return entry

    def make_ready(self, entry: Entry) -> None:
        """Out of its schedule."""
        self._unplace(entry)
        entry.due_at_ms = None
        self._place(entry, "ready")

    def start_again(self, entry: Entry, outcome: Ended) -> None:
        """A dead or done message as if new, its history kept. A person wants it, so it expires no more."""
        self._note(entry, outcome, "")
        self._unplace(entry)
        self._end_claim(entry)
        entry.attempts, entry.reason, entry.expires_at_ms = 0, "", None
        self._place(entry, "ready")

    def set_priority(self, entry: Entry, priority: int) -> None:
        """Another place in the line."""
        self._unplace(entry)
        entry.priority = priority
        self._place(entry, entry.state)

    def drop(self, entry: Entry) -> None:
        """Delete a message; its key lives on to the end of its window, its receipt for ten minutes."""
        self._unplace(entry)
        del self.entries[entry.id]
        if entry.state == "done" and entry.receipt is not None:
            self._remembered[entry.receipt] = self.clock.boot_ms() + REMEMBER_MS
        self._forget()

    def _forget(self) -> None:
        boot_ms, now_ms = self.clock.boot_ms(), self.clock.wall_ms()
        self._remembered = {receipt: until for receipt, until in self._remembered.items() if until > boot_ms}
        # Not at once: a clock that is set back opens a window again.
        self._keys = {key: known for key, known in self._keys.items() if known[1] > now_ms - KEY_KEPT_MS}

    # Looking

    def info(self, entry: Entry, *, full: bool = False) -> MessageInfo:
        """What is known of it; `full` as `get` answers."""
        deadline_at_ms = None
        if entry.deadline_boot_ms is not None:
            deadline_at_ms = self.clock.wall_ms() + entry.deadline_boot_ms - self.clock.boot_ms()
        found = MessageInfo(
            id=entry.id,
            queue=self.name,
            state=entry.state,
            priority=entry.priority,
            attempts=entry.attempts,
            name=entry.name,
            body_bytes=len(entry.body),
            enqueued_at_ms=entry.enqueued_at_ms,
            changed_at_ms=entry.changed_at_ms,
            due_at_ms=entry.due_at_ms,
            expires_at_ms=entry.expires_at_ms,
            group=entry.group,
            held=self.is_held(entry),
            reason=entry.reason,
            receipt=entry.receipt,
            holder=entry.holder,
            deadline_at_ms=deadline_at_ms,
        )
        if not full:
            return found
        return replace(
            found,
            headers=dict(entry.headers),
            content_type=entry.content_type,
            dedup_key=entry.dedup_key,
            history=tuple(entry.history),
        )


def lease_lost(receipt: str) -> LeaseLost:
    """The error for a receipt whose claim has ended."""
    return LeaseLost(
        f"the claim of {receipt} has ended; nothing was changed",
        message_id=receipt.partition(".")[0],
        hint="Somebody else may hold the message now",
    )


def total_bytes(entries: Iterable[Entry]) -> int:
    """The sizes of their bodies, together."""
    return sum(len(entry.body) for entry in entries)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _remove(keys: list[_Key], key: _Key) -> None:
    del keys[bisect_left(keys, key)]
