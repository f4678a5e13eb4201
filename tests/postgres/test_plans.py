"""What a call reads does not grow with what it is not about: counted in entries and rows, by the database itself."""

import psycopg
import pytest

from spoolq.models import NewMessage

MANY = 5000
FEW = 1000
"""More than any of these calls has to look at, and far less than MANY."""


def claimed(queue):
    queue.enqueue_many([b"x"] * MANY)
    queue.dequeue_many(MANY, lease_s=3600)


def done(queue):
    queue.enqueue_many([b"x"] * MANY)
    assert queue.acknowledge_many([message.receipt for message in queue.dequeue_many(MANY)]) == []


def scheduled(queue):
    queue.enqueue_many(NewMessage(body=b"x", delay_s=3600) for _ in range(MANY))


def grouped(queue):
    """Of one group: all but the first are held."""
    queue.enqueue_many(NewMessage(body=b"x", group="g", priority=0) for _ in range(MANY))


def ready(queue):
    queue.enqueue_many(NewMessage(body=b"x", priority=0) for _ in range(MANY))


def analyze(dsn):
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("VACUUM ANALYZE spoolq.messages")


def read_so_far(queue, dsn):
    """Entries that scans of indexes gave, and rows that scans of tables gave."""
    queue._calls.ask("flush", "SELECT pg_stat_force_next_flush()")
    with psycopg.connect(dsn) as admin:
        return admin.execute(
            "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'spoolq')"
            " + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relid = 'spoolq.messages'::regclass)"
        ).fetchone()[0]


@pytest.mark.parametrize("analyzed", ["before", "after"])
@pytest.mark.parametrize("fill", [claimed, done, scheduled, grouped, ready], ids=lambda each: each.__name__)
def test_no_call_reads_what_it_is_not_about(fill, analyzed, open_queue, dsn):
    """Whatever the statistics say: those of an empty table, or of one that is full of something else."""
    filler = open_queue()
    if analyzed == "before":
        analyze(dsn)
    fill(filler)
    if analyzed == "after":
        analyze(dsn)
    queue = open_queue()
    calls = {
        "enqueue": lambda: queue.enqueue(b"x"),
        "enqueue_many": lambda: queue.enqueue_many([b"x"] * 20),
        "peek": queue.peek,
        "dequeue": lambda: claims.append(queue.dequeue()),
        "dequeue_many": lambda: claims.extend(queue.dequeue_many(10)),
        "get": lambda: queue.get(claims[0].id),
        "extend": lambda: claims[0].extend(60),
        "acknowledge": lambda: queue.acknowledge(claims[0].receipt),
        "acknowledge_many": lambda: queue.acknowledge_many([claims.pop().receipt for _ in range(5)]),
        "acknowledge_many, of several claims": lambda: queue.acknowledge_many(
            [queue.dequeue().receipt for _ in range(5)]
        ),
        "acknowledge again": lambda: queue.acknowledge(claims[0].receipt),
        "acknowledge late": lambda: queue.acknowledge_many([f"{claims[0].id}.tother"]),
        "requeue": lambda: claims.pop().requeue(delay_s=60),
        "requeue at once": lambda: claims.pop().requeue(delay_s=0),
        "release": lambda: claims.pop().release(),
        "move_to_dead_letter_queue": lambda: queue.move_to_dead_letter_queue(claims.pop().receipt, "no"),
        "delete": lambda: queue.delete(queue.enqueue(b"x")),
        "replay": lambda: queue.replay(claims.pop(0).id),
        "run_now": lambda: queue.run_now(queue.enqueue(b"x", delay_s=60)),
        "enqueue, grouped": lambda: [queue.enqueue(b"x", group="h", priority=9) for _ in range(3)],
        "acknowledge, grouped": lambda: queue.dequeue().ack(),
        "requeue, grouped": lambda: queue.dequeue().requeue(),
        "open_body": lambda: queue.open_body(claims[-1].receipt).close(),
        "maintain": queue.maintain,
        "stats": queue.stats,
        "next_look_s": lambda: queue.next_look_s(60),
        "list": lambda: queue.list("ready", limit=10),
    }
    claims = []
    queue.maintain()
    queue.peek()  # past the entries of what was ready, or claimed, once: the first to come there marks them as dead
    queue.next_look_s(60)
    read = {}
    for name, call in calls.items():
        before = read_so_far(queue, dsn)
        call()
        read[name] = int(read_so_far(queue, dsn) - before)
    assert {name: count for name, count in read.items() if count > FEW} == {}
