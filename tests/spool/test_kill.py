"""Consumers that die, stop, or lose their proof of life: real processes, real signals."""

import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from spoolq.errors import LeaseLost
from spoolq.spool.queue import SpoolQueue
from tests.helpers import names, wait_for
from tests.spool.helpers import ChildError


@pytest.fixture
def warm(queue: SpoolQueue) -> SpoolQueue:
    """A consumer that has loaded what it needs, so that it can be timed."""
    queue.dequeue(wait_s=0.01)
    return queue


def test_kill_consumer_while_a_message_is_claimed(spool, queue, child):
    """Another one that waits has it within a second, counted, with the reason in the history."""
    id = queue.enqueue(b"body")
    holder, waiter = child(), child()
    assert holder("message = queue.dequeue()") is None
    assert holder("message.attempts") == 1
    waiter.start("message = queue.dequeue(wait_s=20)")
    wait_for(lambda: Path(f"/proc/{waiter.pid}/task").exists() and len(os.listdir(f"/proc/{waiter.pid}/task")) > 1)
    assert not waiter.answered()
    begun = time.monotonic()
    holder.kill()
    waiter.result()
    assert time.monotonic() - begun < 1
    assert waiter("(message.id, message.attempts, message.body)") == (id, 2, b"body")
    waiter("message.ack()")
    (attempt,) = queue.get(id).history
    assert (attempt.attempt, attempt.outcome, attempt.reason) == (1, "requeued", "holder died")
    assert names(spool, "holders") == [name for name in names(spool, "holders") if name == waiter("queue._holder.name")]


def test_a_consumer_that_comes_later_has_it_at_once(queue, child):
    queue.enqueue(b"body")
    holder = child()
    holder("queue.dequeue()")
    holder.kill()
    message = queue.dequeue()
    assert message.attempts == 2
    message.ack()


def test_all_claims_of_a_killed_consumer_come_back(queue, child):
    queue.enqueue_many([b"%d" % number for number in range(250)])
    holder = child()
    assert holder("len(queue.dequeue_many(250))") == 250
    holder.kill()
    messages = queue.dequeue_many(300)
    assert [message.attempts for message in messages] == [2] * 250
    assert queue.acknowledge_many(message.receipt for message in messages) == []


def test_a_consumer_that_keeps_being_killed_leads_to_a_dead_letter(spool, open_queue, child):
    """P5, with the history of every attempt."""
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text("max_attempts = 3\n")
    queue = open_queue()
    id = queue.enqueue(b"poison")
    for attempt in (1, 2, 3):
        holder = child()
        assert holder("queue.dequeue(wait_s=10).attempts") == attempt
        holder.kill()
    assert queue.dequeue() is None
    info = queue.get(id)
    assert (info.state, info.reason, info.attempts) == ("dead", "holder died", 3)
    assert [(each.attempt, each.outcome) for each in info.history] == [(1, "requeued"), (2, "requeued"), (3, "dead")]


def test_closing_gives_back_uncounted_where_a_kill_counts(queue, child):
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue()")
    holder.end()
    message = queue.dequeue()
    assert message.attempts == 1
    message.ack()


def test_a_stopped_consumer_with_a_lease_has_lost_its_message(queue, child):
    """Its late acknowledge is refused and changes nothing; the new holder's works, twice."""
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue(lease_s=0.3)")
    holder.stop()
    message = queue.dequeue(wait_s=10)
    assert message.attempts == 2
    holder.go_on()
    for settle in ("ack()", "requeue()", "release()", "extend(5)", "dead_letter('x')", "open()"):
        with pytest.raises(ChildError, match="LeaseLost"):
            holder(f"message.{settle}")
    message.ack()
    queue.acknowledge(message.receipt)
    assert queue.stats().done == 1
    with pytest.raises(ChildError, match="LeaseLost"):
        holder("message.ack()")


def test_a_late_acknowledge_is_good_where_nobody_has_taken_it_back(queue, child):
    """A claim ends when it is taken back, not when its time is up."""
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue(lease_s=0.05)")
    holder.stop()
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > 0.1)
    holder.go_on()
    holder("message.ack()")
    assert queue.stats().done == 1


def test_a_stopped_consumer_without_a_lease_keeps_its_claim(queue, child):
    """The clock ends nothing of a process that lives."""
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue()")
    holder.stop()
    assert queue.dequeue(wait_s=1.2) is None
    holder.go_on()
    holder("message.ack()")


def test_a_stopped_consumer_that_is_killed_gives_its_claim_up(queue, child):
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue()")
    holder.stop()
    holder.kill()
    with queue.dequeue(wait_s=5) as message:
        assert message.attempts == 2


def test_a_zombie_is_dead(queue, child):
    """Nobody waits for it; its pid is there, and its lock is not."""
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue()")
    os.kill(holder.pid, signal.SIGKILL)
    with queue.dequeue(wait_s=5) as message:
        assert message.attempts == 2


def test_extend_keeps_a_claim_and_its_end_ends_it(queue, child):
    queue.enqueue(b"body")
    holder = child()
    holder("message = queue.dequeue(lease_s=30)")
    assert queue.dequeue(wait_s=0.2) is None
    holder("message.extend(0.1)")
    message = queue.dequeue(wait_s=5)
    assert message.attempts == 2
    message.extend(60)
    assert queue.dequeue() is None
    message.ack()


def test_a_kill_in_the_middle_of_a_claim_takes_nothing_along(spool, queue, child):
    """It dies holding the write lock, after the rename and before the row."""
    queue.enqueue(b"body")
    holder = child()
    holder("from spoolq.spool.index import Index")
    holder("Index.claim = lambda *_: os.kill(os.getpid(), 9)")
    with pytest.raises(ChildError, match="Died"):
        holder("queue.dequeue()")
    assert len(names(spool, "cur")) == 1
    with queue.dequeue(wait_s=5) as message:
        assert (message.body, message.attempts) == (b"body", 2)


# The proof of life, removed by hand


def test_a_holders_file_that_is_removed_ends_its_claims(spool, queue, child):
    """Nothing proves that it lives; it makes a new one for what it claims next."""
    queue.enqueue(b"one")
    holder = child()
    holder("message = queue.dequeue()")
    (name,) = names(spool, "holders")
    (spool / "holders" / name).unlink()
    message = queue.dequeue(wait_s=5)
    assert message.attempts == 2
    with pytest.raises(ChildError, match="LeaseLost"):
        holder("message.ack()")
    message.ack()
    assert holder("queue._own_holder().is_there()")
    queue.enqueue(b"two")
    holder("message = queue.dequeue(wait_s=5)")
    assert queue.dequeue(wait_s=0.3) is None
    holder("message.ack()")


# Many


def has_grown(path: Path, size: int) -> bool:
    return path.stat().st_size > size


def test_several_consumers_and_producers_with_kills(spool, open_queue, child):
    """Each message is acknowledged once, and none is delivered twice without a death."""
    queue = open_queue()
    producers, consumers = [child(), child()], [child(), child(), child()]
    for number, producer in enumerate(producers):
        producer(f"sent = [b'{number}-%d' % n for n in range(150)]")
        producer.start("for body in sent: queue.enqueue(body)")
    script = """
while (message := queue.dequeue(wait_s=2)) is not None:
    os.write(log, b'got %s %d %s\\n' % (message.body, message.attempts, message.receipt.encode()))
    message.ack()
    os.write(log, b'ack %s %d %s\\n' % (message.body, message.attempts, message.receipt.encode()))
"""
    log = spool.parent / "log"
    opening = f"log = os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)"
    for consumer in consumers:
        consumer(opening)
        consumer.start(script)
    killed = 6
    for number in range(killed):
        # Somewhere in the middle of the work, each time further on.
        wait_for(partial(has_grown, log, number * 4000))
        consumers.pop(0).kill()
        consumers.append(child())
        consumers[-1](opening)
        consumers[-1].start(script)
    for process in producers + consumers:
        process.result()
    lines = [line.split() for line in log.read_bytes().splitlines()]
    got = Counter(body for what, body, *_ in lines if what == b"got")
    acknowledged = Counter(body for what, body, *_ in lines if what == b"ack")
    assert set(got) == {b"%d-%d" % (number, n) for number in range(2) for n in range(150)}
    assert max(acknowledged.values()) == 1
    assert sum(got.values()) - len(got) <= killed, "delivered again without a death"
    assert all(
        len({attempts for what, b, attempts, _ in lines if what == b"got" and b == body}) == times
        for body, times in got.items()
        if times > 1
    ), "each delivery was counted"
    assert queue.stats().done == 300
    assert queue.stats().claimed == 0
    with pytest.raises(LeaseLost):
        queue.acknowledge(f"{queue.list('done').messages[0].id}.k0000001")
