"""The PostgreSQL engine beside bare SQL on the same server (one INSERT, one UPDATE .. SKIP LOCKED, one DELETE), and
beside procrastinate where that is installed.

The server is yours, by SPOOLQ_BENCH_DSN: an empty database that may be filled, with `spoolq engine init` run in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from benchmarks import postgres_peer as peer
from benchmarks.cost import BODY, rate
from benchmarks.report import Figure
from spoolq import open_queue
from spoolq.interfaces import Queue

VARIABLE = "SPOOLQ_BENCH_DSN"
_TABLE = """
CREATE TABLE floor (
    msg_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, read_ct int NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT now(), vt timestamptz NOT NULL, message bytea, headers jsonb
);
CREATE INDEX floor_vt ON floor (vt);
"""
_PUT = "INSERT INTO floor (vt, message, headers) SELECT clock_timestamp(), unnest(%b::bytea[]), NULL RETURNING msg_id"
_CLAIM = (
    "UPDATE floor SET vt = clock_timestamp() + interval '10 minutes', read_ct = read_ct + 1 WHERE msg_id = ANY (ARRAY("
    "SELECT msg_id FROM floor WHERE vt <= clock_timestamp() ORDER BY msg_id LIMIT %s FOR UPDATE SKIP LOCKED))"
    " RETURNING msg_id, read_ct, enqueued_at, vt, message, headers"
)
_DELETE = "DELETE FROM floor WHERE msg_id = ANY (%s) RETURNING msg_id"


class Floor:
    """The table of pgmq and its statements, bare and prepared. No receipts, counts, priority, groups or history."""

    def __init__(self, dsn: str) -> None:
        self.db = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
        self.db.execute("DROP TABLE IF EXISTS floor")
        self.db.execute(_TABLE, prepare=False)

    def put(self, count: int) -> list[int]:
        """So many messages in one statement; their ids."""
        return [row[0] for row in self.db.execute(_PUT, ([BODY] * count,), binary=True)]

    def take(self, count: int) -> None:
        """Claim so many, and delete them."""
        rows = self.db.execute(_CLAIM, (count,), binary=True).fetchall()
        assert len(rows) == count
        assert len(self.db.execute(_DELETE, ([row[0] for row in rows],)).fetchall()) == count

    def vacuum(self) -> None:
        """Both tables, as autovacuum does, which has no time to while this runs."""
        for table in ("floor", "spoolq.messages", "spoolq.deltas", "spoolq.receipts"):
            self.db.execute(f"VACUUM ANALYZE {table}".encode(), prepare=False)

    def close(self) -> None:
        """Leave nothing."""
        self.db.execute("DROP TABLE floor")
        self.db.close()


@contextmanager
def _emptied(dsn: str) -> Iterator[Queue]:
    with open_queue(dsn) as queue:
        queue.change_settings(
            replace(queue.settings, retention=replace(queue.settings.retention, done_s=0), lease_s=600)
        )
        queue.purge(("ready", "scheduled", "done", "dead"))
        yield queue


def _take(queue: Queue, count: int) -> None:
    messages = queue.dequeue_many(count)
    assert len(messages) == count
    assert queue.acknowledge_many([message.receipt for message in messages]) == []


def run(rounds: int, scale: float) -> list[Figure]:
    """All figures; `scale` shortens them for a smoke run."""
    dsn = os.environ.get(VARIABLE)
    if not dsn:
        raise SystemExit(f"{VARIABLE} names no database: one that may be filled, with `spoolq engine init` run in it")
    names = (*_ALONE, *(f"{name}, 100s" for name in _ALONE))
    ratios = {name: Figure(f"{name} / floor", "ratio", target="0.7") for name in names}
    rates = {name: Figure(name, "a second") for each in names for name in (f"{each}, bare SQL", each)}
    beside = {name: Figure(f"{name} / procrastinate", "ratio", target="1") for name in _ALONE[:2]}
    for _ in range(rounds):
        _round(dsn, 1, int(2000 * scale), ratios, rates)
        _round(dsn, 100, int(20_000 * scale), ratios, rates)
        if peer.IS_THERE:
            for name, theirs in zip(beside, peer.rates(dsn, int(1000 * scale)), strict=True):
                beside[name].values.append(rates[name].values[-1] / theirs)
    depth = Figure(f"claims at {int(1_000_000 * scale):,} waiting / at 1,000", "ratio", target="0.9")
    with _emptied(dsn) as queue:
        # Before the million that waits, which leaves the tables as large as they ever were.
        sizes = _sizes(dsn, queue, int(1_000_000 * scale))
        for _ in range(rounds):
            depth.values.append(_depth(dsn, queue, int(1_000_000 * scale)))
        queue.purge()
    return [*ratios.values(), *(each for each in beside.values() if each.values), depth, *sizes, *rates.values()]


def _sizes(dsn: str, queue: Queue, count: int) -> list[Figure]:
    """How large the tables are while so many messages go through, 500 at a time; a tenth of them in, and at the end."""
    found = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for tenth in range(1, 11):
            for _ in range(max(1, count // 5000)):
                queue.enqueue_many([BODY] * 500)
                _take(queue, 500)
            if tenth in (1, 10):
                for table, size, dead in connection.execute(_SIZE):
                    name = f"{table}, after {count * tenth // 10:,} messages, none waiting"
                    found.append(Figure(f"{name}, with indexes", "MB", [size / 1e6]))
                    found.append(Figure(f"{name}, dead rows", "rows", [float(dead)]))
    return found


_SIZE = """
SELECT relname, pg_total_relation_size(relid)::float8, n_dead_tup FROM pg_stat_user_tables
WHERE schemaname = 'spoolq' AND relname IN ('messages', 'receipts') ORDER BY relname
"""
_ALONE = ("enqueue", "claim and acknowledge", "cycle")
_TURNS = 20
"""How often bare SQL and spoolq take turns at each figure, so that what else the machine does meets both."""


def _round(dsn: str, size: int, count: int, ratios: dict[str, Figure], rates: dict[str, Figure]) -> None:
    """So many messages through both, `size` at a time; each begins with a table that was vacuumed."""
    floor = Floor(dsn)

    def bare_cycle() -> None:
        floor.put(size)
        floor.take(size)

    with _emptied(dsn) as queue:

        def cycle() -> None:
            put()
            _take(queue, size)

        def put() -> None:
            if size == 1:
                queue.enqueue(BODY)
            else:
                queue.enqueue_many([BODY] * size)

        floor.put(6 * size)  # for what is claimed before it counts
        queue.enqueue_many([BODY] * (6 * size))
        bare = (lambda: floor.put(size), lambda: floor.take(size), bare_cycle)
        ours = (put, lambda: _take(queue, size), cycle)
        floor.vacuum()
        for name, theirs, mine in zip(_ALONE, bare, ours, strict=True):
            least, found = _beside(max(_TURNS, count // size), theirs, mine)
            full = name if size == 1 else f"{name}, 100s"
            rates[f"{full}, bare SQL"].values.append(least * size)
            rates[full].values.append(found * size)
            ratios[full].values.append(found / least)
    floor.close()


def _beside(count: int, theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """How often a second each, by turns."""
    each = max(1, count // _TURNS)
    for _ in range(6):  # what is prepared at the sixth time is
        theirs()
        ours()
    turns = [(rate(each, theirs), rate(each, ours)) for _ in range(_TURNS)]
    return tuple(_TURNS / sum(1 / turn[at] for turn in turns) for at in (0, 1))  # type: ignore[return-value]


def _depth(dsn: str, queue: Queue, waiting: int) -> float:
    """Claims with so many waiting, beside claims with few; vacuumed before either."""
    found = []
    queue.purge(("ready",))
    for more in (1000, max(0, waiting - 500)):
        queue.enqueue_many([BODY] * more)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE spoolq.messages")
        _take(queue, 1)
        found.append(rate(499, lambda: _take(queue, 1)))
    return found[1] / found[0]
