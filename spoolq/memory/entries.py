"""The messages of one queue in memory, and where each stands: in the order of its state, in its group, in its time.

`place` and `remove` are the only functions that keep the orders. What a transition changes of a message is the business
of `store.py`, which takes it out of its place before, and places it again after.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from spoolq.models import STATES, Attempt, State

_Key = TypeVar("_Key", str, tuple[int, str])


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

    @property
    def waits(self) -> bool:
        """Whether it is to be delivered, now or later."""
        return self.state in ("ready", "scheduled")


class Entries:
    """The messages by id and by each of their orders."""

    def __init__(self) -> None:
        self.by_id: dict[str, Entry] = {}
        self._by_state: dict[State, list[tuple[int, str]]] = {state: [] for state in STATES}
        self._expiries: list[tuple[int, str]] = []  # of what waits
        self._groups: dict[str, list[str]] = {}  # of what waits or is claimed
        self._group_claims: dict[str, str] = {}

    def place(self, entry: Entry) -> None:
        """Put a message where its state and times say."""
        self.by_id[entry.id] = entry
        insort(self._by_state[entry.state], entry.order)
        if entry.waits and entry.expires_at_ms is not None:
            insort(self._expiries, (entry.expires_at_ms, entry.id))
        if entry.group is not None and (entry.waits or entry.state == "claimed"):
            insort(self._groups.setdefault(entry.group, []), entry.id)
            if entry.state == "claimed":
                self._group_claims[entry.group] = entry.id

    def remove(self, entry: Entry) -> None:
        """Take a message away, which is still as it was placed."""
        del self.by_id[entry.id]
        _remove(self._by_state[entry.state], entry.order)
        if entry.waits and entry.expires_at_ms is not None:
            _remove(self._expiries, (entry.expires_at_ms, entry.id))
        if entry.group is not None and (entry.waits or entry.state == "claimed"):
            _remove(self._groups[entry.group], entry.id)
            if entry.state == "claimed":
                del self._group_claims[entry.group]

    def in_state(self, state: State) -> list[Entry]:
        """The messages of a state, in its order."""
        return [self.by_id[id] for _, id in self._by_state[state]]

    def is_held(self, entry: Entry) -> bool:
        """Whether an earlier message of its group, or one under way, is in front of it."""
        if entry.group is None or not entry.waits:
            return False
        return entry.group in self._group_claims or self._groups[entry.group][0] != entry.id

    def first_ready(self) -> Entry | None:
        """The first that nothing holds."""
        ready = (self.by_id[id] for _, id in self._by_state["ready"])
        return next((entry for entry in ready if not self.is_held(entry)), None)

    def first_due(self, now_ms: int) -> Entry | None:
        """The first of the schedule, if its time has come."""
        return self._first_until(self._by_state["scheduled"], now_ms)

    def first_expired(self, now_ms: int) -> Entry | None:
        """The first that waits past its time to live."""
        return self._first_until(self._expiries, now_ms)

    def _first_until(self, times: list[tuple[int, str]], now_ms: int) -> Entry | None:
        return self.by_id[times[0][1]] if times and times[0][0] <= now_ms else None


def total_bytes(entries: Iterable[Entry]) -> int:
    """The sizes of their bodies, together."""
    return sum(len(entry.body) for entry in entries)


def _remove(keys: list[_Key], key: _Key) -> None:
    del keys[bisect_left(keys, key)]
