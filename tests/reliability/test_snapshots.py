"""A running file system is copied at an instant, again and again; each copy is a disk as a power cut would leave it.

The image lies on an xfs that shares blocks, so a copy takes some milliseconds, and nobody need stand still for it. A
btrfs is known by its id, which its copy has as well: since Linux 6.7 it is mounted beside it under an id of its own.
"""

from __future__ import annotations

import fcntl
import json
import platform
import random
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from spoolq.settings import dump
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone
from tests.helpers import needs
from tests.reliability import mutants
from tests.reliability.crew import Crew, Patch, whole
from tests.reliability.disks import Disk, has_btrfs, memory, needs_disks
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import Book, Oracle, look, read
from tests.reliability.test_power_cuts import Found, settings, without_late_promises

FICLONE = 0x40049409
CREW = ("producer", "worker", "producer", "worker", "producer")
ALONE = ("producer",)
"""Nobody else's sync puts its names on the disk, and nobody takes away what it was promised."""

OUTER_BYTES = 2 << 30
LIMIT_S = 900


class Copy(Disk):
    """What another disk holds at this instant."""

    def __init__(self, disk: Disk, home: Path) -> None:
        self.kind = disk.kind
        self.image = home / "copy.img"
        self.path = home / "copy"
        self.path.mkdir(exist_ok=True)
        self.image.unlink(missing_ok=True)
        with open(disk.image, "rb") as source, open(self.image, "wb") as target:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
        self._device = ""
        self._fd = -1


def judge(copy: Copy, book: Book, *, full: bool) -> None:
    """Before anybody opens it, and after it was put in order."""
    spool = copy.path / "spool"
    # Attempts are not: a claim that was said while the copy was made may be later than it.
    # On btrfs a log that is played back may leave a file both names of a move.
    book.compare(look(spool), forgets=not full, links=copy.kind == "btrfs")
    with SpoolQueue.open(spool) as queue:
        queue.check(fix=True)
        if problems := queue.check():
            book.fault("index", problems[:3])
    book.compare(look(spool), forgets=not full)


def run(home: Path, kind: str, durability: str, copies: int, patch: Patch, roles: Sequence[str]) -> Found:
    """So many copies, or up to the first promise that was not kept in one."""
    began_s = time.monotonic()
    chance = random.Random(kind + durability)
    outer = Disk(home, "xfs", size=OUTER_BYTES, name="outer")
    outer.mount()
    disk = Disk(outer.path, kind)
    disk.mount()
    spool = disk.path / "spool"
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(settings(durability)))
    SpoolQueue.open(spool).close()
    oracle = Oracle(home / "oracle")
    crew = Crew(spool, oracle, patch=patch, releases=False, lives_s=LIMIT_S)
    for role in roles:
        crew.start(role)
    found, faults = Found(), []
    while found.cuts < copies and not faults:
        time.sleep(0.03 + chance.random() * 0.1)
        # Every second one of a crew that stands still: nobody's next sync does what the last one should have done.
        still = found.cuts % 2 == 0
        if still:
            crew.stop_all()
        oracle.say("cutting")
        copy = Copy(disk, outer.path)
        crew.go_on()
        # What was said meanwhile was perhaps not yet so; the marks of earlier copies mean nothing for this one.
        said = read(oracle.path)
        marks = [number for number, words in enumerate(said) if words[0] == "cutting"]
        said = [words for number, words in enumerate(said) if words[0] != "cutting" or number == marks[-1]]
        book = Book()
        book.take(without_late_promises(said))
        copy.mount()
        judge(copy, book, full=durability == "full")
        copy.unmount()
        found.cuts += 1
        faults = book.faults[:5]
        found.confirmed, found.claims, found.acknowledged = book.confirmed, book.claims, book.acknowledged
    crew.kill_all()
    disk.unmount()
    outer.unmount()
    found.seconds = round(time.monotonic() - began_s, 1)
    found.faults = tuple(faults)
    return found


def has_copies(kind: str) -> bool:
    """Whether this kernel mounts a copy beside what it was copied from."""
    if kind != "btrfs":
        return True
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return has_btrfs() and release >= (6, 7)


def snapshots(kind: str, durability: str, copies: int, patch: Patch = whole, roles: Sequence[str] = CREW) -> Found:
    """Run it where nobody sees its mounts; what came of it."""
    needs_disks("xfs", kind)
    needs(has_copies(kind), f"copies of a mounted {kind}")
    home = Path(tempfile.mkdtemp(prefix="spoolq-copies-", dir=memory()))
    try:

        def act() -> None:
            (home / "found").write_text(json.dumps(asdict(run(home, kind, durability, copies, patch, roles))))

        alone(act, LIMIT_S)
        return Found(**json.loads((home / "found").read_text()))
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.timeout(960)
@pytest.mark.parametrize("durability", ["power", "full"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_snapshots(kind, durability):
    """Whatever had been promised when a copy began is in it, whole."""
    found = snapshots(kind, durability, count(3, 50))
    report("snapshots", disk=kind, durability=durability, **asdict(found))
    assert not found.faults
    assert found.confirmed > found.cuts * 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
@pytest.mark.parametrize("mutant", [mutants.no_file_fsync, mutants.no_directory_fsync], ids=lambda each: each.__name__)
def test_snapshots_find(mutant, kind):
    found = snapshots(kind, "power", 60, mutant, ALONE)
    assert found.faults, f"{mutant.__name__} passed {found.cuts} copies"
    caught("snapshots", f"{mutant.__name__}, {kind}", found.faults[0])
