"""Deduplication keys when the index goes in the middle: one message a key, and its body is what was sent."""

import fcntl
import io
import os
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from spoolq.errors import StorageError
from spoolq.spool import index as sql
from spoolq.spool import looks
from spoolq.spool.files import Files
from tests.helpers import names, needs, wait_for
from tests.spool.helpers import NOBODY, drain


class Hooked(Files):
    """Does something, once, before a keyed message is renamed into `new/`: the key is reserved then, and no more."""

    def __init__(self):
        super().__init__()
        self.hook = lambda: None

    def rename(self, source, target):
        if "/new/" in target:
            hook, self.hook = self.hook, lambda: None
            hook()
        super().rename(source, target)


def remove_index(spool):
    for path in spool.glob("index.db*"):
        path.unlink()


@pytest.mark.parametrize("times", [1, 2])
def test_a_reservation_outlives_the_index(spool, open_queue, times):
    """Who comes with its key meanwhile waits for it, and is answered its id, however often the index goes."""
    files = Hooked()
    slow, fast = open_queue(files=files), open_queue()
    answered = []
    other = threading.Thread(target=lambda: answered.append(fast.enqueue(b"fast", dedup_key="key")))

    def meanwhile():
        for _ in range(times):
            remove_index(spool)
            assert open_queue().stats().ready == 0
        other.start()
        other.join(0.2)
        assert answered == []

    files.hook = meanwhile
    id = slow.enqueue(b"slow", dedup_key="key")
    other.join()
    assert answered == [id]
    assert fast.enqueue(b"later", dedup_key="key") == id
    assert drain(slow) == [b"slow"]
    assert len(names(spool, "meta")) == 1


def test_a_failed_enqueue_frees_its_key(spool, open_queue):
    """Also where the index goes right after: nothing is left that could be taken for a message come and gone."""
    files = Hooked()
    queue = open_queue(files=files)

    def fail():
        raise OSError(5, "Input/output error")

    files.hook = fail
    with pytest.raises(StorageError):
        queue.enqueue(b"never", dedup_key="key")
    assert names(spool, "meta") == names(spool, "tmp") == []
    remove_index(spool)
    queue.enqueue(b"again", dedup_key="key")
    assert drain(queue) == [b"again"]


def test_a_reservation_that_cannot_be_removed_takes_no_key(spool, open_queue):
    """Of a writer that died: where its metadata stays, so does the body in `tmp/`, which tells that it never came."""

    class Failing(Files):
        def unlink_if_there(self, path):
            if "/meta/" in path:
                raise OSError(5, "Input/output error")
            return super().unlink_if_there(path)

    files = Hooked()
    writer = open_queue(files=files)
    files.hook = lambda: os._exit(0)
    pid = os.fork()
    if pid == 0:
        writer.enqueue(b"never", dedup_key="key")
    os.waitpid(pid, 0)
    (dead,) = names(spool, "tmp")
    id = open_queue(files=Failing()).enqueue(b"body", dedup_key="key")
    assert names(spool, "tmp") == [dead]
    remove_index(spool)
    queue = open_queue()
    assert queue.enqueue(b"body", dedup_key="key") == id
    assert drain(queue) == [b"body"]


@pytest.mark.parametrize("full", [False, True])
def test_an_enqueue_that_is_taken_back_frees_its_key(spool, open_queue, monkeypatch, full):
    """Where `new/` cannot be synced; also where the disk then refuses it a name in `tmp/`, and it is removed."""
    monkeypatch.setenv("SPOOLQ_DURABILITY", "power")

    class Failing(Files):
        def sync_directory(self, path):
            if path.endswith("/new"):
                raise OSError(5, "Input/output error")
            super().sync_directory(path)

        def rename(self, source, target):
            if full and "/new/" in source:
                raise OSError(28, "No space left on device")
            super().rename(source, target)

    with pytest.raises(StorageError):
        open_queue(files=Failing()).enqueue(b"never", dedup_key="key")
    assert names(spool, "new") == names(spool, "meta") == names(spool, "tmp") == []
    remove_index(spool)
    queue = open_queue()
    queue.enqueue(b"again", dedup_key="key")
    assert drain(queue) == [b"again"]


def test_a_message_whose_reservation_somebody_removed_gives_way(spool, open_queue):
    """By hand, metadata and index: then another of its key may have come, and been claimed."""
    fast = open_queue()
    claimed = []

    class Claiming(Hooked):
        def rename(self, source, target):
            super().rename(source, target)
            if "/new/" in target and not claimed:
                remove_index(spool)
                for path in (spool / "meta").iterdir():
                    path.unlink()
                fast.enqueue(b"fast", dedup_key="key")
                claimed.extend(fast.dequeue_many(5))

    slow = open_queue(files=Claiming())
    id = slow.enqueue(b"slow", dedup_key="key")
    assert [(message.id, message.body) for message in claimed] == [(id, b"fast")]
    claimed[0].ack()
    assert drain(fast) == []
    assert names(spool, "tmp") == []


@pytest.mark.parametrize("damage", ["reserving", "finishing", "looking"])
def test_a_stream_is_read_once_whatever_happens_to_the_index(queue, monkeypatch, damage):
    """A body cannot be had again for a second try."""
    failing = ["yes"]

    def fail(real):
        def act(*arguments, **options):
            if failing:
                failing.pop()
                raise sql.Contradiction("made for this test")
            return real(*arguments, **options)

        return act

    where = {"reserving": (sql.Index, "key"), "finishing": (sql.Index, "keep_key"), "looking": (looks, "counts")}
    owner, name = where[damage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail(getattr(owner, name)))
        id = queue.enqueue(io.BytesIO(b"the whole body"), dedup_key="key")
    assert queue.enqueue(b"again", dedup_key="key") == id
    assert drain(queue) == [b"the whole body"]


@pytest.fixture
def plant(spool):
    """What a member of the group that may drop can put into `tmp/`: a file of his own, locked, under any id."""
    needs(os.geteuid() == 0, "root")
    files = []

    def plant(id):
        path = spool / "tmp" / id
        files.append(path.open("wb"))
        os.chown(path, NOBODY, NOBODY)
        fcntl.flock(files[-1], fcntl.LOCK_EX)

    yield plant
    for file in files:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def test_what_a_dropper_plants_reserves_no_key(spool, open_queue, plant):
    """The message has come and gone, and the index goes: its key is answered all the same, and at once."""
    queue = open_queue()
    id = queue.enqueue(b"body", dedup_key="key")
    assert drain(queue) == [b"body"]
    (spool / "done" / names(spool, "done")[0]).unlink()
    plant(id)
    remove_index(spool)
    assert queue.enqueue(b"again", dedup_key="key") == id
    assert names(spool, "new") == []


def test_what_a_dropper_plants_is_no_writer_at_work(spool, open_queue, plant, monkeypatch):
    """The writer died after the rename and before its row: the next of its key finds the message at once."""
    monkeypatch.setenv("SPOOLQ_BUSY_S", "0.2")
    queue = open_queue()
    id = queue.enqueue(b"body", dedup_key="key")
    with queue._session.write() as index:
        index.keep_key("key", index.key("key")._replace(reserved=True))
    plant(id)
    assert queue.enqueue(b"again", dedup_key="key") == id
    assert drain(queue) == [b"body"]


def has_answered(answered, count):
    return len(answered) >= count


def test_keys_under_load_while_the_index_goes(spool, open_queue):
    """Four threads send the same two hundred keys, and the index is removed twenty times."""
    queues = [open_queue() for _ in range(4)]
    answered: list[tuple[int, str]] = []
    start = threading.Barrier(4)

    def produce(queue):
        start.wait()
        for number in range(200):
            id = queue.enqueue(b"%d" % number, dedup_key=f"key {number}")
            answered.append((number, id))

    threads = [threading.Thread(target=produce, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        wait_for(partial(has_answered, answered, number * 38))
        remove_index(spool)
    for thread in threads:
        thread.join()
    assert len(answered) == 800
    assert len(set(answered)) == 200, "two ids for one key"
    assert Counter(drain(queues[0])) == Counter(b"%d" % number for number in range(200))


def test_a_new_copy_of_a_drop_that_could_not_be_synced_is_taken_in(spool, open_queue, monkeypatch):
    """Not the same bytes again; but what a person puts in its place may get the very inode."""
    monkeypatch.setenv("SPOOLQ_DURABILITY", "power")

    class Failing(Files):
        broken = True

        def fsync(self, fd):
            if self.broken:
                raise OSError(5, "Input/output error")

    files = Failing()
    files.broken = False
    queue = open_queue(files=files)
    files.broken = True
    path = spool / "new" / "job"
    path.write_bytes(b"lost")
    queue.maintain()
    files.broken = False
    assert queue.dequeue() is None
    for _ in range(3):
        path.unlink()
        path.write_bytes(b"a new copy")
    assert drain(queue) == [b"a new copy"]
