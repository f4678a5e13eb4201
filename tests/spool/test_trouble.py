"""Messages that cannot be claimed just now stand before those that can: they cost little, and change no order."""

import os

import pytest

from spoolq.models import NewMessage
from spoolq.spool import claiming, mending
from spoolq.spool.by_names import NamesOnly
from spoolq.spool.files import open_message
from tests.spool.helpers import drain


@pytest.fixture
def unreadable(monkeypatch):
    """Nobody may read what is named "bad": as root one may, and so the system is told for."""

    def open_unless_bad(path):
        if path.endswith("n=bad"):
            raise PermissionError(13, "Permission denied", path)
        return open_message(path)

    monkeypatch.setattr(claiming, "open_message", open_unless_bad)
    yield
    monkeypatch.undo()


def bad(count, priority=5):
    return [NewMessage(body=b"bad", name="bad", priority=priority) for _ in range(count)]


def test_what_can_be_read_is_delivered_in_its_order(queue, unreadable):
    for number, count in enumerate([1, 0, 2, 5, 0, 1, 30]):
        queue.enqueue_many([*bad(count), *bad(count, priority=7), b"%d" % number])
    queue.enqueue(b"first", priority=9)
    assert [message.body for message in queue.dequeue_many(4)] == [b"first", b"0", b"1", b"2"]
    assert drain(queue) == [b"3", b"4", b"5", b"6"]
    assert queue.stats().ready == 78


def test_twice_as_many_cost_twice_as_much(queue, unreadable):
    """And not four times: whoever may drop can put thousands there, and the write lock is held meanwhile."""
    steps = []
    for more in (400, 400):
        queue.enqueue_many([*bad(more, priority=6), b"good"])
        queue.dequeue().ack()
        queue.enqueue(b"good")
        with queue._session.write() as index:
            db = index._db
        counted = [0]

        def count(counted=counted):
            counted[0] += 1

        db.set_progress_handler(count, 100)
        assert queue.dequeue().body == b"good"
        db.set_progress_handler(None, 0)
        steps.append(counted[0])
    assert steps[1] < 3 * steps[0]


@pytest.mark.timeout(20)
def test_a_missing_file_behind_them_is_mended(spool, queue, unreadable, monkeypatch):
    """Of those that are mended in one go the first comes after them."""
    monkeypatch.setattr(mending, "MEND_AT_ONCE", 2)
    queue.enqueue_many(bad(5))
    id = queue.enqueue(b"gone")
    queue.enqueue(b"good")
    (spool / "new" / id).unlink()
    assert drain(queue) == [b"good"]


def test_a_file_that_vanishes_while_names_alone_count_is_passed_over(spool, queue, monkeypatch):
    """Between the listing and the claim; there is no index that could be mended."""
    first = queue.enqueue(b"first")
    queue.enqueue(b"second")
    vanishing = [f"{spool}/new/{first}"]

    def open_or_vanish(path):
        if path in vanishing:
            os.unlink(vanishing.pop())
        return open_message(path)

    monkeypatch.setattr(claiming, "open_message", open_or_vanish)
    monkeypatch.setattr(claiming, "transact", lambda session, act: act(NamesOnly(session)))
    with queue._session.alone():
        message = queue._claimer.take(None, 1, None)[0]
    monkeypatch.undo()
    assert message.body == b"second"
    message.ack()
    queue.check(fix=True)
