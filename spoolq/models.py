"""The values that pass through every layer: what is known of a message, of an attempt, of a queue.

Frozen dataclasses without behaviour beyond reading themselves. Durations are float seconds (`_s`), instants integer
UTC milliseconds (`_at_ms`), sizes bytes (`_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ready", "scheduled", "claimed", "done", "dead"]
STATES: tuple[State, ...] = ("ready", "scheduled", "claimed", "done", "dead")

DEFAULT_PRIORITY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """What a producer asks for; the argument of `enqueue_many`, and of `enqueue` as keywords.

    body: the bytes. priority: 0 to 9, 9 first. delay_s: not before this many seconds from now. name: any text, shown
    to people and given to commands. dedup_key: at most one message a key within the queue's window. group: delivered
    one at a time, in order. ttl_s: dead ("expired") when not delivered by then; 0 for never, None for the queue's
    default.
    """

    body: bytes
    priority: int = DEFAULT_PRIORITY
    delay_s: float = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    name: str | None = None
    dedup_key: str | None = None
    group: str | None = None
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ended delivery, as the history keeps it.

    outcome: "requeued", "dead", "expired", "redriven", ... ; reason: a person's or program's words; exit_status or
    signal of a command; stderr: the end of what it wrote there.
    """

    attempt: int
    outcome: str
    ended_at_ms: int
    reason: str = ""
    nonce: str = ""
    duration_s: float | None = None
    exit_status: int | None = None
    signal: int | None = None
    stderr: str = ""
    host: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageInfo:
    """What is known of a message without opening it.

    state: one of STATES. due_at_ms: not before, or None. changed_at_ms: when it entered its state. held: waits for
    an earlier message of its group. name: safe to show and to use in a shell; original_name: as it was dropped or
    sent, where that differs. receipt: of the delivery under way or settled, or None. headers, content_type,
    dedup_key, original_name and history are filled by `get` only; a list leaves them empty, so that a page costs no
    file reads.
    """

    id: str
    queue: str
    state: State
    priority: int
    attempts: int
    name: str | None
    body_bytes: int
    enqueued_at_ms: int
    changed_at_ms: int
    due_at_ms: int | None = None
    expires_at_ms: int | None = None
    group: str | None = None
    held: bool = False
    reason: str = ""
    receipt: str | None = None
    holder: str | None = None
    deadline_at_ms: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    dedup_key: str | None = None
    original_name: str | None = None
    history: tuple[Attempt, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which messages of a state: each given part must hold.

    name and reason: a part of it, case-insensitive. min_age_s, max_age_s: since it entered its state.
    text: looked for in id, name and reason.
    """

    name: str | None = None
    reason: str | None = None
    group: str | None = None
    text: str | None = None
    min_age_s: float | None = None
    max_age_s: float | None = None
    min_attempts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a list; `cursor` asks for the next one, None after the last."""

    messages: tuple[MessageInfo, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts, bytes and totals of a queue; costs the same at any size.

    Totals count since the index was made. oldest_ready_at_ms: when the oldest deliverable message became ready, of the
    first twenty in line of each priority, or None. wait and process histograms: pairs of (upper bound in s, how many at
    most that), cumulative, since the index was made; the last bound is None, which stands for no bound.
    """

    queue: str
    ready: int = 0
    scheduled: int = 0
    claimed: int = 0
    done: int = 0
    dead: int = 0
    ready_bytes: int = 0
    scheduled_bytes: int = 0
    claimed_bytes: int = 0
    done_bytes: int = 0
    dead_bytes: int = 0
    enqueued_total: int = 0
    acknowledged_total: int = 0
    failed_total: int = 0
    dead_total: int = 0
    oldest_ready_at_ms: int | None = None
    paused: bool = False
    wait_histogram: tuple[tuple[float | None, int], ...] = ()
    process_histogram: tuple[tuple[float | None, int], ...] = ()
    wait_sum_s: float = 0.0
    process_sum_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One minute of a queue's history: what happened in it, and what was there at its end."""

    minute_at_ms: int
    enqueued: int
    acknowledged: int
    failed: int
    dead: int
    ready: int
    scheduled: int
    claimed: int
    wait_s: float
    process_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a queue stands on: the disk, its reserve, and the index.

    disk_bytes, disk_inodes: in all (0 inodes where the file system has no fixed number). has_room: an enqueue would
    not meet the reserve. last_scan_ms: how long the last look through `new/` took. index_made_at_ms: when the index was
    made, anew after damage, a loss, or an end of the machine that was not clean; 0 where a time is not known.
    """

    disk_bytes: int
    disk_free_bytes: int
    disk_inodes: int
    disk_free_inodes: int
    reserve_bytes: int
    reserve_inodes: int
    has_room: bool
    index_bytes: int
    last_scan_ms: int
    last_clean_at_ms: int
    last_scan_at_ms: int = 0
    index_made_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something `check` found: what is wrong, what fixing does, and whether it was done."""

    kind: str
    what: str
    fix: str
    path: str = ""
    message_id: str = ""
    fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropInfo:
    """A file that somebody dropped and that is no message yet.

    name: as dropped. why: what it waits for. ignored: nobody takes it in until it is renamed.
    """

    name: str
    why: str
    ignored: bool
    body_bytes: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderInfo:
    """A consumer that holds, or held, claims: who and where it is, since when, and how many it has."""

    holder: str
    pid: int
    host: str
    command: str
    since_at_ms: int
    alive: bool
    claims: int
