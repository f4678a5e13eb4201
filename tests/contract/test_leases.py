"""How long a claim lasts: by the life of its holder, or until a deadline."""

import pytest

from spoolq.errors import LeaseLost
from spoolq.settings import Settings

DAY_S = 86_400


def test_a_lease_is_a_hard_end(queue, clock):
    """Once it is over the message is delivered again, counted; the first receipt is worth nothing."""
    queue.enqueue(b"x")
    first = queue.dequeue(lease_s=30)
    clock.advance(30)
    second = queue.dequeue()
    assert (second.id, second.attempts) == (first.id, 2)
    with pytest.raises(LeaseLost):
        first.ack()
    second.ack()


def test_nobody_gets_the_message_before_its_lease_ends(queue, engine):
    """One millisecond before the end it is still claimed."""
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=30)
    engine.advance(29.999)
    assert queue.dequeue() is None
    message.ack()


def test_an_ended_lease_is_taken_back_by_maintain(queue, engine):
    """It is ready, counted, with the reason in its history."""
    message_id = queue.enqueue(b"x")
    queue.dequeue(lease_s=30)
    engine.advance(31)
    info = queue.get(message_id)
    assert (info.state, info.attempts, info.receipt) == ("ready", 1, None)
    assert [(each.attempt, each.outcome, each.reason) for each in info.history] == [(1, "requeued", "lease ended")]


@pytest.mark.parametrize("late", ["acknowledge", "release", "extend", "requeue"])
def test_a_late_answer_counts_while_nobody_has_taken_the_message(queue, clock, late):
    """A claim ends when it is taken back, not when its time is up."""
    message_id = queue.enqueue(b"x")
    message = queue.dequeue(lease_s=30)
    clock.advance(31)
    arguments = {"extend": (30,)}.get(late, ())
    getattr(queue, late)(message.receipt, *arguments)
    expected = {"acknowledge": "done", "release": "ready", "extend": "claimed", "requeue": "scheduled"}
    assert queue.get(message_id).state == expected[late]


def test_extending_moves_the_end(queue, engine, clock):
    """It ends that long from now, whether that is later or sooner."""
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=30)
    clock.advance(20)
    message.extend(60)
    assert queue.get(message.id).deadline_at_ms == clock.wall_ms() + 60_000
    engine.advance(59)
    assert queue.get(message.id).state == "claimed"
    message.extend(5)
    engine.advance(6)
    assert queue.get(message.id).state == "ready"


def test_extending_leaves_a_claim_without_a_deadline_without_one(queue, engine, needs):
    """A claim that lives by its process alone has no end, and gets none."""
    needs(queue, "holders")
    queue.enqueue(b"x")
    message = queue.dequeue()
    assert queue.get(message.id).deadline_at_ms is None
    message.extend(10)
    engine.advance(11)
    assert queue.get(message.id).state == "claimed"
    assert queue.get(message.id).deadline_at_ms is None


def test_a_live_holder_keeps_its_claim(queue, engine, needs):
    """Without a lease, time alone ends nothing."""
    needs(queue, "holders")
    queue.enqueue(b"x")
    message = queue.dequeue()
    for _ in range(5):
        engine.advance(30 * DAY_S)
    assert queue.dequeue() is None
    message.ack()


def test_without_holders_the_queues_lease_is_used(engine):
    """Where an engine cannot see who lives, a claim lasts for the queue's lease_s."""
    queue = engine.make_queue(Settings(lease_s=40))
    if queue.capabilities.holders:
        pytest.skip("it sees who lives")
    queue.enqueue(b"x")
    queue.dequeue()
    engine.advance(39)
    assert queue.dequeue() is None
    engine.advance(2)
    assert queue.dequeue().attempts == 2


def test_max_hold_ends_a_live_holders_claim(engine, needs):
    """Where the queue says so, even a live process loses its claim."""
    queue = engine.make_queue(Settings(max_hold_s=100))
    needs(queue, "holders")
    queue.enqueue(b"x")
    queue.dequeue()
    engine.advance(99)
    assert queue.dequeue() is None
    engine.advance(2)
    assert queue.dequeue().attempts == 2


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
def test_a_wall_clock_that_jumps_ends_no_lease(queue, engine, clock, jump_s):
    """Deadlines are kept on a clock that nobody can set."""
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=60)
    clock.set_wall(clock.wall_ms() + jump_s * 1000)
    engine.advance(59)
    assert queue.get(message.id).state == "claimed"
    engine.advance(2)
    assert queue.get(message.id).state == "ready"


def test_leases_that_always_end_make_a_dead_letter(engine):
    """A message that keeps killing or stalling its consumer ends in dead, and its history tells."""
    queue = engine.make_queue(Settings(max_attempts=3))
    message_id = queue.enqueue(b"x")
    for _ in range(3):
        queue.dequeue(lease_s=10)
        engine.advance(11)
    info = queue.get(message_id)
    assert (info.state, info.attempts, info.reason) == ("dead", 3, "lease ended")
    assert [(each.attempt, each.outcome) for each in info.history] == [(1, "requeued"), (2, "requeued"), (3, "dead")]
    assert queue.dequeue() is None


def test_each_of_many_has_the_lease(queue, clock):
    """`dequeue_many` gives every message the same end."""
    queue.enqueue_many([b"1", b"2"])
    for message in queue.dequeue_many(2, lease_s=10):
        assert queue.get(message.id).deadline_at_ms == clock.wall_ms() + 10_000
    clock.advance(10)
    assert len(queue.dequeue_many(2)) == 2


def test_closing_gives_claims_back_uncounted(engine, queue):
    """What a queue object holds when it is closed is ready at once, with or without a lease."""
    queue.enqueue_many([b"1", b"2", b"3"])
    other = engine.make_queue()
    kept = queue.dequeue()
    other.dequeue()
    other.dequeue(lease_s=60)
    other.close()
    again = queue.dequeue_many(3)
    assert [(message.body, message.attempts) for message in again] == [(b"2", 1), (b"3", 1)]
    kept.ack()


def test_closing_twice_is_closing(engine):
    """The second time there is nothing to give back."""
    other = engine.make_queue()
    other.close()
    other.close()


def test_a_dropped_message_object_loses_nothing(queue):
    """The queue, not the Message, keeps the claim."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    receipt = message.receipt
    del message
    queue.acknowledge(receipt)


def test_opening_ends_nobodys_claim(engine, queue):
    """A further queue object sees what is claimed, and leaves it."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    other = engine.make_queue()
    other.maintain()
    assert other.dequeue() is None
    message.ack()


def test_who_holds_what_is_shown(engine, queue, needs):
    """Each holder with its claims; none when there are none."""
    needs(queue, "holders")
    queue.enqueue_many([b"1", b"2"])
    messages = queue.dequeue_many(2)
    (holder,) = [each for each in queue.holders() if each.claims]
    assert (holder.claims, holder.alive) == (2, True)
    assert {queue.get(message.id).holder for message in messages} == {holder.holder}
    for message in messages:
        message.ack()
    assert [each for each in queue.holders() if each.claims] == []


def test_a_slot_is_a_consumer_of_its_own(queue):
    """Its claims are others than the queue's; closing it gives back its own only, uncounted."""
    queue.enqueue_many([b"1", b"2"])
    first = queue.dequeue()
    with queue.slot("a") as slot:
        second = slot.dequeue()
        assert slot.dequeue() is None
        if queue.capabilities.holders:
            assert queue.get(first.id).holder != queue.get(second.id).holder
    assert queue.get(first.id).state == "claimed"
    assert (queue.get(second.id).state, queue.get(second.id).attempts) == ("ready", 0)


def test_what_a_slot_claimed_is_settled_like_any_other(queue):
    """Its messages acknowledge through the queue, also with a lease."""
    queue.enqueue_many([b"1", b"2"])
    with queue.slot() as slot:
        slot.dequeue().ack()
        slot.dequeue(lease_s=10).requeue(delay_s=0)
    assert queue.dequeue().attempts == 2


def test_closing_the_queue_closes_its_slots(engine, queue):
    """What a slot still holds is given back with the rest."""
    queue.enqueue(b"x")
    other = engine.make_queue()
    other.slot("a").dequeue()
    other.close()
    assert queue.dequeue().attempts == 1
