"""Which message comes next: priority, age, schedule, pause; and `peek`, which says so beforehand."""

import pytest


def test_an_empty_queue_answers_none(queue):
    """An empty queue is a value, not an error."""
    assert queue.dequeue() is None
    assert queue.dequeue_many(10) == []
    assert queue.peek() is None


def test_first_in_first_out(queue, drain):
    """Of one priority, the oldest comes first."""
    bodies = [b"%d" % number for number in range(20)]
    for body in bodies:
        queue.enqueue(body)
    assert drain(queue) == bodies


def test_higher_priority_comes_first(queue, drain):
    """9 before 5 before 0, and within each by age."""
    for number, priority in enumerate([5, 0, 9, 5, 9, 0, 1, 8]):
        queue.enqueue(b"%d:%d" % (priority, number), priority=priority)
    assert drain(queue) == [b"9:2", b"9:4", b"8:7", b"5:0", b"5:3", b"1:6", b"0:1", b"0:5"]


def test_order_survives_a_wall_clock_that_goes_back(queue, clock, drain):
    """Somebody sets the clock back an hour; what was first stays first."""
    queue.enqueue(b"first")
    clock.set_wall(clock.wall_ms() - 3_600_000)
    queue.enqueue(b"second")
    assert drain(queue) == [b"first", b"second"]


def test_a_claimed_message_is_nobody_elses(engine, queue):
    """One holder at a time, in this object and in another."""
    queue.enqueue(b"x")
    assert queue.dequeue() is not None
    assert queue.dequeue() is None
    assert engine.make_queue().dequeue() is None


def test_several_are_claimed_at_once(queue):
    """`dequeue_many` claims what there is, up to the count, in order; each has a receipt of its own."""
    queue.enqueue_many([b"1", b"2", b"3"])
    first = queue.dequeue_many(2)
    rest = queue.dequeue_many(10)
    assert [message.body for message in first + rest] == [b"1", b"2", b"3"]
    assert len({message.receipt for message in first + rest}) == 3
    assert queue.stats().claimed == 3


def test_a_delayed_message_waits(queue, engine, clock):
    """Not before its time, and at its time."""
    message_id = queue.enqueue(b"x", delay_s=60)
    assert queue.get(message_id).state == "scheduled"
    assert queue.get(message_id).due_at_ms == clock.wall_ms() + 60_000
    assert queue.dequeue() is None
    clock.advance(59.999)
    assert queue.dequeue() is None
    clock.advance(0.001)
    assert queue.dequeue().id == message_id


def test_a_due_message_takes_its_place_by_priority_and_age(queue, clock, drain):
    """Once due, a scheduled message is ordered like any other: by its priority, then its id."""
    queue.enqueue(b"old, was delayed", delay_s=10)
    queue.enqueue(b"young")
    queue.enqueue(b"urgent, was delayed", delay_s=10, priority=9)
    clock.advance(10)
    assert drain(queue) == [b"urgent, was delayed", b"old, was delayed", b"young"]


def test_many_due_at_once_are_all_delivered(queue, clock, drain):
    """However many fall due together, none is left behind."""
    for number in range(250):
        queue.enqueue(b"%d" % number, delay_s=1 + number % 7)
    clock.advance(10)
    assert len(drain(queue)) == 250


def test_a_delay_of_nothing_is_no_schedule(queue):
    """delay_s=0 is ready at once."""
    assert queue.get(queue.enqueue(b"x", delay_s=0)).state == "ready"


def test_peek_shows_what_dequeue_takes(queue, clock):
    """`peek` and `dequeue` agree, and peeking claims and counts nothing."""
    queue.enqueue(b"low", priority=1)
    queue.enqueue(b"later", delay_s=5, priority=9)
    seen = queue.peek()
    assert (seen.state, seen.attempts) == ("ready", 0)
    assert queue.peek() == seen
    assert queue.dequeue().id == seen.id
    assert queue.peek() is None
    clock.advance(5)
    due = queue.peek()
    assert due is not None
    assert queue.dequeue().id == due.id


def test_run_now_makes_a_scheduled_message_ready(queue):
    """What was for tomorrow is delivered now."""
    message_id = queue.enqueue(b"x", delay_s=86_400)
    queue.run_now(message_id)
    assert queue.get(message_id).state == "ready"
    assert queue.dequeue().id == message_id


def test_run_now_ends_a_backoff(queue):
    """What waits after a failure can be sent at once; its attempts stay counted."""
    message_id = queue.enqueue(b"x")
    queue.dequeue().requeue(delay_s=3600)
    queue.run_now(message_id)
    assert queue.dequeue().attempts == 2


def test_run_now_on_a_ready_message_changes_nothing(queue):
    """It is deliverable already."""
    message_id = queue.enqueue(b"x")
    queue.run_now(message_id)
    assert queue.dequeue().id == message_id


def test_priority_can_be_changed_while_it_waits(queue, drain):
    """A message that is now urgent overtakes, one that is no more falls back."""
    first = queue.enqueue(b"first")
    queue.enqueue(b"second")
    third = queue.enqueue(b"third", delay_s=1)
    queue.set_priority(first, 0)
    queue.set_priority(third, 9)
    assert queue.get(third).state == "scheduled"
    queue.run_now(third)
    assert drain(queue) == [b"third", b"second", b"first"]


@pytest.mark.parametrize("change", ["run_now", "set_priority"])
def test_only_a_waiting_message_can_be_moved(queue, change):
    """A claimed, done or dead message is not waiting: MessageNotFound."""
    from spoolq.errors import MessageNotFound

    def attempt(message_id):
        arguments = (3,) if change == "set_priority" else ()
        with pytest.raises(MessageNotFound):
            getattr(queue, change)(message_id, *arguments)

    for settle in ("ack", "dead_letter"):
        message_id = queue.enqueue(b"x")
        message = queue.dequeue()
        attempt(message_id)
        message.dead_letter("no") if settle == "dead_letter" else message.ack()
        attempt(message_id)


def test_a_paused_queue_delivers_nothing(engine, queue):
    """Pausing holds for every object of the queue; enqueueing and settling go on."""
    queue.enqueue(b"before")
    held = queue.dequeue()
    other = engine.make_queue()
    queue.pause()
    queue.enqueue(b"during")
    assert queue.stats().paused
    assert other.stats().paused
    assert queue.dequeue() is None
    assert other.dequeue() is None
    assert queue.peek() is None
    held.ack()
    other.resume()
    assert not queue.stats().paused
    assert queue.dequeue().body == b"during"


def test_pausing_twice_is_pausing(queue):
    """One `resume` ends any number of pauses, and resuming what runs changes nothing."""
    queue.pause()
    queue.pause()
    queue.resume()
    queue.resume()
    queue.enqueue(b"x")
    assert queue.dequeue() is not None
