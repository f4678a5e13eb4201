"""The columns in which messages are listed, for each state."""

from __future__ import annotations

from collections.abc import Sequence

from spoolq.cli.output import Column
from spoolq.cli.text import instant, size, span
from spoolq.clock import Clock
from spoolq.models import MessageInfo

Of = Column[MessageInfo]


def columns(state: str | None) -> Sequence[Of]:
    """What is worth seeing of messages in this state; None: of messages in any."""
    now_ms = Clock().wall_ms()
    identity = Of("ID", lambda info: info.id, fixed=True)
    of_state = Of("STATE", lambda info: info.state)
    priority = Of("PRI", lambda info: info.priority, right=True)
    attempts = Of("ATT", lambda info: info.attempts, right=True)
    bytes_ = Of("SIZE", lambda info: info.body_bytes, lambda info: size(info.body_bytes), right=True)
    age = _since("AGE", now_ms)
    name = Of("NAME", lambda info: info.name)
    reason = Of("REASON", lambda info: info.reason, lambda info: info.reason.strip().rpartition("\n")[2])
    group = Of("GROUP", lambda info: info.group, _group)
    due = Of("DUE", lambda info: instant(info.due_at_ms), lambda info: _until(info.due_at_ms, now_ms), right=True)
    holder = Of("HOLDER", lambda info: info.holder)
    ends = Of(
        "ENDS", lambda info: instant(info.deadline_at_ms), lambda info: _until(info.deadline_at_ms, now_ms), right=True
    )
    by_state = {
        "ready": (identity, priority, attempts, age, bytes_, name, group),
        "scheduled": (identity, priority, attempts, due, bytes_, name, reason),
        "claimed": (identity, priority, attempts, age, bytes_, name, holder, ends),
        "done": (identity, priority, attempts, age, bytes_, name),
        "dead": (identity, priority, attempts, age, bytes_, name, reason),
    }
    return by_state.get(state or "", (identity, of_state, priority, attempts, age, bytes_, name, reason))


def _since(title: str, now_ms: int) -> Of:
    return Of(
        title,
        lambda info: instant(info.changed_at_ms),
        lambda info: span(max(0, now_ms - info.changed_at_ms) // 1000),
        right=True,
    )


def _until(at_ms: int | None, now_ms: int) -> str:
    return "" if at_ms is None else span((at_ms - now_ms) // 1000)


def _group(info: MessageInfo) -> str:
    return f"{info.group or ''}{' (waits)' if info.held else ''}"
