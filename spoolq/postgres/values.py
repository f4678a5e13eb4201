"""Rows as the values of spoolq/models.py, and settings as the columns of a queue. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from spoolq.models import Attempt, HolderInfo, MessageInfo, Minute, Stats
from spoolq.postgres.statements import BUCKETS_S, COUNTS
from spoolq.settings import Settings, parse

_ATTEMPT = frozenset(each.name for each in fields(Attempt))
_WAITING = ("ready", "scheduled")


# Messages


def info(queue: str, row: Sequence[Any]) -> MessageInfo:
    """The columns of statements.INFO; with `meta` and `history` after them, all that `get` answers."""
    id, state, held, priority, attempts, name, size, enqueued, changed, due, expires, grp, reason, nonce = row[:14]
    come_with = meta_of(row[16]) if len(row) > 16 else {}
    return MessageInfo(
        id=id,
        queue=queue,
        state=state,
        priority=priority,
        attempts=attempts,
        name=name,
        body_bytes=size,
        enqueued_at_ms=enqueued,
        changed_at_ms=changed,
        due_at_ms=due,
        expires_at_ms=expires,
        group=grp,
        held=held and state in _WAITING,
        reason=reason,
        receipt=f"{id}.{nonce}" if nonce else None,
        holder=row[14],
        deadline_at_ms=row[15],
        headers=come_with.get("headers", {}),
        content_type=come_with.get("content_type"),
        dedup_key=come_with.get("dedup_key"),
        original_name=come_with.get("original_name"),
        history=history(row[17]) if len(row) > 17 else (),
    )


def order_of(found: MessageInfo) -> tuple[int, str]:
    """Where it stands in the list of its state."""
    if found.state == "ready":
        return found.priority, found.id
    return (found.changed_at_ms if found.due_at_ms is None else found.due_at_ms), found.id


def meta_text(parts: Mapping[str, Any]) -> str | None:
    """What came with a message, as text; None when nothing did. ASCII, so that it may have any character."""
    given = {key: value for key, value in parts.items() if value}
    return json.dumps(given, separators=(",", ":")) if given else None


def meta_of(text: str | None) -> dict[str, Any]:
    """What came with a message."""
    return json.loads(text) if text else {}


def came_with(text: str) -> dict[str, Any]:
    """The same, as a claimed message has it."""
    meta = meta_of(text)
    return {each: meta.get(each) for each in ("headers", "content_type", "original_name")}


def line(reason: str, details: Attempt | None) -> str:
    """The caller's part of a line of the history."""
    known = {} if details is None else {key: value for key, value in asdict(details).items() if value not in ("", None)}
    for ours in ("attempt", "outcome", "ended_at_ms", "nonce"):
        known.pop(ours, None)
    if reason:
        known["reason"] = reason
    return json.dumps(known, separators=(",", ":"))


def history(text: str | None) -> tuple[Attempt, ...]:
    """The lines of a history: the database's part, a tab, the caller's, which knows better how long it took."""
    return tuple(_attempt(each) for each in text.split("\n")) if text else ()


def _attempt(text: str) -> Attempt:
    ours, _, theirs = text.partition("\t")
    known = {**json.loads(ours), **json.loads(theirs)}
    return Attempt(**{key: value for key, value in known.items() if key in _ATTEMPT})


# Figures


def stats(queue: str, row: Sequence[Any]) -> Stats:
    """The columns of statements.STATS."""
    counts = dict(zip(COUNTS, row, strict=False))
    enqueued, acknowledged, failed, gave_up, wait_ms, process_ms, waits, takes, oldest, paused = row[len(COUNTS) :]
    return Stats(
        queue=queue,
        **counts,
        enqueued_total=enqueued,
        acknowledged_total=acknowledged,
        failed_total=failed,
        dead_total=gave_up,
        oldest_ready_at_ms=oldest,
        paused=paused,
        wait_histogram=_cumulative(waits),
        process_histogram=_cumulative(takes),
        wait_sum_s=wait_ms / 1000,
        process_sum_s=process_ms / 1000,
    )


def minute(row: Sequence[Any]) -> Minute:
    """The columns of statements.HISTORY."""
    at, enqueued, acknowledged, failed, gave_up, ready, scheduled, claimed, wait_ms, process_ms = row
    return Minute(
        minute_at_ms=at * 60_000,
        enqueued=enqueued,
        acknowledged=acknowledged,
        failed=failed,
        dead=gave_up,
        ready=ready,
        scheduled=scheduled,
        claimed=claimed,
        wait_s=wait_ms / 1000,
        process_s=process_ms / 1000,
    )


def holder(row: Sequence[Any]) -> HolderInfo:
    """The columns of statements.HOLDERS; the holder is "<host> <pid> <label>"."""
    name, since_at_ms, alive, claims = row
    host, pid, label = [*(name or "").split(" ", 2), "", "", ""][:3]
    return HolderInfo(
        holder=name or "",
        pid=int(pid) if pid.isdecimal() else 0,
        host=host,
        command=label,
        since_at_ms=since_at_ms,
        alive=alive,
        claims=claims,
    )


def _cumulative(counts: Sequence[int]) -> tuple[tuple[float | None, int], ...]:
    """(upper bound, how many at most that)."""
    return tuple((bound, sum(counts[: at + 1])) for at, bound in enumerate(BUCKETS_S))


# Settings


def settings(text: str) -> Settings:
    """The settings that a queue's row has as JSON."""
    return parse(json.loads(text))


def setting_columns(wanted: Settings) -> tuple[Any, ...]:
    """The values of statements.SETTING_COLUMNS."""
    retry, retention, limits = wanted.retry, wanted.retention, wanted.limits
    return (
        json.dumps(asdict(wanted)),
        ms(wanted.lease_s),
        wanted.max_attempts,
        ms(wanted.ttl_s),
        ms(wanted.dedup_window_s),
        retry.base_s * 1000,
        retry.factor,
        retry.cap_s * 1000,
        retry.jitter,
        [each * 1000 for each in retry.list_s],
        ms(retention.done_s),
        ms(retention.dead_s),
        retention.expired == "delete",
        limits.messages,
        limits.bytes,
    )


def ms(seconds: float) -> int:
    """As stored."""
    return round(seconds * 1000)
