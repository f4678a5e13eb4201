"""The relay between two queues in memory: what it carries, and what it does when the target is away or refuses."""

import itertools
import os
import threading
import time
from dataclasses import replace

import pytest

from spoolq.clock import Clock
from spoolq.errors import Busy, LeaseLost, QueueFull, SettingsError, StorageError, Unreachable
from spoolq.memory import MemoryQueue, MemoryStore
from spoolq.relay import WINDOW_S, Relay, carrying, reports
from spoolq.settings import Limits, Settings
from spoolq.spool.holders import process_start
from spoolq.testing import FakeClock
from spoolq.web.metrics import Counters
from tests.relay_storm import plan, storm
from tests.reliability.figures import report

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


def test_the_lag_grows_through_an_outage(target):
    """Each try makes ready anew what is given back; it waits all the same since it was ready first."""
    clock = FakeClock()
    source = MemoryQueue(settings=Settings(), clock=clock)
    source.enqueue(b"x")
    target.away = 3
    seen = []

    def told(figures):
        seen.append((figures.is_away, figures.lag_s))
        clock.advance(10)

    carry(source, target, told=told, clock=clock)
    assert seen[:4] == [(True, 0), (True, 10), (True, 20), (False, 0)]


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


# Killed at every step ---------------------------------------------------------------


class Killed(BaseException):
    """The process is no more: nothing of it runs after this, so every further call is refused too."""


class Dying:
    """A queue as a process sees it that is killed before, or right after, its n-th call. Shared by its two queues."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0

    def watched(self, queue):
        def call(method):
            def dies(*arguments, **options):
                self.calls += 1
                if self.calls > self.at or (self.calls == self.at and not self.after):
                    raise Killed
                answer = method(*arguments, **options)
                if self.calls == self.at:
                    raise Killed
                return answer

            return dies

        for name in ("dequeue_many", "get", "enqueue_many", "enqueue", "acknowledge_many", "release", "extend"):
            setattr(queue, name, call(getattr(queue, name)))
        return queue


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_each_arrives_once_and_in_order(after, monkeypatch):
    """Before and after each call to source and target, one call after another, until a run ends unhurt: also after the
    target has committed and before the source's acknowledge. What it held comes back counted, as after any kill.
    """
    monkeypatch.setattr(carrying, "WHOLE_BYTES", 10)  # so that one is streamed
    for at in itertools.count(1):
        here, there = (MemoryStore(settings=Settings(max_attempts=9, dedup_window_s=WINDOW_S)) for _ in range(2))
        source, target = MemoryQueue(store=here), MemoryQueue(store=there)
        sent = [*(b"%d" % number for number in range(6)), b"a large one, streamed"]
        for number, body in enumerate(sent):
            source.enqueue(body, group="g" if number % 2 else None)
        dying = Dying(at, after=after)
        try:
            relay = Relay(dying.watched(MemoryQueue(store=here)), dying.watched(MemoryQueue(store=there)), batch=3)
            relay.run(drain=True)
        except Killed:
            unhurt = False
        else:
            unhurt = True
        for info in source.list("claimed").messages:
            source.give_back(info.id, reason="holder died")
        carry(source, target)
        arrived = []
        while message := target.dequeue():
            arrived.append((message.group, message.body))
            message.ack()
        assert sorted(body for _, body in arrived) == sorted(sent), f"killed at call {at}"
        of_group = [body for group, body in arrived if group == "g"]
        assert of_group == sorted(of_group), f"killed at call {at}"
        assert source.stats().done == len(sent)
        if unhurt:
            break
    assert at > 15


# Trouble at the source -------------------------------------------------------------


def test_an_acknowledge_that_fails_holds_nothing_back(source, target):
    """It is sent again, and known there by its key; the claim is not kept for ever by a process that lives on."""
    source.enqueue_many([b"1", b"2"])
    before = source.acknowledge_many

    def busy(receipts):
        source.acknowledge_many = before
        raise Busy("somebody holds the lock")

    source.acknowledge_many = busy
    figures = carry(source, target)
    assert (figures.sent, figures.outages) == (2, 0)
    assert bodies(target) == [b"1", b"2"]
    assert (source.stats().done, source.stats().claimed) == (2, 0)


def test_a_release_that_fails_is_done_in_the_next_turn(source, target):
    """Otherwise this live process would hold the message until it ends."""
    source.enqueue(b"x")
    target.away = 1
    before = source.release

    def busy(receipt):
        source.release = before
        raise Busy("somebody holds the lock")

    source.release = busy
    assert carry(source, target).sent == 1
    assert source.get(source.list("done").messages[0].id).attempts == 1


def test_a_body_that_cannot_be_read_is_one_failed_attempt(source, target, monkeypatch):
    """The others go on; in the end it is dead, with the reason."""
    bad = source.enqueue(b"1")
    source.enqueue(b"2")
    before = Relay._copy_of

    def copy_of(self, message):
        if message.id == bad:
            raise StorageError("input/output error")
        return before(self, message)

    monkeypatch.setattr(Relay, "_copy_of", copy_of)
    assert carry(source, target).sent == 1
    info = source.get(bad)
    assert (info.state, info.history[-1].reason) == ("scheduled", "cannot be read: input/output error")


def test_a_message_that_was_deleted_under_it_is_passed_over(source, target):
    """By somebody's hand, between the claim and the look at it."""
    doomed = source.enqueue(b"1")
    source.enqueue(b"2")
    before = source.dequeue_many

    def claims(*arguments, **options):
        found = before(*arguments, **options)
        if any(message.id == doomed for message in found):
            source.give_back(doomed)
            source.delete(doomed)
        return found

    source.dequeue_many = claims
    assert carry(source, target).sent == 1
    assert bodies(target) == [b"2"]


def test_a_target_that_is_away_at_first_is_waited_for(source, target):
    """And closed at the end, being opened here."""
    source.enqueue(b"x")
    tries = []

    def reach():
        tries.append(1)
        if len(tries) < 4:
            raise Unreachable("no server answers")
        return target

    told = []
    figures = Relay(source, reach, pauses_s=FAST, told=told.append).run(drain=True)
    assert (figures.sent, figures.outages, figures.is_away) == (1, 1, False)
    assert [each.is_away for each in told[:3]] == [True] * 3
    assert told[0].backlog == 1
    assert "no server answers" in told[0].error


def test_settings_that_changed_in_an_outage_are_seen_before_anything_is_sent(source, target):
    """A target that came back from a backup may remember keys for less long."""
    source.enqueue(b"x")
    target.away = 1
    told = []

    def changes(figures):
        told.append(figures)
        target.change_settings(replace(target.settings, dedup_window_s=60))

    with pytest.raises(SettingsError, match="dedup_window_s"):
        carry(source, target, told=changes)
    assert (source.stats().ready, target.stats().ready) == (1, 0)


def test_a_claim_that_lives_by_time_is_kept_while_a_body_is_on_its_way():
    """Longer than its lease: it is sent once, and acknowledged."""
    source = MemoryQueue(settings=Settings(lease_s=0.3))
    source.capabilities = replace(source.capabilities, holders=False)
    target = MemoryQueue(settings=Settings(dedup_window_s=WINDOW_S))
    id = source.enqueue(b"x")
    claim, before, sends = source.dequeue_many, target.enqueue_many, []

    def slow(messages):
        sends.append(1)
        threading.Event().wait(0.8)
        source.maintain()
        return before(messages)

    source.dequeue_many = lambda count, *, wait_s: claim(count, wait_s=wait_s, lease_s=0.3)
    target.enqueue_many = slow
    assert carry(source, target).sent == 1
    assert (len(sends), source.get(id).attempts) == (1, 1)


def test_what_is_in_memory_at_once_is_bounded(source, target, monkeypatch):
    """By bytes as well as by count."""
    monkeypatch.setattr(carrying, "BATCH_BYTES", 100)
    source.enqueue_many([b"x" * 40] * 10)
    sizes = []
    before = target.enqueue_many

    def enqueue_many(messages):
        messages = list(messages)
        sizes.append(sum(len(message.body) for message in messages))
        return before(messages)

    target.enqueue_many = enqueue_many
    assert carry(source, target).sent == 10
    assert max(sizes) <= 100


# What it tells ----------------------------------------------------------------------


def test_metrics_of_the_server_tell_of_relays(source):
    """Backlog and lag are the queue's own, also while no relay runs; counts of two between the same queues add up."""
    source.enqueue_many([b"x"] * 3)
    mine = reports.Report(
        queue="default", target='http://h/"x"', pid=os.getpid(), start=process_start(os.getpid()),
        boot=Clock().boot_id(), since_at_ms=1, at_ms=1, sent=5, outages=1, is_away=True, error="x",
    )  # fmt: skip
    dead = replace(mine, start=1, sent=2)
    elsewhere = replace(mine, queue="another")
    text = Counters().text([(source.stats(), None)], [mine, dead, elsewhere]).decode()
    labels = '{queue="default",target="http://h/\\"x\\""}'
    for line in ("running{} 1.0", "target_away{} 1.0", "backlog{} 3.0", "sent_total{} 7.0", "outages_total{} 2.0"):
        assert f"spoolq_relay_{line.format(labels)}" in text
    assert "another" not in text


def test_a_relay_is_told_of_beside_its_source():
    """A spool's in the spool; a server's or a database's by its address, whichever queue, without the password."""
    home = {"HOME": "/h"}
    assert str(reports.directory_for("/s?queue=q", home)) == "/s/relays"
    server = reports.directory_for("http://h:1", home)
    assert reports.directory_for("http://token@h:1/queues/q?token=x", home) == server
    database = reports.directory_for("postgresql://u@h/db", home)
    assert reports.directory_for("postgresql://u:secret@h/db?queue=q", home) == database
    assert database != server
    assert server.is_relative_to("/h/.local/state/spoolq/relays")


# With real processes ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_storm_of_kills_and_outages_over_rest(tmp_path):
    """Two relays killed again and again, the server too: exactly what was sent arrives, each once, groups in order.

    A short form; `make proof` and `python -m tests.relay_storm` have the long one.
    """
    outcome = storm("rest", plan(), tmp_path)
    report("relay", target=outcome.target, **outcome.figures, **outcome.faults)
    assert not any(outcome.faults.values()), outcome
