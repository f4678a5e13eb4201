"""Groups when a scan adds the row of a message before the one who enqueues does: the order stands, whoever is first."""

from __future__ import annotations

import os
import threading

import pytest

from spoolq.spool import producer
from spoolq.spool.producer import Producer


@pytest.fixture
def scanned_first(open_queue, monkeypatch):
    """`scanned_first(then)`: the next enqueue finds its row there; another process has looked, and then did `then`."""

    def arrange(then=lambda other: None):
        add = Producer._add_rows

        def late(self, run):
            monkeypatch.setattr(Producer, "_add_rows", add)
            other = open_queue()
            while other.maintain():
                pass
            other.rebuild()
            then(other)
            add(self, run)

        monkeypatch.setattr(Producer, "_add_rows", late)

    return arrange


def delivered(queue):
    found = []
    while message := queue.dequeue():
        found.append(message.body)
        message.ack()
    return found


def test_the_only_one_of_its_group_is_its_head(open_queue, scanned_first):
    """It is delivered, and before the next one."""
    queue = open_queue()
    scanned_first()
    queue.enqueue(b"1", group="g")
    assert not queue.peek().held
    queue.enqueue(b"2", group="g")
    assert delivered(queue) == [b"1", b"2"]


def test_one_that_is_done_already_holds_no_later_one(open_queue, scanned_first):
    """The row comes late for a message that somebody else has processed; the next one is the head by then."""
    queue = open_queue()

    def processed(other):
        other.dequeue().ack()
        other.enqueue(b"2", group="g")

    scanned_first(processed)
    queue.enqueue(b"1", group="g")
    assert not queue.peek().held
    assert delivered(queue) == [b"2"]


def test_one_whose_sender_was_killed_before_its_row_keeps_its_place(open_queue, monkeypatch):
    """Sent again by its key, it is answered as known; then the next one of its group is enqueued, and stays behind."""
    queue = open_queue()
    pid = os.fork()
    if pid == 0:
        try:
            monkeypatch.setattr(Producer, "_finish_keyed", lambda *_: os._exit(7))
            open_queue().enqueue(b"1", group="g", dedup_key="k1")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    first = queue.enqueue(b"1", group="g", dedup_key="k1")
    queue.enqueue(b"2", group="g", dedup_key="k2")
    assert queue.peek().id == first
    assert delivered(queue) == [b"1", b"2"]


@pytest.mark.parametrize("key", [None, "key"])
def test_one_that_waits_for_the_lock_keeps_its_place(open_queue, monkeypatch, key):
    """A rebuild holds it for long. Left to a scan, as what is in no group, it would come after the next of its own."""
    monkeypatch.setattr(producer, "ROW_BUSY_S", 0.02)
    queue, other = open_queue(), open_queue()
    first = []
    thread = threading.Thread(target=lambda: first.append(queue.enqueue(b"1", group="g", dedup_key=key)))
    place = Producer._put_in_place
    placed = threading.Event()

    def put_in_place(self, *arguments, **options):
        place(self, *arguments, **options)
        other._session._lock.acquire(10)
        placed.set()

    monkeypatch.setattr(Producer, "_put_in_place", put_in_place)
    thread.start()
    assert placed.wait(10)
    thread.join(0.3)
    other._session._lock.release()
    thread.join()
    monkeypatch.setattr(Producer, "_put_in_place", place)
    queue.enqueue(b"2", group="g")
    assert other.peek().id == first[0]
    assert delivered(queue) == [b"1", b"2"]
