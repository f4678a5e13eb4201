"""Producers, workers and watchers are killed all the time; in the end everything was delivered, and nothing twice."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from spoolq.settings import Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.reliability import mutants
from tests.reliability.crew import Crew, Patch, whole
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import Book, Oracle, digest, is_whole, look, read

ROLES = ("producer", "worker", "worker", "worker", "watcher")


@dataclass
class Found:
    """What came of a storm."""

    kills: int = 0
    confirmed: int = 0
    claims: int = 0
    acknowledged: int = 0
    redelivered: int = 0
    seconds: float = 0
    faults: tuple[str, ...] = ()


def storm(home: Path, kills: int, patch: Patch = whole, *, limit_s: float = 3000) -> Found:
    """Kill somebody every few milliseconds, so many times; then let everything be delivered, and judge."""
    began_s = time.monotonic()
    spool = home / "spool"
    home.mkdir(exist_ok=True)
    spool.mkdir(mode=0o700)
    chosen = Settings(max_attempts=100_000, retention=Retention(done_s=0), lease_s=3600)
    (spool / "queue.toml").write_text(dump(chosen))
    SpoolQueue.open(spool).close()
    oracle, book, chance = Oracle(home / "oracle"), Book(), random.Random(7)
    crew = Crew(spool, oracle, patch=patch)
    found = Found()
    try:
        for role in ROLES:
            crew.start(role)
        while found.kills < kills:
            time.sleep(chance.random() * 0.03)
            crew.reap_ended()
            if crew.members:
                crew.kill(chance.choice([*crew.members]))
                found.kills += 1
            for missing in ROLES:
                if [*crew.members.values()].count(missing) < ROLES.count(missing):
                    crew.start(missing)
    finally:
        crew.kill_all()
    book.take(read(oracle.path))
    deliver_the_rest(spool, book)
    found.confirmed, found.claims, found.acknowledged = book.confirmed, book.claims, book.acknowledged
    found.redelivered = book.redelivered
    found.seconds = round(time.monotonic() - began_s, 1)
    found.faults = tuple(book.faults[:5])
    return found


def deliver_the_rest(spool: Path, book: Book) -> None:
    """Whoever comes last gets all that is left, whole, and each once; then nothing is there."""
    there = look(spool)
    book.compare(there, forgets=False)
    with SpoolQueue.open(spool) as queue:
        queue.check(fix=True)
        if problems := queue.check():
            book.fault("index", problems[:3])
        delivered: set[str] = set()
        ends_s = time.monotonic() + 15
        while (stats := queue.stats()).ready + stats.claimed and time.monotonic() < ends_s:
            for message in queue.dequeue_many(100, wait_s=0.2):
                if message.id in delivered or message.id in book.settled:
                    book.fault("twice", f"{message.id} was delivered after it had been acknowledged")
                if not is_whole(message.body) or book.bodies.get(message.id, digest(message.body)) != digest(
                    message.body
                ):
                    book.fault("torn", message.id)
                delivered.add(message.id)
                message.ack()
    for id in there.keys() - delivered:
        book.fault("lost", f"{id} was there, and was not delivered")
    if left := look(spool):
        book.fault("left", [*left.items()][:3])


@pytest.mark.timeout(3600)
def test_storm_of_kills(fast_path):
    """Nothing lost, torn, acknowledged twice, or delivered again while its holder lived."""
    kills = count(100, 5000)
    found = storm(fast_path, kills)
    report("storm of kills", **asdict(found))
    assert not found.faults
    assert found.confirmed > kills
    assert found.redelivered > kills / 100, "hardly anybody was killed while it held something"


MUTANTS = (
    mutants.lock_of_the_holder_ignored,
    mutants.acknowledge_without_a_fence_or_lock,
    mutants.no_receipt_in_the_name,
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.__name__)
def test_storm_of_kills_finds(fast_path, mutant):
    """Whoever takes from the living, or cannot tell a delivery from the next, is found out."""
    for number in range(5):  # whom a kill meets is chance, so a storm may be too short
        found = storm(fast_path / str(number), 60, mutant)
        if found.faults:
            break
    assert found.faults, f"{mutant.__name__} passed 5 storms of {found.kills} kills"
    caught("storm of kills", mutant.__name__, found.faults[0])
