"""Queues of a database by its URL: open, list, create, delete. `spoolq.queue` comes here for postgresql://."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from spoolq.clock import Clock
from spoolq.errors import QueueExists, QueueNotFound
from spoolq.postgres import installing, statements, values
from spoolq.postgres.address import Address, parse
from spoolq.postgres.connection import Call, Database
from spoolq.postgres.queue import PostgresQueue
from spoolq.settings import Settings


def open_queue(
    url: str, *, queue: str | None = None, detached: bool = False, clock: Clock | None = None
) -> PostgresQueue:
    """Open a queue of a database. Makes nothing: NotASpool where `spoolq engine init` was not run; QueueNotFound."""
    address = parse(url, queue)
    database = _reached(address)
    try:
        installing.check_version(database)
        found = database.ask(Call(op="open", sql=statements.QUEUE, parameters=(address.queue,), repeats=True))
        if not found:
            raise _not_found(address)
        queue_id, settings = found[0]
        return PostgresQueue(database, queue_id, values.settings(settings), detached=detached, clock=clock)
    except BaseException:
        database.close()
        raise


def list_queues(url: str) -> list[str]:
    """The names of a database's queues, "default" first."""
    with _open(parse(url)) as database:
        return [row[0] for row in database.ask(Call(op="list_queues", sql=statements.NAMES, repeats=True))]


def create_queue(url: str, name: str, settings: Settings | None = None) -> PostgresQueue:
    """Make a queue and open it. QueueExists."""
    address = parse(url, name)
    with _open(address) as database:
        if not database.ask(Call(op="create_queue", sql=statements.CREATE, parameters=(address.queue,)))[0][0]:
            raise QueueExists(f"the queue {name!r} is there already", op="create_queue", path=address.shown)
    queue = open_queue(url, queue=name)
    if settings is not None:
        queue.change_settings(settings)
    return queue


def delete_queue(url: str, name: str) -> int:
    """Delete a queue of a database with all its messages, a thousand a transaction; returns how many."""
    address = parse(url, name)
    with _open(address) as database:
        queue_id, count = database.ask(
            Call(op="delete_queue", sql=statements.DELETE_QUEUE, parameters=(address.queue,))
        )[0]
        if queue_id is None:
            raise _not_found(address)
        while database.ask(Call(op="delete_queue", sql=statements.SWEEP, parameters=(queue_id,), repeats=True))[0][0]:
            pass
    return int(count)


def _reached(address: Address) -> Database:
    """A database that answers: at the opening nobody wants to wait for one that does not."""
    database = Database(address)
    try:
        database.connect().close()
    except psycopg.Error as error:
        database.close()
        raise database.error_of(error, Call(op="open", sql="")) from error
    return database


@contextmanager
def _open(address: Address) -> Iterator[Database]:
    database = _reached(address)
    try:
        installing.check_version(database)
        yield database
    finally:
        database.close()


def _not_found(address: Address) -> QueueNotFound:
    hint = "Make it with: spoolq queues create"
    return QueueNotFound(f"no queue {address.queue!r} in {address.shown}", op="open", path=address.shown, hint=hint)
