"""Section 11 of docs/spool-format.md: its shell client, taken from there, under dash, on a queue that is in use."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from spoolq.clock import id_time_ms
from spoolq.settings import Settings, dump
from spoolq.spool.names import parse_name
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import needs, wait_for
from tests.spool_format.document import shell

DASH = shutil.which("dash")
MANY = 60


@pytest.fixture
def sh(spool, tmp_path):
    """`sh("spoolq_claim $spool")` runs in dash with the client read; what it says, and its status."""
    needs(DASH is not None, "dash")
    client = tmp_path / "client.sh"
    client.write_text(shell())

    def run(script: str, status: int = 0) -> str:
        done = subprocess.run(
            ["dash", "-euc", f". {client}\n{script}"],
            env={"PATH": os.environ["PATH"], "spool": os.fspath(spool), "home": os.fspath(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        return done.stdout.strip()

    return run


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(spool, clock):
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability="process", lease_s=600)))
    with SpoolQueue.open(spool, clock=clock) as queue:
        yield queue


def test_enqueue(queue, sh, tmp_path):
    """A file becomes a message of its name."""
    (tmp_path / "my report.txt").write_bytes(b"x\0y")
    before = time.time()
    sh('spoolq_enqueue "$spool" "$home/my report.txt"')
    (name,) = os.listdir(queue._directory.new)
    assert parse_name(name) is not None
    assert before - 1 <= id_time_ms(name[:36]) / 1000 <= time.time()
    message = queue.dequeue()
    assert (message.body, message.name) == (b"x\0y", "my_report.txt")
    assert os.listdir(queue._directory.tmp) == []


def test_claim_and_acknowledge(queue, sh):
    """What the shell has claimed nobody else gets; acknowledged, it is done."""
    id = queue.enqueue(b"x")
    path = sh('spoolq_claim "$spool"')
    assert Path(path).read_bytes() == b"x"
    assert queue.dequeue() is None
    sh('spoolq_claim "$spool"', status=1)
    sh(f'spoolq_acknowledge "$spool" {path}')
    queue.check(fix=True)
    assert queue.get(id).state == "done"


def test_claim_leaves_alone_what_is_not_to_be_had(queue, sh, spool):
    """What is not due, what is no message yet, and what is claimed."""
    queue.enqueue(b"later", delay_s=3600, priority=9)
    queue.enqueue(b"later, too", delay_s=3600)
    (spool / "new" / "a drop.txt").write_bytes(b"x")
    (spool / "new" / "01890a5d-ac96-774b-bcce-b302099a8057.txt").write_bytes(b"x")
    sh('spoolq_claim "$spool"', status=1)
    assert os.listdir(spool / "cur") == []
    assert queue.dequeue_many(2)
    due = "01890a5d-ac96-774b-bcce-b302099a8058,p=9,t=1690000000000,n=x"
    (spool / "new" / due).write_bytes(b"due")
    assert Path(sh('spoolq_claim "$spool"')).name == due
    queue.check(fix=True)


def test_requeue(queue, sh):
    """Back in `new/`, it is delivered again."""
    queue.enqueue(b"x")
    path = sh('spoolq_claim "$spool"')
    sh(f'spoolq_requeue "$spool" {path}')
    assert queue.dequeue().body == b"x"


def test_requeue_of_what_python_had_claimed(queue, sh):
    """`mv cur/* new/`: the receipt in the name means nothing there, and the old one is worth nothing."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    sh(f'spoolq_requeue "$spool" "{message.path}"')
    again = queue.dequeue()
    assert (again.id, again.attempts) == (message.id, 2)
    assert again.receipt != message.receipt


def test_extend(queue, sh, clock):
    """A later deadline is kept; after it the message is delivered again, and counted."""
    queue.enqueue(b"x")
    path = sh('spoolq_claim "$spool"')
    sh(f'spoolq_extend "$spool" {path} 3600')
    queue.check(fix=True)
    clock.advance(3000)
    assert queue.dequeue() is None
    clock.advance(700)
    assert queue.dequeue().attempts == 2


def test_a_shell_that_dies_with_a_claim(queue, sh, clock):
    """After the queue's `lease_s` it is delivered again, and counted."""
    queue.enqueue(b"x")
    sh('spoolq_claim "$spool"')
    queue.check(fix=True)
    clock.advance(590)
    assert queue.dequeue() is None
    clock.advance(20)
    assert queue.dequeue().attempts == 2


PRODUCER = f"""
number=0
while [ "$number" -lt {MANY} ]; do
    printf 'shell %s' "$number" >"$home/report $number.txt"
    spoolq_enqueue "$spool" "$home/report $number.txt"
    number=$((number + 1))
done
"""

CONSUMER = """
while [ -e "$home/go_on" ]; do
    path=$(spoolq_claim "$spool") || continue
    cp -- "$path" "$home/done/${path##*/}"
    spoolq_acknowledge "$spool" "$path"
done
"""


def test_beside_a_python_consumer(sh, spool, tmp_path):
    """Producers and consumers of both kinds at once: each message is processed by one of them, once."""
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability="process")))
    (tmp_path / "done").mkdir()
    (tmp_path / "go_on").touch()
    by_python: list[bytes] = []
    with SpoolQueue.open(spool) as queue:
        threads = [threading.Thread(target=sh, args=(script,)) for script in (PRODUCER, CONSUMER, CONSUMER)]
        threads.append(threading.Thread(target=consume, args=(spool, tmp_path / "go_on", by_python)))
        for thread in threads:
            thread.start()
        for number in range(MANY):
            queue.enqueue(b"python %d" % number, priority=number % 10)
        wait_for(lambda: len(by_python) + len(os.listdir(tmp_path / "done")) >= 2 * MANY, 30)
        (tmp_path / "go_on").unlink()
        for thread in threads:
            thread.join(30)
        by_shell = [path.read_bytes() for path in (tmp_path / "done").iterdir()]
        sent = [b"%s %d" % (kind, number) for kind in (b"python", b"shell") for number in range(MANY)]
        assert sorted(by_python + by_shell) == sorted(sent)
        assert by_python
        assert by_shell
        assert queue.dequeue() is None
        queue.check(fix=True)
        assert queue.stats().done == 2 * MANY


def consume(spool: Path, go_on: Path, found: list[bytes]) -> None:
    with SpoolQueue.open(spool) as queue:
        while go_on.exists():
            message = queue.dequeue(wait_s=0.05)
            if message is not None:
                found.append(message.body)
                message.ack()
