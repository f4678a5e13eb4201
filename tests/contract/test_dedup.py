"""Deduplication keys."""

from spoolq.models import NewMessage
from spoolq.settings import Limits, Retention, Settings


def test_a_known_key_answers_the_first_id(queue):
    """One message, whatever the second one brought."""
    first = queue.enqueue(b"first", dedup_key="order-1", headers={"n": "1"})
    second = queue.enqueue(b"second", dedup_key="order-1", priority=9, headers={"n": "2"})
    assert second == first
    assert queue.stats().ready == 1
    message = queue.dequeue()
    assert (message.body, message.priority, dict(message.headers)) == (b"first", 5, {"n": "1"})


def test_other_keys_are_other_messages(queue):
    """Keys are compared as they are: case and spaces count."""
    ids = {queue.enqueue(b"x", dedup_key=key) for key in ("k", "K", "k ", "kk", "ключ")}
    assert len(ids) == 5


def test_a_message_without_a_key_is_never_a_duplicate(queue):
    """The same body twice is two messages."""
    assert queue.enqueue(b"x") != queue.enqueue(b"x")


def test_the_key_is_shown(queue):
    """`get` tells it."""
    assert queue.get(queue.enqueue(b"x", dedup_key="order-1")).dedup_key == "order-1"


def test_the_window_holds_in_every_state(queue):
    """Claimed, done or dead, the first message answers for its key."""
    for settle in ("ack", "dead_letter"):
        first = queue.enqueue(b"x", dedup_key=settle)
        message = queue.dequeue()
        assert queue.enqueue(b"x", dedup_key=settle) == first
        message.ack() if settle == "ack" else message.dead_letter("no")
        assert queue.enqueue(b"x", dedup_key=settle) == first
    assert queue.dequeue() is None


def test_the_window_outlives_the_message(engine):
    """Acknowledged and deleted, the message still answers for its key until the window ends."""
    queue = engine.make_queue(Settings(dedup_window_s=300, retention=Retention(done_s=0)))
    first = queue.enqueue(b"x", dedup_key="k")
    queue.dequeue().ack()
    engine.advance(299)
    assert queue.enqueue(b"x", dedup_key="k") == first
    assert queue.dequeue() is None


def test_the_window_is_longer_than_a_receipt_is_remembered(engine):
    """A window of days holds, long after message and row are gone."""
    queue = engine.make_queue(Settings(dedup_window_s=7 * 86_400, retention=Retention(done_s=0)))
    first = queue.enqueue(b"x", dedup_key="k")
    queue.dequeue().ack()
    for _ in range(3):
        engine.advance(86_400)
    assert queue.enqueue(b"x", dedup_key="k") == first


def test_after_the_window_a_key_is_new(engine, drain):
    """Whether the first message still waits or not."""
    queue = engine.make_queue(Settings(dedup_window_s=300))
    first = queue.enqueue(b"1", dedup_key="k")
    engine.advance(301)
    second = queue.enqueue(b"2", dedup_key="k")
    assert second != first
    assert queue.enqueue(b"3", dedup_key="k") == second
    assert drain(queue) == [b"1", b"2"]


def test_a_duplicate_does_not_prolong_the_window(engine):
    """It counts from the first."""
    queue = engine.make_queue(Settings(dedup_window_s=300))
    first = queue.enqueue(b"1", dedup_key="k")
    engine.advance(200)
    assert queue.enqueue(b"2", dedup_key="k") == first
    engine.advance(101)
    assert queue.enqueue(b"3", dedup_key="k") != first


def test_a_duplicate_is_answered_in_a_full_queue(engine):
    """It needs no room."""
    queue = engine.make_queue(Settings(limits=Limits(messages=1)))
    first = queue.enqueue(b"x", dedup_key="k")
    assert queue.enqueue(b"x", dedup_key="k") == first


def test_keys_hold_within_a_batch(queue):
    """Also in one call, and against what was there before."""
    first = queue.enqueue(b"0", dedup_key="a")
    ids = queue.enqueue_many([NewMessage(body=b"1", dedup_key="a"), *[NewMessage(body=b"2", dedup_key="b")] * 3])
    assert ids[0] == first
    assert len(set(ids)) == 2
    assert queue.stats().ready == 2


def test_keys_are_the_queues_own(engine):
    """The same key in another queue is another message."""
    first, second = engine.make_queue(name="first"), engine.make_queue(name="second")
    assert first.enqueue(b"x", dedup_key="k") != second.enqueue(b"x", dedup_key="k")


def test_a_key_is_known_to_every_object(engine, queue):
    """Two producers with the same key make one message."""
    assert engine.make_queue().enqueue(b"x", dedup_key="k") == queue.enqueue(b"x", dedup_key="k")


def test_a_moved_file_that_is_a_duplicate_is_not_delivered(queue, tmp_path, drain):
    """The first file is the message; the second is answered with its id."""
    ids = []
    for content in (b"first", b"second"):
        path = tmp_path / "report.csv"
        path.write_bytes(content)
        ids.append(queue.enqueue_file(path, move=True, dedup_key="k"))
    assert ids[0] == ids[1]
    assert drain(queue) == [b"first"]
