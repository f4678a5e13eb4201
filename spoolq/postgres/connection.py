"""Calls to a database: sent, judged, and sent again where that is safe.

Owns the pool (one for each process) and knows when a call may be repeated: when it was never sent, or was rolled back
for sure; when it changes nothing; when the database knows the second one for the first. Everywhere else a lost
connection is OutcomeUnknown. Never logs a URL: a password may be in it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from spoolq.errors import (
    Busy,
    DiskFull,
    NotAllowed,
    NotASpool,
    OutcomeUnknown,
    QueueFull,
    QueueNotFound,
    SpoolqError,
    StorageError,
    UnknownFormat,
    Unreachable,
)
from spoolq.postgres import arrays, statements
from spoolq.postgres.address import Address

RETRY_S = 30.0
"""How long a call that may be repeated is: a standby has taken over within this."""

_PAUSES_S = (0.05, 0.2, 0.5, 1.0)
_BORROW_S = 5.0
_CONNECT_AGAIN_S = 2.0
_IDLE_S = 300.0

_UNDONE = ("40001", "40P01", "25006", "57P03")
"""Rolled back for sure: serialization, deadlock, a server that is no primary (any more), one that starts."""

_BUSY = ("55P03", "57014", "53300", "53400")
_ERRORS: Mapping[str, tuple[type[SpoolqError], str]] = {
    "SQ001": (QueueNotFound, "Make it with: spoolq queues create"),
    "SQ002": (QueueFull, ""),
    "53100": (DiskFull, "The database's disk is full: nothing was changed"),
    "42501": (NotAllowed, "The database's user lacks a right; the GRANTs are in docs/scaling.md"),
    "3F000": (NotASpool, "{place} has no schema spoolq. Make it with: spoolq engine init '{place}'"),
    "42P01": (NotASpool, "{place} has no schema spoolq. Make it with: spoolq engine init '{place}'"),
    "42883": (UnknownFormat, "Upgrade it with: spoolq engine upgrade '{place}'"),
}


class Call(NamedTuple):
    """One statement.

    repeats: asked twice it is done once. again: the parameters for asking again. op: for errors. is_large: what is
    given to it, or what it answers, may take megabytes.
    """

    op: str
    sql: str
    parameters: Sequence[Any] = ()
    repeats: bool = False
    again: Sequence[Any] | None = None
    is_large: bool = False


Row = tuple[Any, ...]
Rows = list[Row]


class _Connection(psycopg.Connection[Row]):
    """One of the pool's, with a cursor for one call after another: a new one learns the types of all values anew."""

    kept_cursor: psycopg.Cursor[Row]

    def keep_cursor(self) -> None:
        """A new one, with nothing in it."""
        self.kept_cursor = self.cursor(binary=True)


class Database:
    """A database, for one address. Thread-safe; a forked child gets connections of its own."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._own: tuple[int, ConnectionPool[_Connection]] | None = None
        self._inherited: list[object] = []
        self._closed = False
        self.is_closing = False
        """Nothing is tried again: whoever closes does not want to wait."""

    def __repr__(self) -> str:
        return f"<Database {self.address.shown}>"

    # Calls

    def ask(self, call: Call) -> list[Row]:
        """Carry it out, again where that is safe; its rows."""
        ends_s = time.monotonic() + RETRY_S
        parameters = call.parameters
        may_be_done = False  # by a try whose answer was lost; one that the server refused has done nothing
        for pause_s in _pauses():
            try:
                return self._asked(call, parameters)
            except psycopg.Error as error:
                lost = _is_lost(error)
                may_be_done = may_be_done or lost
                is_over = time.monotonic() > ends_s or self.is_closing
                if is_over or not (_is_undone(error) or (lost and call.repeats)):
                    raise self.error_of(error, call, may_be_done=may_be_done) from error
                if lost and call.again is not None:
                    parameters = call.again
            time.sleep(min(pause_s, max(0.0, ends_s - time.monotonic())))
        raise AssertionError("the last try returns or raises")

    def ask_on(self, connection: psycopg.Connection[Any], call: Call) -> list[Row]:
        """Carry it out in the caller's own transaction: once, whatever comes."""
        try:
            with connection.cursor(binary=True, row_factory=psycopg.rows.tuple_row) as cursor:
                arrays.register(cursor)
                return cursor.execute(call.sql, call.parameters).fetchall()
        except psycopg.Error as error:
            raise self.error_of(error, call) from error

    def _asked(self, call: Call, parameters: Sequence[Any]) -> list[Row]:
        with self._borrowed() as connection:
            try:
                rows = connection.kept_cursor.execute(call.sql, parameters).fetchall()
                if call.is_large or len(rows) > 1:
                    connection.keep_cursor()  # the last one still has what it was given, and what it got
                return rows
            except psycopg.Error as error:
                if error.sqlstate == "25006":  # it was the primary once: the pool shall find the new one
                    connection.close()
                raise

    def error_of(self, error: Exception, call: Call, *, may_be_done: bool = False) -> SpoolqError:
        """What the database, or its absence, said, in our words. may_be_done: by an earlier try, or by this one."""
        state = getattr(error, "sqlstate", None) or ""
        said = first_line(error)
        place = self.address.shown
        if may_be_done and (state in _BUSY or state == "53100" or _is_undone(error) or _is_lost(error)):
            return self._unknown(call, said)
        if state in _ERRORS:
            kind, hint = _ERRORS[state]
            return kind(f"{call.op}: {said}", op=call.op, path=place, hint=hint.format(place=place))
        if state in _BUSY or state in ("40001", "40P01"):
            return Busy(f"{call.op}: the database is busy: {said}", op=call.op, path=place)
        if isinstance(error, PoolTimeout):
            cause = self._why_not_connected()
            if cause is None:
                hint = "It answers now: try again"
                if self._pool().get_stats()["pool_size"] >= self.address.connections:
                    hint = f"All {self.address.connections} connections are in use: ?connections=N allows more"
                return Busy(f"{call.op}: {said}", op=call.op, path=place, hint=hint)
            said = first_line(cause)
        if not (_is_undone(error) or _is_lost(error)):
            return StorageError(f"{call.op}: {said}", op=call.op, path=place)
        hint = "Is it running, is the URL right (host, port, database, user, password), is one of its hosts a primary?"
        return Unreachable(f"{call.op}: {place} does not answer ({said})", op=call.op, path=place, hint=hint)

    def _unknown(self, call: Call, said: str) -> OutcomeUnknown:
        place = self.address.shown
        if call.op.startswith("enqueue"):
            hint = "It may have been done, or not: what has a deduplication key is safe to send again"
        elif call.repeats:
            hint = "It may have been done, or not; to repeat it is safe"
        else:
            hint = "It may have been done, or not: look with `spoolq show ID` before you repeat it"
        message = f"{call.op}: the connection to {place} was lost before its answer ({said})"
        return OutcomeUnknown(message, op=call.op, path=place, hint=hint)

    # Connections

    def connect(self) -> psycopg.Connection[Row]:
        """A connection of one's own, outside the pool. psycopg.Error as it comes."""
        connection = psycopg.connect(self.address.dsn, autocommit=True)
        _configure(connection)
        return connection

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        if self._own is not None and self._own[0] == os.getpid():
            self._own[1].close(timeout=1.0)

    @contextmanager
    def _borrowed(self) -> Iterator[_Connection]:
        """A connection from the pool that was alive a moment ago.

        An idle one whose server has gone has something to read. To find that out beforehand, at the price of one
        system call, is what keeps a failover from making the outcome of each first call unknown.
        """
        pool = self._pool()
        connection = pool.getconn(timeout=_BORROW_S)
        try:
            for _ in range(self.address.connections):
                if not _has_something_to_read(connection):
                    break
                connection.close()
                pool.putconn(connection)
                connection = pool.getconn(timeout=_BORROW_S)
            yield connection
        finally:
            pool.putconn(connection)

    def _pool(self) -> ConnectionPool[_Connection]:
        own = self._own
        if own is not None and own[0] == os.getpid():
            return own[1]
        if self._closed:
            raise psycopg.InterfaceError("it is closed")
        if own is not None:
            self._inherited.append(own)  # kept: to drop it would close what the parent uses
        pool: ConnectionPool[_Connection] = ConnectionPool(
            self.address.dsn,
            connection_class=_Connection,
            kwargs={"autocommit": True},
            configure=_configure,
            min_size=0,
            max_size=self.address.connections,
            max_idle=_IDLE_S,
            reconnect_timeout=_CONNECT_AGAIN_S,
            num_workers=1,
            open=True,
            name="spoolq",
        )
        self._own = (os.getpid(), pool)
        return pool

    def _why_not_connected(self) -> psycopg.Error | None:
        """What the server says, or the system, to a connection now; None where it connects."""
        try:
            self.connect().close()
        except psycopg.Error as error:
            return error
        return None


def _configure(connection: psycopg.Connection[Row]) -> None:
    arrays.register(connection)
    connection.execute(statements.SESSION)
    if isinstance(connection, _Connection):
        connection.keep_cursor()


def _pauses() -> Iterator[float]:
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]


def _has_something_to_read(connection: psycopg.Connection[Row]) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _is_lost(error: Exception) -> bool:
    """Whether the connection went with it, and with that what became of the call; 57014 ends only the statement."""
    state = getattr(error, "sqlstate", None)
    if _is_undone(error) or not isinstance(error, psycopg.OperationalError):
        return False
    return state is None or state[:2] == "08" or state[:3] == "57P"


def _is_undone(error: Exception) -> bool:
    """Whether nothing of the call can have been carried out."""
    return isinstance(error, PoolTimeout) or getattr(error, "sqlstate", None) in _UNDONE


def first_line(error: Exception) -> str:
    """What it says, without where in the statement."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
