"""A spool as the outbox of a database, with real processes: kills, and a target that goes away."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spoolq import open_queue as open_any
from spoolq.relay import WINDOW_S
from tests.helpers import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def target(queue):
    queue.change_settings(replace(queue.settings, dedup_window_s=WINDOW_S))
    return queue


@pytest.fixture
def relay(dsn, spool):
    """Start `spoolq relay`; killed at the end."""
    started = []

    def start(*options):
        argv = [sys.executable, "-m", "spoolq", "relay", str(spool), dsn, *options]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.timeout(200)
def test_killed_again_and_again_each_arrives_once_and_in_order(relay, target, spool):
    """400 messages in four groups, the relay killed at any point; exactly these arrive."""
    chance = random.Random(7)
    with open_any(spool) as source:
        source.change_settings(replace(source.settings, max_attempts=1000))
        sent = []
        for number in range(400):
            body = b"%03d" % number
            sent.append(body)
            source.enqueue(body, group=f"g{number % 4}" if number % 2 else None)
        kills = 0
        while source.stats().done < 400:
            process = relay("--batch", "7")
            before = source.stats().done
            wait_for(lambda before=before: source.stats().done > before + chance.randrange(60), 60)
            process.send_signal(signal.SIGKILL)
            process.wait()
            source.maintain()
            kills += source.stats().done < 400
        assert kills >= 3
    arrived = []
    while messages := target.dequeue_many(100):
        arrived += [(message.group, message.body) for message in messages]
        target.acknowledge_many([message.receipt for message in messages])
    assert sorted(body for _, body in arrived) == sent
    for group in ("g1", "g3"):
        of_group = [body for each, body in arrived if each == group]
        assert of_group == sorted(of_group)


def test_figures_are_kept_for_prometheus(relay, target, spool, tmp_path):
    """Backlog and lag in a file that is never half written."""
    with open_any(spool) as source:
        source.enqueue_many([b"x"] * 5)
        process = relay("--metrics", str(tmp_path / "relay.prom"))
        wait_for(lambda: source.stats().done == 5, 30)
        wait_for((tmp_path / "relay.prom").exists, 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    text = (tmp_path / "relay.prom").read_text()
    assert "spoolq_relay_sent_total" in text
    assert "} 0\n" in text
    assert target.stats().ready == 5
