"""What a body of 100 MiB costs those who carry it, in memory: peaks of fresh processes, as the kernel counts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres.web import serving

MIB = 1 << 20
SIZE = 100 * MIB

# VmHWM, since ru_maxrss begins at what the process had that forked this one: pytest.
CARRIER = """
import json, sys, spoolq
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
empty = peak()
url, sent, received = sys.argv[1:]
with spoolq.open_queue(url) as queue:
    queue.enqueue_file(sent)
    message = queue.dequeue(wait_s=20)
    with message.open() as body, open(received, "wb") as file:
        while piece := body.read(1 << 20):
            file.write(piece)
    message.ack()
print(json.dumps([empty, peak()]))
"""


def carried(url: str, home: Path, environ: dict[str, str]) -> int:
    """Enqueue a file and read it back, in a process of its own; by how much its peak is over that of an empty one."""
    words = [sys.executable, "-c", CARRIER, url, str(home / "sent"), str(home / "received")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environ)
    empty, peak = json.loads(done.stdout)
    return peak - empty


def peak_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def home(fast_path):
    """With 100 MiB to send."""
    block = os.urandom(MIB)
    with open(fast_path / "sent", "wb") as file:
        file.writelines(number.to_bytes(4, "big") + block[4:] for number in range(SIZE // MIB))
    return fast_path


def is_the_same(home: Path) -> bool:
    return subprocess.run(["cmp", home / "sent", home / "received"], check=False).returncode == 0


def test_100_mib_by_a_client_of_the_database(home, environ, dsn):
    """Imports and connections included, it takes less than 60 MiB more than an empty process."""
    assert carried(dsn, home, environ) < 60 * MIB
    assert is_the_same(home)


def test_100_mib_over_a_server_before_the_database(home, environ, tmp_path):
    """Neither the server nor its client has it in memory."""
    with serving(environ, tmp_path) as (url, server):
        before = peak_of(server)
        assert carried(f"{url}/queues/default", home, environ) < 60 * MIB
        assert is_the_same(home)
        assert peak_of(server) - before < 40 * MIB
