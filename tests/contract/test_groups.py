"""Groups: one at a time, in order; a head that waits holds its group, a dead one frees it."""

import pytest

from spoolq.settings import Settings


@pytest.fixture
def held(body_of):
    """`held(queue)`: the bodies of those that wait for an earlier one of their group."""

    def bodies(queue):
        waiting = [*queue.list("ready").messages, *queue.list("scheduled").messages]
        return {body_of(queue, info.id) for info in waiting if info.held}

    return bodies


@pytest.fixture
def three(queue):
    """Three messages of one group; their ids."""
    return [queue.enqueue(body, group="g") for body in (b"1", b"2", b"3")]


def test_a_group_is_delivered_one_at_a_time(queue, three):
    """The next comes when the one before is settled."""
    first = queue.dequeue()
    assert first.body == b"1"
    assert queue.dequeue() is None
    first.ack()
    second = queue.dequeue()
    assert second.body == b"2"
    assert queue.dequeue() is None


def test_only_the_head_is_not_held(queue, three, held):
    """`held` says who waits for whom, before and while the head is claimed."""
    assert held(queue) == {b"2", b"3"}
    message = queue.dequeue()
    assert held(queue) == {b"2", b"3"}
    message.ack()
    assert held(queue) == {b"3"}


def test_groups_do_not_hold_each_other(queue):
    """The head of each group, and what has no group, are all deliverable."""
    for body, group in ((b"a1", "a"), (b"a2", "a"), (b"b1", "b"), (b"-", None)):
        queue.enqueue(body, group=group)
    assert [message.body for message in queue.dequeue_many(10)] == [b"a1", b"b1", b"-"]


def test_one_claim_takes_one_of_a_group(queue, three):
    """`dequeue_many` never claims two of a group together."""
    assert [message.body for message in queue.dequeue_many(3)] == [b"1"]


def test_priority_does_not_overtake_in_a_group(queue):
    """Within a group the order is by age; the head's own priority decides between groups."""
    queue.enqueue(b"g1", group="g", priority=1)
    queue.enqueue(b"g2", group="g", priority=9)
    queue.enqueue(b"other")
    order = []
    while (message := queue.dequeue()) is not None:
        order.append(message.body)
        message.ack()
    assert order == [b"other", b"g1", b"g2"]


def test_a_head_in_backoff_holds_its_group(queue, three, held, clock):
    """What failed is tried again before the next is."""
    queue.dequeue().requeue(delay_s=30)
    assert queue.dequeue() is None
    assert held(queue) == {b"2", b"3"}
    clock.advance(30)
    assert queue.dequeue().body == b"1"


def test_a_scheduled_head_holds_its_group(queue, clock):
    """A later message does not overtake one that was enqueued with a delay."""
    queue.enqueue(b"1", group="g", delay_s=30)
    queue.enqueue(b"2", group="g")
    assert queue.dequeue() is None
    clock.advance(30)
    message = queue.dequeue()
    assert message.body == b"1"
    message.ack()
    assert queue.dequeue().body == b"2"


def test_a_scheduled_message_of_a_group_waits_for_time_and_turn(queue, clock):
    """Due, it is still held by the head; freed, it still waits for its time."""
    queue.enqueue(b"1", group="g")
    queue.enqueue(b"2", group="g", delay_s=30)
    head = queue.dequeue()
    clock.advance(10)
    head.ack()
    assert queue.dequeue() is None
    clock.advance(20)
    assert queue.dequeue().body == b"2"


def test_a_due_message_is_held_by_its_head(queue, clock):
    """Its time has come, its turn not."""
    queue.enqueue(b"1", group="g")
    queue.enqueue(b"2", group="g", delay_s=30)
    head = queue.dequeue()
    clock.advance(31)
    assert queue.dequeue() is None
    head.ack()
    assert queue.dequeue().body == b"2"


@pytest.mark.parametrize("how", ["ack", "dead", "attempts", "delete", "purge a dead one", "expire"])
def test_the_end_of_the_head_frees_the_next(engine, how):
    """Done, dead, deleted or expired: the next one is the head."""
    queue = engine.make_queue(Settings(max_attempts=1))
    first = queue.enqueue(b"1", group="g", ttl_s=10)
    queue.enqueue(b"2", group="g")
    if how == "delete":
        queue.delete(first)
    elif how == "expire":
        engine.advance(11)
    else:
        message = queue.dequeue()
        settle = {"ack": message.ack, "attempts": lambda: message.requeue(reason="no")}
        settle.get(how, lambda: message.dead_letter("no"))()
    if how == "purge a dead one":
        queue.dead_letters.purge()
    assert queue.dequeue().body == b"2"


def test_a_released_head_is_the_head_again(queue, three):
    """Given back, it is delivered before the others."""
    queue.dequeue().release()
    assert queue.dequeue().body == b"1"


def test_a_head_whose_lease_ended_is_the_head_again(queue, three, clock):
    """Taken back, it is delivered before the others, and never beside them."""
    queue.dequeue(lease_s=10)
    clock.advance(11)
    again = queue.dequeue_many(3)
    assert [(message.body, message.attempts) for message in again] == [(b"1", 2)]


def test_a_redriven_message_waits_for_the_one_under_way(queue, three):
    """One at a time holds for what comes back, too; then it goes first, being older."""
    queue.dequeue().dead_letter("no")
    second = queue.dequeue()
    queue.dead_letters.redrive()
    assert queue.dequeue() is None
    second.ack()
    assert queue.dequeue().body == b"1"


def test_a_redriven_message_is_delivered_before_younger_ones_that_wait(queue, three):
    """Within a group the order is by age, also for what comes back."""
    queue.dequeue().dead_letter("no")
    queue.dead_letters.redrive()
    order = []
    while (message := queue.dequeue()) is not None:
        order.append(message.body)
        message.ack()
    assert order == [b"1", b"2", b"3"]


def test_purging_what_waits_leaves_the_group_usable(queue, three):
    """After a purge the next message of the group is its head."""
    head = queue.dequeue()
    assert queue.purge() == 2
    head.ack()
    queue.enqueue(b"4", group="g")
    assert queue.dequeue().body == b"4"


def test_run_now_does_not_overtake_in_a_group(queue):
    """A person can end a schedule, not the order of a group."""
    queue.enqueue(b"1", group="g")
    second = queue.enqueue(b"2", group="g", delay_s=60)
    queue.run_now(second)
    message = queue.dequeue()
    assert message.body == b"1"
    assert queue.dequeue() is None
    message.ack()
    assert queue.dequeue().body == b"2"
