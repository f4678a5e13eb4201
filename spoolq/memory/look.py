"""What is told of a queue in memory: a message, pages of them, counts and ages. Changes nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.memory.entries import total_bytes
from spoolq.models import Filter, MessageInfo, Page, State, Stats

if TYPE_CHECKING:
    from spoolq.memory.entries import Entry
    from spoolq.memory.store import MemoryStore


def info(store: MemoryStore, entry: Entry) -> MessageInfo:
    """What a list says of a message."""
    deadline_at_ms = None
    if entry.deadline_boot_ms is not None:
        deadline_at_ms = store.clock.wall_ms() + entry.deadline_boot_ms - store.clock.boot_ms()
    return MessageInfo(
        id=entry.id,
        queue=store.name,
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
        held=store.entries.is_held(entry),
        reason=entry.reason,
        receipt=entry.receipt,
        holder=entry.holder,
        deadline_at_ms=deadline_at_ms,
    )


def whole_info(store: MemoryStore, entry: Entry) -> MessageInfo:
    """All that is known of it, as `get` answers."""
    return replace(
        info(store, entry),
        headers=dict(entry.headers),
        content_type=entry.content_type,
        dedup_key=entry.dedup_key,
        history=tuple(entry.history),
    )


# Lists


def admitted(store: MemoryStore, state: State, where: Filter | None) -> list[Entry]:
    """The messages of a state that a filter admits, in order."""
    now_ms = store.clock.wall_ms()
    return [entry for entry in store.entries.in_state(state) if _admits(where, entry, now_ms)]


def _admits(where: Filter | None, entry: Entry, now_ms: int) -> bool:
    """Whether each part of the filter holds."""
    if where is None:
        return True
    age_s = (now_ms - entry.changed_at_ms) / 1000
    return (
        (where.name is None or _has(entry.name, where.name))
        and (where.reason is None or _has(entry.reason, where.reason))
        and (where.group is None or entry.group == where.group)
        and (where.text is None or any(_has(part, where.text) for part in (entry.id, entry.name, entry.reason)))
        and (where.min_age_s is None or age_s >= where.min_age_s)
        and (where.max_age_s is None or age_s <= where.max_age_s)
        and (where.min_attempts is None or entry.attempts >= where.min_attempts)
    )


def found(store: MemoryStore, text: str) -> list[Entry]:
    """What `search` finds, by id."""
    return [
        entry
        for _, entry in sorted(store.entries.by_id.items())
        if entry.id.startswith(text.lower()) or _has(entry.name, text) or _has(entry.reason, text)
    ]


def page(store: MemoryStore, entries: Sequence[Entry], limit: int, cursor: str | None) -> Page:
    """The entries after the cursor, which names the last one shown and needs it no more."""
    after = None if cursor is None else _parse(cursor)
    left = [entry for entry in entries if after is None or entry.order > after]
    shown = left[:limit]
    more = len(left) > limit
    return Page(
        messages=tuple(info(store, entry) for entry in shown),
        cursor="{}:{}".format(*shown[-1].order) if more else None,
    )


def _parse(cursor: str) -> tuple[int, str]:
    key, _, message_id = cursor.partition(":")
    try:
        return int(key), validate.check_message_id(message_id)
    except ValueError:
        raise ValueError(f"cursor must be one that a page returned, not {cursor!r}") from None


def _has(text: str | None, part: str) -> bool:
    return text is not None and part.casefold() in text.casefold()


# Counts


def stats(store: MemoryStore) -> Stats:
    """Counts, bytes and totals."""
    ready, scheduled, claimed, done, dead = (
        store.entries.in_state(state) for state in ("ready", "scheduled", "claimed", "done", "dead")
    )
    since = [entry.changed_at_ms for entry in ready if not store.entries.is_held(entry)]
    return Stats(
        queue=store.name,
        ready=len(ready),
        scheduled=len(scheduled),
        claimed=len(claimed),
        done=len(done),
        dead=len(dead),
        ready_bytes=total_bytes(ready),
        scheduled_bytes=total_bytes(scheduled),
        claimed_bytes=total_bytes(claimed),
        done_bytes=total_bytes(done),
        dead_bytes=total_bytes(dead),
        enqueued_total=store.totals["enqueued"],
        acknowledged_total=store.totals["acknowledged"],
        failed_total=store.totals["failed"],
        dead_total=store.totals["dead"],
        oldest_ready_at_ms=min(since, default=None),
        paused=store.paused,
    )


def ages(store: MemoryStore, bounds_s: Sequence[float], state: State) -> list[int]:
    """How many of a state are within each bound, then the older ones; counted one by one."""
    now_ms = store.clock.wall_ms()
    ages_s = [(now_ms - entry.enqueued_at_ms) / 1000 for entry in store.entries.in_state(state)]
    counts = Counter(bisect_left(bounds_s, age) for age in ages_s)
    return [counts[at] for at in range(len(bounds_s) + 1)]
