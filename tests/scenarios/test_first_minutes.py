"""What a stranger does in the first minutes, with the commands of the README and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolq.spool.queue import SpoolQueue
from tests.conftest import check_spool
from tests.helpers import names, wait_for

SPOOLQ = (sys.executable, "-m", "spoolq")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A spool on the disk; checked at the end."""
    path = tmp_path / "spool"
    SpoolQueue.open(path).close()
    yield path
    check_spool(path)


@pytest.fixture
def spoolq(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command on the spool to its end."""

    def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "SPOOLQ_SPOOL": str(root)}
        return subprocess.run(
            [*SPOOLQ, *arguments], input=text, capture_output=True, text=True, env=environ, check=False
        )

    return run


@pytest.fixture
def started(root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command on the spool; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "SPOOLQ_SPOOL": str(root)}
        process = subprocess.Popen([*SPOOLQ, *arguments], stdout=subprocess.PIPE, text=True, env=environ)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=30)


def _objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_three_real_files_are_dropped_and_digested(root, started, tmp_path):
    """Text, 50 MB of bytes, and a name with spaces and UTF-8: three right digests, three files in done/."""
    bodies = {
        "notes.txt": b"the first line\n" * 40,
        "large.bin": os.urandom(50 << 20),
        "My résumé (final) 終.pdf": b"%PDF-1.7\n\xff\xfe",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    started("watch")
    worker = started("work", "--", "sha256sum")
    for name in bodies:
        subprocess.run(["cp", str(tmp_path / name), str(root / "new")], check=True)
    wait_for(lambda: len(names(root, "done")) == 3, 60)
    worker.send_signal(signal.SIGTERM)
    out, _ = worker.communicate(timeout=30)
    wanted = sorted(hashlib.sha256(body).hexdigest() for body in bodies.values())
    assert sorted(line.split()[0] for line in out.splitlines()) == wanted


def test_a_consumer_past_its_lease_is_refused_and_the_new_one_is_not(root, spoolq):
    """Exit 4 for the late acknowledge; the new holder's works, twice."""
    spoolq("put", "--name", "job", text="work")
    first = _objects(spoolq("get", "--lease", "0.3", "--json").stdout)[0]
    second = _objects(spoolq("get", "--wait", "20", "--lease", "60", "--json").stdout)[0]
    assert (second["id"], second["attempts"], second["body"]) == (first["id"], 2, "work")
    late = spoolq("ack", first["receipt"])
    assert late.returncode == 4
    assert "has ended" in late.stderr
    assert [spoolq("ack", second["receipt"]).returncode for _ in range(2)] == [0, 0]
    assert len(names(root, "done")) == 1


def test_a_failing_command_ends_in_dead_and_is_redriven(root, spoolq):
    """Each attempt with its exit status and standard error; redrive by reason, counted first, then done."""
    (root / "queue.toml").write_text("max_attempts = 3\n[retry]\nbase_s = 0\n")
    spoolq("put", "--name", "bad", text="x")
    spoolq("put", "--name", "bad", text="y")
    failing = "echo no such table >&2; exit 3"
    assert spoolq("work", "--drain", "--", "sh", "-c", failing).returncode == 0
    dead = _objects(spoolq("dead", "list", "--json").stdout)
    assert len(dead) == 2
    shown = spoolq("dead", "show", dead[0]["id"]).stdout
    assert shown.count("no such table") == 3
    reason = dead[0]["reason"]
    assert "0" in spoolq("redrive", "--reason", "nothing like it", "--dry-run").stdout.split()
    assert "2" in spoolq("redrive", "--reason", reason, "--dry-run").stdout.split()
    assert len(names(root, "dead")) == 2
    assert spoolq("redrive", "--reason", reason).returncode == 0
    assert spoolq("work", "--drain", "--", "true").returncode == 0
    assert (len(names(root, "dead")), len(names(root, "done"))) == (0, 2)


def test_hand_made_moves_are_understood(root, spoolq):
    """A person with `mv` is a client, too: claimed by hand, put back by hand, finished by hand."""
    spoolq("put", "--name", "by-hand", text="x")
    (name,) = names(root, "new")
    os.rename(root / "new" / name, root / "cur" / name)
    assert spoolq("get").returncode == 3
    os.rename(root / "cur" / name, root / "new" / name)
    assert spoolq("get", "--lease", "60").stdout == "x"
    (claimed,) = names(root, "cur")
    os.rename(root / "cur" / claimed, root / "done" / claimed)
    assert spoolq("check", "--fix").returncode in (0, 1)
    assert json.loads(spoolq("stats", "--json").stdout)["done"] == 1
