"""What sweeping must not take, and what must not stop it."""

import os
import shutil
import subprocess

import pytest

from spoolq.spool.files import Files
from spoolq.testing import FakeClock
from tests.helpers import names, needs
from tests.spool.helpers import NOBODY, drain

HOURS_S = 3600


@pytest.fixture
def clock():
    return FakeClock()


def test_an_old_file_that_has_just_come_is_young(spool, open_queue, clock):
    """`cp -p` or `mv` into tmp/, on the way to new/: its time of writing is no sign of litter."""
    queue = open_queue(clock=clock)
    path = spool / "tmp" / "upload"
    path.write_bytes(b"the only copy")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    queue.clean()
    os.rename(path, spool / "new" / "upload")
    assert drain(queue) == [b"the only copy"]


def test_what_cannot_be_removed_does_not_keep_the_rest(spool, open_queue, clock):
    class Refusing(Files):
        def remove_tree(self, path):
            raise PermissionError(13, "Permission denied", path)

    queue = open_queue(clock=clock, files=Refusing())
    (spool / "tmp" / "a directory").mkdir()
    (spool / "tmp" / "b").touch()
    (spool / "holders" / "abcdef").write_text("{}")
    clock.advance(37 * HOURS_S)
    queue.clean()
    assert names(spool, "tmp") == ["a directory"]
    assert names(spool, "holders") == []


def test_directories_in_directories_without_end_do_not_keep_the_rest(spool, open_queue, clock):
    """Deeper than the path of any name may be long, and than Python goes."""
    queue = open_queue(clock=clock)
    fd = os.open(spool / "tmp", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a", dir_fd=fd)
        inner = os.open("a", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        (spool / "tmp" / "b").touch()
        clock.advance(37 * HOURS_S)
        queue.clean()
        queue.maintain()
        assert names(spool, "tmp") == ["a"]
    finally:
        subprocess.run(["rm", "-rf", spool / "tmp" / "a"], check=True)


def test_litter_that_is_named_after_a_message_takes_nothing_of_it(spool, open_queue, clock):
    """Whoever may drop sees the ids in new/, and may make files in tmp/."""
    queue = open_queue(clock=clock)
    id = queue.enqueue(b"body", headers={"a": "b"})
    (spool / "tmp" / id).touch()
    clock.advance(37 * HOURS_S)
    queue.clean()
    assert names(spool, "tmp") == []
    message = queue.dequeue()
    assert dict(message.headers) == {"a": "b"}
    message.ack()


def test_litter_of_a_dropper_takes_no_key_of_what_has_gone(spool, open_queue, clock, monkeypatch):
    """The window of the key is longer than what lies in `tmp/` is left there."""
    needs(os.geteuid() == 0, "root")
    monkeypatch.setenv("SPOOLQ_DEDUP_WINDOW_S", str(100 * HOURS_S))
    queue = open_queue(clock=clock)
    id = queue.enqueue(b"body", dedup_key="key")
    assert drain(queue) == [b"body"]
    queue.purge(["done"])
    (spool / "tmp" / id).touch()
    os.chown(spool / "tmp" / id, NOBODY, NOBODY)
    clock.advance(37 * HOURS_S)
    queue.clean()
    queue.rebuild()
    assert names(spool, "tmp") == []
    assert queue.enqueue(b"again", dedup_key="key") == id


def test_what_came_with_a_message_is_kept_though_no_row_knows_of_it(spool, open_queue, clock):
    """Its enqueuer could not write the row, and for two days nobody looked; then cleanup came first."""
    queue = open_queue(clock=clock)
    id = queue.enqueue(b"body", headers={"a": "b"})
    queue.close()
    clock.advance(48 * HOURS_S)
    for path in spool.glob("index.db*"):
        path.unlink()
    aside = spool / "new" / ".aside"
    (name,) = names(spool, "new")
    os.rename(spool / "new" / name, aside)
    queue = open_queue(clock=clock)
    os.rename(aside, spool / "new" / name)
    queue._upkeep.recovery.sweep()
    message = queue.dequeue()
    assert (message.id, dict(message.headers)) == (id, {"a": "b"})
    message.ack()


def test_what_lies_in_holders_by_mistake_troubles_nobody(spool, queue):
    (spool / "holders" / "a directory").mkdir()
    (spool / "holders" / "notes.txt").write_text("mine")
    os.symlink("/nowhere", spool / "holders" / "zzzzzz")
    queue.enqueue(b"body")
    assert drain(queue) == [b"body"]
    queue._upkeep.recovery.sweep()
    assert [holder.pid for holder in queue.holders()] == [os.getpid()]
    assert sorted(os.path.basename(problem.path) for problem in queue.check()) == ["a directory", "notes.txt"]
    assert (spool / "holders" / "notes.txt").read_text() == "mine"
    shutil.rmtree(spool / "holders" / "a directory")
    (spool / "holders" / "notes.txt").unlink()


def test_what_was_left_by_a_killed_init_of_this_pid_is_in_nobodys_way(spool, open_queue):
    """In a container every start has the same pid."""
    for name in (f"FORMAT.{os.getpid()}", f"ballast-{os.getpid()}", f"clean.{os.getpid()}"):
        (spool / "tmp").mkdir(parents=True, exist_ok=True, mode=0o700)
        (spool / "tmp" / name).touch()
    os.chmod(spool, 0o700)
    queue = open_queue()
    queue.enqueue(b"body")
    queue.close()
    assert (spool / "ballast").exists()
    assert (spool / "index.db-clean").exists()
    assert drain(open_queue()) == [b"body"]


def test_when_new_was_last_looked_through_is_told(open_queue, clock):
    """By whoever did it, to all; not with each scan, which writes nothing itself."""
    queue = open_queue(clock=clock)
    told = []
    for _ in range(30):
        while queue.maintain():
            pass
        told.append(open_queue(clock=clock).health().last_scan_at_ms)
        clock.advance(2)
    assert told[0] > 0
    assert clock.wall_ms() - told[-1] <= 12_000
    assert len(set(told)) < 10
