"""The disk stops after any block write: every prefix of what was written is a disk that may be found after a power cut.

A disk in user space keeps every write and flush in order; each promise is noted with how many there were by then. Then
each prefix is mounted, and some of what was written since the last flush left out, as a disk with a cache may do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from spoolq.settings import Reserve, Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone
from tests.helpers import needs
from tests.reliability import mutants
from tests.reliability.crew import Patch, whole
from tests.reliability.disks import FLUSH, Disk, memory, needs_disks
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import digest, is_whole, look, sealed

SIZE = 16 << 20
MESSAGES = count(60, 300)


@dataclass
class Story:
    """What was promised, and from which position on. settled: acknowledged, for good with "full"."""

    enqueued: dict[str, tuple[int, str]] = field(default_factory=dict)
    claiming: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)


@dataclass
class Found:
    """What came of it."""

    cuts: int = 0
    writes: int = 0
    flushes: int = 0
    confirmed: int = 0
    acknowledged: int = 0
    seconds: float = 0
    faults: list[str] = field(default_factory=list)


def live(path: Path, position: Callable[[], int], durability: str, patch: Patch) -> Story:
    """Enqueue, claim, acknowledge, requeue, with the position of the disk after each promise."""
    story, spool, chance = Story(), path / "spool", random.Random(3)
    spool.mkdir(mode=0o700)
    chosen = Settings(
        durability=durability,  # type: ignore[arg-type]
        max_attempts=1000,
        retention=Retention(done_s=0),
        reserve=Reserve(bytes=0, percent=0, inodes=0),
    )
    (spool / "queue.toml").write_text(dump(chosen))
    SpoolQueue.open(spool).close()
    os.sync()
    patch(pytest.MonkeyPatch())
    with SpoolQueue.open(spool) as queue:
        for number in range(MESSAGES):
            body = sealed(str(number), chance.choice((10, 5000, 20_000)))
            id = queue.enqueue(body, headers={"n": str(number)} if number % 3 == 0 else {})
            story.enqueued[id] = position(), digest(body)
            if number % 2:
                message = queue.dequeue()
                assert message is not None
                story.claiming.setdefault(message.id, position())
                if number % 10 == 1:
                    message.requeue(delay_s=0)
                else:
                    # From before it is asked for: it may be gone as soon as it is under way.
                    message.ack()
                    story.settled[message.id] = position()
    return story


def cuts(history: list[tuple[int, bytes]], wanted: int) -> Iterator[tuple[int, frozenset[int]]]:
    """Positions, evenly spread; at every other one, which of the writes since the last flush are left out."""
    chance = random.Random(5)
    for number in range(wanted):
        position = (number * len(history)) // wanted + 1
        since = position
        while since > 0 and history[since - 1][0] != FLUSH:
            since -= 1
        late = range(since, position)
        yield position, frozenset(each for each in late if chance.random() < 0.5) if number % 2 else frozenset()


def judge(path: Path, story: Story, position: int, *, full: bool) -> list[str]:
    """What is not as it was promised on the disk of this position."""
    spool = path / "spool"
    if not (spool / "FORMAT").exists():
        return [f"no spool at {position}"] if any(at <= position for at, _ in story.enqueued.values()) else []
    with SpoolQueue.open(spool) as queue:
        queue.check(fix=True)
        faults = [f"index at {position}: {problem.what}" for problem in queue.check()]
    there = look(spool)
    for id, (at, known) in story.enqueued.items():
        found = there.get(id)
        if found and any(digest(each.body) != known for each in found):
            faults.append(f"torn: {id} at {position}")
        if at <= position and not found and story.claiming.get(id, position) >= position:
            faults.append(f"lost: {id} at {position}, promised at {at}")
        if full and found and story.settled.get(id, position + 1) <= position:
            faults.append(f"twice: {id} at {position}, acknowledged at {story.settled[id]}, is in {found[0].place}/")
    faults += [f"torn: {id} at {position}" for id, found in there.items() if not all(is_whole(e.body) for e in found)]
    return faults


def prefixes(home: Path, durability: str, wanted: int, patch: Patch = whole) -> Found:
    """Write once, and look at so many disks that might have come of it."""
    began_s = time.monotonic()
    # Here, for a machine without libfuse runs the other suites.
    from tests.reliability.recording import RecordingDisk

    disk = RecordingDisk(home, SIZE)
    disk.mount()
    start = disk.position()
    story = live(disk.path, disk.position, durability, patch)
    history = disk.history()
    disk.unmount()
    found = Found(0, len(history), sum(place == FLUSH for place, _ in history), len(story.enqueued), len(story.settled))
    again = Disk(home, "ext4", size=SIZE, name="again")
    now = home / "now.img"
    shutil.copyfile(disk.base, now)
    done = 0
    for position, left_out in cuts(history, wanted):
        if position < start:
            continue
        with open(now, "r+b") as file:
            while done < min([position, *left_out]):
                place, data = history[done]
                done += 1
                if place != FLUSH:
                    file.seek(place)
                    file.write(data)
        shutil.copyfile(now, again.image)
        with open(again.image, "r+b") as file:
            for number in range(done, position):
                place, data = history[number]
                if place != FLUSH and number not in left_out:
                    file.seek(place)
                    file.write(data)
        again.mount()
        found.faults += judge(again.path, story, position, full=durability == "full")[:3]
        again.unmount()
        found.cuts += 1
        if found.faults:
            break
    found.seconds = round(time.monotonic() - began_s, 1)
    return found


def run(durability: str, wanted: int, patch: Patch = whole) -> Found:
    """Run it where nobody sees its mounts."""
    needs_disks("ext4")
    needs(Path("/dev/fuse").exists() and find_library("fuse") is not None, "FUSE, libfuse 2")
    home = Path(tempfile.mkdtemp(prefix="spoolq-blocks-", dir=memory()))
    try:

        def act() -> None:
            (home / "found").write_text(json.dumps(asdict(prefixes(home, durability, wanted, patch))))

        alone(act, 3600)
        return Found(**json.loads((home / "found").read_text()))
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("durability", "wanted"), [("power", count(150, 3000)), ("full", count(100, 2200))])
def test_block_prefixes(durability, wanted):
    """Whatever part of the writes reached the disk, what had returned by then is there, whole, and in order."""
    found = run(durability, wanted)
    report("block prefixes", durability=durability, **asdict(found))
    assert not found.faults
    assert found.cuts > wanted * 0.5
    assert found.flushes > 10


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", [mutants.no_file_fsync, mutants.no_directory_fsync], ids=lambda each: each.__name__)
def test_block_prefixes_find(mutant):
    found = run("power", 400, mutant)
    assert found.faults, f"{mutant.__name__} passed {found.cuts} cuts"
    caught("block prefixes", mutant.__name__, found.faults[0])
