"""Workers and producers of two hosts on one database, killed at random, and one host is cut off for a while.

600 messages; SPOOLQ_PROOF=full makes it 20,000, with a kill a second, so that two cores have time for work as well, and
a cut that outlasts every timeout a client has. Short, these are made shorter instead.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from spoolq import open_queue
from spoolq.postgres import PostgresQueue
from spoolq.settings import Settings
from tests.helpers import wait_for
from tests.postgres.crowd import REASON
from tests.postgres.hosts import Host, hosts
from tests.postgres_server import Server, running

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("SPOOLQ_PROOF") == "full"
MESSAGES, PACE_S = (20_000, 1.0) if FULL else (600, 0.3)
WORKERS, PRODUCERS, HOSTS = 8, 4, 2
LEASE_S = 2
CUT_S = 60.0 if FULL else 5.0
CUT_AFTER = MESSAGES // 3 if FULL else 0
IMPATIENT = "" if FULL else "?connect_timeout=2&tcp_user_timeout=2000&keepalives_idle=1&keepalives_interval=1"


class Storm:
    """Who runs where, and what they told, a file for each."""

    def __init__(self, home: Path, server: Server, places: Sequence[Host]) -> None:
        self.home = home
        self.places = places
        self.kills = 0
        self._urls = [server.dsn(address=place.server) + IMPATIENT for place in places]
        self._serial = 0
        self.workers = [self.start("work", number % HOSTS, number) for number in range(WORKERS)]
        self.producers = [self._producer(number) for number in range(PRODUCERS)]
        self.holders: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, where: int, *arguments: object) -> subprocess.Popen[bytes]:
        self._serial += 1
        words = [sys.executable, "-m", "tests.postgres.crowd", role, self._urls[where], *map(str, arguments)]
        name = f"{role}-{self._serial}"
        with open(self.home / name, "wb") as output, open(self.home / f"errors-of-{name}", "wb") as errors:
            return subprocess.Popen(
                self.places[where].command(*words),
                stdin=subprocess.PIPE, stdout=output, stderr=errors, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def kill(self, chance: random.Random) -> None:
        """A worker, and now and then a producer; another takes its place."""
        victim = chance.randrange(WORKERS)
        end(self.workers[victim])
        self.workers[victim] = self.start("work", victim % HOSTS, WORKERS + self._serial)
        self.kills += 1
        for number, producer in enumerate(self.producers):
            if producer.poll() is None and chance.random() < 0.05:
                end(producer)
                self.kills += 1
            if producer.poll() not in (None, 0):  # begins anew: its keys say what is there already
                self.producers[number] = self._producer(number)

    def _producer(self, number: int) -> subprocess.Popen[bytes]:
        share = MESSAGES // PRODUCERS
        return self.start("produce", number % HOSTS, number * share, (number + 1) * share)

    def cut_off(self, where: int) -> None:
        """While two claims are held there, of which one is then acknowledged in vain, and one requeued."""
        self.holders = [self.start("hold", where, LEASE_S, how) for how in ("ack", "requeue")]
        wait_for(lambda: sum(word == "took" for word, _, _ in told(self.home, "hold-*")) == 2, 60)
        self.places[where].cut_off()
        for holder in self.holders:
            assert holder.stdin is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()

    def end(self) -> None:
        for process in (*self.workers, *self.producers, *self.holders):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def told(home: Path, which: str = "[wh]o*-*") -> Iterator[tuple[str, str, int]]:
    """The whole lines of workers and holders; a killed one may have left half of one."""
    for path in home.glob(which):
        for line in path.read_text().split("\n")[:-1]:
            words = line.split()
            if len(words) == 3:
                yield words[0], words[1], int(words[2])


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[tuple[Storm, PostgresQueue]]:
    """Under way, on a server that listens on the hosts' links only."""
    with hosts(HOSTS) as places, running(sorted({place.server for place in places})) as server:
        with open_queue(server.dsn()) as queue:
            queue.change_settings(Settings(lease_s=LEASE_S, max_attempts=1000, dedup_window_s=3600))
            storm = Storm(tmp_path, server, places)
            try:
                yield storm, queue
            finally:
                storm.end()


@pytest.mark.timeout(900)
def test_workers_and_producers_are_killed_at_random(storm, tmp_path):
    """Each message is acknowledged once, each further delivery has a reason, and everybody was told the truth."""
    crowd, queue = storm
    let_rage(crowd, queue)
    wait_for(lambda: not queue.maintain())
    stats = queue.stats()
    assert (stats.done, stats.ready, stats.scheduled, stats.dead) == (MESSAGES, 0, 0, 0)
    assert stats.acknowledged_total == stats.enqueued_total == MESSAGES
    with psycopg.connect(queue.database.address.dsn) as connection:
        rows = connection.execute(
            "SELECT id::text, attempts, convert_from(body, 'UTF8')::int FROM spoolq.messages ORDER BY 3"
        ).fetchall()
    assert [number for _, _, number in rows] == list(range(MESSAGES))
    attempts = {id: attempt for id, attempt, _ in rows}
    sent = {
        line for path in tmp_path.glob("produce-*") for line in path.read_text().split("\n")[:-1] if len(line) == 36
    }
    assert sent <= attempts.keys()
    refused = judged(list(told(tmp_path)), attempts, queue)
    assert queue.check() == []
    again = sum(attempt > 1 for attempt in attempts.values())
    report(crowd, {"delivered again": again, "late and refused": refused})


def let_rage(storm: Storm, queue: PostgresQueue) -> None:
    """Until all is acknowledged, and the host that was cut off has said what became of its claims."""
    chance = random.Random(11)
    ends_s = time.monotonic() + 600
    connected_at_s = None
    while queue.stats().acknowledged_total < MESSAGES or any(each.poll() is None for each in storm.holders):
        assert time.monotonic() < ends_s, queue.stats()
        now_s = time.monotonic()
        if connected_at_s is None and storm.places[1].is_real and queue.stats().acknowledged_total >= CUT_AFTER:
            storm.cut_off(1)
            connected_at_s = time.monotonic() + CUT_S
        elif connected_at_s is not None and connected_at_s <= now_s:
            storm.places[1].connect()
            connected_at_s = ends_s
        time.sleep(PACE_S)  # the pace of the kills
        storm.kill(chance)
    storm.end()


def judged(lines: Sequence[tuple[str, str, int]], attempts: dict[str, int], queue: PostgresQueue) -> int:
    """What each was told of its delivery is what the message's history has; how many were told that they are late."""
    history = {
        (id, each.attempt): each.reason for id, last in attempts.items() if last > 1 for each in queue.get(id).history
    }
    acknowledged = [id for word, id, attempt in lines if word == "done"]
    assert len(set(acknowledged)) == len(acknowledged)
    known = {
        "took": {None, REASON, "lease ended"},
        "done": {None},
        "again": {REASON},
        "lost": {"lease ended"},
        "unknown": {None, REASON, "lease ended"},
    }
    for word, id, attempt in lines:
        reason = history.get((id, attempt))
        assert reason in known[word], (word, id, attempt, reason)
        assert (reason is None) == (attempt == attempts[id]), (word, id, attempt, reason)
    return sum(word == "lost" for word, _, _ in lines)


def report(storm: Storm, found: dict[str, int]) -> None:
    real = sum(place.is_real for place in storm.places)
    figures = {
        "messages": MESSAGES, "network namespaces": real, "cuts": int(real > 0), "kills": storm.kills, **found,
        "lost": 0, "acknowledged twice": 0,
    }  # fmt: skip
    print(figures)
    for path in sorted(storm.home.glob("errors-of-hold-*")):
        print(path.read_text().strip())
    assert storm.kills > 0
    if real:
        words = {path.name: [word for word, _, _ in told(storm.home, path.name)] for path in storm.home.glob("hold-*")}
        by_ack, by_requeue = (words[name] for name in sorted(words, key=lambda name: int(name.split("-")[1])))
        assert (by_ack[-1], by_requeue[-1]) == ("lost", "unknown")
    if os.environ.get("SPOOLQ_PROOF_FIGURES"):
        with open(os.environ["SPOOLQ_PROOF_FIGURES"], "a") as file:
            file.write(json.dumps({"suite": "PostgreSQL", "figures": figures}) + "\n")
