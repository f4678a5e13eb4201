"""Lists of messages: which are admitted, and where a page begins. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.models import Filter, Page

if TYPE_CHECKING:
    from spoolq.memory.store import Entry, MemoryStore


def admits(where: Filter | None, entry: Entry, now_ms: int) -> bool:
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


def found(entry: Entry, text: str) -> bool:
    """Whether `search` finds it."""
    return entry.id.startswith(text.lower()) or _has(entry.name, text) or _has(entry.reason, text)


def page(store: MemoryStore, entries: Sequence[Entry], limit: int, cursor: str | None) -> Page:
    """The entries after the cursor, which names the last one shown and needs it no more."""
    after = None if cursor is None else _parse(cursor)
    left = [entry for entry in entries if after is None or entry.order > after]
    shown = left[:limit]
    more = len(left) > limit
    return Page(
        messages=tuple(store.info(entry) for entry in shown),
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
