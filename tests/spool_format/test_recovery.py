"""Sections 8 and 9 of docs/spool-format.md: what brings a queue back in order, and which index is believed."""

import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from spoolq.errors import IndexInUse, LeaseLost
from spoolq.settings import Retention, Settings, dump
from spoolq.spool import index, session
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import names
from tests.spool_format.document import tables

HOURS_S = 3600


def test_each_row_has_a_test():
    rows = [row[0] for row in tables(9)[0]]
    assert rows == ["promote", "mend", "scan", "reap", "expire", "sweep", "forget", "clean"]
    assert [row for row in rows if f"test_{row}" not in globals()] == []


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(spool, clock, open_queue) -> SpoolQueue:
    spool.mkdir(mode=0o700)
    settings = Settings(durability="process", retention=Retention(done_s=1000))
    (spool / "queue.toml").write_text(dump(settings))
    queue: SpoolQueue = open_queue(clock=clock)
    return queue


def test_promote(queue, clock):
    """What is scheduled and due becomes ready at a dequeue, 100 at most at once, each in its turn."""
    ids = queue.enqueue_many([b"%d" % number for number in range(5)])
    for number in range(250):
        ids.append(queue.enqueue(b"x", delay_s=10 + number / 1000))
    for id in ids[:5]:
        queue.delete(id)
    clock.advance(9)
    assert queue.dequeue() is None
    clock.advance(2)
    messages = queue.dequeue_many(1)
    stats = queue.stats()
    assert (len(messages), stats.ready, stats.scheduled) == (1, index.PROMOTE_AT_ONCE - 1, 150)
    while some := queue.dequeue_many(50):
        messages += some
    assert [message.id for message in messages] == ids[5:]


def test_mend(queue, spool):
    """When a rename finds its name gone, the row follows the file, and the caller is told."""
    first, second = queue.enqueue(b"1"), queue.enqueue(b"2")
    (spool / "new" / first).rename(spool / "dead" / first)
    assert queue.dequeue().id == second
    assert queue.get(first).state == "dead"


def test_scan(queue, spool):
    """Before "nothing there" is answered, what no row knows is looked for: files by their names, and drops."""
    for number, name in enumerate(("01890a5d-ac96-774b-bcce-b302099a8057,p=9,n=a.txt", "report.csv")):
        (spool / "new" / name).write_bytes(b"%d" % number)
    bodies = [queue.dequeue().body, queue.dequeue().body]
    assert bodies == [b"0", b"1"]
    assert queue.dequeue() is None


def test_scan_takes_the_write_lock_only_for_what_it_found(queue, clock):
    """A scan of a thousand known files keeps nobody waiting."""
    queue.enqueue_many([b"x"] * 1000)
    queue.stats()
    lock = queue._session._lock
    taken = []
    acquire = lock.acquire
    lock.acquire = lambda busy_s: (taken.append(1), acquire(busy_s))
    queue._session.scan_due = True
    while queue._upkeep.scan(1.0) or queue._upkeep.scanner.is_running():
        pass
    assert taken == []


def test_reap(queue, spool, clock):
    """Claims of dead holders and past their deadline; a holder that lives keeps its own."""
    for body in (b"mine", b"lease", b"life"):
        queue.enqueue(body)
    mine = queue.dequeue()
    with SpoolQueue.open(spool, clock=clock, detached=True) as other:
        other.dequeue(lease_s=30)
    dead = SpoolQueue.open(spool, clock=clock)
    assert dead.dequeue().body == b"life"
    dead._session.abandon()
    clock.advance(31)
    queue.maintain()
    assert {info.reason for info in queue.list("ready").messages} == {"holder died", "lease ended"}
    mine.ack()


def test_expire(queue, clock):
    """Past its time to live; what is claimed is not touched."""
    first, second = queue.enqueue(b"1", ttl_s=5), queue.enqueue(b"2", ttl_s=5)
    message = queue.dequeue()
    clock.advance(6)
    queue.maintain()
    assert (queue.get(first).state, queue.get(second).state, queue.get(second).reason) == ("claimed", "dead", "expired")
    message.ack()


@pytest.fixture
def litter(queue, spool, clock):
    """What the dead leave, and what only looks like it: the names that are to stay."""
    tmp = spool / "tmp"
    for name in ("old", "young", "locked", "written", ".12345"):
        (tmp / name).write_bytes(b"x")
    (tmp / "queue-emails-1").mkdir()
    (tmp / "queue-emails-1" / "new").mkdir()
    (tmp / "link").symlink_to("/etc/passwd")
    (spool / "meta" / "01890a5d-ac96-774b-bcce-b302099a8057.jsonl").write_bytes(b'{"kind":"message"}\n')
    (spool / "holders" / "abcdef").write_bytes(b"{}")
    clock.advance(37 * HOURS_S)
    now = clock.wall_ms() / 1000
    os.utime(tmp / "young", (now - 35 * HOURS_S, now - 35 * HOURS_S))
    with open(tmp / "locked", "rb") as locked, open(tmp / "written", "ab"):
        fcntl.flock(locked, fcntl.LOCK_EX)
        yield ["locked", "written", "young"]
    queue.clean()


def test_sweep(queue, spool, litter):
    """36 h old, not locked, no writer; metadata without a message; holders without claims."""
    queue._upkeep.recovery.sweep()
    assert names(spool, "tmp") == litter
    assert names(spool, "meta") == names(spool, "holders") == []
    assert os.path.exists("/etc/passwd")


def test_forget(queue, clock):
    """Rows of what was acknowledged and deleted go after ten minutes, by whoever is at hand."""
    queue.change_settings(Settings(durability="process", retention=Retention(done_s=0)))
    queue.enqueue(b"x")
    message = queue.dequeue()
    message.ack()
    clock.advance(9 * 60)
    queue.maintain()
    message.ack()
    clock.advance(2 * 60)
    queue.maintain()
    with pytest.raises(LeaseLost):
        message.ack()


def test_sweep_is_done_without_anybody_asking(queue, spool, clock, litter):
    """Every ten minutes, by whoever is at hand."""
    queue.maintain()
    assert names(spool, "tmp") == litter


def test_clean(queue, clock):
    """Retention, every minute, by whoever is at hand."""
    queue.enqueue(b"x")
    queue.dequeue().ack()
    clock.advance(900)
    queue.maintain()
    assert queue.stats().done == 1
    clock.advance(101)
    queue.maintain()
    assert queue.stats().done == 0


# Section 8


@pytest.fixture
def rebuilt(monkeypatch):
    """How often an index was made anew."""
    times = []
    real = session.rebuilding.rebuild

    def rebuild(*args, **kwargs):
        times.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(session.rebuilding, "rebuild", rebuild)
    return times


@pytest.fixture
def filled(queue, rebuilt):
    """A queue with a message in it, closed; nothing was made anew since."""
    queue.enqueue(b"x", priority=7)
    queue.close()
    rebuilt.clear()


class OtherBoot(FakeClock):
    def boot_id(self) -> str:
        return "another"


def reopened(spool: Path, clock: FakeClock) -> None:
    """Opened again, it has its message, whatever became of the index."""
    with SpoolQueue.open(spool, clock=clock) as queue:
        (info,) = queue.list("ready").messages
        assert info.priority == 7
        assert [*queue.check()] == []


def test_the_index_of_this_boot_is_believed(filled, spool, clock, rebuilt):
    """This boot and this mount, closed in order or not."""
    (spool / "index.db-clean").unlink()
    reopened(spool, clock)
    assert rebuilt == []


def test_an_index_that_was_closed_in_order_is_believed(filled, spool, rebuilt):
    """Of another boot, with the mark that it is whole."""
    reopened(spool, OtherBoot())
    assert rebuilt == []


@pytest.mark.parametrize("size", [None, b"1", b"nonsense"])
def test_an_index_of_another_boot_without_its_mark_is_made_anew(filled, spool, rebuilt, size):
    """No mark, or one of another size: a power cut may have torn it."""
    (spool / "index.db-clean").unlink()
    if size is not None:
        (spool / "index.db-clean").write_bytes(size)
    reopened(spool, OtherBoot())
    assert rebuilt == [1]


def test_an_index_of_another_mount_is_made_anew(filled, spool, clock, rebuilt, monkeypatch):
    """Somebody may have written to it elsewhere."""
    (spool / "index.db-clean").unlink()
    monkeypatch.setattr(session.mounts, "_identity", lambda path: "another")
    reopened(spool, clock)
    assert rebuilt == [1]


@pytest.mark.parametrize("spoilt", ["empty", "text", "torn", "no tables", "missing", "version"])
def test_an_index_that_cannot_be_read_is_made_anew(filled, spool, clock, rebuilt, spoilt):
    """Unreadable, or of another version and nobody else has it open."""
    path = spool / "index.db"
    if spoilt == "empty":
        path.write_bytes(b"")
    elif spoilt == "text":
        path.write_bytes(b"not a database" * 1000)
    elif spoilt == "torn":
        path.write_bytes(path.read_bytes()[:5000])
    elif spoilt == "missing":
        path.unlink()
    elif spoilt == "no tables":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (a)")
            db.execute(f"PRAGMA user_version = {index.USER_VERSION}")
        db.close()
    else:
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    reopened(spool, clock)
    assert rebuilt == [1]


def test_an_index_of_another_version_that_is_in_use_is_refused(spool, clock, queue, monkeypatch):
    """Two versions cannot share one: the error names who is to stop."""
    queue.enqueue(b"x")
    monkeypatch.setattr(index, "USER_VERSION", 99)
    monkeypatch.setattr(session.sql, "USER_VERSION", 99)
    with pytest.raises(IndexInUse) as refused:
        SpoolQueue.open(spool, clock=clock)
    assert "version 1" in refused.value.message
    assert refused.value.hint
    queue.dequeue().ack()


@pytest.mark.parametrize("removed", ["index.db*", "index.db", "index.db-wal", "index.db-shm"])
def test_an_index_that_was_removed_while_open(queue, spool, clock, rebuilt, removed):
    """Each writer notices before its next transaction, and nothing is lost, nothing delivered twice."""
    with SpoolQueue.open(spool, clock=clock) as other:
        first = queue.enqueue(b"1")
        mine = other.dequeue()
        second = queue.enqueue(b"2")
        for path in spool.glob(removed):
            path.unlink()
        third = queue.enqueue(b"3")
        assert mine.id == first
        mine.ack()
        assert {queue.dequeue().id, other.dequeue().id} == {second, third}
        assert other.dequeue() is None
        assert queue.get(first).state == "done"
