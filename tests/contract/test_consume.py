"""The consumer's loop, the message as a context manager, and waiting."""

import gc
import threading

import pytest

from spoolq.errors import LeaseLost

LIMIT_S = 30


def state_of(queue, message):
    return queue.get(message.id).state


def test_the_end_of_the_body_acknowledges(queue):
    """Each message is done when the next one comes."""
    ids = queue.enqueue_many([b"1", b"2", b"3"])
    seen: list[str] = []
    for message in queue.consume(wait_s=0):
        assert all(queue.get(each).state == "done" for each in seen)
        seen.append(message.id)
    assert seen == ids
    assert queue.stats().done == 3


def test_it_ends_when_nothing_comes(queue):
    """An empty queue is no error."""
    assert list(queue.consume(wait_s=0)) == []


def test_leaving_by_break_gives_the_message_back(queue):
    """Uncounted; the one before stays done."""
    first, second = queue.enqueue_many([b"1", b"2"])
    for message in queue.consume(wait_s=0):
        if message.id == second:
            break
    gc.collect()
    assert queue.get(first).state == "done"
    assert (queue.get(second).state, queue.get(second).attempts) == ("ready", 0)


def test_an_exception_in_the_body_gives_the_message_back(queue):
    """It goes to the caller as it is; the attempt is not counted."""
    message_id = queue.enqueue(b"x")

    def work():
        for _ in queue.consume(wait_s=0):
            raise RuntimeError("in the body")

    with pytest.raises(RuntimeError, match="in the body"):
        work()
    gc.collect()
    assert (queue.get(message_id).state, queue.get(message_id).attempts) == ("ready", 0)


def test_closing_the_iterator_gives_the_message_back(queue):
    """As leaving the loop does."""
    message_id = queue.enqueue(b"x")
    messages = queue.consume(wait_s=0)
    next(messages)
    messages.close()
    assert queue.get(message_id).state == "ready"


def test_what_the_body_settles_is_left_alone(queue):
    """Requeued, released, buried or acknowledged in the body: so it stays."""
    queue.enqueue_many([b"requeue", b"ack", b"dead"])
    for message in queue.consume(wait_s=0):
        if message.body == b"requeue":
            message.requeue(delay_s=60)
        elif message.body == b"ack":
            message.ack()
        else:
            message.dead_letter("no")
    stats = queue.stats()
    assert (stats.scheduled, stats.done, stats.dead) == (1, 1, 1)


def test_what_the_body_settled_through_the_queue_is_left_alone(queue):
    """By its receipt, not through the message: the loop goes on all the same."""
    queue.enqueue_many([b"1", b"2"])
    for message in queue.consume(wait_s=0):
        queue.requeue(message.receipt, delay_s=60)
    assert queue.stats().scheduled == 2


def test_a_claim_that_ended_in_the_body_ends_no_loop(queue, clock):
    """Its lease was over and another took the message: theirs it is, and the loop goes on."""
    queue.enqueue_many([b"slow", b"2"])
    bodies, taken = [], []
    for message in queue.consume(wait_s=0, lease_s=10):
        bodies.append(message.body)
        if message.body == b"slow":
            clock.advance(11)
            taken.append(queue.dequeue())
    assert bodies == [b"slow", b"2"]
    assert [(message.body, state_of(queue, message)) for message in taken] == [(b"slow", "claimed")]


def test_leases_are_given_to_each(queue):
    """`lease_s` is that of every message."""
    queue.enqueue(b"x")
    for message in queue.consume(wait_s=0, lease_s=10):
        assert queue.get(message.id).deadline_at_ms is not None


def test_arguments_are_judged_at_the_call(queue):
    """Not at the first message."""
    with pytest.raises(ValueError, match="wait_s"):
        queue.consume(wait_s=-1)
    with pytest.raises(ValueError, match="lease_s"):
        queue.consume(lease_s=0)


def test_with_acknowledges_at_the_end(queue):
    """A message as a context manager is done after it."""
    queue.enqueue(b"x")
    with queue.dequeue() as message:
        assert message.body == b"x"
    assert state_of(queue, message) == "done"


def test_with_requeues_on_an_exception(queue):
    """Counted, with the traceback as the reason; the exception goes on."""
    queue.enqueue(b"x")
    with pytest.raises(KeyError, match="missing"), queue.dequeue() as message:
        raise KeyError("missing")
    info = queue.get(message.id)
    assert (info.state, info.attempts) == ("scheduled", 1)
    (failure,) = info.history
    assert "Traceback" in failure.reason
    assert "KeyError: 'missing'" in failure.reason


def test_with_releases_on_an_interrupt(queue):
    """Ctrl-C is nobody's failure: the attempt is not counted."""
    queue.enqueue(b"x")
    with pytest.raises(KeyboardInterrupt), queue.dequeue() as message:
        raise KeyboardInterrupt
    assert (state_of(queue, message), queue.get(message.id).attempts) == ("ready", 0)


def test_with_leaves_what_was_settled(queue):
    """Settled within: so it stays."""
    queue.enqueue(b"x")
    with queue.dequeue() as message:
        message.release()
    assert state_of(queue, message) == "ready"


def test_with_says_when_the_claim_was_lost(queue):
    """The work was done, but the message is another's: LeaseLost."""
    queue.enqueue(b"x")
    with pytest.raises(LeaseLost), queue.dequeue() as message:
        queue.give_back(message.id)


def test_with_does_not_hide_an_exception_behind_a_lost_claim(queue):
    """What was raised matters more."""

    def lose_it_and_fail():
        with queue.dequeue() as message:
            queue.give_back(message.id)
            raise RuntimeError("the cause")

    queue.enqueue(b"x")
    with pytest.raises(RuntimeError, match="the cause"):
        lose_it_and_fail()


def test_a_consumer_that_waits_gets_what_comes(engine, queue):
    """Enqueued by another object, it is claimed by the waiting one, long before its wait is over."""
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.dequeue(wait_s=LIMIT_S * 2)))
    waiting.start()
    message_id = engine.make_queue().enqueue(b"x")
    waiting.join(LIMIT_S)
    assert [message.id for message in found] == [message_id]


def test_a_consumer_that_waits_gets_what_is_given_back(engine, queue):
    """A release wakes as an enqueue does."""
    queue.enqueue(b"x")
    held = engine.make_queue().dequeue()
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.dequeue(wait_s=LIMIT_S * 2)))
    waiting.start()
    held.release()
    waiting.join(LIMIT_S)
    assert [message.id for message in found] == [held.id]


def test_a_consumer_that_waits_is_woken_by_resume(engine, queue):
    """A pause ends for those who wait."""
    queue.enqueue(b"x")
    queue.pause()
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.dequeue(wait_s=LIMIT_S * 2)))
    waiting.start()
    engine.make_queue().resume()
    waiting.join(LIMIT_S)
    assert len(found) == 1
    assert found[0] is not None


def test_a_consumer_that_waits_sees_time_pass(queue, clock):
    """What falls due while it waits is delivered."""
    queue.enqueue(b"x", delay_s=60)
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.dequeue(wait_s=LIMIT_S * 20)))
    waiting.start()
    clock.advance(61)
    waiting.join(LIMIT_S)
    assert [message.body for message in found] == [b"x"]


def test_a_wait_ends(queue):
    """None, after `wait_s` without a message; also for many."""
    assert queue.dequeue(wait_s=0.02) is None
    assert queue.dequeue_many(3, wait_s=0.02) == []
    assert list(queue.consume(wait_s=0.02)) == []


def test_a_wait_for_many_ends_with_the_first(queue):
    """It waits for the first only."""
    queue.enqueue(b"x")
    assert len(queue.dequeue_many(10, wait_s=LIMIT_S * 20)) == 1


def test_waiting_without_claiming(queue):
    """`wait` is True when there may be something, False when the time is over."""
    assert queue.wait(0.02) is False
    queue.enqueue(b"x")
    assert queue.wait(LIMIT_S) is True
    assert queue.dequeue() is not None
