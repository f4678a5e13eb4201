"""A spool as the outbox of a database, with real processes: kills, and a target that goes away."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spoolq import open_queue as open_any
from spoolq.relay import WINDOW_S
from tests.helpers import needs, wait_for
from tests.postgres_server import binaries
from tests.relay_storm import plan, storm
from tests.reliability.figures import report

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_storm_of_kills_and_outages(tmp_path):
    """Exactly what was sent arrives in the database, each once, in order within its group; the outage counts nothing.

    A short form; `make proof` and `python -m tests.relay_storm` have the long one.
    """
    needs(binaries() is not None, "PostgreSQL's initdb (apt-get install postgresql)")
    outcome = storm("postgresql", plan(noticed=False), tmp_path)
    report("relay", target=outcome.target, **outcome.figures, **outcome.faults)
    assert not any(outcome.faults.values()), outcome


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
