"""A backlog of 1,500 on a disk without a block left: all of it is claimed and acknowledged, and no more gets in."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoolq.client import open_queue
from spoolq.errors import DiskFull
from spoolq.settings import Reserve, Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone, ext4, fill, has_ext4, tmpfs
from tests.helpers import needs
from tests.reliability.figures import report
from tests.web.conftest import Process

BACKLOG = 1500
MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def made(spool: Path, done_s: float) -> None:
    """A spool that leaves two megabytes free."""
    spool.mkdir(mode=0o700)
    chosen = Settings(retention=Retention(done_s=done_s), reserve=Reserve(bytes=2 * MIB, percent=0, inodes=50))
    (spool / "queue.toml").write_text(dump(chosen))


def refused_put(spool: Path, body: bytes = b"x") -> int:
    """The exit status of `spoolq put`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SPOOLQ_SPOOL": str(spool)}
    argv = [sys.executable, "-m", "spoolq", "put"]
    return subprocess.run(argv, input=body, env=env, cwd=ROOT, check=False, capture_output=True).returncode


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
@pytest.mark.parametrize("done_s", [0, 86_400])
def test_a_backlog_on_a_full_disk(kind, done_s, tmp_path):
    """Enqueue is refused by the reserve, then by the disk; claims and acknowledgements go through to the last."""
    needs(kind != "ext4" or has_ext4(), "an ext4 of its own")

    def act() -> None:
        path = tmp_path / "disk"
        if kind == "ext4":
            ext4(path, 48 * MIB, 8000)
        else:
            tmpfs(path, 24 * MIB, 8000)
        spool = path / "spool"
        made(spool, done_s)
        with SpoolQueue.open(spool) as queue:
            ids = queue.enqueue_many([b"%d" % number for number in range(BACKLOG)])
            fill(path / "filler")
            with pytest.raises(DiskFull) as refused:
                queue.enqueue(b"one more")
            assert refused.value.exit_code == 75
            assert refused_put(spool) == 75
            began_s = time.monotonic()
            delivered = []
            while (message := queue.dequeue()) is not None:
                delivered.append(message.id)
                message.ack()
            took_s = time.monotonic() - began_s
            assert delivered == ids
            (path / "filler").unlink()
            assert queue.enqueue(b"room again")
            queue.check(fix=True)
            assert [*queue.check()] == []
        figures = {"disk": kind, "done_s": done_s, "acknowledged": len(delivered), "seconds": round(took_s, 1)}
        (tmp_path / "figures").write_text(json.dumps(figures))

    alone(act, 170)
    report("full disk", **json.loads((tmp_path / "figures").read_text()))


@pytest.mark.timeout(120)
def test_a_server_on_a_full_disk(tmp_path):
    """Enqueueing is answered 507, claiming and acknowledging go on, and with room again it does so by itself."""

    def act() -> None:
        path = tmp_path / "disk"
        tmpfs(path, 24 * MIB, 8000)
        made(path / "spool", 0)
        server = Process(path / "spool", "--no-access-log", log=tmp_path / "serve.log")
        try:
            with open_queue(server.url) as queue:
                ids = queue.enqueue_many([b"%d" % number for number in range(100)])
                fill(path / "filler")
                refused = server.http.post(f"{server.url}/enqueue", content=b"one more")
                assert refused.status_code == 507, refused.text
                assert refused.json()["hint"]
                with pytest.raises(DiskFull):
                    queue.enqueue(b"one more")
                delivered = []
                while (message := queue.dequeue()) is not None:
                    delivered.append(message.id)
                    message.ack()
                assert delivered == ids
                (path / "filler").unlink()
                assert queue.enqueue(b"room again")
        finally:
            server.end()
            server.http.close()

    alone(act, 100)
