"""Looking into the index, on a connection for it. Each look is one statement, so that it sees one instant.

Where a look may be long, it says what it costs. Section 8 of docs/spool-format.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from spoolq.models import Filter, State
from spoolq.spool.rows import COLUMNS, Counts, Info, Key, Row, counts_of

FIRST_READY = (
    f"SELECT {COLUMNS} FROM messages WHERE state = 'ready' AND held = 0"
    " ORDER BY held, priority DESC, id LIMIT ? OFFSET ?"
)
_ORDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ready": ("held, priority DESC, id", ("held", "-priority", "id")),
    "scheduled": ("due_at_ms, id", ("due_at_ms", "id")),
    "claimed": ("id", ("id",)),
    "done": ("ended_at_ms, id", ("ended_at_ms", "id")),
    "dead": ("ended_at_ms, id", ("ended_at_ms", "id")),
}


def row(db: sqlite3.Connection, id: str) -> Row | None:
    """The row of a message."""
    found = db.execute(f"SELECT {COLUMNS} FROM messages WHERE id = ?", (id,)).fetchone()
    return None if found is None else Row._make(found)


def waiting_among(db: sqlite3.Connection, ids: Sequence[str]) -> set[tuple[str, int, int | None, int, str | None]]:
    """What the rows of these (a few hundred) say of names in `new/`: id, priority, due time, attempts, label."""
    marks = ", ".join("?" * len(ids))
    return set(
        db.execute(
            "SELECT id, priority, due_at_ms, attempts, label FROM messages"
            f" WHERE id IN ({marks}) AND state IN ('ready', 'scheduled')",
            ids,
        )
    )


def key(db: sqlite3.Connection, dedup_key: str) -> Key | None:
    """What is known of a deduplication key."""
    row = db.execute("SELECT id, until_at_ms, reserved FROM keys WHERE dedup_key = ?", (dedup_key,)).fetchone()
    return None if row is None else Key(row[0], row[1], bool(row[2]))


def counts(db: sqlite3.Connection) -> Counts:
    """The ledger's present row."""
    return counts_of(db.execute("SELECT * FROM ledger ORDER BY minute DESC LIMIT 1").fetchone())


def page(
    db: sqlite3.Connection, state: State, conditions: Sequence[tuple[str, Any]], after: Sequence[Any], limit: int
) -> list[Row]:
    """A page of a state, after the row with the key `after` (see `page_key`)."""
    order, _ = _ORDERS[state]
    # The state stands in the text, so that the partial indexes are used.
    where = [f"state = '{state}'", *(condition for condition, _ in conditions)]
    values = [value for _, value in conditions]
    rows: list[Row] = []
    for range_, bounds in _ranges(state, after):
        text = f"SELECT {COLUMNS} FROM messages WHERE {' AND '.join([*where, range_])} ORDER BY {order} LIMIT ?"
        rows += map(Row._make, db.execute(text, (*values, *bounds, limit - len(rows))))
        if len(rows) >= limit:
            break
    return rows


def _ranges(state: State, after: Sequence[Any]) -> list[tuple[str, Sequence[Any]]]:
    """What comes after a key, as ranges of the state's index, each of which is one seek."""
    if state == "ready":
        if not after:
            return [("held >= 0", ())]
        held, priority, id = after[0], -after[1], after[2]
        return [
            ("held = ? AND priority = ? AND id > ?", (held, priority, id)),
            ("held = ? AND priority < ?", (held, priority)),
            ("held > ?", (held,)),
        ]
    index = ["state IN ('done', 'dead')"] if state in ("done", "dead") else []
    if after:
        parts = _ORDERS[state][1]
        index.append(f"({', '.join(parts)}) > ({', '.join('?' * len(parts))})")
    return [(" AND ".join(index) or "1", after)]


def page_ids(db: sqlite3.Connection, state: State, conditions: Sequence[tuple[str, Any]], limit: int) -> list[str]:
    """The ids of all of a state that meet the conditions, oldest first; at most `limit`, -1 for all."""
    where = "".join(f" AND {condition}" for condition, _ in conditions)
    text = f"SELECT id FROM messages WHERE state = '{state}'{where} ORDER BY {_ORDERS[state][0]} LIMIT ?"
    return [row[0] for row in db.execute(text, (*(value for _, value in conditions), limit))]


def page_parts(state: State) -> int:
    """How many parts a page's key has."""
    return len(_ORDERS[state][1])


def page_key(state: State, row: Row) -> tuple[Any, ...]:
    """What `page` continues after."""
    values = row._asdict()
    return tuple(-values[part[1:]] if part[0] == "-" else values[part] for part in _ORDERS[state][1])


def search(db: sqlite3.Connection, text: str, limit: int) -> list[Row]:
    """Rows whose id begins with, or whose label or reason contains `text`."""
    found = []
    if text and all(char in "0123456789abcdef-" for char in text):
        found = db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE id >= ? AND id < ? AND state <> 'settled' LIMIT ?",
            (text, text + "~", limit),
        ).fetchall()
    if len(found) < limit:
        pattern = like(text)
        found += db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE state <> 'settled' AND NOT (id >= ? AND id < ?)"
            " AND (label LIKE ? ESCAPE '\\' OR reason LIKE ? ESCAPE '\\') LIMIT ?",
            (text, text + "~", pattern, pattern, limit - len(found)),
        ).fetchall()
    return [Row._make(row) for row in found]


def conditions(where: Filter | None, state: State, now_ms: int) -> list[tuple[str, Any]]:
    """A filter as conditions on a state's rows, each with its value."""
    if where is None:
        return []
    since = {"claimed": "claimed_at_ms", "done": "ended_at_ms", "dead": "ended_at_ms"}.get(state, "ready_at_ms")
    found: list[tuple[str, Any]] = []
    if where.name is not None:
        found.append(("label LIKE ? ESCAPE '\\'", like(where.name)))
    if where.reason is not None:
        found.append(("reason LIKE ? ESCAPE '\\'", like(where.reason)))
    if where.group is not None:
        found.append(("grp = ?", where.group))
    if where.text is not None:
        pattern = like(where.text)
        found.append(("(id || ' ' || coalesce(label, '') || ' ' || coalesce(reason, '')) LIKE ? ESCAPE '\\'", pattern))
    if where.min_age_s is not None:
        found.append((f"{since} <= ?", now_ms - round(where.min_age_s * 1000)))
    if where.max_age_s is not None:
        found.append((f"{since} >= ?", now_ms - round(where.max_age_s * 1000)))
    if where.min_attempts is not None:
        found.append(("attempts >= ?", where.min_attempts))
    return found


def like(text: str) -> str:
    """A pattern for LIKE that finds `text` anywhere, taking it literally."""
    if "\0" in text:
        return ""  # LIKE would stop there, at a pattern that finds everything; nothing has a NUL in it
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def oldest_ready(db: sqlite3.Connection) -> int | None:
    """When the oldest deliverable message became ready; by a look at the head of the line of each priority.

    Its first twenty: those before it may have come back, and are ready since a moment ago.
    """
    found = [
        db.execute(
            "SELECT min(ready_at_ms) FROM (SELECT ready_at_ms FROM messages"
            " WHERE state = 'ready' AND held = 0 AND priority = ? ORDER BY id LIMIT 20)",
            (priority,),
        ).fetchone()[0]
        for priority in range(10)
    ]
    return min((each for each in found if each is not None), default=None)


def next_due(db: sqlite3.Connection) -> int | None:
    """When the first scheduled message is due."""
    row = db.execute("SELECT due_at_ms FROM messages WHERE state = 'scheduled' ORDER BY due_at_ms LIMIT 1").fetchone()
    return None if row is None else row[0]


def ready(db: sqlite3.Connection) -> Row | None:
    """The next message in delivery order."""
    row = db.execute(FIRST_READY, (1, 0)).fetchone()
    return None if row is None else Row._make(row)


def reasons(db: sqlite3.Connection) -> list[tuple[str, int]]:
    """The reasons of dead letters, the most frequent first."""
    return db.execute(
        "SELECT coalesce(reason, ''), count(*) FROM messages WHERE state = 'dead' AND state IN ('done', 'dead')"
        " GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()


def ended_totals(db: sqlite3.Connection, state: str, before_ms: int) -> tuple[int, int]:
    """How many became done or dead up to an instant, and their bytes."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(body_bytes), 0) FROM messages WHERE state = ? AND ended_at_ms <= ?"
        " AND state IN ('done', 'dead')",
        (state, before_ms),
    ).fetchone()
    return row[0], row[1]


def settled(db: sqlite3.Connection, after: str, before_ms: int, limit: int) -> tuple[list[str], str]:
    """Of the next `limit` rows after an id, those settled before an instant; and the last id, "" at the end."""
    rows = db.execute("SELECT id, state, ended_at_ms FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    found = rows.fetchall()
    settled = [id for id, state, ended in found if state == "settled" and ended <= before_ms]
    return settled, found[-1][0] if len(found) == limit else ""


def ages(db: sqlite3.Connection, state: str, since_ms: Sequence[int]) -> list[int]:
    """How many rows of a state there are, and how many of them were enqueued at or after each instant.

    By the time in the id, since ids are in every index and the rows need not be read.
    """
    sums = "".join(", coalesce(sum(id >= ?), 0)" for _ in since_ms)
    stamps = [f"{max(0, at_ms):012x}" for at_ms in since_ms]
    # The words of the partial indexes, so that they can be used.
    also = " AND state IN ('done', 'dead')" if state in ("done", "dead") else ""
    row = db.execute(
        f"SELECT count(*){sums} FROM messages WHERE state = '{state}'{also}",
        [f"{stamp[:8]}-{stamp[8:]}" for stamp in stamps],
    ).fetchone()
    return list(row)


def minutes(db: sqlite3.Connection, since_minute: int) -> list[Counts]:
    """The ledger from the row before `since_minute` on, oldest first."""
    rows = db.execute(
        "SELECT * FROM ledger WHERE minute >= coalesce((SELECT max(minute) FROM ledger WHERE minute < ?), 0)"
        " ORDER BY minute",
        (since_minute,),
    )
    return [counts_of(row) for row in rows]


def holders(db: sqlite3.Connection) -> list[str]:
    """The holders that claims name; one seek for each, however many claims it has."""
    found = set()
    for letter in "kl":
        after = letter
        while row := db.execute(
            "SELECT nonce FROM messages WHERE state = 'claimed' AND nonce > ? AND nonce < ? ORDER BY nonce LIMIT 1",
            (after, letter + "~"),
        ).fetchone():
            found.add(row[0][1:7])
            after = row[0][:7] + "~"
    return sorted(found)


def overdue(db: sqlite3.Connection, boot_ms: int, now_ms: int) -> tuple[bool, bool]:
    """Whether a claim is past its deadline, and whether a waiting message is past its time to live."""
    late = db.execute("SELECT 1 FROM messages WHERE deadline_boot_ms <= ? LIMIT 1", (boot_ms,)).fetchone()
    expired = db.execute(
        "SELECT 1 FROM messages WHERE expires_at_ms <= ? AND expires_at_ms IS NOT NULL"
        " AND state IN ('ready', 'scheduled') LIMIT 1",
        (now_ms,),
    ).fetchone()
    return late is not None, expired is not None


def claimed_among(db: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these, at most a few hundred, have a row that says they are in `cur/`."""
    marks = ", ".join("?" * len(ids))
    found = db.execute(f"SELECT id FROM messages WHERE id IN ({marks}) AND state = 'claimed'", ids)
    return {row[0] for row in found}


def rows(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Row]:
    """The rows of these messages, at most a few hundred."""
    marks = ", ".join("?" * len(ids))
    found = db.execute(f"SELECT {COLUMNS} FROM messages WHERE id IN ({marks})", ids)
    return {row[0]: Row._make(row) for row in found}


def known_among(db: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Which of these, at most a few hundred, have a row."""
    marks = ", ".join("?" * len(ids))
    return {row[0] for row in db.execute(f"SELECT id FROM messages WHERE id IN ({marks})", ids)}


def contradictions(db: sqlite3.Connection) -> list[str]:
    """Where pages tell different things, in SQLite's words, the first few. Reads everything."""
    return [text for (text,) in db.execute("PRAGMA integrity_check(3)") if text != "ok"]


def claims(db: sqlite3.Connection) -> Iterator[tuple[str | None, int]]:
    """Nonces of claims, with when they began."""
    return iter(db.execute("SELECT nonce, claimed_at_ms FROM messages WHERE state = 'claimed'").fetchall())


def ids(db: sqlite3.Connection, after: str, limit: int) -> list[Row]:
    """All rows in the order of their ids."""
    found = db.execute(f"SELECT {COLUMNS} FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [Row._make(row) for row in found]


def info(db: sqlite3.Connection) -> Info:
    """What the index knows of itself."""
    return Info._make(db.execute(f"SELECT {', '.join(Info._fields)} FROM info").fetchone())
