"""The relay in a storm: two of them killed again and again, the target down for a while, under load.

    python -m tests.relay_storm --kills 50 --save docs/benchmarks/relay.md

Three producers enqueue into a spool, half of it in groups. Two relays carry it to another spool over REST, and then to
PostgreSQL. One of the two is killed (SIGKILL) at random, and started again; now and then the target is killed, and
stays away. In the end exactly what was confirmed must be there, each once and whole, in order within its group, and no
attempt may have been counted while the target was away. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

from spoolq import Queue, open_queue
from spoolq.models import MessageInfo, State
from spoolq.relay import WINDOW_S, reports
from tests.helpers import wait_for
from tests.postgres_server import Server, free_port, home_for_a_server
from tests.reliability.figures import FULL, count

ROOT = Path(__file__).parents[1]
RELAYS, PRODUCERS, GROUPS = 2, 3, 8
SIZES = (10, 300, 3000, 20_000)
LIMIT_S = 60.0
SAFE = ("fsync=off", "full_page_writes=off", "autovacuum_naptime=5s")
"""A commit that was answered survives the kill of the server, though not a power cut."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How hard. rate: messages a second of each producer; outages are spread over the kills.

    noticed: each lasts until all relays have said that the target is away. A database is asked again for 30 s first.
    """

    kills: int
    outages: int = 1
    outage_s: float = 2.0
    rate: float = 40.0
    seed: int = 7
    noticed: bool = True


def plan(*, noticed: bool = True) -> Plan:
    """The short form, for `make test`; the long one, for `make proof`, notices each outage."""
    if FULL:
        return Plan(kills=count(5, 50), outages=3, outage_s=8, rate=60)
    return Plan(kills=5, noticed=noticed)


# Targets ------------------------------------------------------------------------------


class Target(Protocol):
    """Where messages go: can be killed, and started again."""

    name: str
    url: str

    def start(self) -> None:
        """Start it; it answers when this returns."""

    def kill(self) -> None:
        """As a crash would end it."""

    def queue(self) -> Queue:
        """What is in it, to look at."""


class RestTarget:
    """`spoolq serve` before a spool of its own."""

    name = "another spool, over REST"

    def __init__(self, home: Path) -> None:
        self._spool = home / "target"
        self._log = home / "serve.log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        with self.queue() as queue:
            queue.change_settings(replace(queue.stored_settings(), dedup_window_s=WINDOW_S))

    def start(self) -> None:
        argv = [sys.executable, "-m", "spoolq", "serve", "--spool", str(self._spool), "--port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, env=_environ(), stdout=log, stderr=log)
        wait_for(self._answers, LIMIT_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def queue(self) -> Queue:
        return open_queue(self._spool)


class DatabaseTarget:
    """A PostgreSQL of its own."""

    name = "PostgreSQL"

    def __init__(self, home: Path) -> None:
        from spoolq.postgres import init

        self._server = Server(home, SAFE)
        self._server.init()
        self.url = self._server.dsn()
        self._server.start()
        init(self.url)
        with self.queue() as queue:
            queue.change_settings(replace(queue.settings, dedup_window_s=WINDOW_S))
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.stop(signal.SIGQUIT)

    def queue(self) -> Queue:
        return open_queue(self.url)


@contextlib.contextmanager
def target_of(kind: str, home: Path) -> Iterator[Target]:
    """The target of this kind, not started yet; killed at the end."""
    with contextlib.ExitStack() as stack:
        target: Target = (
            RestTarget(home) if kind == "rest" else DatabaseTarget(stack.enter_context(home_for_a_server()))
        )
        stack.callback(target.kill)
        yield target


def _environ() -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLQ_")}
    return known | {"PYTHONPATH": str(ROOT), "SPOOLQ_LOG": "warning"}


# Load -----------------------------------------------------------------------------------


def sealed(key: str, size: int) -> bytes:
    """A body that tells whose it is, and whether it is whole."""
    rest = os.urandom(size)
    return f"{key} {hashlib.sha256(rest).hexdigest()} ".encode() + rest


def key_of(body: bytes) -> str:
    """The key of a body that is whole; "" of another."""
    key, digest, rest = (*body.split(b" ", 2), b"", b"")[:3]
    return key.decode() if hashlib.sha256(rest).hexdigest().encode() == digest else ""


class Load:
    """Producers, threads of this process; what was confirmed, and in which order within each group."""

    def __init__(self, spool: Path, plan: Plan) -> None:
        self.confirmed: set[str] = set()
        self.order: defaultdict[str, list[str]] = defaultdict(list)
        self._spool = spool
        self._plan = plan
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(number,)) for number in range(PRODUCERS)]

    def _produce(self, producer: int) -> None:
        chance = random.Random(self._plan.seed * 100 + producer)
        number = 0
        with open_queue(self._spool) as queue:
            while not self._stop.wait(1 / self._plan.rate):
                number += 1
                key = f"{producer}-{number}"
                group = f"g{producer}-{chance.randrange(GROUPS)}" if number % 2 else None
                queue.enqueue(sealed(key, chance.choice(SIZES)), group=group)
                self.confirmed.add(key)
                if group is not None:
                    self.order[group].append(key)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# The storm --------------------------------------------------------------------------------


class Relays:
    """So many processes of `spoolq relay`."""

    def __init__(self, spool: Path, target: str, log: Path) -> None:
        self._argv = [sys.executable, "-m", "spoolq", "relay", str(spool), target, "--batch", "20"]
        self._directory = reports.directory_for(str(spool), {})
        self._log = log
        self.processes = [self._start() for _ in range(RELAYS)]

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._argv, env=_environ(), stdout=log, stderr=log)

    def at_work(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has told of a first turn."""
        assert process.poll() is None, self._log.read_text()
        return any(report.pid == process.pid for report in reports.read(self._directory))

    def all_away(self) -> bool:
        """Whether all of them have noticed that the target is away."""
        told = {report.pid: report.is_away for report in reports.read(self._directory)}
        return all(told.get(process.pid, False) for process in self.processes)

    def kill(self, number: int, after_s: float) -> None:
        """Kill one of them, some time after it has begun its work, and start it again."""
        process = self.processes[number]
        wait_for(lambda: self.at_work(process), LIMIT_S)
        time.sleep(after_s)
        process.kill()
        process.wait()
        self.processes[number] = self._start()

    def stop(self) -> list[int]:
        """TERM; their exit statuses."""
        for process in self.processes:
            process.terminate()
        return [process.wait(LIMIT_S) for process in self.processes]

    def kill_all(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@dataclass
class Outcome:
    """What there was in the end. faults: what must not be, with how many."""

    target: str
    figures: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return not any(self.faults.values())


def storm(kind: str, plan: Plan, home: Path) -> Outcome:
    """One run; what came of it."""
    chance = random.Random(plan.seed)
    spool = home / "source"
    with target_of(kind, home) as target, open_queue(spool) as source:
        source.change_settings(replace(source.stored_settings(), max_attempts=100_000))
        target.start()
        began_s = time.monotonic()
        away: list[tuple[int, int]] = []
        relays = Relays(spool, target.url, home / "relay.log")
        try:
            with Load(spool, plan) as load:
                after = {round((each + 1) * plan.kills / (plan.outages + 1)) for each in range(plan.outages)}
                for kill in range(1, plan.kills + 1):
                    relays.kill(chance.randrange(RELAYS), chance.uniform(0, 0.6))
                    if kill in after:
                        away.append(_outage(source, target, relays, plan))
            wait_for(lambda: source.stats().done == len(load.confirmed), LIMIT_S * 2)
            seconds = time.monotonic() - began_s
            wait_for(lambda: all(map(relays.at_work, relays.processes)), LIMIT_S)  # before, TERM just ends them
            statuses = relays.stop()
        finally:
            relays.kill_all()
        outcome = Outcome(target.name)
        outcome.figures = {"seconds": round(seconds, 1), "kills of a relay": plan.kills, "outages": len(away)}
        outcome.faults["relays that did not end well"] = sum(status != 0 for status in statuses)
        _judge_source(source, away, outcome)
        with target.queue() as arrived:
            _judge_target(arrived, load, outcome)
    return outcome


def _outage(source: Queue, target: Target, relays: Relays, plan: Plan) -> tuple[int, int]:
    """The target dies while relays are at work, and comes back; from when to when, and nobody else died in it."""
    wait_for(lambda: all(map(relays.at_work, relays.processes)), LIMIT_S)
    wait_for(lambda: source.maintain() or not any(each.claims and not each.alive for each in source.holders()), LIMIT_S)
    began_ms = time.time_ns() // 1_000_000
    target.kill()
    time.sleep(plan.outage_s)
    if plan.noticed:
        wait_for(relays.all_away, LIMIT_S)
    ended_ms = time.time_ns() // 1_000_000
    target.start()
    return began_ms, ended_ms


# The judge --------------------------------------------------------------------------------


def listed(queue: Queue, state: State) -> Iterator[MessageInfo]:
    """All messages of a state."""
    cursor = None
    while True:
        page = queue.list(state, limit=500, cursor=cursor)
        yield from page.messages
        cursor = page.cursor
        if cursor is None:
            return


def _judge_source(source: Queue, away: Sequence[tuple[int, int]], outcome: Outcome) -> None:
    """Everything is done; each attempt beyond the first has the death of a relay for its reason, and none an outage."""
    stats = source.stats()
    counted, by_outage, unexplained = 0, 0, 0
    for info in listed(source, "done"):
        if info.attempts > 1:
            history = source.get(info.id).history
            counted += info.attempts - 1
            unexplained += abs(info.attempts - 1 - len(history))
            unexplained += sum(each.reason != "holder died" for each in history)
            by_outage += sum(any(a <= each.ended_at_ms <= b for a, b in away) for each in history)
    outcome.figures["sent again after a kill"] = counted
    outcome.figures["seconds that the target was away"] = round(sum(b - a for a, b in away) / 1000, 1)
    outcome.faults["attempts counted by an outage"] = by_outage
    outcome.faults["attempts that no kill explains"] = unexplained
    outcome.faults["left at the source"] = stats.ready + stats.scheduled + stats.claimed + stats.dead
    outcome.faults["wrong in the source's index"] = sum(each.kind != "dead_holder" for each in source.check())


def _judge_target(arrived: Queue, load: Load, outcome: Outcome) -> None:
    """Exactly what was confirmed, each once and whole, in order within its group."""
    wait_for(lambda: not arrived.maintain())  # what the server was killed over is taken in
    keys: list[str] = []
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for info in listed(arrived, "ready"):
        with arrived.read_body(info.id) as file:
            key = key_of(file.read())
        keys.append(key)
        if info.group is not None:
            groups[info.group].append(key)
    counts = Counter(keys)
    outcome.figures = {"messages confirmed": len(load.confirmed), "messages arrived": len(keys)} | outcome.figures
    outcome.figures["groups"] = len(load.order)
    outcome.faults["lost"] = len(load.confirmed - counts.keys())
    outcome.faults["arrived twice"] = len(keys) - len(counts)
    outcome.faults["damaged, or never sent"] = len(counts.keys() - load.confirmed)
    outcome.faults["groups out of order"] = sum(groups[group] != order for group, order in load.order.items())


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """As Markdown: what there was, and what must be 0."""
    lines = [f"| | {' | '.join(each.target for each in outcomes)} |", f"|---|{'---|' * len(outcomes)}"]
    for what in outcomes[0].figures:
        lines += [f"| {what} | {' | '.join(f'{each.figures[what]:,.10g}' for each in outcomes)} |"]
    for what in outcomes[0].faults:
        lines += [f"| **{what}** | {' | '.join(str(each.faults[what]) for each in outcomes)} |"]
    return lines


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(prog="python -m tests.relay_storm", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    reader.add_argument("--kills", type=int, default=50)
    reader.add_argument("--outages", type=int, default=3)
    reader.add_argument("--outage-s", type=float, default=8.0, help="how long each lasts, in seconds")
    reader.add_argument("--rate", type=float, default=60.0, help="messages a second of each of the three producers")
    reader.add_argument("--seed", type=int, default=7)
    reader.add_argument("--target", choices=("rest", "postgresql", "both"), default="both")
    reader.add_argument("--save", type=Path, metavar="FILE", help="write the table there too, as a page")
    asked = reader.parse_args()
    plan = Plan(kills=asked.kills, outages=asked.outages, outage_s=asked.outage_s, rate=asked.rate, seed=asked.seed)
    outcomes = []
    for kind in ("rest", "postgresql") if asked.target == "both" else (asked.target,):
        with tempfile.TemporaryDirectory(prefix="spoolq-relay-") as home:
            outcomes.append(storm(kind, plan, Path(home)))
    lines = table(outcomes)
    print("\n".join(lines))
    if asked.save:
        command = f"python -m tests.relay_storm --kills {plan.kills} --outages {plan.outages}"
        machine = f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
        about = (
            "Two relays, of which one was killed (SIGKILL) every second or so. Three producers, "
            f"{plan.rate:g} messages a second\neach at most, of 10 bytes to 20 kB, half of them in groups. "
            "In an outage the target is killed, and away until both\nrelays have noticed, "
            f"{plan.outage_s:g} s at least. What is bold must be 0. PostgreSQL did not sync, which a kill of\n"
            "the server cannot tell; the spools did."
        )
        head = ["# The relay in a storm", "", f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine}.", "", about, ""]
        asked.save.write_text("\n".join([*head, *lines, ""]))
    return 0 if all(each.is_good for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
