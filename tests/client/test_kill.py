"""A real server, killed under its clients: nothing that was confirmed is lost, nothing is done twice."""

import signal
import threading
from collections import Counter

import pytest

from spoolq.client import open_queue
from spoolq.errors import StorageError, TryAgain
from tests.helpers import wait_for
from tests.reliability.figures import count, report
from tests.web.conftest import Process

KILLS = count(3, 50)
MESSAGES = 20 * KILLS
LEASE_S = 15


@pytest.fixture
def server(spool, tmp_path):
    """`spoolq serve` as a process."""
    server = Process(spool, log=tmp_path / "serve.log")
    yield server
    server.end(signal.SIGKILL)
    server.http.close()


def insist(act):
    """Again, until there is an answer: as a program does that knows what may be repeated."""
    while True:
        try:
            return act()
        except (StorageError, TryAgain):
            threading.Event().wait(0.02)


@pytest.mark.timeout(120 + 20 * KILLS)
def test_kill_server_under_a_producer_and_a_consumer(server):
    """With keys each message is enqueued once; a claim whose answer was lost is answered again.

    A claim that was killed between its rename and its row is not always: it comes back when its lease ends.
    """
    sent: list[str] = []
    taken: list[tuple[str, int]] = []

    def produce(queue):
        for number in range(MESSAGES):
            message_id = insist(lambda: queue.enqueue(b"x" * 1000 * number, dedup_key=f"key {number}"))  # noqa: B023
            sent.append(message_id)

    def consume(queue):
        while len(taken) < MESSAGES:
            message = insist(lambda: queue.dequeue(wait_s=0.5, lease_s=LEASE_S))
            if message is not None:
                taken.append((message.id, message.attempts))
                insist(message.ack)

    with open_queue(server.url) as queue, open_queue(server.url) as other:
        threads = [
            threading.Thread(target=produce, args=(queue,)),
            threading.Thread(target=consume, args=(other,)),
        ]
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            wait_for(lambda: len(taken) >= kill * MESSAGES // (KILLS + 1), 30)  # noqa: B023
            server.end(signal.SIGKILL)
            server.start()
        for thread in threads:
            thread.join(60 + 2 * KILLS)
            assert not thread.is_alive(), (len(sent), len(taken), queue.list("claimed"))
        assert len(set(sent)) == MESSAGES
        assert Counter(message_id for message_id, _ in taken) == Counter(sent)
        assert [attempts for _, attempts in taken].count(1) >= MESSAGES - KILLS
        report("REST", kills=KILLS, confirmed=len(set(sent)), acknowledged=len(taken), lost=0)
        assert (queue.stats().done, queue.stats().ready, queue.stats().claimed) == (MESSAGES, 0, 0)
