"""The PostgreSQL engine beside bare SQL on the same server (one INSERT, one UPDATE .. SKIP LOCKED, one DELETE), and
beside procrastinate where that is installed.

The server is yours, by SPOOLQ_BENCH_DSN: an empty database that may be filled, with `spoolq engine init` run in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
        """As autovacuum would, had it the time."""
        self.db.execute("VACUUM floor", prepare=False)

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
    ratios = {name: Figure(f"{name} / floor", "ratio", target="0.7") for name in _NAMES}
    rates = {name: Figure(name, "a second") for each in _NAMES for name in (f"{each}, bare SQL", each)}
    beside = {name: Figure(f"{name} / procrastinate", "ratio", target="1") for name in _NAMES[:2]}
    for _ in range(rounds):
        _round(dsn, int(2000 * scale), ratios, rates)
        if peer.IS_THERE:
            for name, theirs in zip(_NAMES, peer.rates(dsn, int(1000 * scale)), strict=False):
                beside[name].values.append(rates[name].values[-1] / theirs)
    depth = Figure(f"claims at {int(1_000_000 * scale):,} waiting / at 1,000", "ratio", target="0.9")
    with _emptied(dsn) as queue:
        # Before the million that waits, which leaves the tables as large as they ever were.
        sizes = _sizes(dsn, queue, int(1_000_000 * scale))
        for _ in range(rounds):
            depth.values.append(_depth(queue, int(1_000_000 * scale)))
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
_NAMES = ("enqueue", "claim and acknowledge", "enqueue 100s", "claim and acknowledge 100s")


def _round(dsn: str, count: int, ratios: dict[str, Figure], rates: dict[str, Figure]) -> None:
    floor = Floor(dsn)
    with _emptied(dsn) as queue:
        pairs = (
            ("enqueue", 1, lambda: floor.put(1), lambda: queue.enqueue(BODY)),
            ("claim and acknowledge", 1, lambda: floor.take(1), lambda: _take(queue, 1)),
            ("enqueue 100s", 100, lambda: floor.put(100), lambda: queue.enqueue_many([BODY] * 100)),
            ("claim and acknowledge 100s", 100, lambda: floor.take(100), lambda: _take(queue, 100)),
        )
        for name, size, bare, ours in pairs:
            turns = max(1, count // size)
            least, mine = rate(turns, bare) * size, rate(turns, ours) * size
            rates[f"{name}, bare SQL"].values.append(least)
            rates[name].values.append(mine)
            ratios[name].values.append(mine / least)
    floor.close()


def _depth(queue: Queue, waiting: int) -> float:
    """Claims with so many waiting, beside claims with few."""
    queue.purge(("ready",))
    queue.enqueue_many([BODY] * 1000)
    few = rate(500, lambda: _take(queue, 1))
    queue.enqueue_many([BODY] * max(0, waiting - 500))
    return rate(500, lambda: _take(queue, 1)) / few
