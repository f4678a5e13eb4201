"""What PostgreSQL does beyond the contract: the caller's transaction, large bodies, exact limits, marks, repair."""

import io
import os
import threading

import psycopg
import pytest

from spoolq.errors import QueueFull
from spoolq.models import NewMessage
from spoolq.settings import Limits, Retention, Settings
from tests.helpers import wait_for

MIB = 1 << 20


class Pattern(io.RawIOBase):
    """A stream of so many bytes that is never whole anywhere."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def read(self, size=-1):
        piece = min(self.left, size if size >= 0 else self.left, 65_536)
        self.left -= piece
        return b"p" * piece


def rows(dsn, table):
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"SELECT count(*) FROM spoolq.{table}").fetchone()[0]


# The caller's transaction


@pytest.mark.parametrize("size", [10, 3 * MIB], ids=["small", "large"])
def test_a_message_of_a_transaction_that_is_rolled_back_never_was(queue, dsn, size):
    """Nor its body, nor its key."""
    with psycopg.connect(dsn) as connection:
        first = queue.enqueue(b"x" * size, connection=connection, dedup_key="k", group="g")
        assert queue.stats().ready == 0
        connection.rollback()
    assert queue.dequeue() is None
    assert rows(dsn, "chunks") == 0
    assert queue.enqueue(b"y", dedup_key="k") != first


@pytest.mark.parametrize("size", [10, 3 * MIB], ids=["small", "large"])
def test_a_message_of_a_transaction_is_there_when_it_commits(queue, dsn, size):
    """With what else the caller did, and who waits is woken."""
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.dequeue(wait_s=20)))
    waiting.start()
    with psycopg.connect(dsn) as connection:
        message_id = queue.enqueue(b"x" * size, connection=connection)
        connection.commit()
    waiting.join(20)
    assert [(message.id, len(message.body)) for message in found] == [(message_id, size)]


def test_an_open_transaction_blocks_no_other_producer(queue, dsn):
    """Counts are no row that all share."""
    with psycopg.connect(dsn) as connection:
        queue.enqueue(b"slow", connection=connection)
        queue.enqueue(b"quick")
        assert queue.dequeue().body == b"quick"
        connection.rollback()


# Somebody was faster

MEANWHILE = {
    "extended": "SELECT spoolq.extend(%(queue)s, %(id)s, %(nonce)s, 60000)",
    "released": "SELECT spoolq.release(%(queue)s, %(id)s, %(nonce)s)",
    "claimed again": "SELECT spoolq.release(%(queue)s, %(id)s, %(nonce)s);"
    " SELECT spoolq.claim(%(queue)s, 1, 'tother', NULL, 'other', NULL, false, 0)",
}


@pytest.mark.parametrize("done_s", [0, 86_400], ids=["deleted", "kept"])
@pytest.mark.parametrize("claimed", ["together", "apart"])
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_a_claim_that_changes_while_it_is_acknowledged_with_others(open_queue, dsn, meanwhile, claimed, done_s):
    """Whoever changes it is waited for, and what has become of it is judged; the counts are those of what was done."""
    queue = open_queue(Settings(retention=Retention(done_s=done_s)))
    queue.enqueue_many([b"1", b"2", b"3"])
    messages = queue.dequeue_many(3) if claimed == "together" else [queue.dequeue() for _ in range(3)]
    id, _, nonce = messages[1].receipt.partition(".")
    lost = []
    acknowledging = threading.Thread(
        target=lambda: lost.append(queue.acknowledge_many([message.receipt for message in messages]))
    )
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as somebody, psycopg.connect(dsn) as admin:
        somebody.execute(MEANWHILE[meanwhile], {"queue": queue.id, "id": id, "nonce": nonce})
        acknowledging.start()
        wait_for(lambda: admin.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0])
        somebody.commit()
    acknowledging.join(20)
    assert lost == [[] if meanwhile == "extended" else [messages[1].receipt]]
    assert [(info.id, info.state) for info in [*queue.list("ready").messages, *queue.list("claimed").messages]] == {
        "extended": [],
        "released": [(id, "ready")],
        "claimed again": [(id, "claimed")],
    }[meanwhile]
    assert queue.check() == []
    if meanwhile == "claimed again":
        queue.acknowledge(f"{id}.tother")


# Bodies


def test_a_large_body_can_be_read_from_anywhere(queue):
    """What ranges over HTTP need."""
    content = os.urandom(2 * MIB + 12_345)
    message_id = queue.enqueue(content)
    with queue.read_body(message_id) as file:
        file.seek(MIB - 10)
        assert file.read(20) == content[MIB - 10 : MIB + 10]
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
        file.seek(0)
        assert file.read() == content


def test_a_file_that_gives_more_than_is_asked_for_is_read_to_its_end(queue):
    """A chunk is of one size all the same: what is over is the beginning of the next."""
    left = [os.urandom(700_001) for _ in range(5)]
    content = b"".join(left)

    class Generous(io.RawIOBase):
        def readable(self):
            return True

        def read(self, size=-1):
            return left.pop(0) if left else b""

    queue.enqueue(Generous())
    assert queue.dequeue().body == content


def test_what_ends_takes_its_chunks_along(open_queue, dsn):
    """Acknowledged, deleted, purged, or answered by another of its key."""
    queue = open_queue(Settings(retention=Retention(done_s=0)))
    large = b"x" * (3 * MIB)
    queue.enqueue(large, dedup_key="k")
    queue.enqueue(large, dedup_key="k")
    assert rows(dsn, "chunks") == 3
    queue.dequeue().ack()
    queue.delete(queue.enqueue(large))
    queue.enqueue(large)
    queue.purge()
    assert (rows(dsn, "chunks"), rows(dsn, "uploads")) == (0, 0)


@pytest.mark.parametrize("why", ["it breaks", "it is refused"])
def test_an_upload_that_comes_to_nothing_leaves_nothing(open_queue, dsn, why):
    """Whatever was sent ahead is deleted."""
    queue = open_queue(Settings(limits=Limits(bytes=100)))

    class Broken(Pattern):
        def read(self, size=-1):
            if why == "it breaks" and self.left < MIB:
                raise RuntimeError("the pipe broke")
            return super().read(size)

    with pytest.raises(RuntimeError if why == "it breaks" else QueueFull):
        queue.enqueue(Broken(3 * MIB))
    assert (rows(dsn, "chunks"), rows(dsn, "uploads"), rows(dsn, "messages")) == (0, 0, 0)


# Many at once


def test_a_limit_holds_however_many_enqueue(open_queue):
    """Exactly as many as fit, from eight threads."""
    queue = open_queue(Settings(limits=Limits(messages=20)))
    refused = []

    def fill():
        for _ in range(10):
            try:
                queue.enqueue(b"x")
            except QueueFull:
                refused.append(1)

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (queue.stats().ready, len(refused)) == (20, 60)


def test_groups_and_keys_in_opposite_orders_stop_nobody(open_queue):
    """Batches that would wait for each other in a circle: locks are taken in one order, or the loser tries again."""
    queues = [open_queue() for _ in range(4)]
    names = [f"n{number}" for number in range(8)]

    def work(number):
        for turn in range(10):
            order = names if number % 2 else names[::-1]
            queues[number].enqueue_many(
                [NewMessage(body=b"x", group=name, dedup_key=f"{name}-{turn}") for name in order]
            )
            while message := queues[number].dequeue():
                message.ack()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for queue in queues:
        while message := queue.dequeue():
            message.ack()
    assert queues[0].stats().acknowledged_total == 80


def test_a_mark_answers_the_same_claims(queue):
    """While one of them lasts; then it claims anew."""
    queue.enqueue_many([b"1", b"2", b"3"])
    first = queue.dequeue_marked("abcd1234", 2)
    again = queue.dequeue_marked("abcd1234", 2)
    assert [message.receipt for message in again] == [message.receipt for message in first]
    assert all("abcd1234" in message.receipt for message in first)
    for message in first:
        message.ack()
    assert [message.body for message in queue.dequeue_marked("abcd1234", 2)] == [b"3"]


def test_who_holds_claims_is_shown(queue):
    """Host, process and slot, with how many."""
    queue.enqueue_many([b"1", b"2"])
    with queue.slot("slot 1") as slot:
        slot.dequeue()
        queue.dequeue()
        found = {(holder.command, holder.claims, holder.pid) for holder in queue.holders()}
    assert found == {("", 1, os.getpid()), ("slot 1", 1, os.getpid())}


# Repair


def test_check_finds_what_is_wrong_and_mends_it(queue, dsn):
    """Counts that are off, and a group without a head, as somebody's SQL may leave them."""
    queue.enqueue_many([NewMessage(body=b"x", group="g")] * 3)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE spoolq.messages SET held = true")
        connection.execute("UPDATE spoolq.counts SET ready = ready + 5")
    assert {problem.kind for problem in queue.check()} == {"counts", "group"}
    assert all(problem.fixed for problem in queue.check(fix=True))
    assert queue.check() == []
    assert queue.dequeue() is not None


def test_times_waited_and_taken_are_counted(queue):
    """Cumulative, the last bucket without a bound."""
    queue.enqueue_many([b"1", b"2"])
    for message in queue.dequeue_many(2):
        message.ack()
    for histogram in (queue.stats().wait_histogram, queue.stats().process_histogram):
        assert histogram[-1] == (None, 2)
        assert [count for _, count in histogram] == sorted(count for _, count in histogram)
