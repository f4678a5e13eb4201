"""The programs in scripts/: each does what it says, and the two that judge the queue can say no."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spoolq import open_queue

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(spool: Path) -> Run:
    """Run a script, on the test's spool unless it is given another one."""

    def runs(script: str, *arguments: str, text: str = "", limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(ROOT / "scripts" / script), *arguments]
        environ = {"SPOOLQ_SPOOL": str(spool), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            argv, input=text, env=environ, capture_output=True, text=True, check=False, timeout=limit_s
        )

    return runs


def test_setup_makes_the_spool_with_all_directories_on_the_way(run, tmp_path):
    """And leaves one that is there as it is; --rebuild makes the index anew."""
    spool = tmp_path / "not" / "there" / "yet"
    assert run("setup_db.py", str(spool), "--queue", "emails").returncode == 0
    with open_queue(spool, queue="emails", create=False) as queue:
        queue.enqueue(b"x")
    (spool / "queues" / "emails" / "index.db").unlink()
    again = run("setup_db.py", str(spool), "--queue", "emails", "--rebuild")
    assert "was a spool already" in again.stdout
    assert "emails: 1 messages indexed" in again.stdout


def test_setup_refuses_what_is_no_spool(run, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    ran = run("setup_db.py", str(tmp_path))
    assert ran.returncode == 1
    assert "setup_db.py: " in ran.stderr
    assert "Traceback" not in ran.stderr


def test_what_the_producer_sends_the_consumer_describes(run, tmp_path):
    """Lines, files and samples; size, type, lines and digest of each."""
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    assert len(run("producer.py", "--lines", text="one\ntwo\n").stdout.split()) == 2
    assert run("producer.py", "--files", str(table)).returncode == 0
    assert run("producer.py", "--rate", "1000", "--count", "3").stdout == "enqueued 3 messages\n"
    told = run("consumer.py", "--drain").stdout
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert f"table.csv: 8 bytes, text/csv, 2 lines, sha256 {digest}\n" in told
    assert hashlib.sha256(b"two").hexdigest() in told
    assert len(told.splitlines()) == 6
    assert told.count("text/plain") == 3


def test_cleanup_says_what_it_would_delete_and_then_does(run, spool, open_queue):
    queue = open_queue()
    queue.enqueue(b"x")
    message = queue.dequeue()
    message.ack()
    (spool / "queue.toml").write_text("[retention]\ndone_s = 0.001\n")
    assert run("cleanup.py", "--dry-run").stdout == "default: 1 done, 1 done_bytes to delete\n"
    assert queue.stats().done == 1
    assert run("cleanup.py").stdout == "default: 1 done, 1 done_bytes deleted\n"
    assert queue.stats().done == 0


# The two that judge ---------------------------------------------------------------


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_ten_seconds_of_kills_lose_nothing(run):
    """The real thing, for a sixth of a minute: dozens of kills, and a good verdict."""
    ran = run("simulate_crash.py", "--seconds", "10")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = dict(line.strip("| ").split(" | ") for line in ran.stdout.splitlines()[2:])
    assert int(figures["kills, all"]) >= 20
    assert int(figures["confirmed"]) >= 100
    assert figures["lost"] == figures["delivered twice without a reason"] == "0"


Event = dict[str, Any]


def delivered(key: str, who: str, at_s: float, id: str, **more: Any) -> Event:
    return {"event": "delivered", "key": key, "who": who, "at_s": at_s, "id": id, "whole": True} | more


def confirmed(key: str) -> Event:
    return {"event": "confirmed", "key": key, "who": "producer-1", "at_s": 0.0}


def verdict(spool: Path, tmp_path: Path, events: Callable[[str], list[Event]]) -> dict[str, int]:
    """What the crash simulation says of a spool with one message in done/, and of these events."""
    crash = load("simulate_crash")
    with open_queue(spool) as queue:
        id = queue.enqueue(b"x")
        queue.dequeue().ack()
    (tmp_path / "oracle").mkdir()
    (tmp_path / "oracle" / "all.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events(id)))
    kills = crash.Kills()
    kills.died_at_s["consumer-1"] = 5.0
    judged = crash.judge(crash.Stage(spool, tmp_path / "oracle", 0), kills, [])
    assert judged.is_good == (not any(judged.faults.values()))
    return judged.figures | {what: len(keys) for what, keys in judged.faults.items()}


@pytest.mark.parametrize(
    ("events", "what", "count"),
    [
        (lambda id: [confirmed("a"), delivered("a", "consumer-2", 1, id)], "lost", 0),
        (lambda _: [confirmed("a")], "lost", 1),
        (lambda _: [confirmed("a"), delivered("a", "consumer-2", 1, "another")], "lost", 1),
        (
            lambda id: [delivered("a", "consumer-1", 4, id), delivered("a", "consumer-2", 6, id)],
            "redelivered after a death",
            1,
        ),
        # The first one died only after the second had it.
        (
            lambda id: [delivered("a", "consumer-1", 3, id), delivered("a", "consumer-2", 4, id)],
            "delivered twice without a reason",
            1,
        ),
        (
            lambda id: [delivered("a", "x", 1, id, lease_until_s=2), delivered("a", "y", 3, id)],
            "redelivered after a lease had ended",
            1,
        ),
        (
            lambda id: [delivered("a", "x", 1, id, lease_until_s=9), delivered("a", "y", 3, id)],
            "delivered twice without a reason",
            1,
        ),
        (lambda id: [delivered("a", "x", 1, id, whole=False)], "damaged", 1),
        (
            lambda id: [delivered("a", "x", 1, id), delivered("a", "y", 2, "b")],
            "sent once, and became two messages",
            1,
        ),
    ],
)
def test_the_judge_of_the_simulation_finds(spool, tmp_path, events, what, count):
    """Each fault it looks for, in a made-up history that has it."""
    assert verdict(spool, tmp_path, events)[what] == count


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_minute_of_the_soak_loses_nothing_and_nothing_grows(run, tmp_path):
    """`make soak` lasts half an hour: the figures of that are in docs/benchmarks/soak.md. The limit is the same 5 %."""
    page = tmp_path / "soak.md"
    ran = run("soak.py", "--seconds", "60", "--save", str(page), limit_s=140)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = page.read_text()
    assert "| lost | 0 |" in text
    for name in ("api", "watch", "consumer_01", "cleanup", "ops_console", "admin_console", "supervisord"):
        assert f"| {name} | " in text


def test_the_judge_of_the_soak_finds_what_grows_and_what_is_lost(tmp_path):
    soak = load("soak")
    record = tmp_path / "record"
    record.write_text("message-1\nmessage-1\n")

    def told(rss_mb: list[float], sent: set[str]) -> bool:
        made = soak.Soak.__new__(soak.Soak)
        made.confirmed, made.kills = sent, 1
        made.watched = {"api": soak.Watched(1, rss_mb, [10] * len(rss_mb))}
        return bool(soak.report(made, record, 10, 5)[1])

    assert told([50.0] * 10, {"message-1"})
    assert not told([50.0] * 10, {"message-1", "message-2"})
    assert not told([50.0 + n for n in range(10)], {"message-1"})
