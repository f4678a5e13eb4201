"""The primary of three nodes is killed under load, and a standby takes its place: nothing acknowledged is lost.

One failover; SPOOLQ_PROOF=full makes it five.
"""

import itertools
import json
import os
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg
import pytest

from spoolq import open_queue
from spoolq.errors import LeaseLost, SpoolqError
from spoolq.postgres import create_queue, init
from spoolq.settings import Settings
from tests.helpers import wait_for
from tests.postgres.cluster import three_nodes
from tests.postgres_server import running

KILLS = 5 if os.environ.get("SPOOLQ_PROOF") == "full" else 1
PRODUCERS, WORKERS = 2, 3


@dataclass
class Load:
    """What producers and workers were told. sent, acknowledged: calls that returned; refused: those that raised."""

    url: str
    sent: list[tuple[str, float]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    ending: threading.Event = field(default_factory=threading.Event)
    drained: threading.Event = field(default_factory=threading.Event)

    def produce(self) -> None:
        with open_queue(self.url) as queue:
            while not self.ending.wait(0.002):
                try:
                    self.sent.append((queue.enqueue(b"x" * 200), time.monotonic()))
                except SpoolqError:
                    self.refused += 1

    def work(self) -> None:
        with open_queue(self.url) as queue:
            while not self.drained.is_set():
                try:
                    message = queue.dequeue(wait_s=0.5)
                    if message is not None:
                        message.ack()
                        self.acknowledged.append(message.id)
                except SpoolqError:
                    self.refused += 1


def _stale_acknowledge_is_refused(queue, fail_over):
    """A claim whose lease ended during the failover; its message is another's by then."""
    queue.enqueue(b"held")
    stale = queue.dequeue(lease_s=0.5)
    fail_over()
    found = []
    wait_for(lambda: found.append(queue.dequeue(wait_s=1)) or found[-1] is not None, 30)
    with pytest.raises(LeaseLost):
        queue.acknowledge(stale.receipt)
    found[-1].ack()


@pytest.mark.timeout(600)
def test_the_primary_is_killed_under_load():
    """What a producer or a worker was told is so afterwards, and no stale acknowledge is taken."""
    with three_nodes() as cluster:
        url = cluster.url()
        init(url)
        create_queue(url, "held").close()
        with open_queue(url) as queue:
            queue.change_settings(Settings(lease_s=5, max_attempts=1000))
        load = Load(url)
        threads = [threading.Thread(target=load.produce) for _ in range(PRODUCERS)]
        threads += [threading.Thread(target=load.work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        pauses = []
        try:
            with open_queue(url, queue="held") as held:
                for _ in range(KILLS):
                    before = len(load.sent)
                    wait_for(lambda: len(load.sent) >= before + 100, 60)  # noqa: B023
                    _stale_acknowledge_is_refused(held, cluster.fail_over)
                    after = len(load.sent)
                    wait_for(lambda: len(load.sent) >= after + 100, 60)  # noqa: B023
                    times = [at for _, at in load.sent[before:]]
                    pauses.append(max(late - early for early, late in itertools.pairwise(times)))
            load.ending.set()
            with open_queue(url) as queue:
                wait_for(lambda: (stats := queue.stats()).ready + stats.claimed + stats.scheduled == 0, 60)
                load.drained.set()
                for thread in threads:
                    thread.join()
                lost = [id for id, _ in load.sent if queue.get(id).state != "done"]
                undone = [id for id in load.acknowledged if queue.get(id).state != "done"]
                assert queue.check() == []
        finally:
            load.ending.set()
            load.drained.set()
    assert lost == []
    assert undone == []
    assert len(set(load.acknowledged)) == len(load.acknowledged)
    figures = {
        "failovers": KILLS, "enqueued": len(load.sent), "acknowledged": len(load.acknowledged), "lost": len(lost),
        "calls that failed": load.refused, "seconds without an enqueue": round(sum(pauses), 1),
    }  # fmt: skip
    print(figures)
    if os.environ.get("SPOOLQ_PROOF_FIGURES"):
        with open(os.environ["SPOOLQ_PROOF_FIGURES"], "a") as file:
            file.write(json.dumps({"suite": "PostgreSQL", "figures": figures}) + "\n")


def test_without_a_standby_every_change_waits():
    """Nobody is told of a message that only the primary has; who looks is answered. Back again, all goes on."""
    with running() as server, psycopg.connect(server.dsn(), autocommit=True) as admin, ExitStack() as stack:
        queue = stack.enter_context(open_queue(f"{server.dsn()}?options=-csynchronous_commit%3Don"))
        queue.stats()
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (two, three)'")
        admin.execute("SELECT pg_reload_conf()")
        told = []
        producing = threading.Thread(target=lambda: told.append(queue.enqueue(b"x")))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        try:
            wait_for(lambda: admin.execute("SHOW synchronous_standby_names").fetchone() != ("",))
            producing.start()
            wait_for(lambda: admin.execute(waiting).fetchone() == (1,))
            assert queue.stats().ready == 0
            assert told == []
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
            producing.join(30)
        assert [message.id for message in [queue.dequeue()]] == told
