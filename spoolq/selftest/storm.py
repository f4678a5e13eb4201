"""Producers and workers that are killed all the time, and what was promised to them: kept outside the file system.

Each says what it was promised by one write to a file in the system's own place for temporary ones. Whatever was
confirmed must be delivered, whole, and again only where its holder was killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spoolq.errors import LeaseLost, SpoolqError
from spoolq.settings import Reserve, Retention, Settings
from spoolq.spool import queues
from spoolq.spool.queue import SpoolQueue

SETTINGS = Settings(max_attempts=100_000, retention=Retention(done_s=0), reserve=Reserve(bytes=0, percent=0, inodes=0))
ROLES = ("producer", "producer", "worker", "worker", "worker")
SIZES = (10, 1000, 10_000, 100_000)
MOST_WAITING = 500
DRAIN_S = 60.0


@dataclass
class Storm:
    """What came of it. The last four must be 0."""

    seconds: float = 0
    kills: int = 0
    enqueued: int = 0
    delivered: int = 0
    delivered_again: int = 0
    back_ms: list[float] = field(default_factory=list)
    """How long after the kill of its holder each message was delivered again."""

    lost: int = 0
    torn: int = 0
    twice: int = 0
    stolen: int = 0
    trouble: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.torn or self.twice or self.stolen or self.trouble)

    def back(self, percent: int) -> float | None:
        """A percentile of `back_ms`; None with too few to tell."""
        if len(self.back_ms) < 2:
            return self.back_ms[0] if self.back_ms else None
        return statistics.quantiles(self.back_ms, n=100, method="inclusive")[percent - 1]


def run(directory: Path, seconds: float) -> Storm:
    """A storm of so many seconds in a spool of its own, then everything is delivered and held against the promises."""
    spool = directory / "spool"
    queues.make_spool(spool, settings=SETTINGS)
    storm = Storm()
    with tempfile.NamedTemporaryFile(prefix="spoolq-selftest-") as promises:
        crew = _Crew(spool, promises.fileno())
        began_s = time.monotonic()
        try:
            crew.rage(began_s + seconds, storm)
        finally:
            crew.kill_all()
        storm.seconds = round(time.monotonic() - began_s, 1)
        _Judge(storm).judge(spool, Path(promises.name))
    return storm


def _sealed(text: str, size: int) -> bytes:
    rest = (text + "|").encode() * (1 + size // (len(text) + 1))
    return hashlib.sha256(rest).hexdigest().encode() + rest


def _is_whole(body: bytes) -> bool:
    return body[:64] == hashlib.sha256(body[64:]).hexdigest().encode()


class _Crew:
    """The processes, and their end."""

    def __init__(self, spool: Path, fd: int) -> None:
        self._spool = spool
        self._fd = fd
        self._members: dict[int, str] = {}
        self._chance = random.Random()

    def _say(self, *words: Any) -> None:
        os.write(self._fd, json.dumps([*words, time.monotonic()]).encode() + b"\n")

    def rage(self, until_s: float, storm: Storm) -> None:
        """Start whoever is missing, and kill one of them every few milliseconds."""
        while time.monotonic() < until_s:
            for role in ROLES:
                if [*self._members.values()].count(role) < ROLES.count(role):
                    self._start(role)
            time.sleep(self._chance.random() * 0.05)
            self._kill(self._chance.choice([*self._members]))
            storm.kills += 1

    def kill_all(self) -> None:
        """Everybody."""
        for pid in [*self._members]:
            self._kill(pid)

    def _kill(self, pid: int) -> None:
        self._say("killed", pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del self._members[pid]

    def _start(self, role: str) -> None:
        pid = os.fork()
        if pid:
            self._members[pid] = role
            return
        try:
            logging.disable(logging.CRITICAL)
            with SpoolQueue.open(self._spool, create=False) as queue:
                self._produce(queue) if role == "producer" else self._work(queue)
        except (SpoolqError, OSError) as error:
            self._say("trouble", f"{role}: {error}")
        finally:
            os._exit(0)

    def _produce(self, queue: SpoolQueue) -> None:
        for number in range(1 << 30):
            while number % 50 == 0 and queue.stats().ready > MOST_WAITING:
                time.sleep(0.01)
            body = _sealed(f"{os.getpid()}.{number}", self._chance.choice(SIZES))
            id = queue.enqueue(body, headers={"n": str(number)} if number % 7 == 0 else {})
            self._say("enqueued", id, hashlib.sha256(body).hexdigest())

    def _work(self, queue: SpoolQueue) -> None:
        while True:
            message = queue.dequeue(wait_s=1)
            if message is None:
                continue
            whole = _is_whole(message.body)
            self._say("claimed", message.id, os.getpid(), hashlib.sha256(message.body).hexdigest() if whole else "")
            if self._chance.random() < 0.1:
                time.sleep(0.02)
            try:
                message.ack()
            except LeaseLost:
                self._say("refused", message.id)
            else:
                self._say("acknowledged", message.id)


class _Judge:
    """Goes through what was said, and then through what is left."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._bodies: dict[str, str] = {}
        self._holders: dict[str, int] = {}
        self._killed: dict[int, float] = {}
        self._settled: set[str] = set()

    def judge(self, spool: Path, promises: Path) -> None:
        """Everything."""
        for what, *words in self._lines(promises):
            getattr(self, f"_on_{what}")(*words)
        self._deliver_the_rest(spool)
        self._storm.enqueued = len(self._bodies)
        # Held by one who was killed: acknowledged, perhaps, and the killed did not come to say so.
        self._storm.lost = len(self._bodies.keys() - self._settled - self._holders.keys())

    @staticmethod
    def _lines(promises: Path) -> Iterator[list[Any]]:
        with open(promises, "rb") as file:
            yield from (json.loads(line) for line in file)

    def _on_enqueued(self, id: str, digest: str, at_s: float) -> None:
        self._bodies[id] = digest

    def _on_killed(self, pid: int, at_s: float) -> None:
        self._killed[pid] = at_s

    def _on_claimed(self, id: str, pid: int, digest: str, at_s: float) -> None:
        self._storm.delivered += 1
        self._storm.torn += not digest or self._bodies.get(id, digest) != digest
        self._storm.twice += id in self._settled
        before = self._holders.get(id)
        if before is not None:
            self._storm.delivered_again += 1
            if before in self._killed:
                self._storm.back_ms.append((at_s - self._killed[before]) * 1000)
            else:
                self._storm.stolen += 1
        self._holders[id] = pid

    def _on_acknowledged(self, id: str, at_s: float) -> None:
        self._storm.twice += id in self._settled
        self._settled.add(id)
        self._holders.pop(id, None)

    def _on_refused(self, id: str, at_s: float) -> None:
        self._storm.stolen += 1

    def _on_trouble(self, text: str, at_s: float) -> None:
        self._storm.trouble.append(text)

    def _deliver_the_rest(self, spool: Path) -> None:
        with SpoolQueue.open(spool) as queue:
            queue.check(fix=True)
            self._storm.trouble += [problem.what for problem in queue.check()]
            ends_s = time.monotonic() + DRAIN_S
            while (stats := queue.stats()).ready + stats.claimed and time.monotonic() < ends_s:
                for message in queue.dequeue_many(100, wait_s=0.2):
                    body = message.body
                    wrong = self._bodies.get(message.id) not in {None, hashlib.sha256(body).hexdigest()}
                    self._storm.torn += wrong or not _is_whole(body)
                    self._storm.twice += message.id in self._settled
                    self._storm.delivered += 1
                    message.ack()
                    self._settled.add(message.id)
                    self._holders.pop(message.id, None)
