"""Every table is bounded: whoever uses the queue cleans it, a batch at a time, without `clean` or a person.

The database's clock stands still until a test moves it.
"""

import os
import subprocess
import sys

import psycopg
import pytest

from spoolq.errors import LeaseLost
from spoolq.postgres import create_queue, delete_queue, producing, statements
from spoolq.postgres.bodies import Bodies
from spoolq.postgres.producing import PLAIN, Ready
from spoolq.settings import Retention, Settings
from tests.helpers import wait_for
from tests.postgres_clock import DatabaseClock

HOUR_S = 3600
DAY_S = 24 * HOUR_S


@pytest.fixture
def clock(dsn):
    clock = DatabaseClock(dsn)
    yield clock
    clock.close()


@pytest.fixture
def count(dsn):
    """`count("keys")`: the rows of a table."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield lambda table: connection.execute(f"SELECT count(*) FROM spoolq.{table}").fetchone()[0]


@pytest.fixture
def queue(open_queue, clock):
    """Whose settings keep nothing for longer than an hour."""
    return open_queue(Settings(dedup_window_s=HOUR_S, retention=Retention(done_s=HOUR_S, dead_s=HOUR_S)), clock=clock)


def look(queue, clock, times=1):
    """Somebody looks for a message, a second after the last, and finds none."""
    for _ in range(times):
        clock.advance(1.1)
        assert queue.dequeue() is None


def test_done_and_dead_messages_go_by_batches(queue, clock, count):
    """200 of each a transaction, by whoever looks; with what is large about them."""
    queue.enqueue_many([b"x"] * 420 + [b"large" * 100_000])
    messages = queue.dequeue_many(421)
    messages[0].dead_letter("no")
    queue.acknowledge_many([message.receipt for message in messages[1:]])
    look(queue, clock, 3)
    assert (count("messages"), count("chunks")) == (421, 1)
    clock.advance(HOUR_S)
    assert queue.maintain(budget_s=0)
    assert count("messages") == 220
    look(queue, clock, 4)
    assert (count("messages"), count("chunks")) == (0, 0)


def test_keys_go_when_their_window_ends(queue, clock, count):
    """However often one was used, and whether its message is there or not."""
    first = queue.enqueue(b"x", dedup_key="k")
    assert queue.enqueue(b"x", dedup_key="k") == first
    queue.delete(first)
    assert queue.enqueue(b"x", dedup_key="k") == first
    look(queue, clock)
    assert count("keys") == 1
    clock.advance(HOUR_S)
    look(queue, clock)
    assert count("keys") == 0


def test_receipts_are_remembered_for_ten_minutes(open_queue, clock, count):
    """A row for what was claimed at once; asked again meanwhile it is success, and afterwards the claim has ended."""
    queue = open_queue(Settings(retention=Retention(done_s=0)), clock=clock)
    queue.enqueue_many([b"x"] * 100)
    receipts = [message.receipt for message in queue.dequeue_many(100)]
    queue.acknowledge_many(receipts)
    assert count("receipts") <= 100
    look(queue, clock)
    assert queue.acknowledge_many(receipts) == []
    clock.advance(600)
    look(queue, clock)
    assert count("receipts") == 0
    with pytest.raises(LeaseLost):
        queue.acknowledge(receipts[0])


SLOW_PRODUCER = """
import io, sys, time, spoolq
class Endless(io.RawIOBase):
    sent = 0
    def readable(self): return True
    def read(self, size=-1):
        self.sent += 1
        if self.sent > 3: time.sleep(600)
        return bytes(1 << 20)
spoolq.open_queue(sys.argv[1]).enqueue(Endless())
"""


def test_what_a_killed_producer_has_sent_goes_after_36_hours(queue, clock, count, dsn, environ):
    """Not before: it may be slow. No message has come of it."""
    producer = subprocess.Popen([sys.executable, "-c", SLOW_PRODUCER, dsn], env=environ | {"PATH": os.environ["PATH"]})
    wait_for(lambda: count("chunks") >= 2, 30)
    producer.kill()
    producer.wait()
    look(queue, clock)
    clock.advance(35 * HOUR_S)
    look(queue, clock)
    assert (count("uploads"), count("messages")) == (1, 0)
    clock.advance(HOUR_S)
    look(queue, clock)
    assert (count("uploads"), count("chunks")) == (0, 0)


def test_the_history_goes_back_eight_days(queue, clock, count):
    """A row a minute in which something happened."""
    for _ in range(3):
        queue.delete(queue.enqueue(b"x"))
        look(queue, clock)
        clock.advance(DAY_S)
    assert count("minutes") == 3
    clock.advance(6 * DAY_S + HOUR_S)
    look(queue, clock)
    assert count("minutes") == 1


def test_deltas_are_added_up_by_ten_thousand(queue, clock, count, dsn):
    """However many came while nobody looked; the counts are right at any time."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT spoolq.note_gone(id, 0, 'ready', 0, 0) FROM spoolq.queues, generate_series(1, 12000)",
        )
    message_id = queue.enqueue(b"x")
    assert queue.stats().ready == 1
    queue.delete(message_id)
    look(queue, clock, 2)
    assert count("deltas") <= 1  # that of the second look's own maintenance at the most
    assert queue.stats().ready == 0


def test_the_rest_is_a_row_a_queue(queue, clock, count):
    """Whatever happens."""
    for number in range(5):
        queue.enqueue(b"x", group=f"g{number}", headers={"n": str(number)})
        queue.dequeue().ack()
        queue.enqueue(b"x", dedup_key=str(number))
        queue.purge()
    look(queue, clock)
    assert [count(table) for table in ("version", "queues", "counts")] == [1, 1, 1]


@pytest.mark.parametrize("late", [False, True], ids=["cut short", "beside a transaction"])
def test_a_deleted_queue_leaves_nothing(dsn, open_queue, clock, count, late):
    """Also where `spoolq queues delete` was killed on the way, and where a caller's transaction ended after it."""
    with create_queue(dsn, "emails") as emails, psycopg.connect(dsn) as slow:
        if late:
            emails.enqueue(b"x", connection=slow)
            delete_queue(dsn, "emails")
            slow.commit()
        else:
            emails.enqueue_many([b"x"] * 300)
            slow.execute(statements.DELETE_QUEUE, ("emails",))
            slow.commit()
    look(open_queue(clock=clock), clock, 4)
    assert (count("messages"), count("deltas"), count("counts")) == (0, 0, 1)


def test_an_enqueue_asked_again_minutes_later_makes_no_second_message(open_queue, clock):
    """Its producer was stopped after the answer was lost, and the message has come and gone meanwhile."""
    queue = open_queue(Settings(retention=Retention(done_s=0)), clock=clock)
    call = producing.call(queue.id, Ready([queue.clock.new_id()], Bodies([b"x"]), [PLAIN]), "enqueue")
    queue.database.ask(call)
    queue.dequeue().ack()
    clock.advance(540)
    queue.database.ask(call._replace(parameters=call.again))
    assert queue.dequeue() is None
