"""A real supervisord with everything, as an unprivileged user, in a path with spaces, with a home that is read-only.

One stack for all of these tests; they go in the order of its day, and the last one ends it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spoolq import Queue, open_queue
from spoolq.errors import SpoolqError
from spoolq.stack.programs import Program, is_healthy
from spoolq.stack.running import Running, own_ports, running
from tests.conftest import check_spool
from tests.helpers import wait_for
from tests.stack.helpers import Person, descendants, lives, unprivileged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROGRAMS = {"admin_console", "api", "cleanup", "consumer:consumer_00", "events", "ops_console", "watch"}
GRACE_S = 2
# A message named "wait" takes until the file "go" is there; every other one is quick.
CONF = """[program:consumer]
command="{python}" -P -m spoolq work -- sh -c 'case $SPOOLQ_NAME in wait) while [ ! -e go ]; do sleep 0.02; done; esac'
startsecs=1
"""
QUICK = "".join(f"[program:{name}]\nstartsecs=1\n" for name in ("api", "ops_console", "admin_console"))


@dataclass
class Stack:
    """The one that all tests here share."""

    running: Running
    spool: Path
    person: Person

    def program(self, label: str) -> Program:
        return next(each for each in self.running.programs.all() if each.label == label)

    def queue(self) -> Queue:
        """Over REST: what this process made on the disk would be its own, not that person's."""
        return open_queue(self.running.addresses["api"])

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.spool / "logs" / "events.log").read_text().splitlines()]

    def control(self, action: str, label: str) -> None:
        """As supervisorctl does it; returns when it is done."""
        proxy = self.running.programs
        if action in {"stop", "restart"}:
            proxy.stop(label)
        if action in {"start", "restart"}:
            proxy.start(label)

    def wait_running(self, label: str, *, other_than: int, limit_s: float = 30) -> Program:
        """Until it runs as another process than before, and answers."""

        def back() -> Program | None:
            found = self.program(label)
            url = self.running.addresses.get(found.name)
            path = "/healthz" if found.name == "api" else "/_stcore/health"
            good = found.state == "RUNNING" and found.pid != other_than and (not url or is_healthy(url + path))
            return found if good else None

        return wait_for(back, limit_s)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with unprivileged() as person:
        spool = person.room / "my spool"
        with open_queue(spool):
            pass
        (spool / "supervisord.local.conf").write_text(CONF.format(python=person.python[-1]) + QUICK)
        for path in [spool, *spool.rglob("*")]:
            os.chown(path, person.uid, person.uid)
        environ = person.environ | own_ports() | {"SPOOLQ_GRACE_S": str(GRACE_S)}
        with running(spool, environ, python=person.python) as found:
            yield Stack(found, spool, person)


def test_everything_runs_and_is_healthy(stack):
    """`spoolq up` has said so; the programs say it themselves, and belong to nobody else."""
    running_now = {each.label: each for each in stack.running.programs.all() if each.state == "RUNNING"}
    assert running_now.keys() == PROGRAMS
    assert {stack.program(off).state for off in ("producer", "relay")} == {"STOPPED"}
    for each in running_now.values():
        assert os.stat(f"/proc/{each.pid}").st_uid == stack.person.uid, each.label
    for name, url in stack.running.addresses.items():
        assert url in stack.running.said
        assert is_healthy(url + ("/healthz" if name == "api" else "/_stcore/health")), name
    assert list(Path(stack.person.environ["HOME"]).iterdir()) == []


def test_the_socket_is_for_its_user_alone(stack):
    """Whoever may connect to it may start anything as this user."""
    socket = stack.spool / "logs" / "supervisor.sock"
    assert socket.stat().st_mode & 0o777 == 0o700
    assert (stack.spool / "logs").stat().st_mode & 0o077 == 0


def test_each_program_stops_starts_and_restarts(stack):
    """By supervisord's own interface, all at once, to save time; the others go on."""

    def one(label: str) -> tuple[str, int, int, int]:
        first = stack.program(label).pid
        stack.control("stop", label)
        assert stack.program(label).state == "STOPPED"
        stack.control("start", label)
        second = stack.program(label).pid
        stack.control("restart", label)
        return label, first, second, stack.program(label).pid

    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        for label, *pids in pool.map(one, sorted(PROGRAMS)):
            assert len(set(pids)) == 3, label
            stack.wait_running(label, other_than=0)


def test_each_program_that_is_killed_comes_back(stack):
    """Within its back-off: the first one is a second. The listener, itself killed too, writes each down."""
    before = {label: stack.program(label).pid for label in sorted(PROGRAMS)}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for label, pid in before.items():
        stack.wait_running(label, other_than=pid)

    def crashed() -> bool:
        found = {event["program"] for event in stack.events() if event["what"] == "crashed"}
        return {label.partition(":")[2] or label for label in PROGRAMS} - {"events"} <= found

    wait_for(crashed)


def test_a_message_in_hand_is_finished_and_not_repeated(stack):
    """`stop consumer` waits for it; after `start` it does not come again."""
    go = stack.spool / "go"
    with stack.queue() as queue:
        id = queue.enqueue(b"x", name="wait")
        wait_for(lambda: queue.get(id).state == "claimed")
        stopping = threading.Thread(target=stack.control, args=("stop", "consumer:consumer_00"))
        stopping.start()
        wait_for(lambda: stack.program("consumer:consumer_00").state == "STOPPING")
        go.touch()
        stopping.join(20)
        assert (queue.get(id).state, queue.get(id).attempts) == ("done", 1)
        stack.control("start", "consumer:consumer_00")
        other = queue.enqueue(b"y")
        wait_for(lambda: queue.get(other).state == "done")
        assert (queue.get(id).state, queue.get(id).attempts) == ("done", 1)
    go.unlink()


def test_a_long_message_is_given_back_uncounted_within_the_grace(stack):
    """Supervisord does not have to kill: its stopwaitsecs is longer than the worker's grace."""
    with stack.queue() as queue:
        id = queue.enqueue(b"x", name="wait")
        wait_for(lambda: queue.get(id).state == "claimed")
        stack.control("stop", "consumer:consumer_00")
        found = queue.get(id)
        assert (found.state, found.attempts) == ("ready", 0)
        assert "worker.ending" in (stack.spool / "logs" / "consumer_00.log").read_text()
        (stack.spool / "go").touch()
        stack.control("start", "consumer:consumer_00")
        wait_for(lambda: queue.get(id).state == "done")
        assert queue.get(id).attempts == 1
    assert stack.program("consumer:consumer_00").state == "RUNNING"


def test_shutdown_under_load_loses_nothing_and_leaves_no_process(stack):
    """TERM to `spoolq up`, while messages come over REST: what was confirmed is there, and all have ended."""
    confirmed: list[str] = []
    stop = threading.Event()

    def send() -> None:
        with stack.queue() as queue:
            while not stop.is_set():
                try:
                    confirmed.append(queue.enqueue(b"x" * 1000))
                except SpoolqError:  # the server has gone: it was not confirmed
                    return

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    wait_for(lambda: len(confirmed) > 100, 30)
    supervisord = stack.running.programs.pid()
    pids = descendants(stack.running.process.pid) | {stack.running.process.pid}
    assert supervisord in pids
    assert {each.pid for each in stack.running.programs.all() if each.pid} <= pids
    assert stack.running.stop() == 0
    stop.set()
    for sender in senders:
        sender.join(30)
    wait_for(lambda: not any(map(lives, pids)))
    check_spool(stack.spool)
    with open_queue(stack.spool) as queue:
        states = {queue.get(id).state for id in confirmed}
    assert states <= {"ready", "done"}
    assert list((stack.spool / "logs").glob("*.sock")) == []
