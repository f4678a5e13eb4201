"""The wall clock is set while real processes hold claims: by an hour and by five days, forth and back.

A claim lives by its process or by the boot clock, so no jump ends one; what is scheduled follows the wall clock.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoolq.settings import Reserve, Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.helpers import wait_for
from tests.reliability import mutants
from tests.reliability.faked_time import WallClock
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import Book, Oracle, look, read
from tests.spool.helpers import Child, ChildError

ROOT = Path(__file__).parents[2]
HOUR_S = 3600
DAY_S = 24 * HOUR_S
JUMPS = [HOUR_S, -HOUR_S, 5 * DAY_S, -5 * DAY_S]
LEASE_S = 0.7


@pytest.fixture
def wall(tmp_path, monkeypatch):
    """A wall clock for every process that is started here."""
    clock = WallClock(tmp_path)
    for name, value in clock.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPOOLQ_DURABILITY", "process")
    return clock


@pytest.fixture
def child(spool):
    """As in tests/spool: a process with the queue open."""
    started = []

    def start():
        started.append(Child(spool))
        started[-1].opened()
        return started[-1]

    yield start
    for each in started:
        each.dispose()


def claims(holder, leased, other, wall, seconds):
    """Two claims, a jump: the one is kept, the other lasts as long as it was asked for, by a clock that nobody sets."""
    holder("held = queue.dequeue()")
    leased(f"leased = queue.dequeue(lease_s={LEASE_S})")
    began_s = time.monotonic()
    wall.set(seconds)
    other("seen = [queue.maintain() for _ in range(3)]")
    other("message = queue.dequeue(wait_s=15)")
    assert time.monotonic() - began_s >= LEASE_S - 0.1, "a lease was ended by a jump"
    assert other("(message.body, message.attempts)") == (b"by a lease", 2)
    with pytest.raises(ChildError, match="LeaseLost"):
        leased("leased.ack()")
    other("message.ack()")
    assert other("queue.dequeue()") is None
    holder("held.ack()")


@pytest.mark.timeout(120)
def test_a_jump_ends_no_claim(spool, wall, child):
    """A claim that lives by its process is kept; one with a lease lasts as long as was asked for."""
    holder, leased, other = child(), child(), child()
    for seconds in JUMPS:
        wall.set(0)
        other("queue.enqueue_many([b'by its holder', b'by a lease'])")
        claims(holder, leased, other, wall, seconds)
    assert other("queue.stats().failed_total") == len(JUMPS)


@pytest.mark.timeout(120)
def test_what_is_scheduled_comes_due_by_the_wall_clock(spool, wall, child):
    """Also for one who has been waiting since before the jump; and not before the time that was asked for."""
    producer, waiter = child(), child()
    for seconds in JUMPS:
        wall.set(0)
        producer("queue.enqueue(b'later', delay_s=1800)")
        waiter.start(f"message = queue.dequeue(wait_s={20 if seconds > 0 else 0.3})")
        wall.set(seconds)
        waiter.result()
        if seconds < 0:
            assert waiter("message") == "None" or waiter("message is None")
            wall.set(1790)
            assert waiter("queue.dequeue() is None")
            wall.set(1801)
            waiter("message = queue.dequeue(wait_s=5)")
        assert waiter("(message.body, message.attempts)") == (b"later", 1)
        waiter("message.ack()")


class Timekeepers:
    """Producers, workers and a watcher, all with the same wall clock, which jumps."""

    def __init__(self, spool: Path, oracle: Oracle, log: Path) -> None:
        self._spool = spool
        self._oracle = oracle
        self._log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, role: str) -> None:
        """One more."""
        argv = [sys.executable, "-m", "tests.reliability.faked_time", role, self._spool, self._oracle.path]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self._log, "ab") as log:
            one = subprocess.Popen([*argv, str(len(self.running))], cwd=ROOT, env=environ, stdout=log, stderr=log)
        self.running.append(one)

    def has_ended(self) -> bool:
        """Whether one is gone that should not be."""
        return any(each.poll() is not None for each in self.running)

    def end(self) -> None:
        """All of them, by a kill that the oracle knows of."""
        ended = [each.pid for each in self.running if each.poll() is not None]
        for each in self.running:
            self._oracle.say("killed", each.pid)
            each.send_signal(signal.SIGKILL)
            each.wait()
        assert not ended, self._log.read_text()[-3000:]


def said(oracle: Oracle) -> Book:
    """What was promised so far."""
    book = Book()
    book.take(read(oracle.path))
    return book


def storm(spool: Path, wall: WallClock, home: Path, seconds: float, *, seeks: bool = False) -> tuple[Book, int]:
    """Jumps for so long, or where it `seeks` to the first fault; what came of it, and how many."""
    spool.mkdir(mode=0o700)
    settings = Settings(
        max_attempts=1000, retention=Retention(done_s=0), reserve=Reserve(bytes=1 << 20, percent=0, inodes=100)
    )
    (spool / "queue.toml").write_text(dump(settings))
    SpoolQueue.open(spool).close()
    oracle = Oracle(home / "oracle")
    crew = Timekeepers(spool, oracle, home / "log")
    for role in ("producer", "worker", "watcher", "leaseholder"):
        crew.start(role)
    chance, jumps = random.Random(1), 0
    wait_for(lambda: oracle.size() > 3000)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and not (seeks and said(oracle).faults):
        wall.set(chance.choice([0, *JUMPS]))
        jumps += 1
        size = oracle.size() + 1000
        wait_for(lambda size=size: oracle.size() > size or crew.has_ended())
    wall.set(0)
    crew.end()
    book = said(oracle)
    book.compare(look(spool), forgets=False)
    with SpoolQueue.open(spool) as queue:
        queue.check(fix=True)  # one of the killed may have been between its rename and its row
    return book, jumps


@pytest.mark.timeout(300)
def test_a_clock_that_jumps_all_the_time(spool, wall, tmp_path):
    """Producers, workers and one who tidies up: nothing is lost, and nothing delivered again while its holder lives."""
    book, jumps = storm(spool, wall, tmp_path, count(2, 120))
    report("wall clock", jumps=jumps, confirmed=book.confirmed, claims=book.claims, acknowledged=book.acknowledged)
    assert not book.faults, book.faults[:5]
    assert book.acknowledged > jumps


@pytest.mark.timeout(300)
def test_a_clock_that_jumps_finds(spool, wall, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOOLQ_MUTANT", mutants.boot_clock_by_the_wall.__name__)
    try:
        book, jumps = storm(spool, wall, tmp_path, 30, seeks=True)
    except AssertionError as error:  # one of the crew ended: what it was writing was swept as if days old
        found = str(error).strip().splitlines()[-1:] or ["one of the crew ended"]
    else:
        found = book.faults
        assert found, f"passed {jumps} jumps"
    caught("wall clock", mutants.boot_clock_by_the_wall.__name__, found[0])
