"""The index goes while two producers and two workers are at it: nothing lost, nothing delivered twice."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import wait_for
from tests.spool.helpers import bodies

ROUNDS = 20
PRODUCE = """
sent = 0
while not os.path.exists(stop):
    queue.enqueue(b'%d-%d' % (number, sent))
    sent += 1
"""
CONSUME = """
while not os.path.exists(stop) or not quiet:
    message = queue.dequeue(wait_s=0.5)
    quiet = message is None
    if message is not None:
        os.write(log, b'got %s %d\\n' % (message.body, message.attempts))
        message.ack()
        os.write(log, b'ack %s %d\\n' % (message.body, message.attempts))
"""


def remove(spool: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        (spool / f"index.db{suffix}").unlink(missing_ok=True)


def overwrite(spool: Path, number: int) -> None:
    """In place, somewhere in the middle of the file."""
    chance = random.Random(number)
    with (spool / "index.db").open("r+b") as file:
        file.seek(0, 2)
        file.seek(chance.randrange(file.tell()))
        file.write(chance.randbytes(2000))


def cut(spool: Path, number: int) -> None:
    with (spool / "index.db").open("r+b") as file:
        file.truncate((0, 100, 1024, 5000)[number % 4])


DAMAGES = {
    "rm index.db*": lambda spool, _: remove(spool, "", "-wal", "-shm"),
    "rm index.db": lambda spool, _: remove(spool, ""),
    "rm index.db-wal": lambda spool, _: remove(spool, "-wal"),
    "cut": cut,
    "overwritten": overwrite,
}


def has_grown(path: Path, size: int) -> bool:
    return path.stat().st_size > size


@pytest.mark.parametrize("damage", DAMAGES)
def test_under_load(spool, open_queue, child, damage):
    queue = open_queue()
    log, stop = spool.parent / "log", spool.parent / "stop"
    log.touch()
    processes = [child() for _ in range(4)]
    for number, process in enumerate(processes):
        process(f"number, stop, quiet = {number}, {str(stop)!r}, False")
        process(f"log = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND)")
        process.start(PRODUCE if number < 2 else CONSUME)
    for number in range(ROUNDS):
        # Each time somewhere in the middle of some more work.
        wait_for(partial(has_grown, log, log.stat().st_size + 200), limit_s=30)
        DAMAGES[damage](spool, number)
    wait_for(partial(has_grown, log, log.stat().st_size + 200), limit_s=30)
    stop.touch()
    for process in processes:
        process.result(60)
    sent = {b"%d-%d" % (number, n) for number in range(2) for n in range(processes[number]("sent"))}
    lines = [line.split() for line in log.read_bytes().splitlines()]
    got = Counter(body for what, body, _ in lines if what == b"got")
    acknowledged = Counter(body for what, body, _ in lines if what == b"ack")
    assert set(got) == set(acknowledged) == sent, "lost"
    assert max(got.values()) == 1, "delivered twice"
    assert {attempts for *_, attempts in lines} == {b"1"}
    assert bodies(spool) == sorted(sent)
    assert queue.check() == []
    assert queue.stats().done == len(sent)
