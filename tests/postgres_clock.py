"""A database whose time stands still until a test moves it, as `FakeClock` does; and emptied between tests."""

from __future__ import annotations

import psycopg

from spoolq.testing import FakeClock

_SLOW_CLOCK = """
CREATE SCHEMA IF NOT EXISTS spoolq_test;
CREATE TABLE IF NOT EXISTS spoolq_test.clock (ms bigint);
TRUNCATE spoolq_test.clock;
INSERT INTO spoolq_test.clock VALUES (0);
CREATE OR REPLACE FUNCTION spoolq.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT ms FROM spoolq_test.clock';
"""
_REAL_CLOCK = """
CREATE OR REPLACE FUNCTION spoolq.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint';
"""
_TABLES = ("messages", "chunks", "uploads", "keys", "receipts", "deltas", "counts", "minutes", "queues")


class DatabaseClock(FakeClock):
    """This host's clock and the database's, which go together until somebody sets this host's."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._database = psycopg.connect(dsn, autocommit=True)
        self._database.execute(_SLOW_CLOCK)
        self._database_ms = self.wall_ms()
        self._tell()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._database_ms += round(seconds * 1000)
        self._tell()

    def _tell(self) -> None:
        self._database.execute("UPDATE spoolq_test.clock SET ms = %s", (self._database_ms,))

    def close(self) -> None:
        self._database.execute(_REAL_CLOCK)
        self._database.close()


def emptied(dsn: str) -> None:
    """As `init` leaves it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("; ".join(f"DELETE FROM spoolq.{table}" for table in _TABLES).encode())
        connection.execute("SELECT spoolq.create_queue('default')")
