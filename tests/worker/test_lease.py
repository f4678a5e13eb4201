"""Claims that live by time: kept while the command runs, and what happens when they end all the same."""

import threading

import pytest

from spoolq.errors import Busy, LeaseLost
from spoolq.interfaces import Capabilities
from spoolq.memory import MemoryQueue
from spoolq.settings import Settings
from spoolq.testing import FakeClock
from spoolq.worker import PythonHandler
from spoolq.worker.lease import Lease, lease_for
from tests.worker.processes import lives, pid_in, wait_for, work, working


class TimedQueue(MemoryQueue):
    """Every claim lives by time, as over HTTP."""

    capabilities = Capabilities()

    def _claim(self, consumer, count, wait_s, lease_s):
        return super()._claim(consumer, count, wait_s, self.settings.lease_s if lease_s is None else lease_s)


class Extended:
    """In the place of a message: notes the extensions; raises what it is told to."""

    id = "x"

    def __init__(self):
        self.by = []
        self.raises = None

    def extend(self, lease_s):
        if self.raises:
            raise self.raises
        self.by.append(lease_s)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def message():
    return Extended()


def test_a_lease_is_extended_at_a_third_of_it(message, clock):
    lease = Lease(message, clock, extend_s=60)
    assert lease.due_s == pytest.approx(clock.mono_s() + 20, abs=0.1)
    assert lease.keep()
    assert message.by == []
    for count in (1, 2, 3):
        clock.advance(20)
        assert lease.keep()
        assert message.by == [60] * count
    assert lease.due_s == pytest.approx(clock.mono_s() + 20, abs=0.1)


def test_a_lease_that_cannot_be_extended_is_tried_again_until_it_ends(message, clock):
    lease = Lease(message, clock, extend_s=60)
    message.raises = Busy("somebody has the lock")
    clock.advance(20)
    assert lease.keep()
    assert lease.due_s == pytest.approx(clock.mono_s() + 6, abs=0.1)
    clock.advance(39)
    assert lease.keep()
    clock.advance(1)
    assert not lease.keep()
    assert lease.lost
    assert lease.due_s is None


def test_a_lease_saved_by_a_late_extension(message, clock):
    lease = Lease(message, clock, extend_s=60)
    message.raises = Busy("somebody has the lock")
    clock.advance(20)
    lease.keep()
    message.raises = None
    clock.advance(6)
    assert lease.keep()
    clock.advance(59)
    assert lease.keep()


def test_a_lost_lease_is_known_at_the_next_extension(message, clock):
    lease = Lease(message, clock, extend_s=60)
    message.raises = LeaseLost("it ended")
    clock.advance(20)
    assert not lease.keep()


def test_a_hard_lease_ends_and_is_not_extended(message, clock):
    lease = Lease(message, clock, hard_s=2)
    clock.advance(1.9)
    assert lease.keep()
    clock.advance(0.1)
    assert not lease.keep()
    assert message.by == []


def test_which_lease_a_claim_has(message, clock):
    """By the process: nothing to do. max_hold_s and an asked lease: a hard end. Other engines: extended."""
    assert lease_for(MemoryQueue(), message, clock, None).due_s is None
    held = MemoryQueue(settings=Settings(max_hold_s=9))
    assert lease_for(held, message, clock, None).due_s == pytest.approx(clock.mono_s() + 9, abs=0.1)
    assert lease_for(MemoryQueue(), message, clock, 5).due_s == pytest.approx(clock.mono_s() + 5, abs=0.1)
    assert lease_for(TimedQueue(), message, clock, None).extends
    assert not lease_for(TimedQueue(), message, clock, 5).extends


@pytest.fixture
def queue():
    with TimedQueue(settings=Settings(lease_s=0.3)) as queue:
        yield queue


def test_a_command_may_take_longer_than_the_lease(queue, tmp_path):
    id = queue.enqueue(b"")
    work(queue, "sleep", "1")
    assert (queue.get(id).state, queue.get(id).attempts) == ("done", 1)


def test_a_python_handler_may_take_longer_than_the_lease(queue):
    id = queue.enqueue(b"")
    with queue:
        work(queue, handler=PythonHandler(lambda _: threading.Event().wait(1)))
        assert (queue.get(id).state, queue.get(id).attempts) == ("done", 1)
    assert not [each for each in threading.enumerate() if each.name == "spoolq-lease"]


def test_a_claim_lost_under_a_command_ends_it_and_settles_nothing(queue, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("spoolq.worker.process.END_S", 0.05)
    id = queue.enqueue(b"")
    script = f"trap '' TERM; if mkdir {tmp_path}/first; then echo $$ > {tmp_path}/pid; sleep 60; exit 0; fi; exit 65"
    with working(queue, "sh", "-c", script):
        pid = pid_in(tmp_path / "pid")
        queue.give_back(id, reason="by hand")
        wait_for(lambda: not lives(pid))
        wait_for(lambda: queue.get(id).state == "dead")
    assert [each.reason for each in queue.get(id).history] == ["by hand", "exit status 65 (give up)"]
    assert f"message.lease_lost id={id} attempt=1" in caplog.text


def test_an_asked_lease_is_a_hard_end_for_the_command_too(tmp_path, caplog):
    """Otherwise two would run at once as soon as somebody else takes the message."""
    with MemoryQueue() as queue:
        id = queue.enqueue(b"")
        script = f"echo $$ > {tmp_path}/$$; [ $(ls {tmp_path} | wc -l) = 2 ] || exec sleep 60"
        with working(queue, "sh", "-c", script, lease_s=0.3):
            wait_for(lambda: queue.get(id).state == "done")
        assert queue.get(id).attempts == 2
    assert "message.lease_lost" in caplog.text


def test_a_claim_that_ended_at_settling_is_logged_and_the_worker_goes_on(caplog):
    with MemoryQueue() as queue:
        first, second = queue.enqueue(b""), queue.enqueue(b"")

        def lose_the_first(message):
            if message.id == first and message.attempts == 1:
                queue.give_back(first)

        work(queue, handler=PythonHandler(lose_the_first))
        assert [queue.get(id).state for id in (first, second)] == ["done", "done"]
        assert queue.get(first).attempts == 2
    assert caplog.text.count("message.lease_lost") == 1
