"""Pids that are used again, and another boot, with real processes: who is dead is found dead, who lives is not."""

import os
import subprocess
import time

import pytest

from spoolq.clock import Clock
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone
from tests.reliability.boots import NEW_BOOT_AGE_S, in_another_boot, needs_namespaces, start_as, with_pids_of_its_own
from tests.spool.helpers import Child

LEASE_S = 2.0


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    needs_namespaces()
    monkeypatch.setenv("SPOOLQ_DURABILITY", "process")


def claimed(spool, lease=""):
    """A process that has claimed the first message."""
    child = Child(spool)
    child(f"message = queue.dequeue({lease})")
    return child


def taken_back(queue, body):
    """The message whose holder died."""
    with queue.dequeue(wait_s=5) as message:
        assert (message.body, message.attempts) == (body, 2)
        (attempt,) = queue.get(message.id).history
        assert (attempt.outcome, attempt.reason) == ("requeued", "holder died")


def takes_nothing(spool, claimed=1):
    """Another one comes, tidies up, and finds nothing: all is claimed, by one who lives."""
    with SpoolQueue.open(spool) as queue:
        for _ in range(3):
            queue.maintain()
        assert queue.dequeue(wait_s=0.3) is None
        assert queue.stats().claimed == claimed


def test_a_pid_that_is_somebody_elses_by_now(spool):
    """The consumer is dead, and a live process of no concern to us has its number."""

    def act() -> None:
        with SpoolQueue.open(spool) as queue:
            queue.enqueue(b"body")
            dead = claimed(spool)
            dead.kill()
            other = start_as(dead.pid, lambda: subprocess.Popen(["cat"], stdin=subprocess.PIPE))
            taken_back(queue, b"body")
            assert other.poll() is None
            other.kill()
            other.wait()

    with_pids_of_its_own(act)


def test_a_pid_that_is_another_consumers_by_now(spool):
    """The claim of the dead one goes back, once; those of the living, of the same number, are kept."""

    def act() -> None:
        with SpoolQueue.open(spool) as queue:
            queue.enqueue_many([b"of the dead", b"new"])
            dead = claimed(spool)
            dead.kill()
            living = start_as(dead.pid, lambda: Child(spool))
            living("messages = queue.dequeue_many(3)")
            assert living("[(each.body, each.attempts) for each in messages]") == [(b"of the dead", 2), (b"new", 1)]
            living.stop()
            takes_nothing(spool, 2)
            living.go_on()
            living("[each.ack() for each in messages]")
            living.end()
            assert queue.stats().done == 2

    with_pids_of_its_own(act)


def test_a_holder_whose_pid_is_nobodys_here(spool):
    """It lives in another container: its number means nothing here, and its lock does; and so does its death."""
    with SpoolQueue.open(spool) as queue:
        queue.enqueue(b"body")
    living = claimed(spool)

    def asks() -> None:
        assert str(living.pid) not in os.listdir("/proc")
        takes_nothing(spool)

    def asks_again() -> None:
        with SpoolQueue.open(spool) as queue:
            taken_back(queue, b"body")

    with_pids_of_its_own(asks)
    living.dispose()
    with_pids_of_its_own(asks_again)


def test_after_another_boot(spool, tmp_path):
    """Everybody died with the machine: what a process held is back at once, and a lease ends when it was to end."""

    def before() -> float:
        with SpoolQueue.open(spool, detached=True) as queue:
            queue.enqueue_many([b"by its process", b"by a lease and its process", b"by a lease", b"waiting"])
            holders = [claimed(spool), claimed(spool, "lease_s=3600")]
            ends = time.time() + LEASE_S
            assert queue.dequeue(lease_s=LEASE_S).body == b"by a lease"
            queue.enqueue(b"later", delay_s=3600)
        for each in holders:
            each.kill()
        return ends

    def after(ends: float) -> None:
        assert Clock().boot_ms() < (NEW_BOOT_AGE_S + 60) * 1000
        with SpoolQueue.open(spool) as queue:
            found = {}
            while time.time() < ends + 10 and len(found) < 4:
                message = queue.dequeue(wait_s=0.1)
                if message is not None:
                    found[message.body] = (message.attempts, time.time() >= ends - 0.05)
                    message.ack()
            assert found[b"waiting"][0] == 1
            assert found[b"by its process"] == found[b"by a lease and its process"] == (2, False)
            assert found[b"by a lease"] == (2, True)
            assert queue.stats().scheduled == 1
            assert [*queue.check()] == []

    def act() -> None:
        ends = before()
        in_another_boot(tmp_path, lambda: after(ends))

    alone(act)


def test_one_who_believes_in_another_boot_takes_nothing_from_the_living(spool, tmp_path):
    """A boot id that cannot be trusted (a container that fakes it) makes the index anew; the lock is what counts."""

    def act() -> None:
        with SpoolQueue.open(spool) as queue:
            queue.enqueue(b"body")
        living = claimed(spool)
        in_another_boot(tmp_path, lambda: takes_nothing(spool))
        living("message.ack()")
        living.end()
        with SpoolQueue.open(spool) as queue:
            assert queue.stats().done == 1

    alone(act)
