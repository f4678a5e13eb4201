"""What comes back from a backup that was made while the queue was in use."""

import threading

import psycopg
import pytest

from spoolq.postgres import open_queue as open_any
from spoolq.settings import Settings
from tests.helpers import wait_for
from tests.postgres_server import Server, home_for_a_server


@pytest.fixture
def busy(open_queue):
    """A queue with a message in each state, a large one among them, in which somebody goes on enqueueing."""
    queue = open_queue(Settings(lease_s=1, dedup_window_s=3600))
    queue.enqueue_many([b"1", b"2", b"3"])
    queue.dequeue().ack()
    queue.dequeue().dead_letter("no")
    queue.enqueue(b"x" * 3_000_000, name="large", dedup_key="large")
    queue.enqueue(b"later", delay_s=3600)
    held = queue.dequeue()
    ending = threading.Event()

    def produce() -> None:
        other = open_queue()
        while not ending.is_set():
            other.enqueue(b"more", priority=0)

    producing = threading.Thread(target=produce)
    producing.start()
    yield queue, held
    ending.set()
    producing.join()


def judge(dsn: str, before: object, held: object) -> None:
    """All that was there before is there, and it is in order; a claim of then ends by its lease."""
    with open_any(dsn) as copy:
        assert copy.check() == []
        stats = copy.stats()
        assert (stats.done, stats.dead, stats.scheduled) == (1, 1, 1)
        assert stats.enqueued_total >= before.enqueued_total
        wait_for(lambda: not copy.maintain() and copy.get(held.id).state == "ready")
        again = copy.dequeue()
        assert (again.id, again.attempts) == (held.id, 2)
        large = copy.dequeue()
        assert (large.name, large.body) == ("large", b"x" * 3_000_000)
        assert copy.enqueue(b"y", dedup_key="large") == large.id
        again.ack()
        large.ack()
        assert copy.check() == []


def test_a_base_backup_under_load(busy, postgres):
    """pg_basebackup, started as a server of its own."""
    queue, held = busy
    before = queue.stats()
    with home_for_a_server() as home:
        copy = Server(home)
        source = ("-h", "127.0.0.1", "-p", str(postgres.port), "-U", "spoolq")
        copy.run("pg_basebackup", *source, "-D", copy.data, "-X", "stream", "-c", "fast", "--no-sync")
        copy.start()
        try:
            judge(copy.dsn(), before, held)
        finally:
            copy.stop()


def test_a_dump_of_the_schema_under_load(busy, postgres):
    """pg_dump of the schema alone, into another database."""
    queue, held = busy
    before = queue.stats()
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS copied WITH (FORCE)")
        admin.execute("CREATE DATABASE copied")
    with home_for_a_server() as home:
        dump = home / "dump"
        postgres.run("pg_dump", "-Fc", "-n", "spoolq", "-f", dump, postgres.dsn())
        postgres.run("pg_restore", "-d", postgres.dsn("copied"), dump)
    judge(postgres.dsn("copied"), before, held)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE copied WITH (FORCE)")
