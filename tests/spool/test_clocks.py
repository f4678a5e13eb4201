"""Clocks that jump: the wall clock decides what is due, and ends no claim; deadlines outlive the index."""

import os
import time

import pytest

from spoolq.errors import LeaseLost
from spoolq.settings import Retention, Settings
from spoolq.spool.files import Files
from spoolq.testing import FakeClock
from tests.helpers import names
from tests.spool.helpers import drain

HOUR_S = 3600
DAY_S = 24 * HOUR_S
JUMPS = [HOUR_S, -HOUR_S, 5 * DAY_S, -5 * DAY_S]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(open_queue, clock):
    return open_queue(clock=clock)


def jump(clock, seconds):
    """As a person or NTP does: the other clocks go on."""
    clock.set_wall(clock.wall_ms() + seconds * 1000)


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_jump_of_the_wall_clock_ends_no_lease(queue, open_queue, clock, seconds):
    other = open_queue(clock=clock)
    queue.enqueue_many([b"with a lease", b"by its holder"])
    leased, held = queue.dequeue(lease_s=60), queue.dequeue()
    jump(clock, seconds)
    other.maintain()
    assert other.dequeue() is None
    clock.advance(59)
    other.maintain()
    assert other.dequeue() is None
    clock.advance(2)
    again = other.dequeue()
    assert (again.body, again.attempts) == (b"with a lease", 2)
    with pytest.raises(LeaseLost):
        leased.ack()
    again.ack()
    held.ack()


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_lease_that_was_extended_after_a_jump_is_as_long_as_it_was_asked_for(queue, open_queue, clock, seconds):
    other = open_queue(clock=clock)
    queue.enqueue(b"body")
    message = queue.dequeue(lease_s=60)
    jump(clock, seconds)
    message.extend(100)
    clock.advance(99)
    assert other.dequeue() is None
    clock.advance(2)
    with other.dequeue() as again:
        assert again.attempts == 2


@pytest.mark.parametrize("seconds", [0, -HOUR_S, -5 * DAY_S])
def test_without_an_index_a_lease_is_never_longer_than_it_was(spool, queue, open_queue, clock, seconds):
    """Its deadline is the file's time by then; a clock that went back must not stretch it to days."""
    other = open_queue(clock=clock)
    queue.enqueue(b"body")
    message = queue.dequeue(lease_s=60)
    jump(clock, seconds)
    other.rebuild()
    clock.advance(62)
    with other.dequeue() as again:
        assert again.attempts == 2
    with pytest.raises(LeaseLost):
        message.ack()


@pytest.mark.parametrize("seconds", JUMPS)
def test_what_is_scheduled_follows_the_wall_clock(queue, clock, seconds):
    """`t=` is an instant; that is what a person who schedules means."""
    queue.enqueue(b"body", delay_s=1800)
    jump(clock, seconds)
    assert drain(queue) == ([b"body"] if seconds > 0 else [])
    clock.set_wall(queue.list("scheduled").messages[0].due_at_ms if seconds < 0 else clock.wall_ms())
    assert drain(queue) == ([b"body"] if seconds < 0 else [])


@pytest.mark.parametrize("seconds", JUMPS)
def test_order_is_kept_over_a_jump(queue, clock, seconds):
    """Ids of one process go up, whatever the clock does."""
    for number in range(6):
        queue.enqueue(b"%d" % number)
        if number == 2:
            jump(clock, seconds)
    assert drain(queue) == [b"%d" % number for number in range(6)]


@pytest.mark.parametrize("seconds", JUMPS)
def test_times_that_were_measured_are_never_negative(queue, clock, seconds):
    queue.enqueue(b"body")
    jump(clock, seconds)
    message = queue.dequeue()
    jump(clock, -seconds)
    message.requeue(0, reason="x")
    queue.dequeue().ack()
    stats = queue.stats()
    assert stats.wait_sum_s >= 0
    assert stats.process_sum_s >= 0
    assert all(minute.wait_s >= 0 and minute.process_s >= 0 for minute in queue.minutes(0))
    (attempt,) = queue.get(message.id).history
    assert attempt.duration_s is not None
    assert attempt.duration_s >= 0


@pytest.mark.parametrize("seconds", [-HOUR_S, -5 * DAY_S])
def test_a_clock_that_went_back_stops_no_retention(queue, clock, seconds):
    """What was done in a future that is no more is deleted once that time has come again, and nothing before."""
    queue.enqueue(b"body")
    queue.dequeue().ack()
    jump(clock, seconds)
    queue.clean()
    assert queue.stats().done == 1
    clock.advance(-seconds + 2 * DAY_S)
    queue.clean()
    assert queue.stats().done == 0


def test_a_drop_from_the_future_is_scheduled_and_one_from_far_ahead_is_not(spool, queue, clock):
    """A clock that was wrong when it was written: at most 31 days late, and never in 2106."""
    for name, ahead_s in (("soon", 2 * HOUR_S), ("never", 80 * 365 * DAY_S)):
        (spool / "new" / f".{name}").write_bytes(name.encode())
        when = time.time() + ahead_s
        os.utime(spool / "new" / f".{name}", (when, when))
        os.rename(spool / "new" / f".{name}", spool / "new" / name)
    assert drain(queue) == [b"never"]
    clock.advance(2 * HOUR_S + 5)
    assert drain(queue) == [b"soon"]


def test_a_name_from_the_far_future_is_a_message_like_any_other(spool, queue):
    """An id bears a time; whoever made it may have had any clock."""
    for name in ("ffffffff-ffff-7fff-bfff-ffffffffffff", "00000000-0000-7000-8000-000000000000,t=1,a=999999"):
        (spool / "new" / name).write_bytes(b"x")
    (spool / "new" / "01890a5d-ac96-774b-bcce-b302099a8057,t=999999999999999").write_bytes(b"never")
    assert drain(queue) == [b"x", b"x"]
    assert queue.stats().scheduled == 1
    assert queue.stats().wait_sum_s >= 0
    queue.delete(queue.list("scheduled").messages[0].id)
    assert names(spool, "new") == []


def test_a_deadline_by_hand_ends_a_claim_early_or_late(spool, queue, open_queue, clock):
    """`touch -d` of a claimed file, as the shell client's extend: the file is believed before it is taken back."""
    other = open_queue(clock=clock)
    queue.enqueue(b"body")
    message = queue.dequeue(lease_s=60)
    later = clock.wall_ms() / 1000 + 300
    os.utime(message.path, (later, later))
    clock.advance(61)
    other.maintain()
    assert other.dequeue() is None
    message.ack()


def test_when_a_message_died_outlives_the_index(spool, queue, clock):
    """Its history says so; the change time of its file is of another clock here."""
    queue.enqueue_many([b"first", b"second"])
    first, second = queue.dequeue_many(2)
    second.dead_letter("no")
    clock.advance(HOUR_S)
    first.dead_letter("no")
    died = {info.id: info.changed_at_ms for info in queue.list("dead").messages}
    queue.rebuild()
    assert {info.id: info.changed_at_ms for info in queue.list("dead").messages} == died
    assert [info.id for info in queue.list("dead").messages] == [second.id, first.id]


class Meanwhile(Files):
    """Does something before a message is renamed into `new/`: all of it is written, and nobody has it open."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def rename(self, source, target):
        if "/new/" in target:
            self.what()
        super().rename(source, target)

    def rename_new(self, source, target):
        if "/new/" in target:
            self.what()
        super().rename_new(source, target)


@pytest.mark.parametrize("kind", ["plain", "with headers", "keyed", "many", "moved"])
def test_an_enqueue_goes_on_while_the_clock_jumps_and_everybody_sweeps(queue, open_queue, clock, tmp_path, kind):
    """Nothing of what is in the making is litter: neither the body nor what comes with it."""

    def meanwhile():
        jump(clock, 5 * DAY_S)
        queue.clean()
        queue.clean()

    sender = open_queue(clock=clock, files=Meanwhile(meanwhile))
    headers = {"a": kind}
    if kind == "many":
        sender.enqueue_many([b"body", b"body"])
    elif kind == "moved":
        (tmp_path / "file").write_bytes(b"body")
        sender.enqueue_file(tmp_path / "file", move=True, headers=headers)
    else:
        sender.enqueue(b"body", headers=headers if kind != "plain" else {}, dedup_key=kind if kind == "keyed" else None)
    for _ in range(2 if kind == "many" else 1):
        with queue.dequeue() as message:
            assert (message.body, dict(message.headers)) == (b"body", headers if kind not in ("plain", "many") else {})


def test_after_a_jump_litter_is_swept_by_a_later_sweep(spool, queue, clock):
    (spool / "tmp" / "litter").touch()
    jump(clock, 5 * DAY_S)
    queue.clean()
    queue.clean()
    assert names(spool, "tmp") == ["litter"]
    clock.advance(601)
    queue.clean()
    clock.advance(601)
    queue.clean()
    assert names(spool, "tmp") == []


def test_a_receipt_is_answered_for_ten_minutes_though_the_clock_jumps(queue, clock):
    queue.change_settings(Settings(retention=Retention(done_s=0)))
    queue.enqueue(b"body")
    message = queue.dequeue()
    message.ack()
    jump(clock, HOUR_S)
    for _ in range(5):
        clock.advance(60)
        queue.maintain()
    queue.acknowledge(message.receipt)
    for _ in range(30):
        clock.advance(60)
        queue.maintain()
    with pytest.raises(LeaseLost):
        queue.acknowledge(message.receipt)
