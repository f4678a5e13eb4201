"""Processes whose wall clock can be set while they run, by libfaketime; the other clocks are the machine's own.

What the kernel itself writes down (the change time of a file) stays on the true clock, as it does for whoever asks.
`python -m tests.reliability.faked_time ROLE SPOOL ORACLE SEED` is one of the crew.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from pathlib import Path

import pytest

from spoolq.spool.queue import SpoolQueue
from tests.helpers import needs
from tests.reliability import mutants
from tests.reliability.crew import Crew
from tests.reliability.oracle import Oracle

NAME = "faketime/libfaketime.so.1"


def library() -> Path:
    """Where Debian keeps it."""
    found = [*Path("/usr/lib").glob(f"*/{NAME}"), *Path("/usr/lib").glob(NAME)]
    needs(bool(found), "libfaketime")
    return found[0]


class WallClock:
    """What the wall clock says in every process that was started with `environ`."""

    def __init__(self, home: Path) -> None:
        self._stamp = home / "wall clock"
        self.environ = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._stamp),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """So far ahead of the truth, from now on, for all of them at once."""
        new = self._stamp.with_name("wall clock to be")
        new.write_text(f"{ahead_s:+d}\n")
        new.rename(self._stamp)


def _sleep(seconds: float) -> None:
    # Python's own sleep is refused beneath libfaketime.
    select.select([], [], [], seconds)


class FakedCrew(Crew):
    """One more kind: its claims have a lease, and live by the boot clock."""

    def _leaseholder(self, queue: SpoolQueue, chance: random.Random) -> None:
        while True:
            message = queue.dequeue(wait_s=1, lease_s=60)
            if message is not None:
                # Long enough for the clock to jump meanwhile.
                _sleep(chance.random() * 0.05)
                self._work(message, chance)


def main() -> None:
    """A producer, a worker, a leaseholder or a watcher, until it is killed; broken as `SPOOLQ_MUTANT` says."""
    role, spool, oracle, seed = sys.argv[1:]
    time.sleep = _sleep
    if mutant := os.environ.get("SPOOLQ_MUTANT"):
        getattr(mutants, mutant)(pytest.MonkeyPatch())
    crew = FakedCrew(Path(spool), Oracle(Path(oracle)))
    with SpoolQueue.open(Path(spool), create=False) as queue:
        getattr(crew, f"_{role}")(queue, random.Random(int(seed)))


if __name__ == "__main__":
    os.environ.setdefault("SPOOLQ_DURABILITY", "process")
    main()
