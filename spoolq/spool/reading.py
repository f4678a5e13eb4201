"""Looking at a queue: lists, search, one message with its history, counts, holders. Changes nothing."""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from spoolq import validate
from spoolq.errors import MessageNotFound, storage_error
from spoolq.models import STATES, Filter, HolderInfo, MessageInfo, Minute, Page, State, Stats
from spoolq.spool import looks, moves
from spoolq.spool.files import open_message
from spoolq.spool.holders import is_alive, read_holder
from spoolq.spool.index import Contradiction
from spoolq.spool.meta import Meta, read_meta
from spoolq.spool.names import holder_of, is_holder
from spoolq.spool.rows import BUCKETS_S, Counts, Row
from spoolq.spool.session import Session

_SHOWN_CHARS = 80


def not_found(id: str, where: str = "") -> MessageNotFound:
    """The error for an id that names no message, or none in the state that was asked for."""
    hint = "It may have been processed and cleaned up; `spoolq search` finds messages by a part of their name"
    return MessageNotFound(f"no message {id}{' is ' + where if where else ''}", message_id=id, hint=hint)


def to_info(session: Session, row: Row, meta: Meta | None = None) -> MessageInfo:
    """What is known of a message, from its row and, for one, its metadata."""
    changed = {"claimed": row.claimed_at_ms, "done": row.ended_at_ms, "dead": row.ended_at_ms}.get(row.state)
    deadline = None
    if row.deadline_boot_ms is not None:
        deadline = session.clock.wall_ms() + row.deadline_boot_ms - session.clock.boot_ms()
    state: State | None = next((state for state in STATES if state == row.state), None)
    if state is None:
        raise Contradiction(f"{row.state!r} is no state")
    info = MessageInfo(
        id=row.id,
        queue=session.name,
        state=state,
        priority=row.priority,
        attempts=row.attempts,
        name=row.label,
        body_bytes=row.body_bytes,
        enqueued_at_ms=row.enqueued_at_ms,
        changed_at_ms=changed if changed is not None else min(row.ready_at_ms, session.clock.wall_ms()),
        due_at_ms=row.due_at_ms,
        expires_at_ms=row.expires_at_ms,
        group=row.grp,
        held=bool(row.held),
        reason=row.reason or "",
        receipt=f"{row.id}.{row.nonce}" if row.nonce is not None and row.state == "claimed" else None,
        holder=holder_of(row.nonce) if row.state == "claimed" else None,
        deadline_at_ms=deadline,
    )
    if meta is None:
        return info
    arrival = meta.arrival
    return replace(
        info,
        original_name=arrival.name,
        headers=dict(arrival.headers),
        content_type=arrival.content_type,
        dedup_key=arrival.dedup_key,
        history=meta.history,
    )


def encode_cursor(key: Sequence[Any]) -> str:
    """Where a page ended, as text for the next call."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, parts: int) -> list[Any]:
    """The key within a cursor; ValueError for what is not one."""
    if cursor is None:
        return []
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a cursor of a list: {cursor[:_SHOWN_CHARS]!r}") from error
    if not isinstance(key, list) or len(key) != parts or not all(map(_is_key_part, key)):
        raise ValueError(f"not a cursor of this list: {cursor!r}")
    return key


def _is_key_part(part: object) -> bool:
    """What SQLite takes: a number of 64 bits, or text that is Unicode."""
    if isinstance(part, int):
        return -(1 << 63) <= part < 1 << 63
    return isinstance(part, str) and not any("\ud800" <= char <= "\udfff" for char in part)


class Reading:
    """Looks at one open queue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(self, state: State, where: Filter | None, limit: int, cursor: str | None) -> Page:
        """A page of a state, as `Queue.list`."""
        validate.check_state(state)
        validate.check_limit(limit)
        after = decode_cursor(cursor, looks.page_parts(state))
        wanted = looks.conditions(where, state, self._session.clock.wall_ms())
        with self._session.look() as db:
            rows = looks.page(db, state, wanted, after, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        following = encode_cursor(looks.page_key(state, rows[-1])) if more else None
        return Page(messages=tuple(to_info(self._session, row) for row in rows), cursor=following)

    def search(self, text: str, limit: int) -> list[MessageInfo]:
        """As `Queue.search`."""
        validate.check_limit(limit)
        with self._session.look() as db:
            return [to_info(self._session, row) for row in looks.search(db, text, limit)]

    def peek(self) -> MessageInfo | None:
        """As `Queue.peek`."""
        with self._session.look() as db:
            row = looks.ready(db)
        return None if row is None else to_info(self._session, row)

    def get(self, id: str) -> MessageInfo:
        """As `Queue.get`."""
        row = self.row(id)
        return to_info(self._session, row, read_meta(self._session.directory, id))

    def row(self, id: str) -> Row:
        """The row of a message that is there, or MessageNotFound."""
        validate.check_message_id(id)
        with self._session.look() as db:
            row = looks.row(db, id)
            if row is not None:
                moves.name_of(row)  # while what is wrong with it can still be told of the index
        if row is None or row.state == "settled":
            raise not_found(id)
        return row

    def read_body(self, id: str) -> BinaryIO:
        """As `Queue.read_body`."""
        for _ in range(3):
            path = moves.path_of(self._session, self.row(id))
            try:
                return os.fdopen(open_message(path), "rb")
            except FileNotFoundError:  # RACE: moved between the look and the open; its row says where by now.
                continue
            except OSError as error:
                raise storage_error(error, "read", path) from error
        raise not_found(id)

    def stats(self) -> Stats:
        """As `Queue.stats`."""
        with self._session.look() as db:
            counts = looks.counts(db)
            oldest = looks.oldest_ready(db)
        return Stats(
            queue=self._session.name,
            ready=counts.ready,
            scheduled=counts.scheduled,
            claimed=counts.claimed,
            done=counts.done,
            dead=counts.dead,
            ready_bytes=counts.ready_bytes,
            scheduled_bytes=counts.scheduled_bytes,
            claimed_bytes=counts.claimed_bytes,
            done_bytes=counts.done_bytes,
            dead_bytes=counts.dead_bytes,
            enqueued_total=counts.enqueued,
            acknowledged_total=counts.acknowledged,
            failed_total=counts.failed,
            dead_total=counts.gave_up,
            oldest_ready_at_ms=oldest,
            paused=os.path.exists(self._session.directory.paused),
            wait_histogram=_histogram(counts.wait_buckets),
            process_histogram=_histogram(counts.process_buckets),
            wait_sum_s=counts.wait_ms / 1000,
            process_sum_s=counts.process_ms / 1000,
        )

    def ages(self, bounds_s: Sequence[float], state: State) -> list[int]:
        """As `Queue.ages`."""
        validate.check_bounds(bounds_s)
        validate.check_state(state)
        now_ms = self._session.clock.wall_ms()
        with self._session.look() as db:
            total, *within = looks.ages(db, state, [now_ms - round(bound * 1000) for bound in bounds_s])
        return [more - less for less, more in itertools.pairwise((0, *within, total))]

    def minutes(self, since_at_ms: int) -> list[Minute]:
        """As `Queue.minutes`: each row of the ledger less the one before it."""
        with self._session.look() as db:
            ledger = looks.minutes(db, since_at_ms // 60_000)
        first = since_at_ms // 60_000
        before = [_nothing_before(ledger[0]), *ledger[:-1]] if ledger else []
        return [_minute(now, then) for now, then in zip(ledger, before, strict=True) if now.minute >= first]

    def holders(self) -> list[HolderInfo]:
        """As `Queue.holders`."""
        with self._session.look() as db:
            claims = Counter(holder_of(nonce) for nonce, _ in looks.claims(db))
        directory = self._session.directory
        names = set(filter(is_holder, directory.names(directory.holders))) | {name for name in claims if name}
        return [self._holder(name, claims[name]) for name in sorted(names)]

    def _holder(self, name: str, claims: int) -> HolderInfo:
        directory = self._session.directory
        known = read_holder(directory, name)
        return HolderInfo(
            holder=name,
            pid=int(known.get("pid") or 0),
            host=str(known.get("host") or ""),
            command=str(known.get("label") or known.get("command") or ""),
            since_at_ms=int(known.get("since_at_ms") or 0),
            alive=name in self._session.holders or is_alive(directory, name),
            claims=claims,
        )


def _nothing_before(row: Counts) -> Counts:
    """Before the first row of the ledger there was nothing: it was made then."""
    buckets = (0,) * len(BUCKETS_S)
    return Counts._make((row.minute, *(0,) * (len(Counts._fields) - 3), buckets, buckets))


def _minute(now: Counts, then: Counts) -> Minute:
    return Minute(
        minute_at_ms=now.minute * 60_000,
        enqueued=now.enqueued - then.enqueued,
        acknowledged=now.acknowledged - then.acknowledged,
        failed=now.failed - then.failed,
        dead=now.gave_up - then.gave_up,
        ready=now.ready,
        scheduled=now.scheduled,
        claimed=now.claimed,
        wait_s=(now.wait_ms - then.wait_ms) / 1000,
        process_s=(now.process_ms - then.process_ms) / 1000,
    )


def _histogram(buckets: Sequence[int]) -> tuple[tuple[float | None, int], ...]:
    total = 0
    found: list[tuple[float | None, int]] = []
    for bound, count in zip(BUCKETS_S, buckets, strict=True):
        total += count
        found.append((bound if math.isfinite(bound) else None, total))
    return tuple(found)
