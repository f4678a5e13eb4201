"""The index of one queue: all SQL that changes it, and nothing else. Section 8 of docs/spool-format.md.

It never sees a message's path, and nothing here is believed of a body: a row is a copy of what a name says. Who calls
a method that changes something holds the write lock and has called `begin`; `commit` makes it seen, `rollback`, or
dying, undoes it. Reading (looks.py) goes through a connection of its own, which keeps no transaction open.
"""

from __future__ import annotations

import bisect
import sqlite3
from collections.abc import Iterable, Sequence
from importlib import resources

from spoolq.models import STATES
from spoolq.spool import looks
from spoolq.spool.looks import FIRST_READY
from spoolq.spool.rows import BUCKETS_S, COLUMNS, Counts, Info, Key, Row, counts_of

USER_VERSION = 1
_BUCKETS_MS = tuple(bound * 1000 for bound in BUCKETS_S[:-1])
_PAGE_BYTES = 1024
"""Small, since a transaction changes one row in each of three or four pages, and each goes through the WAL whole."""

_CHECKPOINT_PAGES = 256
PROMOTE_AT_ONCE = 100
_HISTORY_MINUTES = 8 * 24 * 60
_DAY_MS = 86_400_000


class Contradiction(sqlite3.DatabaseError):
    """What no index that is whole can say: its pages tell different things."""


_NO_DAMAGE = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISUSE),
    )
)
_DAMAGE = frozenset((sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_READONLY_DBMOVED))
"""Among the kinds above: the file was cut short, or removed beneath a transaction."""


def is_damage(error: Exception) -> bool:
    """Whether an error means that the index has to be made anew; else the system, or somebody, is in the way."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, Contradiction | UnicodeDecodeError) or "decode" in str(error)
    return code in _DAMAGE or code & 0xFF not in _NO_DAMAGE


def library_version() -> str:
    """SQLite's own version, not its module's."""
    return sqlite3.sqlite_version


_NOW = "WHERE minute = (SELECT max(minute) FROM ledger)"
_ENQUEUED = f"UPDATE ledger SET ready = ready + ?, ready_bytes = ready_bytes + ?, enqueued = enqueued + ? {_NOW}"
_CLAIMED = tuple(
    "UPDATE ledger SET ready = ready - 1, ready_bytes = ready_bytes - ?1, claimed = claimed + 1,"
    f" claimed_bytes = claimed_bytes + ?1, wait_ms = wait_ms + ?2, w{n} = w{n} + 1 {_NOW} RETURNING scheduled"
    for n in range(len(BUCKETS_S))
)
_ACKNOWLEDGED = tuple(
    "UPDATE ledger SET claimed = claimed - 1, claimed_bytes = claimed_bytes - ?1, done = done + ?3,"
    f" done_bytes = done_bytes + ?1 * ?3, acknowledged = acknowledged + 1, process_ms = process_ms + ?2,"
    f" p{n} = p{n} + 1 {_NOW}"
    for n in range(len(BUCKETS_S))
)
_INSERT = f"INSERT INTO messages ({COLUMNS}) VALUES ({', '.join('?' * 19)})"
_FILL = f"INSERT OR IGNORE INTO messages ({COLUMNS}) VALUES ({', '.join('?' * 19)})"
_REPLACE = f"INSERT OR REPLACE INTO messages ({COLUMNS}) VALUES ({', '.join('?' * 19)})"
_INSERT_NEW = (
    "INSERT OR IGNORE INTO messages (id, state, held, priority, due_at_ms, attempts, label, body_bytes, enqueued_at_ms,"
    " ready_at_ms, expires_at_ms, grp, has_meta) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CLAIM = (
    "UPDATE messages SET state = 'claimed', attempts = attempts + 1, nonce = ?, claimed_at_ms = ?,"
    " deadline_boot_ms = ?, deadline_at_ms = ? WHERE id = ?"
)
_SETTLE = (
    "UPDATE messages SET state = ?, ended_at_ms = ?, deadline_boot_ms = NULL WHERE id = ? AND nonce = ?"
    " AND state = 'claimed' RETURNING priority, due_at_ms, attempts, label, body_bytes, claimed_at_ms, grp, has_meta"
)
_OPEN = ("ready", "scheduled", "claimed")
_WAITING = ("ready", "scheduled")
_OPEN_STATES = "state IN ('ready', 'scheduled', 'claimed')"


def create(path: str, boot: str, mount: str, now_ms: int, rows: Iterable[Row]) -> int:
    """Make an index with these rows in an empty file; how many. Whole when this returns; nothing is synced.

    Rows of an id that is there already are left out (fewer are returned than were given). Sorted by id it is fastest.
    """
    tables, indexes = _schema()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("BEGIN")
        for statement in tables:
            connection.execute(statement)
        connection.execute("INSERT INTO info (one, boot, mount, made_at_ms) VALUES (1, ?, ?, ?)", (boot, mount, now_ms))
        connection.execute("INSERT INTO ledger (minute) VALUES (?)", (now_ms // 60_000,))
        count = connection.executemany(_FILL, rows).rowcount
        for statement in indexes:
            connection.execute(statement)
        _count_and_hold(connection)
        connection.execute(f"PRAGMA user_version = {USER_VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    return max(count, 0)


def _schema() -> tuple[list[str], list[str]]:
    """The statements of schema.sql: tables, then indexes, which are made faster over what is there."""
    text = resources.files("spoolq.spool").joinpath("schema.sql").read_text(encoding="utf-8")
    bare = "\n".join(line.partition("--")[0] for line in text.splitlines())
    statements = [part.strip() for part in bare.split(";") if part.strip()]
    tables = [part for part in statements if part.startswith("CREATE TABLE")]
    return tables, [part for part in statements if part not in tables]


def _count_and_hold(connection: sqlite3.Connection) -> None:
    """Counts, and the heads of groups, of rows that were filled in."""
    deltas: dict[str, int] = {}
    for state, number, size in connection.execute(
        "SELECT state, count(*), coalesce(sum(body_bytes), 0) FROM messages GROUP BY state"
    ).fetchall():
        _step(deltas, state, number, size)
    if deltas:
        sets = ", ".join(f"{column} = ?" for column in deltas)
        connection.execute(f"UPDATE ledger SET {sets}", tuple(deltas.values()))
    connection.execute(f"UPDATE messages SET held = 1 WHERE grp IS NOT NULL AND {_OPEN_STATES}")
    connection.execute(
        f"WITH heads AS (SELECT id, row_number() OVER (PARTITION BY grp ORDER BY state <> 'claimed', id) AS place"
        f" FROM messages WHERE grp IS NOT NULL AND {_OPEN_STATES})"
        " UPDATE messages SET held = 0 WHERE id IN (SELECT id FROM heads WHERE place = 1)"
    )


def _connect(path: str, mode: str) -> sqlite3.Connection:
    """Open, never create."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        timeout=0.2,
    )


def open_reader(path: str) -> sqlite3.Connection:
    """A connection for the `look_` functions below; keeps no transaction open."""
    return _connect(path, "ro")


class Index:
    """An open index. Raises sqlite3.Error as it comes; the session knows what that means."""

    may_be_scheduled = True
    """False where the last claim counted no scheduled message and none came from here since: saves each claim a look
    for what is due. What another process scheduled meanwhile is seen by the claim after the next.
    """

    def __init__(self, path: str) -> None:
        """Open the index at `path` for writing; it must be there and be ours (`version` says so)."""
        self._db = _connect(path, "rw")
        self._minute = 0
        try:
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self.version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            self._db.close()
            raise

    # Transactions

    def begin(self, now_ms: int) -> None:
        """Begin to change something; the caller has the write lock. now_ms: for the ledger's minute."""
        self._db.execute("BEGIN IMMEDIATE")
        if now_ms // 60_000 > self._minute:
            self._turn_minute(now_ms // 60_000)

    def _turn_minute(self, minute: int) -> None:
        """A new row of running sums, where the minute is new; a clock that went back stays in the last one."""
        cursor = self._db.execute("SELECT * FROM ledger ORDER BY minute DESC LIMIT 1")
        last = cursor.fetchone()
        if last[0] < minute:
            marks = ", ".join("?" * len(last))
            self._db.execute(f"INSERT INTO ledger VALUES ({marks})", (minute, *last[1:]))
        self._minute = minute

    def commit(self) -> None:
        """Make what was changed seen by all."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Undo what was changed."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._minute = 0
        self.may_be_scheduled = True

    def sync(self) -> None:
        """Bring the whole index to the disk: the only time that SQLite syncs. The caller has the write lock."""
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        """Close; the caller has the write lock, since the last one's closing copies the WAL back."""
        self._db.close()

    # A message's life, in its order

    def add(
        self,
        id: str,
        *,
        state: str,
        priority: int,
        due_at_ms: int | None,
        attempts: int,
        label: str | None,
        body_bytes: int,
        enqueued_at_ms: int,
        ready_at_ms: int,
        expires_at_ms: int | None = None,
        grp: str | None = None,
        has_meta: int = 0,
    ) -> bool:
        """The row of a message that is in `new/`; False where there is one. The caller counts it (`count_enqueued`)."""
        if grp is not None and self.row(id) is not None:
            # RACE: a scan was faster. It has its place in the group, or has had it: to join again would hold the head.
            return False
        held = 0 if grp is None else self._join_group(grp, id)
        cursor = self._db.execute(
            _INSERT_NEW,
            (
                id,
                state,
                held,
                priority,
                due_at_ms,
                attempts,
                label,
                body_bytes,
                enqueued_at_ms,
                ready_at_ms,
                expires_at_ms,
                grp,
                has_meta,
            ),
        )
        return cursor.rowcount == 1

    def count_enqueued(self, state: str, number: int, body_bytes: int) -> None:
        """Count messages that were added in this transaction, all in one state."""
        if state == "ready":
            self._db.execute(_ENQUEUED, (number, body_bytes, number))
        else:
            self.may_be_scheduled = True
            self.count(scheduled=number, scheduled_bytes=body_bytes, enqueued=number)

    def first_ready(self, count: int, skip: int = 0) -> list[Row]:
        """The next `count` messages in delivery order, after `skip` of them."""
        return [Row._make(row) for row in self._db.execute(FIRST_READY, (count, skip))]

    def first_ready_one(self, skip: int = 0) -> Row | None:
        """The next message in delivery order, after `skip` of them."""
        row = self._db.execute(FIRST_READY, (1, skip)).fetchone()
        return None if row is None else Row._make(row)

    def first_due(self) -> int | None:
        """When the first scheduled message is due, UTC ms."""
        row = self._db.execute(
            "SELECT due_at_ms FROM messages WHERE state = 'scheduled' ORDER BY due_at_ms LIMIT 1"
        ).fetchone()
        return None if row is None else row[0]

    def promote(self, now_ms: int, limit: int) -> int:
        """Make ready what is scheduled and due, at most `limit`; returns how many."""
        rows = self._db.execute(
            "UPDATE messages SET state = 'ready' WHERE id IN (SELECT id FROM messages WHERE state = 'scheduled'"
            " AND due_at_ms <= ? ORDER BY due_at_ms LIMIT ?) RETURNING body_bytes",
            (now_ms, limit),
        ).fetchall()
        if rows:
            total = sum(row[0] for row in rows)
            self.count(scheduled=-len(rows), scheduled_bytes=-total, ready=len(rows), ready_bytes=total)
        return len(rows)

    def claim(
        self, row: Row, nonce: str, now_ms: int, deadline_boot_ms: int | None, deadline_at_ms: int | None
    ) -> None:
        """A ready row becomes claimed, one attempt more."""
        if self._db.execute(_CLAIM, (nonce, now_ms, deadline_boot_ms, deadline_at_ms, row.id)).rowcount != 1:
            raise Contradiction(f"{row.id} is ready, and is not there")
        waited = max(0, now_ms - row.ready_at_ms)
        counted = self._db.execute(_CLAIMED[bisect.bisect_left(_BUCKETS_MS, waited)], (row.body_bytes, waited))
        self.may_be_scheduled = counted.fetchone()[0] > 0

    def settle(
        self, id: str, nonce: str, state: str, now_ms: int
    ) -> tuple[int, int | None, int, str | None, int, int, str | None, int] | None:
        """A claimed row of this delivery becomes done or settled; the parts of its name, or None where there is none.

        Returns (priority, due_at_ms, attempts, label, body_bytes, claimed_at_ms, grp, has_meta).
        """
        found: tuple[int, int | None, int, str | None, int, int, str | None, int] | None
        found = self._db.execute(_SETTLE, (state, now_ms, id, nonce)).fetchone()
        if found is None:
            return None
        taken = max(0, now_ms - found[5])
        kept = 1 if state == "done" else 0
        self._db.execute(_ACKNOWLEDGED[bisect.bisect_left(_BUCKETS_MS, taken)], (found[4], taken, kept))
        if found[6] is not None:
            self.free_next(found[6])
        return found

    def change(self, old: Row, new: Row, **totals: int) -> None:
        """Replace a row by another of the same id, with the counts of both states, and totals such as `failed=1`.

        A message that is open again stands in its group by its id; one that is no longer open frees the next.
        """
        if new.grp is not None and old.state not in _OPEN and new.state in _WAITING:
            new = new._replace(held=self._join_group(new.grp, new.id))
        self._db.execute(_REPLACE, new)
        self.may_be_scheduled |= new.state == "scheduled"
        if old.state != new.state or totals or old.body_bytes != new.body_bytes:
            deltas = dict(totals)
            _step(deltas, old.state, -1, -old.body_bytes)
            _step(deltas, new.state, 1, new.body_bytes)
            self.count(**deltas)
        if old.grp is not None:
            self.free_next(old.grp)

    def put(self, row: Row) -> None:
        """A row for a file that had none, whatever its state; a group's head where its group has none."""
        if row.grp is not None and row.state in ("ready", "scheduled"):
            row = row._replace(held=self._join_group(row.grp, row.id))
        self._db.execute(_INSERT, row)
        self.may_be_scheduled |= row.state == "scheduled"
        deltas = {"enqueued": 1}
        _step(deltas, row.state, 1, row.body_bytes)
        self.count(**deltas)

    def remove(self, row: Row) -> None:
        """A row whose message is gone."""
        if self._db.execute("DELETE FROM messages WHERE id = ?", (row.id,)).rowcount != 1:
            raise Contradiction(f"{row.id} was read, and is not there")
        deltas: dict[str, int] = {}
        _step(deltas, row.state, -1, -row.body_bytes)
        self.count(**deltas)
        if row.grp is not None:
            self.free_next(row.grp)

    def extend(self, id: str, deadline_boot_ms: int | None, deadline_at_ms: int) -> None:
        """The deadline of a claim, and the file's time that says the same."""
        self._db.execute(
            "UPDATE messages SET deadline_boot_ms = ?, deadline_at_ms = ? WHERE id = ?",
            (deadline_boot_ms, deadline_at_ms, id),
        )

    # Groups: exactly one open message of each is not held

    def _join_group(self, grp: str, id: str) -> int:
        """`held` of a message that comes into its group: 0 where it is the first, and nobody works on a later one."""
        head = self._db.execute(
            f"SELECT id, state FROM messages WHERE grp = ? AND held = 0 AND {_OPEN_STATES} LIMIT 1", (grp,)
        ).fetchone()
        if head is None:
            return 0
        if head[0] < id or head[1] == "claimed":
            return 1
        self._db.execute("UPDATE messages SET held = 1 WHERE id = ?", (head[0],))
        return 0

    def free_next(self, grp: str) -> None:
        """Where no open message of the group is its head, the first one becomes it."""
        head = self._db.execute(
            f"SELECT 1 FROM messages WHERE grp = ? AND held = 0 AND {_OPEN_STATES} LIMIT 1", (grp,)
        ).fetchone()
        if head is None:
            self._db.execute(
                "UPDATE messages SET held = 0 WHERE id = (SELECT id FROM messages WHERE grp = ? AND held = 1"
                f" AND {_OPEN_STATES} ORDER BY id LIMIT 1)",
                (grp,),
            )

    # One row

    def row(self, id: str) -> Row | None:
        """The row of a message, within the transaction under way."""
        return looks.row(self._db, id)

    # Who holds what

    def claims_of(self, holder: str, limit: int) -> list[Row]:
        """Claims of one holder."""
        rows: list[Row] = []
        for letter in "kl":
            found = self._db.execute(
                f"SELECT {COLUMNS} FROM messages WHERE state = 'claimed' AND nonce > ? AND nonce < ? LIMIT ?",
                (letter + holder, letter + holder + "~", limit - len(rows)),
            )
            rows += map(Row._make, found)
        return rows

    def claims_marked(self, mark: str, limit: int) -> list[Row]:
        """Claims that live by time and whose nonce begins with a mark, the oldest message first."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE state = 'claimed' AND nonce > ? AND nonce < ? ORDER BY id LIMIT ?",
            ("t" + mark, "t" + mark + "~", limit),
        )
        return [Row._make(row) for row in found]

    def claims_past(self, boot_ms: int, limit: int) -> list[Row]:
        """Claims whose deadline has passed, the first ones first."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE deadline_boot_ms <= ? ORDER BY deadline_boot_ms LIMIT ?",
            (boot_ms, limit),
        )
        return [Row._make(row) for row in found]

    def expired(self, now_ms: int, limit: int) -> list[Row]:
        """Waiting messages past their time to live."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE expires_at_ms <= ? AND expires_at_ms IS NOT NULL"
            " AND state IN ('ready', 'scheduled') ORDER BY expires_at_ms LIMIT ?",
            (now_ms, limit),
        )
        return [Row._make(row) for row in found]

    def ended(self, state: str, before_ms: int, limit: int) -> list[Row]:
        """Rows that became done or dead up to an instant, oldest first."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM messages WHERE state = ? AND ended_at_ms <= ? AND state IN ('done', 'dead')"
            " ORDER BY ended_at_ms, id LIMIT ?",
            (state, before_ms, limit),
        )
        return [Row._make(row) for row in found]

    def forget_settled(self, ids: Sequence[str]) -> None:
        """Drop settled rows; their receipts are answered no more."""
        self._db.executemany("DELETE FROM messages WHERE id = ? AND state = 'settled'", [(id,) for id in ids])

    def some_of(self, state: str, limit: int) -> list[Row]:
        """Some of a state, to be deleted."""
        text = f"SELECT {COLUMNS} FROM messages WHERE state = '{state}' LIMIT ?"
        if state in ("done", "dead"):
            text = text.replace("LIMIT", "AND state IN ('done', 'dead') LIMIT")
        return [Row._make(row) for row in self._db.execute(text, (limit,))]

    # Deduplication

    def key(self, dedup_key: str) -> Key | None:
        """What is known of a key."""
        return looks.key(self._db, dedup_key)

    def keep_key(self, dedup_key: str, key: Key) -> None:
        """Remember a key, or a reservation of it."""
        self._db.execute(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", (dedup_key, key.id, key.until_at_ms, int(key.reserved))
        )

    def forget_keys_before(self, now_ms: int, limit: int) -> int:
        """Forget keys whose window has ended; returns how many."""
        return self._db.execute(
            "DELETE FROM keys WHERE dedup_key IN (SELECT dedup_key FROM keys WHERE until_at_ms <= ? LIMIT ?)",
            (now_ms, limit),
        ).rowcount

    # Counts

    def count(self, **deltas: int) -> None:
        """Add to the ledger's present row."""
        if deltas:
            sets = ", ".join(f"{column} = {column} + ?" for column in deltas)
            self._db.execute(f"UPDATE ledger SET {sets} {_NOW}", tuple(deltas.values()))

    def counts(self) -> Counts:
        """The ledger's present row, within the transaction under way."""
        return counts_of(self._db.execute("SELECT * FROM ledger ORDER BY minute DESC LIMIT 1").fetchone())

    def wrong_counts(self) -> list[tuple[str, int, int]]:
        """Columns of the ledger that are not what the rows add up to: (column, kept, real). Reads every row."""
        kept = self.counts()._asdict()
        real = dict.fromkeys(
            (
                f"{state}{suffix}"
                for state in ("ready", "scheduled", "claimed", "done", "dead")
                for suffix in ("", "_bytes")
            ),
            0,
        )
        for state, number, size in self._db.execute(
            "SELECT state, count(*), coalesce(sum(body_bytes), 0) FROM messages WHERE state <> 'settled' GROUP BY state"
        ).fetchall():
            _step(real, state, number, size)
        return [(column, kept[column], value) for column, value in real.items() if kept[column] != value]

    def forget_minutes(self, now_ms: int) -> None:
        """Drop history that is older than it is kept."""
        self._db.execute("DELETE FROM ledger WHERE minute < ?", (now_ms // 60_000 - _HISTORY_MINUTES,))

    # Itself

    def info(self) -> Info:
        """What the index knows of itself."""
        return looks.info(self._db)

    def set_info(self, **values: int | str) -> None:
        """Change what it knows of itself."""
        sets = ", ".join(f"{column} = ?" for column in values)
        self._db.execute(f"UPDATE info SET {sets}", tuple(values.values()))

    def take_turn(self, column: str, now_boot_ms: int, next_boot_ms: int) -> bool:
        """Compare and set: True for the one caller who is to do what is due. A time of another boot is due, too."""
        return (
            self._db.execute(
                f"UPDATE info SET {column} = ? WHERE {column} <= ? OR {column} > ?",
                (next_boot_ms, now_boot_ms, now_boot_ms + _DAY_MS),
            ).rowcount
            == 1
        )


def is_due(next_boot_ms: int, now_boot_ms: int) -> bool:
    """Whether a turn is due; a time of another boot, far ahead, is due as well."""
    return next_boot_ms <= now_boot_ms or next_boot_ms > now_boot_ms + _DAY_MS


def _step(deltas: dict[str, int], state: str, number: int, size: int) -> None:
    """Count a state in or out; a settled row counts nowhere."""
    if state == "settled":
        return
    if state not in STATES:
        raise Contradiction(f"{state!r} is no state")
    deltas[state] = deltas.get(state, 0) + number
    deltas[state + "_bytes"] = deltas.get(state + "_bytes", 0) + size
