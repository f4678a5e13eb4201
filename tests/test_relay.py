"""The relay between two queues in memory: what it carries, and what it does when the target is away or refuses."""

import threading

import pytest

from spoolq.errors import LeaseLost, QueueFull, SettingsError, Unreachable
from spoolq.memory import MemoryQueue, MemoryStore
from spoolq.relay import WINDOW_S, Relay
from spoolq.settings import Limits, Settings

FAST = (0.001, 0.004)


class Target(MemoryQueue):
    """A queue that can be away, before or after it has taken what it was given."""

    away = 0
    loses = 0

    def enqueue_many(self, messages):
        if self.away:
            self.away -= 1
            raise Unreachable("no server answers", op="enqueue")
        ids = super().enqueue_many(messages)
        if self.loses:
            self.loses -= 1
            raise Unreachable("the answer was lost", op="enqueue")
        return ids


@pytest.fixture
def source():
    return MemoryQueue(settings=Settings(max_attempts=3))


@pytest.fixture
def target():
    return Target(settings=Settings(dedup_window_s=WINDOW_S))


def carry(source, target, **options):
    return Relay(source, target, pauses_s=FAST, **options).run(drain=True)


def bodies(queue):
    return [message.body for message in queue.dequeue_many(1000)]


def test_everything_is_carried_once_with_all_that_came_with_it(source, target):
    """Acknowledged here, ready there."""
    source.enqueue(b"1", priority=7, headers={"k": "v"}, content_type="text/plain", name="n.txt", group="g", ttl_s=60)
    source.enqueue_many([b"x"] * 250)
    assert carry(source, target).sent == 251
    assert (source.stats().done, target.stats().ready) == (251, 251)
    message = target.dequeue()
    assert (message.body, message.priority, dict(message.headers)) == (b"1", 7, {"k": "v"})
    assert (message.content_type, message.name, message.group) == ("text/plain", "n.txt", "g")
    assert 0 < target.get(message.id).expires_at_ms - message.enqueued_at_ms <= 60_000


def test_a_large_body_is_streamed(source, target):
    """Not in a batch."""
    large = b"x" * (3 << 20)
    source.enqueue_many([b"small", large])
    carry(source, target)
    assert sorted(map(len, bodies(target))) == [5, 3 << 20]


def test_an_outage_counts_no_attempt(source, target):
    """However long: nothing dies of it, and it all arrives."""
    source.enqueue_many([b"%d" % number for number in range(10)])
    target.away = 20
    figures = carry(source, target)
    assert (figures.sent, figures.outages, figures.is_away) == (10, 1, False)
    assert {source.get(info.id).attempts for info in source.list("done").messages} == {1}
    assert source.stats().dead == 0


def test_a_lost_answer_makes_no_second_message(source, target):
    """What the target took is known there by its key."""
    source.enqueue_many([b"1", b"2", b"3"])
    target.loses = 2
    carry(source, target)
    assert bodies(target) == [b"1", b"2", b"3"]


def test_a_full_target_is_an_outage(source):
    """Nothing is wrong with the message: it waits here."""
    target = Target(settings=Settings(dedup_window_s=WINDOW_S, limits=Limits(messages=1)))
    source.enqueue_many([b"1", b"2"])
    stop = threading.Event()
    relay = Relay(source, target, pauses_s=FAST, stop=stop, told=lambda figures: figures.is_away and stop.set())
    assert relay.run().is_away
    assert source.stats().dead == 0
    assert source.stats().ready >= 1
    with pytest.raises(QueueFull):
        target.enqueue(b"x")


def test_what_the_target_refuses_is_dead(source):
    """With its words; the others of the batch arrive."""
    target = Target(settings=Settings(dedup_window_s=WINDOW_S, limits=Limits(body_bytes=5)))
    source.enqueue_many([b"1", b"too large", b"3"])
    figures = carry(source, target)
    assert (figures.sent, figures.refused) == (2, 1)
    assert bodies(target) == [b"1", b"3"]
    (dead,) = source.dead_letters.list().messages
    assert dead.reason.startswith("refused by the target: the body has 9 bytes")


def test_the_order_of_a_group_is_kept_through_an_outage(source, target):
    """One at a time, the next when the one before has arrived."""
    for number in range(6):
        source.enqueue(b"%d" % number, group="g")
    target.away = 1
    target.loses = 1
    carry(source, target)
    found = []
    while message := target.dequeue():
        found.append(message.body)
        message.ack()
    assert found == [b"%d" % number for number in range(6)]


def test_a_claim_that_ended_meanwhile_is_no_second_message(source, target):
    """Somebody gave it back by hand while it was on its way: it is sent again, and known."""
    source.enqueue(b"x")
    before = source.acknowledge_many

    def late(receipts):
        source.acknowledge_many = before
        source.give_back(receipts[0].partition(".")[0])
        return before(receipts)

    source.acknowledge_many = late
    carry(source, target)
    assert bodies(target) == [b"x"]
    assert source.stats().done == 1


def test_it_keeps_to_a_rate(source, target):
    """No more in a batch than fit into a second."""
    source.enqueue_many([b"x"] * 20)
    import time

    began_s = time.monotonic()
    carry(source, target, rate=100, batch=10)
    assert time.monotonic() - began_s >= 0.15


def test_a_target_that_forgets_too_soon_is_refused(source):
    """Before anything is sent, with what to do."""
    with pytest.raises(SettingsError, match="dedup_window_s=604800"):
        carry(source, MemoryQueue())


def test_stopped_it_holds_nothing(source, target):
    """What is in hand is sent or given back."""
    source.enqueue_many([b"x"] * 5)
    stop = threading.Event()
    relay = Relay(source, target, stop=stop, batch=2, told=lambda figures: stop.set())
    assert relay.run().sent == 2
    assert source.stats().claimed == 0


def test_backlog_and_lag_are_told(source, target):
    """What waits, and for how long."""
    source.enqueue_many([b"x"] * 3)
    seen = []
    carry(source, target, batch=1, told=seen.append)
    assert [figures.backlog for figures in seen[:3]] == [2, 1, 0]
    assert seen[0].lag_s >= 0


def test_two_relays_share_a_source():
    """Each message once, whoever carries it."""
    store = MemoryStore(settings=Settings())
    target = Target(settings=Settings(dedup_window_s=WINDOW_S))
    MemoryQueue(store=store).enqueue_many([b"%d" % number for number in range(100)])
    threads = [threading.Thread(target=carry, args=(MemoryQueue(store=store), target)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(bodies(target))) == 100


def test_a_lost_claim_is_no_error_when_given_back(source, target):
    """The outage lasted longer than the claim."""
    source.enqueue(b"x")
    target.away = 1
    release = source.release

    def late(receipt):
        source.release = release
        source.give_back(receipt.partition(".")[0])
        raise LeaseLost("it has ended")

    source.release = late
    assert carry(source, target).sent == 1
