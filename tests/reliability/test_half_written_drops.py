"""Drops that are written slowly, by many, under the eyes of a consumer: each is delivered once, and whole.

Every way of holding a file open has a test of its own in tests/spool/test_drops_writers.py.
"""

import mmap
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from spoolq.settings import Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.reliability import mutants
from tests.reliability.crew import Patch, whole
from tests.reliability.figures import caught, count, report
from tests.reliability.oracle import is_whole, sealed

SIZE = 30_000


def by_pieces(path: Path, body: bytes) -> None:
    """As `cat` does with what comes slowly."""
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(body), 1 + SIZE // 8):
            file.write(body[start : start + 1 + SIZE // 8])
            time.sleep(0.005)


def mapped(path: Path, body: bytes) -> None:
    """Through a shared mapping, with its descriptor closed long since."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, len(body))
    with mmap.mmap(fd, len(body)) as memory:
        os.close(fd)
        for start in range(0, len(body), 4096):
            memory[start : start + 4096] = body[start : start + 4096]
            time.sleep(0.002)


def by_two(path: Path, body: bytes) -> None:
    """One has it open, goes on after another has written half, and closes last."""
    with open(path, "wb", buffering=0) as first:
        with open(path, "r+b", buffering=0) as second:
            second.write(body[: len(body) // 2])
        time.sleep(0.01)
        first.seek(len(body) // 2)
        first.write(body[len(body) // 2 :])


def copied(path: Path, body: bytes) -> None:
    """`cp`, from elsewhere."""
    source = path.parents[2] / f"source-{path.name}"
    source.write_bytes(body)
    subprocess.run(["cp", source, path], check=True)


WAYS = (by_pieces, mapped, by_two, copied)


def drop_all(spool: Path, number: int, writers: int) -> list[int]:
    """Writers side by side; their pids."""
    pids = []
    for writer in range(writers):
        pid = os.fork()
        if pid == 0:
            try:
                chance = random.Random(writer)
                for each in range(number // writers):
                    text = f"{writer}.{each}"
                    chance.choice(WAYS)(spool / "new" / f"drop-{text}.txt", sealed(text, SIZE))
            finally:
                os._exit(0)
        pids.append(pid)
    return pids


def deliver(home: Path, number: int, patch: Patch = whole) -> list[str]:
    """What was wrong with what a consumer got while it was written."""
    spool = home / "spool"
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability="process")))
    faults: list[str] = []
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as broken, SpoolQueue.open(spool) as queue:
        patch(broken)
        pids = drop_all(spool, number, 4)
        ends_s = time.monotonic() + 60 + number / 20
        while len(seen) < number and not faults and time.monotonic() < ends_s:
            if (message := queue.dequeue(wait_s=0.5)) is not None:
                if not is_whole(message.body):
                    faults.append(f"torn: {message.name}, {len(message.body)} bytes")
                seen.append(str(message.name))
                message.ack()
        for pid in pids:
            os.waitpid(pid, 0)
    if not faults and (len(seen), len(set(seen))) != (number, number):
        faults.append(f"{number} drops, {len(seen)} delivered, {len(set(seen))} of them different")
    return faults


@pytest.mark.timeout(1200)
def test_half_written_drops(fast_path):
    """Written in pieces, mapped, by two at once, copied: never delivered before they are whole."""
    number = count(80, 4000)
    assert deliver(fast_path, number) == []
    report("half-written drops", drops=number, torn=0)


def test_half_written_drops_find_that_writers_are_ignored(fast_path):
    faults = deliver(fast_path, 80, mutants.writers_ignored)
    assert faults
    caught("half-written drops", "writers_ignored", faults[0])
