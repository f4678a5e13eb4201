"""Section 6 of docs/spool-format.md: who holds a claim, how it lives, and what ends it. One test a row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from spoolq.clock import Clock
from spoolq.errors import LeaseLost
from spoolq.settings import Settings, dump
from spoolq.spool.holders import process_start
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import wait_for
from tests.spool_format.document import section, tables

LEASE_S = 600

TESTS = {
    "`k<holder><serial>`": "test_k",
    "`l<holder><serial>`": "test_l",
    "`t<random>`": "test_t",
    "none (`mv new/X cur/`)": "test_none",
}


def test_each_row_has_a_test():
    assert [row[0] for row in tables(6)[0]] == [*TESTS]
    assert [name for name in TESTS.values() if name not in globals()] == []


@pytest.fixture
def clock():
    """A clock beside that of the consumers in processes of their own."""
    return FakeClock(boot_ms=Clock().boot_ms())


@pytest.fixture
def queue(spool, clock) -> Iterator[SpoolQueue]:
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability="process", lease_s=LEASE_S)))
    with SpoolQueue.open(spool, clock=clock) as queue:
        yield queue


CONSUMER = """
import sys, time
from pathlib import Path
from spoolq.spool.queue import SpoolQueue
queue = SpoolQueue.open(Path(sys.argv[1]))
message = queue.dequeue(lease_s=float(sys.argv[2]) or None)
print(message.receipt, flush=True)
time.sleep(600)
"""


@pytest.fixture
def consumer(spool):
    """A process that claims a message and holds it: its receipt and itself."""
    processes = []

    def start(lease_s: float = 0) -> tuple[str, "subprocess.Popen[str]"]:
        command = [sys.executable, "-c", CONSUMER, os.fspath(spool), str(lease_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def reaped(queue: SpoolQueue, clock: FakeClock) -> list[str]:
    """What a look at all claims ends, with the reason of each."""
    before = {info.id for info in queue.list("claimed").messages}
    clock.advance(1.1)
    queue.maintain()
    after = {info.id for info in queue.list("claimed").messages}
    return [queue.get(id).history[-1].reason for id in before - after]


def test_k(queue, clock, consumer):
    """As long as the process lives, whatever the clock says; a kill ends it, whatever the process was doing."""
    queue.enqueue(b"x")
    receipt, process = consumer()
    assert receipt[37] == "k"
    clock.advance(365 * 86_400)
    assert reaped(queue, clock) == []
    process.send_signal(signal.SIGSTOP)
    assert reaped(queue, clock) == []
    process.kill()
    process.wait()
    assert reaped(queue, clock) == ["holder died"]
    with pytest.raises(LeaseLost):
        queue.acknowledge(receipt)


def test_k_whose_file_was_removed(queue, clock, consumer, spool):
    """A holder that is not there proves nothing: its claims go back."""
    queue.enqueue(b"x")
    receipt, _ = consumer()
    (spool / "holders" / receipt[38:44]).unlink()
    assert reaped(queue, clock) == ["holder died"]


def test_l(queue, clock, consumer):
    """Until its deadline at most; and no longer than its holder lives."""
    queue.enqueue(b"x")
    receipt, _ = consumer(20)
    assert receipt[37] == "l"
    assert reaped(queue, clock) == []
    clock.advance(30)
    assert reaped(queue, clock) == ["lease ended"]
    receipt, process = consumer(1_000_000)
    process.kill()
    process.wait()
    assert reaped(queue, clock) == ["holder died"]


def test_t(queue, clock, spool):
    """Until its deadline, whoever lives; not given, the queue's lease."""
    queue.enqueue(b"x")
    with SpoolQueue.open(spool, clock=clock, detached=True) as other:
        receipt = other.dequeue().receipt
    assert receipt[37] == "t"
    clock.advance(LEASE_S - 10)
    assert reaped(queue, clock) == []
    clock.advance(10)
    assert reaped(queue, clock) == ["lease ended"]


def test_none(queue, clock, spool):
    """Claimed with `mv`: until the file's time, or for the queue's lease where that has passed."""
    first, second = queue.enqueue(b"x"), queue.enqueue(b"y")
    for id in (first, second):
        (spool / "new" / id).rename(spool / "cur" / id)
    os.utime(spool / "cur" / second, (time.time() + 3 * LEASE_S, time.time() + 3 * LEASE_S))
    queue.check(fix=True)
    clock.advance(LEASE_S - 10)
    assert reaped(queue, clock) == []
    clock.advance(20)
    assert reaped(queue, clock) == ["lease ended"]
    assert queue.get(first).state == "ready"
    assert queue.get(second).state == "claimed"
    clock.advance(3 * LEASE_S)
    assert reaped(queue, clock) == ["lease ended"]


def test_a_claim_ends_when_it_is_taken_back(queue, clock):
    """Not when its time is up: until somebody takes it, its receipt is good."""
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=20)
    clock.advance(1000)
    message.ack()
    assert queue.get(message.id).state == "done"


def test_a_wall_clock_that_jumps_ends_nothing(queue, clock):
    """The deadline in the row is on the boot clock."""
    queue.enqueue(b"x")
    queue.dequeue(lease_s=60)
    for jump in (86_400_000, -2 * 86_400_000):
        clock.set_wall(clock.wall_ms() + jump)
        assert reaped(queue, clock) == []
    clock.advance(61)
    assert reaped(queue, clock) == ["lease ended"]


def test_a_deadline_set_by_hand_is_kept(queue, clock, spool):
    """`touch -d '+1 hour' cur/X`: reap looks at the file before it takes the claim."""
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=20)
    later = clock.wall_ms() / 1000 + 3600
    os.utime(message.path, (later, later))
    clock.advance(30)
    assert reaped(queue, clock) == []
    clock.advance(3600)
    assert reaped(queue, clock) == ["lease ended"]


def test_a_holder_says_who_it_is(queue, spool, consumer):
    """One JSON object with the fields of section 6; renamed in when it is locked already."""
    queue.enqueue(b"x")
    receipt, process = consumer()
    found = json.loads((spool / "holders" / receipt[38:44]).read_text())
    said = section(6).partition("one JSON object:")[2].partition(". It goes")[0]
    assert set(found) == {"pid", "start", "host", "command", "label", "since_at_ms"}
    assert all(f"`{name}`" in said for name in found)
    assert (found["pid"], found["start"]) == (process.pid, process_start(process.pid))
    assert os.listdir(spool / "tmp") == []


def test_a_holder_goes_after_its_claims(queue, clock, spool, consumer):
    """Reaped, its file is removed; and an orderly end removes it, too."""
    queue.enqueue(b"x")
    _, process = consumer()
    process.kill()
    process.wait()
    assert reaped(queue, clock) == ["holder died"]
    assert os.listdir(spool / "holders") == []
    with SpoolQueue.open(spool) as other:
        assert other.dequeue() is not None
        assert len(os.listdir(spool / "holders")) == 1
    assert os.listdir(spool / "holders") == []
    wait_for(lambda: queue.get(queue.list().messages[0].id).attempts == 1)


@pytest.mark.parametrize("name", ["report.csv", "my report (1).csv"])
def test_a_drop_claimed_by_hand_keeps_its_name_until_its_lease_ends(queue, clock, spool, name):
    """And is a message then, which was delivered once."""
    (spool / "new" / name).write_bytes(b"x")
    (spool / "new" / name).rename(spool / "cur" / name)
    clock.advance(LEASE_S - 60)
    while queue.maintain():
        pass
    assert os.listdir(spool / "cur") == [name]
    clock.advance(120)
    while queue.maintain():
        pass
    assert os.listdir(spool / "cur") == []
    message = queue.dequeue()
    assert (message.body, message.attempts, message.original_name or message.name) == (b"x", 2, name)
    message.ack()


def test_a_drop_claimed_by_hand_is_extended_by_its_time(queue, clock, spool):
    (spool / "new" / "report.csv").write_bytes(b"x")
    (spool / "new" / "report.csv").rename(spool / "cur" / "report.csv")
    ends_s = time.time() + 2 * LEASE_S
    os.utime(spool / "cur" / "report.csv", (ends_s, ends_s))
    clock.advance(LEASE_S + 60)
    queue.check(fix=True)
    assert os.listdir(spool / "cur") == ["report.csv"]
    clock.advance(LEASE_S)
    queue.check(fix=True)
    assert (queue.dequeue()).attempts == 2


def test_a_drop_claimed_by_hand_that_has_one_attempt_only_is_dead(queue, clock, spool):
    queue.change_settings(replace(queue.settings, max_attempts=1))
    (spool / "new" / "report.csv").write_bytes(b"x")
    (spool / "new" / "report.csv").rename(spool / "cur" / "report.csv")
    clock.advance(LEASE_S + 60)
    queue.check(fix=True)
    assert [info.name for info in queue.list("dead").messages] == ["report.csv"]
