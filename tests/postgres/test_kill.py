"""Workers and producers on one database, killed at random: nothing is lost, nothing is acknowledged twice.

600 messages; SPOOLQ_PROOF=full makes it 20,000, with a kill a second, so that two cores have time for work as well.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from spoolq.settings import Settings
from tests.helpers import wait_for

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("SPOOLQ_PROOF") == "full"
MESSAGES, PACE_S = (20_000, 1.0) if FULL else (600, 0.3)
WORKERS, PRODUCERS = 8, 4

PRODUCER = """
import sys, spoolq
queue = spoolq.open_queue(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    print(queue.enqueue(b"%d" % number, dedup_key=str(number)), flush=True)
queue.close()
"""
# Tells of an acknowledge after it, so that what it does not tell of may have happened, and what it tells of has.
WORKER = """
import sys, spoolq
with spoolq.open_queue(sys.argv[1]) as queue:
    while True:
        message = queue.dequeue(wait_s=5)
        if message is not None:
            print("took", message.id, message.attempts, flush=True)
            try:
                message.ack()
            except spoolq.LeaseLost:
                print("lost", message.id, message.attempts, flush=True)
            else:
                print("done", message.id, message.attempts, flush=True)
"""


def start(home, name, code, *arguments):
    with open(home / name, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=output, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def told(home):
    """The whole lines of all workers; a killed one may have left half of one."""
    for path in home.glob("worker-*"):
        for line in path.read_text().split("\n")[:-1]:
            words = line.split()
            if len(words) == 3:
                yield words[0], words[1], int(words[2])


@pytest.mark.timeout(900)
def test_workers_and_producers_are_killed_at_random(open_queue, dsn, tmp_path):
    """Each message is acknowledged once; a second delivery has a death, and so an ended lease, before it."""
    chance = random.Random(11)
    queue = open_queue(Settings(lease_s=2, max_attempts=1000, dedup_window_s=3600))
    share = MESSAGES // PRODUCERS
    serial = 0
    producers = {
        number: start(tmp_path, f"producer-{number}-0", PRODUCER, dsn, number * share, (number + 1) * share)
        for number in range(PRODUCERS)
    }
    workers = [start(tmp_path, f"worker-{number}", WORKER, dsn) for number in range(WORKERS)]
    kills, ends_s = 0, time.monotonic() + 600
    try:
        while queue.stats().acknowledged_total < share * PRODUCERS:
            assert time.monotonic() < ends_s, queue.stats()
            time.sleep(PACE_S)  # the pace of the kills
            victim = chance.randrange(WORKERS)
            serial += 1
            workers[victim].send_signal(signal.SIGKILL)
            workers[victim].wait()
            workers[victim] = start(tmp_path, f"worker-{WORKERS + serial}", WORKER, dsn)
            kills += 1
            for number, producer in producers.items():
                ended = producer.poll()
                if ended is None and chance.random() < 0.05:
                    producer.send_signal(signal.SIGKILL)
                    ended = producer.wait()
                    kills += 1
                if ended not in (None, 0):  # begins anew: its keys say what is there already
                    producers[number] = start(
                        tmp_path, f"producer-{number}-{serial}", PRODUCER, dsn, number * share, (number + 1) * share
                    )
    finally:
        for process in (*workers, *producers.values()):
            process.kill()
            process.wait()
    wait_for(lambda: queue.maintain() or True)
    stats = queue.stats()
    assert (stats.done, stats.ready, stats.scheduled, stats.dead) == (share * PRODUCERS, 0, 0, 0)
    assert stats.acknowledged_total == stats.enqueued_total == share * PRODUCERS
    with psycopg.connect(dsn) as connection:
        bodies = connection.execute("SELECT convert_from(body, 'UTF8')::int FROM spoolq.messages ORDER BY 1").fetchall()
    assert [body for (body,) in bodies] == list(range(share * PRODUCERS))
    acknowledged = [(id, attempt) for word, id, attempt in told(tmp_path) if word == "done"]
    assert len({id for id, _ in acknowledged}) == len(acknowledged)
    sent = {
        line for path in tmp_path.glob("producer-*") for line in path.read_text().split("\n")[:-1] if len(line) == 36
    }
    assert sent <= {info for (info,) in _ids(dsn)}
    for info in (queue.get(id) for id, attempt in acknowledged if attempt > 1):
        assert {each.reason for each in info.history} == {"lease ended"}
    assert kills > 0
    again = sum(attempt > 1 for _, attempt in acknowledged)
    figures = {"messages": MESSAGES, "kills": kills, "delivered again": again, "lost": 0, "acknowledged twice": 0}
    print(figures)
    if os.environ.get("SPOOLQ_PROOF_FIGURES"):
        with open(os.environ["SPOOLQ_PROOF_FIGURES"], "a") as file:
            file.write(json.dumps({"suite": "PostgreSQL", "figures": figures}) + "\n")


def _ids(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT id::text FROM spoolq.messages").fetchall()
