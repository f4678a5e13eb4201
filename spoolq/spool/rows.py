"""What the index tells of a queue: a message's row, the counts, a key, itself. The columns of schema.sql."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, float("inf"))

SETTLED_KEPT_MS = 10 * 60_000
"""So long a receipt is answered whose message is gone."""

COLUMNS = (
    "id, state, held, priority, due_at_ms, attempts, nonce, label, body_bytes, enqueued_at_ms, ready_at_ms,"
    " claimed_at_ms, ended_at_ms, deadline_boot_ms, deadline_at_ms, expires_at_ms, grp, has_meta, reason"
)


class Row(NamedTuple):
    """A message as the index has it; the columns of schema.sql."""

    id: str
    state: str
    held: int = 0
    priority: int = 5
    due_at_ms: int | None = None
    attempts: int = 0
    nonce: str | None = None
    label: str | None = None
    body_bytes: int = 0
    enqueued_at_ms: int = 0
    ready_at_ms: int = 0
    claimed_at_ms: int | None = None
    ended_at_ms: int | None = None
    deadline_boot_ms: int | None = None
    deadline_at_ms: int | None = None
    expires_at_ms: int | None = None
    grp: str | None = None
    has_meta: int = 0
    reason: str | None = None


class Counts(NamedTuple):
    """The present row of the ledger: what is there, and what ever happened since the index was made."""

    minute: int
    ready: int
    ready_bytes: int
    scheduled: int
    scheduled_bytes: int
    claimed: int
    claimed_bytes: int
    done: int
    done_bytes: int
    dead: int
    dead_bytes: int
    enqueued: int
    acknowledged: int
    failed: int
    gave_up: int
    wait_ms: int
    process_ms: int
    wait_buckets: tuple[int, ...]
    process_buckets: tuple[int, ...]


class Info(NamedTuple):
    """What the index knows of itself."""

    boot: str
    mount: str
    made_at_ms: int
    next_clean_boot_ms: int
    next_sweep_boot_ms: int
    next_forget_boot_ms: int
    forget_after: str
    last_clean_at_ms: int
    last_scan_at_ms: int
    last_scan_ms: int


class Key(NamedTuple):
    """A deduplication key: its message, until when, and whether its writer has not finished."""

    id: str
    until_at_ms: int
    reserved: bool


def counts_of(row: Sequence[Any]) -> Counts:
    """A row of the ledger."""
    buckets = len(BUCKETS_S)
    plain = len(Counts._fields) - 2
    return Counts._make((*row[:plain], tuple(row[plain : plain + buckets]), tuple(row[plain + buckets :])))
