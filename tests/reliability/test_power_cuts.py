"""The power goes, again and again, under producers and workers; what was promised is there when it is back."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from spoolq.settings import Reserve, Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone
from tests.reliability import mutants
from tests.reliability.crew import Crew, Patch, whole
from tests.reliability.disks import Disk, memory, needs_disks
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import Book, Oracle, look, read

KEPT = 300
"""So many messages are left over from one cut to the next at most, that each can be looked at each time."""


@dataclass
class Found:
    """What came of a series of cuts."""

    cuts: int = 0
    confirmed: int = 0
    claims: int = 0
    acknowledged: int = 0
    seconds: float = 0
    faults: tuple[str, ...] = ()


def settings(durability: str) -> Settings:
    """Nothing is kept that was processed, and nothing dies: what is missing was lost."""
    return Settings(
        durability=durability,  # type: ignore[arg-type]
        max_attempts=100_000,
        retention=Retention(done_s=0),
        reserve=Reserve(bytes=1 << 20, percent=0, inodes=100),
    )


@dataclass
class Series:
    """Cuts on one disk."""

    home: Path
    kind: str
    durability: str
    patch: Patch = whole
    enough: int = 200
    """Confirmed enqueues before each cut."""

    def run(self, cuts: int) -> Found:
        """So many cuts, or up to the first promise that was not kept."""
        began_s = time.monotonic()
        disk = Disk(self.home, self.kind)
        self._chance = random.Random(self.kind + self.durability)
        self._spool = disk.path / "spool"
        oracle = Oracle(self.home / "oracle")
        book = Book()
        found = Found()
        disk.mount()
        self._spool.mkdir(mode=0o700)
        (self._spool / "queue.toml").write_text(dump(settings(self.durability)))
        SpoolQueue.open(self._spool).close()
        os.sync()  # the settings above all: the test wrote them, and whoever writes by hand syncs by hand
        while found.cuts < cuts and not book.faults:
            start = oracle.size()
            self._live(disk, oracle)
            oracle.say("cut")
            disk.unmount()
            disk.mount()
            found.cuts += 1
            said = read(oracle.path, start)
            if self.kind == "xfs":
                said = without_late_promises(said)
            book.take(said)
            found.confirmed += len({words[1] for words in said if words[0] == "enqueued"})
            self._judge(book)
            self._begin_anew(book)
        disk.unmount()
        found.claims, found.acknowledged = book.claims, book.acknowledged
        found.seconds = round(time.monotonic() - began_s, 1)
        found.faults = tuple(book.faults[:5])
        return found

    def _live(self, disk: Disk, oracle: Oracle) -> None:
        """Three producers and two workers until enough was promised, and a moment longer."""
        crew = Crew(self._spool, oracle, patch=self.patch, releases=False)
        for role in ("producer", "worker", "producer", "worker", "producer"):
            crew.start(role)
        # Some 100 bytes a line; what they do between two of them is cut anywhere.
        until = oracle.size() + self.enough * 250
        limit_s = time.monotonic() + 20
        while oracle.size() < until:
            assert time.monotonic() < limit_s, "nothing goes on"
            time.sleep(0.005)
        time.sleep(self._chance.random() * 0.02)
        oracle.say("cutting")
        disk.cut()
        crew.kill_all()

    def _judge(self, book: Book) -> None:
        """Before anybody opens it, and after it was put in order."""
        full = self.durability == "full"
        book.compare(look(self._spool), forgets=not full, counts=full)
        with SpoolQueue.open(self._spool) as queue:
            queue.check(fix=True)
            if problems := queue.check():
                book.fault("index", problems[:3])
            book.compare(look(self._spool), forgets=not full)

    def _begin_anew(self, book: Book) -> None:
        """Deliver what is too much, and start a new page: what is left is held against the next cut."""
        with SpoolQueue.open(self._spool) as queue:
            while queue.maintain():
                pass
            while len(look(self._spool)) > KEPT and (some := queue.dequeue_many(100)):
                queue.acknowledge_many([message.receipt for message in some])
        there = look(self._spool)
        book.bodies = {id: digest for id, digest in book.bodies.items() if id in there}
        book.settled.clear()
        book.owners.clear()
        book.attempts.clear()


def without_late_promises(said: list[list[Any]]) -> list[list[Any]]:
    """On xfs the cut itself lies: the fsync of a directory returns 0 where the shutdown has dropped the log under it.

    What was said between the order to cut and the end is not held against anybody; what was done then may be.
    """
    at = next(number for number, words in enumerate(said) if words[0] == "cutting")
    late = {"enqueued": None, "acknowledged": "claiming"}
    return said[:at] + [[late.get(what, what), *words] for what, *words in said[at:] if late.get(what, what)]


def series(kind: str, durability: str, cuts: int, patch: Patch = whole) -> Found:
    """Run it where nobody sees its mounts; what came of it."""
    needs_disks(kind)
    home = Path(tempfile.mkdtemp(prefix="spoolq-cuts-", dir=memory()))
    try:

        def run() -> None:
            found = Series(home, kind, durability, patch).run(cuts)
            (home / "found").write_text(json.dumps(asdict(found)))

        alone(run, 3600)
        return Found(**json.loads((home / "found").read_text()))
    finally:
        shutil.rmtree(home, ignore_errors=True)


CUTS = [
    ("ext4", "power", count(4, 700)),
    ("ext4", "full", count(3, 260)),
    ("xfs", "power", count(2, 150)),
    ("xfs", "full", count(1, 50)),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "durability", "cuts"), CUTS, ids=str)
def test_live_power_cuts(kind, durability, cuts):
    """Nothing confirmed is lost or torn; with "full" nothing acknowledged comes back, and no attempt is forgotten."""
    found = series(kind, durability, cuts)
    report("live power cuts", disk=kind, durability=durability, **asdict(found))
    assert not found.faults
    assert found.cuts == cuts
    assert found.confirmed >= cuts * 50, "hardly anything was promised"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", [mutants.no_file_fsync, mutants.no_directory_fsync], ids=lambda each: each.__name__)
def test_live_power_cuts_find(mutant):
    """What is not on the disk is missed within a few cuts."""
    found = series("ext4", "power", 20, mutant)
    assert found.faults, f"{mutant.__name__} passed {found.cuts} cuts"
    caught("live power cuts", mutant.__name__, found.faults[0])
