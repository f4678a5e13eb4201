"""A quota is used up, by the kernel's own account: a btrfs subvolume with a limit, whose disk has room all the time.

`statvfs` tells nothing of the limit, so the reserve is no help here: the first that is known of it is EDQUOT.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone
from tests.faults.test_real_disks import drain, enqueue_until_refused, opened
from tests.helpers import needs
from tests.reliability.disks import Disk, has_btrfs, memory, needs_disks
from tests.reliability.figures import report
from tests.reliability.test_full_disk import refused_put

MIB = 1 << 20
LIMIT_BYTES = 11 * MIB


def btrfs(*words: object) -> None:
    """The program of this name."""
    subprocess.run(["btrfs", *map(str, words)], check=True, capture_output=True)


def limited(home: Path) -> tuple[Disk, Path]:
    """A disk, and a subvolume of it with a quota."""
    disk = Disk(home, "btrfs")
    disk.mount()
    path = disk.path / "limited"
    btrfs("quota", "enable", disk.path)
    btrfs("subvolume", "create", path)
    btrfs("qgroup", "limit", LIMIT_BYTES, path)
    return disk, path


def use_up(queue: SpoolQueue, path: Path, body: bytes) -> list[str]:
    """Enqueue until it is refused, and again when what it had set apart was given back; what went in."""
    ids: list[str] = []
    for _ in range(3):
        more, refused = enqueue_until_refused(queue, body)
        assert (refused.exit_code, bool(refused.hint)) == (75, True)
        assert "quota" in refused.message.lower()
        ids += more
        btrfs("filesystem", "sync", path)
    return ids


def to_the_end(path: Path, body: bytes) -> dict[str, object]:
    """Use it up, work the backlog off, raise the limit."""
    spool = path / "spool"
    with opened(path) as queue:
        ids = use_up(queue, path, body)
        assert refused_put(spool, body) == 75
        assert os.listdir(spool / "tmp") == []
        assert len(os.listdir(spool / "new")) == len(ids)
    began_s = time.monotonic()
    # By another process, which has no holder yet.
    with opened(path) as queue:
        ids += use_up(queue, path, body)
        assert sorted(drain(queue, body)) == sorted(ids)
        took_s = time.monotonic() - began_s
        assert os.listdir(spool / "tmp") == []
        btrfs("qgroup", "limit", 64 * MIB, path)
        more = [queue.enqueue(body) for _ in range(20)]
        assert sorted(drain(queue, body)) == sorted(more)
        queue.check(fix=True)
        assert [*queue.check()] == []
    return {"disk": "btrfs with a quota", "acknowledged": len(ids), "seconds": round(took_s, 1)}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("size", [2000, 100_000], ids=["small", "large"])
def test_a_used_up_quota(size, tmp_path):
    """Enqueueing is refused, nothing is half made, a backlog is worked off; once the limit is raised it goes on."""
    needs_disks("btrfs")
    needs(has_btrfs(), "btrfs")
    home = Path(tempfile.mkdtemp(prefix="spoolq-quota-", dir=memory()))

    def act() -> None:
        disk, path = limited(home)
        figures = to_the_end(path, b"x" * size)
        (tmp_path / "figures").write_text(json.dumps(figures))
        disk.unmount()

    try:
        alone(act, 170)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    report("full disk", **json.loads((tmp_path / "figures").read_text()))
