"""Real small disks: filled to the last block or inode, and made read-only while in use. Promise P9."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq.errors import DiskFull, NotASpool, StorageError
from spoolq.settings import Reserve, Settings, dump
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import MS_RDONLY, MS_REMOUNT, alone, ext4, fill, fill_inodes, has_ext4, mount, tmpfs

MIB = 1 << 20
BODY = b"x" * 100_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path) -> Callable[[int, int], Path]:
    """`disk(size, inodes)` makes and mounts one; call it in `alone`."""
    if request.param == "ext4" and not has_ext4():
        pytest.skip("no ext4 of our own can be mounted here")
    make = {"tmpfs": tmpfs, "ext4": ext4}[request.param]

    def mounted(size: int, inodes: int) -> Path:
        path: Path = tmp_path / "disk"
        make(path, size, inodes)
        return path

    return mounted


def opened(path: Path, *, bytes: int = MIB, inodes: int = 20, durability: str = "power") -> SpoolQueue:
    """A queue whose reserve is as small as its disk."""
    spool = path / "spool"
    if not spool.exists():
        spool.mkdir(mode=0o700)
        settings = Settings(durability=durability, reserve=Reserve(bytes=bytes, percent=0, inodes=inodes))  # type: ignore[arg-type]
        (spool / "queue.toml").write_text(dump(settings))
    return SpoolQueue.open(spool)


def enqueue_until_refused(queue: SpoolQueue, body: bytes = BODY) -> tuple[list[str], DiskFull]:
    ids = []
    while True:
        try:
            ids.append(queue.enqueue(body))
        except DiskFull as error:
            return ids, error


def drain(queue: SpoolQueue, body: bytes = BODY) -> list[str]:
    """Claim and acknowledge all that is there, one requeued and one given up on the way."""
    done = []
    while (message := queue.dequeue()) is not None:
        assert message.body == body
        if len(done) == 2 and message.attempts == 1:
            message.requeue(0, "again")
            continue
        message.ack()
        done.append(message.id)
    return done


@pytest.mark.parametrize("durability", ["process", "power", "full"])
def test_full_to_the_last_block(disk, durability):
    """Enqueue is refused while a reserve is left; a backlog is worked off on a full disk; freed, it takes in again."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path, durability=durability) as queue:
            ids, refused = enqueue_until_refused(queue)
            assert len(ids) > 30
            assert (refused.exit_code, bool(refused.hint)) == (75, True)
            found = os.statvfs(path)
            assert found.f_bavail * found.f_frsize >= MIB // 2
            fill(path / "filler")
            assert sorted(drain(queue)) == sorted(ids)
            assert os.listdir(path / "spool" / "tmp") == []
            (path / "filler").unlink()
            queue.enqueue(BODY)
            assert drain(queue)
            queue.check(fix=True)
            assert [*queue.check()] == []

    alone(act)


def test_full_while_it_is_opened(disk):
    """With no block left, a queue with a backlog opens and is worked off; only enqueueing waits."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path) as queue:
            ids, _ = enqueue_until_refused(queue)
        fill(path / "filler")
        with opened(path) as queue:
            with pytest.raises(DiskFull):
                queue.enqueue(BODY)
            assert sorted(drain(queue)) == sorted(ids)
        (path / "filler").unlink()
        with opened(path) as queue:
            queue.enqueue(BODY)
            assert drain(queue)
            queue.check(fix=True)
            assert [*queue.check()] == []

    alone(act)


def test_the_index_removed_on_a_full_disk(disk):
    """`rm index.db*` with no block left: nothing is lost, and it goes on."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path) as queue:
            ids, _ = enqueue_until_refused(queue)
            fill(path / "filler")
            for index in (path / "spool").glob("index.db*"):
                index.unlink()
            fill(path / "filler 2")
            assert sorted(drain(queue)) == sorted(ids)
            (path / "filler").unlink()
            (path / "filler 2").unlink()
            queue.check(fix=True)
            assert [*queue.check()] == []
            queue.enqueue(BODY)
            assert drain(queue)

    alone(act)


def test_done_is_emptied_before_an_enqueue_is_refused(disk):
    """What was processed makes room, oldest first."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path) as queue:
            ids, _ = enqueue_until_refused(queue)
            drain(queue)
            more, _ = enqueue_until_refused(queue)
            assert len(more) > len(ids) // 2
            assert queue.stats().done < len(ids)
            assert sorted(drain(queue)) == sorted(more)
            assert [*queue.check()] == []

    alone(act)


def test_no_inode_left(disk):
    """Inodes count as bytes do."""

    def act() -> None:
        path = disk(24 * MIB, 256)
        with opened(path) as queue:
            ids, refused = enqueue_until_refused(queue, b"small")
            assert 10 < len(ids) < 256
            assert "inodes" in refused.message
            fill_inodes(path / "filler")
            assert sorted(drain(queue, b"small")) == sorted(ids)
            assert os.listdir(path / "spool" / "tmp") == []
            shutil.rmtree(path / "filler")
            queue.enqueue(b"small")
            assert drain(queue, b"small")
            queue.check(fix=True)
            assert [*queue.check()] == []

    alone(act)


def test_a_body_that_does_not_fit(disk):
    """A stream whose size nobody knows is stopped, leaves no litter, and the reserve alone."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path) as queue:
            with open("/dev/zero", "rb") as endless, pytest.raises(DiskFull):
                queue.enqueue(endless)
            assert os.listdir(path / "spool" / "tmp") == []
            large = path.parent / "large"
            with open(large, "wb") as file:
                file.truncate(40 * MIB)
            with pytest.raises(DiskFull):
                queue.enqueue_file(large)
            with pytest.raises(DiskFull):
                queue.enqueue_many([b"x" * MIB] * 40)
            assert os.listdir(path / "spool" / "tmp") == []
            queue.enqueue(BODY)
            assert drain(queue)

    alone(act)


def test_the_ballast_comes_back(disk):
    """Freed when it is needed, made again when there is room."""

    def act() -> None:
        path = disk(32 * MIB, 2000)
        with opened(path) as queue:
            ballast = path / "spool" / "ballast"
            assert ballast.stat().st_blocks * 512 >= 4 * MIB
            queue._directory.free_ballast()
            assert not ballast.exists()
            queue._producer.room.restore_ballast()
            assert ballast.stat().st_blocks * 512 >= 4 * MIB

    alone(act)


def test_the_command_line_says_so(disk):
    """`spoolq put` on a full disk: exit status 75, a message with a hint, nothing written."""

    def act() -> None:
        path = disk(24 * MIB, 2000)
        with opened(path) as queue:
            enqueue_until_refused(queue)
        fill(path / "filler")
        done = subprocess.run(
            [sys.executable, "-m", "spoolq", "put"],
            env=os.environ | {"SPOOLQ_SPOOL": os.fspath(path / "spool")},
            input=BODY,
            capture_output=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 75, done
        assert b"reserve" in done.stderr
        assert os.listdir(path / "spool" / "tmp") == []

    alone(act)


def read_only(path: Path) -> None:
    """As the kernel does when a disk fails: at once, whoever has files open."""
    subprocess.run(["mount", "-o", "remount,abort", os.fspath(path)], check=True, capture_output=True)


def test_read_only_while_in_use(tmp_path):
    """An error that says so for everything that would write; mounted writable again, it goes on with all there was."""
    if not has_ext4():
        pytest.skip("no ext4 of our own can be mounted here")

    def act() -> None:
        path = tmp_path / "disk"
        ext4(path, 24 * MIB, 2000)
        queue = opened(path)
        ids = [queue.enqueue(b"%d" % number) for number in range(3)]
        message = queue.dequeue()
        assert message is not None
        os.sync()
        read_only(path)
        for refused in (lambda: queue.enqueue(b"x"), queue.dequeue, message.ack, lambda: queue.set_priority(ids[1], 9)):
            with pytest.raises(StorageError) as error:
                refused()
            assert "read-only" in error.value.message.lower(), error.value
            assert error.value.hint
        queue.close()
        subprocess.run(["umount", os.fspath(path)], check=True, capture_output=True)
        image = os.fspath(path.with_suffix(".img"))
        subprocess.run(["e2fsck", "-fy", image], check=False, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, os.fspath(path)], check=True, capture_output=True)
        with opened(path) as queue:
            found = []
            while (message := queue.dequeue()) is not None:
                found.append(message.id)
                message.ack()
            assert sorted(found) == sorted(ids)
            queue.check(fix=True)
            assert [*queue.check()] == []

    alone(act)


def test_opened_read_only(tmp_path):
    """What is mounted read-only is not opened, and nothing pretends; mounted writable, it is."""

    def act() -> None:
        path = tmp_path / "disk"
        tmpfs(path, 24 * MIB, 2000)
        with opened(path) as queue:
            queue.enqueue(b"x")
        mount("tmpfs", path, "tmpfs", MS_REMOUNT | MS_RDONLY)
        with pytest.raises(StorageError) as error:
            opened(path)
        assert "read-only" in error.value.message.lower()
        assert error.value.hint
        mount("tmpfs", path, "tmpfs", MS_REMOUNT)
        with opened(path) as queue:
            assert queue.dequeue().body == b"x"

    alone(act)


def test_made_on_a_read_only_disk(tmp_path):
    """A spool cannot be made there."""

    def act() -> None:
        path = tmp_path / "disk"
        tmpfs(path, 24 * MIB, 2000)
        mount("tmpfs", path, "tmpfs", MS_REMOUNT | MS_RDONLY)
        with pytest.raises((StorageError, NotASpool)) as error:
            SpoolQueue.open(path / "spool")
        assert "read-only" in error.value.message.lower()

    alone(act)
