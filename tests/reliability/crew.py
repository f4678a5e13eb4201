"""Producers and workers, each a process of its own, that tell the oracle what they were promised; and who kills them.

They are forked from one that has everything imported, since a start of Python costs more than what they live for.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq.errors import LeaseLost, SpoolqError
from spoolq.message import Message
from spoolq.models import NewMessage
from spoolq.spool.queue import SpoolQueue
from tests.reliability.oracle import Oracle, digest, is_whole, sealed

Patch = Callable[[pytest.MonkeyPatch], None]
SIZES = (10, 300, 3000, 20_000)
LIVES_S = 900
MOST_WAITING = 500
"""Producers wait while there is more: what nobody comes to is no proof of anything."""


def whole(patch: pytest.MonkeyPatch) -> None:
    """Nothing is broken."""


class Crew:
    """Starts and kills; one spool, one oracle. patch: breaks the code in every process of the crew."""

    def __init__(
        self, spool: Path, oracle: Oracle, *, patch: Patch = whole, releases: bool = True, lives_s: int = LIVES_S
    ) -> None:
        self._spool = spool
        self._oracle = oracle
        self._patch = patch
        self._releases = releases
        self._lives_s = lives_s
        self._seed = 0
        self.members: dict[int, str] = {}

    def start(self, role: str) -> int:
        """One more producer, worker or watcher; its pid."""
        self._seed += 1
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self.members[pid] = role
            return pid
        try:
            signal.alarm(self._lives_s)
            self._patch(pytest.MonkeyPatch())
            with SpoolQueue.open(self._spool, create=False) as queue:
                getattr(self, f"_{role}")(queue, random.Random(self._seed))
        except SpoolqError as error:
            # The disk went away beneath it, or somebody broke the code: told, and judged by the rest.
            sys.stderr.write(f"{role}: {error.message}\n")
        except BaseException:
            self._oracle.say("failed", os.getpid(), traceback.format_exc())
        finally:
            os._exit(0)

    def kill(self, pid: int) -> None:
        """SIGKILL; the oracle knows it beforehand."""
        self._oracle.say("killed", pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del self.members[pid]

    def kill_all(self) -> None:
        """Everybody, at once."""
        for pid in self.members:
            self._oracle.say("killed", pid)
            os.kill(pid, signal.SIGKILL)
        for pid in self.members:
            os.waitpid(pid, 0)
        self.members.clear()

    def stop_all(self) -> None:
        """SIGSTOP, and wait: whatever was asked of the system is done or not, and nobody asks for more."""
        for pid in self.members:
            os.kill(pid, signal.SIGSTOP)
        for pid in self.members:
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        for pid in self.members:
            os.kill(pid, signal.SIGCONT)

    def reap_ended(self) -> None:
        """Forget those who ended by themselves."""
        for pid in [*self.members]:
            if os.waitpid(pid, os.WNOHANG)[0]:
                # What it held is given back by others, as of one who was killed.
                self._oracle.say("killed", pid)
                del self.members[pid]

    # What they do

    def _producer(self, queue: SpoolQueue, chance: random.Random) -> None:
        for number in range(1_000_000):
            while number % 50 == 49 and queue.stats().ready > MOST_WAITING:
                time.sleep(0.01)
            text = f"{os.getpid()}.{number}"
            body = sealed(text, chance.choice(SIZES))
            way = chance.random()
            if way < 0.1:
                several = [sealed(f"{text}.{each}", 100) for each in range(5)]
                ids = queue.enqueue_many([NewMessage(body=each) for each in several])
                for id, each in zip(ids, several, strict=True):
                    self._oracle.say("enqueued", id, digest(each))
                continue
            if way < 0.2:
                # The same key from everybody: whoever is first, all are answered the same message.
                key = f"{time.time_ns() // 50_000_000}"
                body = sealed(key, 200)
                id = queue.enqueue(body, dedup_key=key)
            elif way < 0.3:
                id = queue.enqueue(body, headers={"a": text}, priority=chance.randrange(10), name=f"{text}.txt")
            else:
                id = queue.enqueue(body)
            self._oracle.say("enqueued", id, digest(body))

    def _worker(self, queue: SpoolQueue, chance: random.Random) -> None:
        while True:
            message = queue.dequeue(wait_s=1)
            if message is not None:
                self._work(message, chance)

    def _work(self, message: Message, chance: random.Random) -> None:
        body, pid = message.body, os.getpid()
        self._oracle.say("claimed", message.id, pid, message.attempts, digest(body) if is_whole(body) else None)
        way = chance.random()
        what = "acknowledge" if way > 0.1 else "requeue" if way > 0.05 or not self._releases else "release"
        try:
            if what == "acknowledge":
                message.ack()
                self._oracle.say("acknowledged", message.id, pid)
            else:
                # Before the deed: the next may have claimed it before a line after the deed is there.
                self._oracle.say("returning", message.id, pid)
                message.requeue(delay_s=0) if what == "requeue" else message.release()
        except LeaseLost:
            self._oracle.say("refused", message.id, pid, what)
        if chance.random() < 0.02:
            # Now and then one is still at it when it is killed.
            time.sleep(0.02)

    def _watcher(self, queue: SpoolQueue, chance: random.Random) -> None:
        while True:
            queue.maintain()
            time.sleep(0.01)
