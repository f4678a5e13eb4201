"""Groups when a scan adds the row of a message before the one who enqueues does: the order stands, whoever is first."""

from __future__ import annotations

import os

import pytest

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
