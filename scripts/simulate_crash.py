#!/usr/bin/env python3
"""Kill producers, consumers, workers and the server under load, and count what is lost: nothing should be.

    python scripts/simulate_crash.py --seconds 60

Half of the processes are killed at a random moment. The other half kill themselves just before a chosen step: the n-th
rename, sync, write or removal of a file. What was confirmed and what was delivered is written down outside the spool,
so the spool is not asked about itself. Each message has a key of its own, the first line of its body, and is sent once.

Exits with 1 if a confirmed message was lost, came damaged, came twice though nobody had died and no lease had ended, or
if `check` finds something wrong at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import spoolq.client.queue  # noqa: F401 loaded once, here: a forked process has no second to spare
from spoolq import Message, SpoolqError, open_queue
from spoolq.interfaces import Queue
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue

LEASE_S = 0.6
NEVER_S = float("inf")
STEPS = {
    "producer": ("create", "write", "fsync", "rename_new", "sync_directory", "touch"),
    "consumer": ("rename", "rename_new", "unlink", "utime_ns"),
}
CAST = ("producer", "producer", "dropper", "sender", "consumer", "consumer", "leaser", "taker", "worker", "server")
"""Who is on stage, at the same time. sender and taker speak to the server, leaser and taker have leases, the worker is
`spoolq work`."""

LIFE_S = {"server": (3.0, 8.0), "worker": (1.5, 4.0), "leaser": (2.0, 5.0), "taker": (2.0, 5.0), "sender": (0.5, 2.5)}
"""How long somebody lives before it is killed, where that is not 0.1 to 1.5 s: some are slow to start."""


@dataclass
class Stage:
    """Where it happens. oracle: the directory in which each process writes down what it knows to be true."""

    spool: Path
    oracle: Path
    port: int

    @property
    def url(self) -> str:
        """The server."""
        return f"http://127.0.0.1:{self.port}"


class Oracle:
    """One process's record. Each line is one write, which the kernel keeps whatever happens to the process."""

    def __init__(self, stage: Stage, who: str) -> None:
        self._who = who
        self._fd = os.open(stage.oracle / f"{who}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, event: str, key: str, **more: Any) -> None:
        """Something is true from now on."""
        line = {"event": event, "key": key, "who": self._who, "at_s": time.time(), **more}
        os.write(self._fd, (json.dumps(line) + "\n").encode())


# Roles: each runs in a process of its own until it is killed -----------------------


def _dying(oracle: Oracle, step: str, count: int) -> Files:
    """Files that kill their process just before the `count`-th call of the method `step`."""
    files = Files()
    original = getattr(files, step)
    left = count

    def instead(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left <= 0:
            oracle.say("died", step)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(files, step, instead)
    return files


def _body(who: str, number: int, chance: random.Random) -> tuple[str, bytes]:
    """A key, and a body that proves itself: key, digest of the rest, rest."""
    key = f"{who}.{number}"
    rest = chance.randbytes(chance.choice((10, 500, 20_000)))
    return key, f"{key}\n{hashlib.sha256(rest).hexdigest()}\n".encode() + rest


def produce(queue: Queue, oracle: Oracle, who: str) -> None:
    """Enqueue; a message counts once enqueue has returned. One that failed is never sent again."""
    chance, number = random.Random(who), 0
    while True:
        number += 1
        key, body = _body(who, number, chance)
        try:
            queue.enqueue(body, priority=chance.randrange(10))
        except SpoolqError:  # the server was killed: it may have it, or not
            time.sleep(0.02)
            continue
        oracle.say("confirmed", key)
        time.sleep(chance.uniform(0, 0.03))


def drop(stage: Stage, oracle: Oracle, who: str) -> None:
    """Put files into new/, as a person would: written in tmp/, then moved."""
    chance, number = random.Random(who), 0
    while True:
        number += 1
        key, body = _body(who, number, chance)
        made = stage.spool / "tmp" / f"drop-{key}"
        made.write_bytes(body)
        made.rename(stage.spool / "new" / f"{key}.bin")
        oracle.say("confirmed", key)
        time.sleep(chance.uniform(0, 0.1))


def consume(queue: Queue, oracle: Oracle, *, lease_s: float | None = None) -> None:
    """Take one after another; sometimes longer than its lease lasts, where it has one."""
    chance = random.Random()
    while True:
        asked_s = time.time()
        try:
            message = queue.dequeue(wait_s=0.3, lease_s=lease_s)
            if message is None:
                continue
            note_delivery(oracle, message, lease_until_s=asked_s + lease_s if lease_s else None)
            late = chance.random() < (0.2 if lease_s else 0.03)
            time.sleep(chance.uniform(0, 2 * LEASE_S) if late else chance.uniform(0, 0.02))
            message.ack()
        except SpoolqError:  # the lease has ended, or the server was killed
            time.sleep(0.02)


def open_when_served(url: str) -> Queue:
    """The server's queue, once there is a server."""
    while True:
        try:
            return open_queue(url)
        except SpoolqError:
            time.sleep(0.05)


def note_delivery(oracle: Oracle, message: Message, **more: Any) -> None:
    """Write down that a message came, and whether its bytes are those that were sent."""
    key, digest, rest = message.body.split(b"\n", 2)
    whole = hashlib.sha256(rest).hexdigest() == digest.decode()
    oracle.say("delivered", key.decode(), id=message.id, whole=whole, **more)


def play(stage: Stage, role: str, who: str, step: tuple[str, int] | None) -> None:
    """What a forked process does, for ever."""
    oracle = Oracle(stage, who)
    if role == "dropper":
        drop(stage, oracle, who)
    if role in {"sender", "taker"}:
        queue = open_when_served(stage.url)
    else:
        queue = SpoolQueue.open(stage.spool, files=_dying(oracle, *step) if step else None)
    if role in {"producer", "sender"}:
        produce(queue, oracle, who)
    consume(queue, oracle, lease_s=LEASE_S if role in {"leaser", "taker"} else None)


NOTE_BY_SHELL = r"""
key=$(head -n 1 "$1"); digest=$(sed -n 2p "$1"); whole=false
[ "$(tail -n +3 "$1" | sha256sum | cut -d ' ' -f 1)" = "$digest" ] && whole=true
at=$(date +%s.%N)
printf '{"event":"delivered","key":"%s","who":"%s","at_s":%s,"id":"%s","whole":%s}\n' \
    "$key" "$WHO" "$at" "$SPOOLQ_ID" "$whole" >> "$ORACLE/$WHO.jsonl"
"""


# The director ---------------------------------------------------------------------


@dataclass
class Actor:
    """A process that will be killed. step: before which it kills itself, if not at random."""

    role: str
    who: str
    pid: int
    dies_at_s: float
    step: tuple[str, int] | None = None


@dataclass
class Kills:
    """Who was killed, when, and how."""

    died_at_s: dict[str, float] = field(default_factory=dict)
    by_role: Counter[str] = field(default_factory=Counter)
    at_steps: Counter[str] = field(default_factory=Counter)


class Director:
    """Keeps everybody on stage, and kills them."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self.kills = Kills()
        self._stage = stage
        self._chance = chance
        self._number = 0
        self._alive: dict[str, int] = {}

    def run(self, seconds: float) -> None:
        """Until so many seconds are over; nobody lives afterwards."""
        ends_s = time.monotonic() + seconds
        actors = [self._start(role) for role in CAST]
        try:
            while time.monotonic() < ends_s:
                actors = [self._look(actor) for actor in actors]
                time.sleep(0.01)
        finally:
            for who, pid in self._alive.items():
                self._kill(who, pid)
                os.waitpid(pid, 0)

    def _look(self, actor: Actor) -> Actor:
        """The actor, or the one that takes its place."""
        if time.monotonic() >= actor.dies_at_s:
            self._kill(actor.who, actor.pid)
            _, status = os.waitpid(actor.pid, 0)
        else:
            pid, status = os.waitpid(actor.pid, os.WNOHANG)
            if not pid:
                return actor
        del self._alive[actor.who]
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"{actor.who} ended by itself, with status {os.waitstatus_to_exitcode(status)}")
        self.kills.by_role[actor.role] += 1
        if actor.step and actor.who not in self.kills.died_at_s:  # its own record says when
            self.kills.at_steps[actor.step[0]] += 1
        return self._start(actor.role)

    def _kill(self, who: str, pid: int) -> None:
        self.kills.died_at_s[who] = time.time()
        os.kill(pid, signal.SIGKILL)

    def _start(self, role: str) -> Actor:
        self._number += 1
        who = f"{role}-{self._number}"
        steps = STEPS.get(role)
        step = None
        if steps and self._chance.random() < 0.5:
            step = (self._chance.choice(steps), self._chance.randint(1, 12))
        life_s = self._chance.uniform(*LIFE_S.get(role, (0.1, 1.5)))
        pid = self._spawn(role, who) if role in {"server", "worker"} else self._fork(role, who, step)
        self._alive[who] = pid
        return Actor(role, who, pid, time.monotonic() + life_s, step)

    def _fork(self, role: str, who: str, step: tuple[str, int] | None) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            play(self._stage, role, who, step)
        except BaseException as error:
            print(f"{who}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    def _spawn(self, role: str, who: str) -> int:
        spoolq = [sys.executable, "-m", "spoolq"]
        if role == "server":
            argv = [*spoolq, "serve", "--port", str(self._stage.port), "--no-access-log"]
        else:
            argv = [*spoolq, "work", "-c", "2", "--", "sh", "-c", NOTE_BY_SHELL, "note", "{}"]
        environ = os.environ | {"SPOOLQ_SPOOL": str(self._stage.spool), "WHO": who, "ORACLE": str(self._stage.oracle)}
        log = (self._stage.oracle / f"{role}.log").open("ab")
        return subprocess.Popen(argv, env=environ, stdout=log, stderr=log).pid


# The judge ------------------------------------------------------------------------


@dataclass
class Verdict:
    """What became of everything."""

    figures: dict[str, int]
    faults: dict[str, list[str]]

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.faults.values())


def drain(stage: Stage) -> list[str]:
    """Deliver what is left, by a consumer that nobody kills; what `check` finds wrong then."""
    oracle = Oracle(stage, "last")
    with open_queue(stage.spool) as queue:
        while True:
            message = queue.dequeue(wait_s=1)
            if message:
                note_delivery(oracle, message)
                message.ack()
                continue
            stats = queue.stats()
            if not stats.ready + stats.scheduled + stats.claimed:
                return [problem.what for problem in queue.check() if problem.kind != "dead_holder"]


def judge(stage: Stage, kills: Kills, wrong: list[str]) -> Verdict:
    """Compare what was confirmed with what was delivered, and each repetition with the reasons there may be."""
    lines = [json.loads(line) for path in stage.oracle.glob("*.jsonl") for line in path.read_text().splitlines()]
    confirmed = {line["key"] for line in lines if line["event"] == "confirmed"}
    deliveries: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in sorted((line for line in lines if line["event"] == "delivered"), key=lambda line: line["at_s"]):
        deliveries[line["key"]].append(line)
    with open_queue(stage.spool) as queue:
        done = _ids(queue)
    repeated = [pair for each in deliveries.values() for pair in pairwise(each)]
    deaths = kills.died_at_s | {line["who"]: line["at_s"] for line in lines if line["event"] == "died"}
    died = [pair for pair in repeated if deaths.get(pair[0]["who"], NEVER_S) <= pair[1]["at_s"]]
    ended = [
        pair for pair in repeated if pair not in died and (pair[0].get("lease_until_s") or NEVER_S) <= pair[1]["at_s"]
    ]
    return Verdict(
        {
            "confirmed": len(confirmed),
            "delivered": sum(map(len, deliveries.values())),
            "redelivered after a death": len(died),
            "redelivered after a lease had ended": len(ended),
        },
        {
            "lost": sorted(key for key in confirmed if not done & {line["id"] for line in deliveries[key]}),
            "delivered twice without a reason": [a["key"] for a, b in repeated if (a, b) not in died + ended],
            "sent once, and became two messages": [
                key for key, each in deliveries.items() if len({line["id"] for line in each}) > 1
            ],
            "damaged": [key for key, each in deliveries.items() if not all(line["whole"] for line in each)],
            "found wrong by check": wrong,
        },
    )


def _ids(queue: Queue) -> set[str]:
    """Every message in done/."""
    found: set[str] = set()
    cursor = None
    while True:
        page = queue.list("done", limit=1000, cursor=cursor)
        found |= {each.id for each in page.messages}
        cursor = page.cursor
        if cursor is None:
            return found


def report(verdict: Verdict, kills: Kills, seconds: float, say: Callable[[str], object]) -> None:
    """The table."""
    say(f"| in {seconds:g} s | |\n|---|---|")
    for role, count in sorted(kills.by_role.items()):
        say(f"| kills of a {role} | {count} |")
    say(f"| kills, all | {kills.by_role.total()} |")
    say(f"| of these at a chosen step | {kills.at_steps.total()}: "
        + ", ".join(f"{step} {count}" for step, count in kills.at_steps.most_common()) + " |")  # fmt: skip
    for what, count in verdict.figures.items():
        say(f"| {what} | {count} |")
    for what, keys in verdict.faults.items():
        say(f"| {what} | {len(keys)}{': ' + ', '.join(keys[:5]) if keys else ''} |")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run as a program."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--seconds", type=float, default=60)
    reader.add_argument("--seed", type=int, default=None, help="who dies when; the machine adds its own chance")
    reader.add_argument("--save", type=Path, metavar="FILE", help="write the table there too, as a page")
    asked = reader.parse_args()
    with tempfile.TemporaryDirectory(prefix="spoolq-crash-") as directory:
        stage = Stage(Path(directory, "spool"), Path(directory, "oracle"), _free_port())
        stage.oracle.mkdir()
        with open_queue(stage.spool) as queue:
            queue.change_settings(replace(queue.stored_settings(), max_attempts=1000))
        director = Director(stage, random.Random(asked.seed))
        director.run(asked.seconds)
        verdict = judge(stage, director.kills, drain(stage))
        lines: list[str] = []
        report(verdict, director.kills, asked.seconds, lines.append)
        print("\n".join(lines))
        if asked.save:
            head = f"# Killed under load\n\n`python scripts/simulate_crash.py --seconds {asked.seconds:g}`\n\n"
            asked.save.write_text(head + "\n".join(lines) + "\n")
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
