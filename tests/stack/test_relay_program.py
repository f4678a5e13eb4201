"""The program `relay` of the stack: started where it has a target, also one that is away; back after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spoolq import open_queue
from spoolq.queue import create_queue
from spoolq.relay import WINDOW_S, reports
from spoolq.stack import place, up
from spoolq.stack.running import free_ports, own_ports, running
from spoolq.stack.settings import StackSettings
from tests.helpers import wait_for
from tests.stack.helpers import OFF

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_the_relay_waits_for_its_target_and_carries_a_queue_to_it(tmp_path):
    """`spoolq up` is healthy although nobody answers there; when somebody does, the message arrives; once, though the
    relay is killed.
    """
    spool, there = tmp_path / "spool", tmp_path / "target"
    create_queue(spool, "outbox").close()
    with open_queue(there) as queue:
        queue.change_settings(replace(queue.stored_settings(), dedup_window_s=WINDOW_S))
    (spool / "supervisord.local.conf").write_text(OFF)
    (port,) = free_ports(1)
    relayed = {
        "SPOOLQ_RELAY_SOURCE": f"{spool}?queue=outbox",
        "SPOOLQ_RELAY_TARGET": f"http://127.0.0.1:{port}",
        "SPOOLQ_CONSUMERS": "0",
    }
    with running(spool, own_ports() | relayed) as stack, open_queue(spool, queue="outbox") as outbox:
        outbox.enqueue(b"hello", name="hello.txt")

        def relay():
            return next(each for each in stack.programs.all() if each.name == "relay")

        def told():
            return [each for each in reports.read(spool / "relays") if each.runs]

        assert relay().state == "RUNNING"
        wait_for(lambda: [each.is_away for each in told()] == [True])
        serve = [sys.executable, "-m", "spoolq", "serve", "--spool", str(there), "--port", str(port)]
        with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as server:
            wait_for(lambda: outbox.stats().done == 1, 30)
            pid = relay().pid
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: relay().state == "RUNNING" and relay().pid != pid, 30)
            outbox.enqueue(b"again")
            wait_for(lambda: outbox.stats().done == 2, 30)
            server.terminate()
    with open_queue(there) as queue:
        assert [message.body for message in queue.dequeue_many(10)] == [b"hello", b"again"]
    with open_queue(spool, queue="outbox") as outbox:
        assert outbox.check() == []
    assert [each.ended for each in reports.read(spool / "relays")] == [True]


@pytest.mark.parametrize(("given", "meant"), [
    ("spool?queue=outbox", "{here}/spool?queue=outbox"), ("/there", "/there"), ("http://a/b", "http://a/b"), ("", ""),
])  # fmt: skip
def test_a_path_is_from_where_up_was_run(tmp_path, monkeypatch, given, meant):
    """The programs run in the spool, where the same path would be, and make, another spool."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **options: started.append(options["env"]))
    open_queue("spool").close()
    up._start(place.of_spool(Path("spool")), StackSettings(relay_source=given, relay_target=given))
    found = [started[0].get(f"SPOOLQ_RELAY_{end}", "") for end in ("SOURCE", "TARGET")]
    assert found == [meant.format(here=tmp_path)] * 2


def test_without_a_target_it_is_not_started(tmp_path):
    """And asked to run by hand, it says what it needs."""
    ran = subprocess.run([sys.executable, "-m", "spoolq", "relay"], cwd=tmp_path, env={"PATH": os.environ["PATH"]},
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert ran.returncode == 2
    assert "SPOOLQ_RELAY_TARGET" in ran.stderr
