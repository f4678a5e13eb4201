"""Messages with a time to live."""

import pytest

from spoolq.errors import MessageNotFound
from spoolq.settings import Retention, Settings


def test_an_expired_message_is_not_delivered(queue, clock):
    """Past its time to live it is dead, with the reason "expired", whoever looks first."""
    message_id = queue.enqueue(b"x", ttl_s=10)
    assert queue.get(message_id).expires_at_ms == clock.wall_ms() + 10_000
    clock.advance(10)
    assert queue.dequeue() is None
    while queue.maintain():
        pass
    info = queue.get(message_id)
    assert (info.state, info.reason, info.attempts) == ("dead", "expired", 0)


def test_a_message_is_delivered_until_it_expires(queue, engine):
    """One millisecond before, it is there."""
    queue.enqueue(b"x", ttl_s=10)
    engine.advance(9.999)
    assert queue.dequeue() is not None


def test_a_claimed_message_does_not_expire(queue, engine):
    """It was delivered in time, and may be acknowledged later."""
    queue.enqueue(b"x", ttl_s=10)
    message = queue.dequeue()
    engine.advance(30)
    message.ack()
    assert queue.get(message.id).state == "done"


def test_a_requeued_message_expires(queue, engine):
    """Given back after its time, it is dead."""
    queue.enqueue(b"x", ttl_s=10)
    message = queue.dequeue()
    engine.advance(30)
    message.requeue(delay_s=0, reason="slow")
    engine.advance(1.5)
    assert queue.dequeue() is None
    info = queue.get(message.id)
    assert (info.state, info.reason) == ("dead", "expired")
    assert [(each.outcome, each.reason) for each in info.history] == [("requeued", "slow"), ("expired", "expired")]


def test_a_scheduled_message_expires(queue, engine):
    """A time to live shorter than the delay ends first."""
    message_id = queue.enqueue(b"x", delay_s=100, ttl_s=10)
    engine.advance(11)
    assert queue.get(message_id).state == "dead"


def test_the_queue_has_a_time_to_live(engine):
    """The queue's ttl_s is used where the message says nothing; 0 says never."""
    queue = engine.make_queue(Settings(ttl_s=10))
    usual, never, longer = queue.enqueue(b"1"), queue.enqueue(b"2", ttl_s=0), queue.enqueue(b"3", ttl_s=30)
    engine.advance(11)
    assert [queue.get(each).state for each in (usual, never, longer)] == ["dead", "ready", "ready"]
    assert queue.get(never).expires_at_ms is None


def test_expired_messages_are_deleted_where_the_queue_says_so(engine):
    """retention.expired = "delete": no dead letter."""
    queue = engine.make_queue(Settings(retention=Retention(expired="delete")))
    message_id = queue.enqueue(b"x", ttl_s=10, headers={"k": "v"})
    engine.advance(11)
    assert queue.dequeue() is None
    with pytest.raises(MessageNotFound):
        queue.get(message_id)
    assert queue.stats().dead == 0


def test_an_expired_message_can_be_redriven(queue, engine):
    """A person wants it after all: it is delivered, and does not expire again."""
    message_id = queue.enqueue(b"x", ttl_s=10)
    engine.advance(11)
    assert queue.dead_letters.redrive() == 1
    engine.advance(2)
    assert queue.dequeue().id == message_id


def test_many_expire_at_once(queue, engine, drain):
    """However many expire together, none is delivered and each is dead."""
    for _ in range(150):
        queue.enqueue(b"old", ttl_s=5)
    queue.enqueue(b"fresh")
    engine.clock.advance(6)
    assert drain(queue) == [b"fresh"]
    engine.advance(2)
    assert queue.stats().dead == 150
