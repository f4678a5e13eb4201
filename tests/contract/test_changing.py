"""Work of a person on a queue: delete, give back, purge, clean, change settings."""

from dataclasses import replace

import pytest

from spoolq.errors import LeaseLost, MessageNotFound
from spoolq.settings import Retention, Settings

DAY_S = 86_400


@pytest.fixture
def one_of_each(queue):
    """A message in each state; their ids by state."""
    found = {}
    for state in ("done", "dead", "claimed"):
        found[state] = queue.enqueue(state.encode())
        message = queue.dequeue()
        if state == "done":
            message.ack()
        elif state == "dead":
            message.dead_letter("no")
    found["ready"] = queue.enqueue(b"ready")
    found["scheduled"] = queue.enqueue(b"scheduled", delay_s=60)
    return found


@pytest.mark.parametrize("state", ["ready", "scheduled", "done", "dead"])
def test_a_message_that_nobody_holds_can_be_deleted(queue, one_of_each, state):
    """It is gone, the others stay."""
    queue.delete(one_of_each[state])
    with pytest.raises(MessageNotFound):
        queue.get(one_of_each[state])
    with pytest.raises(MessageNotFound):
        queue.delete(one_of_each[state])
    stats = queue.stats()
    assert getattr(stats, state) == 0
    assert stats.ready + stats.scheduled + stats.claimed + stats.done + stats.dead == 4


def test_a_claimed_message_cannot_be_deleted(queue, one_of_each):
    """Somebody works on it."""
    with pytest.raises(MessageNotFound):
        queue.delete(one_of_each["claimed"])
    assert queue.get(one_of_each["claimed"]).state == "claimed"


def test_a_claim_can_be_ended_by_hand(queue):
    """The message is ready, the attempt counted; its holder has lost it."""
    message_id = queue.enqueue(b"x")
    message = queue.dequeue()
    queue.give_back(message_id, reason="stuck since noon")
    info = queue.get(message_id)
    assert (info.state, info.attempts) == ("ready", 1)
    assert [(each.attempt, each.reason) for each in info.history] == [(1, "stuck since noon")]
    with pytest.raises(LeaseLost):
        message.ack()
    assert queue.dequeue().attempts == 2


def test_only_a_claimed_message_is_given_back(queue, one_of_each):
    """Any other: MessageNotFound."""
    for state in ("ready", "scheduled", "done", "dead"):
        with pytest.raises(MessageNotFound):
            queue.give_back(one_of_each[state])
        assert queue.get(one_of_each[state]).state == state


def test_purge_deletes_what_waits(queue, one_of_each):
    """Ready and scheduled by default; what is claimed, done or dead stays."""
    assert queue.purge() == 2
    assert {state for state in one_of_each if getattr(queue.stats(), state)} == {"claimed", "done", "dead"}
    assert queue.purge() == 0


def test_purge_deletes_the_states_it_is_told(queue, one_of_each):
    """Only these."""
    assert queue.purge(["done", "dead"]) == 2
    assert {state for state in one_of_each if getattr(queue.stats(), state)} == {"ready", "scheduled", "claimed"}


def test_purge_refuses_what_somebody_holds(queue, one_of_each):
    """ValueError, and nothing is deleted."""
    with pytest.raises(ValueError, match="claimed"):
        queue.purge(["ready", "claimed"])
    assert queue.stats().ready == 1


def test_purge_can_be_stopped(queue):
    """What the callback raises goes to the caller, and the rest stays."""

    class StoppedError(Exception):
        pass

    def progress(done, total):
        assert total == 5
        raise StoppedError

    queue.enqueue_many([b"x"] * 5)
    with pytest.raises(StoppedError):
        queue.purge(progress=progress)
    queue.purge()
    assert queue.stats().ready == 0


def test_a_purged_queue_goes_on(queue, drain):
    """What comes afterwards is delivered."""
    queue.enqueue(b"old")
    queue.purge()
    queue.enqueue(b"new")
    assert drain(queue) == [b"new"]


def test_done_messages_go_when_their_retention_ends(engine, body_of):
    """done_s seconds after it was acknowledged, a message is deleted."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=100)))
    for name in (b"old", b"young"):
        queue.enqueue(name, headers={"k": "v"})
        queue.dequeue().ack()
        engine.advance(60)
    engine.advance(1)
    queue.clean()
    (left,) = queue.list("done").messages
    assert body_of(queue, left.id) == b"young"


def test_retention_is_kept_without_anybody_asking(engine):
    """`maintain` deletes what is over its time."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=100)))
    queue.enqueue(b"x")
    queue.dequeue().ack()
    engine.advance(3600)
    assert queue.stats().done == 0


def test_clean_tells_what_it_deletes(engine):
    """Counts and bytes by state; a dry run deletes nothing and tells the same."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=100)))
    queue.enqueue_many([b"1", b"22"])
    for message in queue.dequeue_many(2):
        message.ack()
    engine.clock.advance(101)
    planned = queue.clean(dry_run=True)
    assert queue.stats().done == 2
    assert queue.clean() == planned
    assert (planned["done"], planned["done_bytes"]) == (2, 3)
    assert queue.stats().done == 0


def test_clean_leaves_what_is_not_over_its_time(queue, one_of_each):
    """By default done is kept for a day, dead for ever."""
    queue.clean()
    stats = queue.stats()
    assert (stats.ready, stats.scheduled, stats.claimed, stats.done, stats.dead) == (1, 1, 1, 1, 1)


def test_settings_can_be_changed(engine, queue):
    """They hold for every object of the queue, from its next operation on."""
    other = engine.make_queue()
    queue.enqueue_many([b"1", b"2"])
    assert other.dequeue().requeue(delay_s=0) == "ready"
    queue.change_settings(replace(queue.settings, max_attempts=1))
    assert other.dequeue().requeue(delay_s=0) == "dead"
    assert other.dequeue().requeue(delay_s=0) == "dead"
    assert other.settings.max_attempts == 1


def test_maintain_says_when_nothing_is_left(queue):
    """False on an empty queue."""
    assert queue.maintain() is False
