"""Claims under a mark, which a lost answer is asked for by; and what a server asks before it calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from spoolq.errors import LeaseLost
from spoolq.spool.queue import SpoolQueue


def test_a_mark_is_answered_its_claims_again_by_any_process(open_queue: Callable[..., SpoolQueue]):
    queue, other = open_queue(detached=True), open_queue(detached=True)
    ids = [queue.enqueue(b"%d" % number) for number in range(3)]
    first = queue.dequeue_marked("0123abcd", 2, lease_s=60)
    again = other.dequeue_marked("0123abcd", 2, lease_s=60)
    assert [each.receipt for each in again] == [each.receipt for each in first]
    assert [(each.id, each.body, each.attempts) for each in again] == [(ids[0], b"0", 1), (ids[1], b"1", 1)]
    assert [each.id for each in other.dequeue_marked("0123abce", 2)] == ids[2:]


def test_a_mark_used_again_is_no_proof_of_a_later_delivery(open_queue: Callable[..., SpoolQueue]):
    queue = open_queue(detached=True)
    queue.enqueue(b"x")
    (first,) = queue.dequeue_marked("0123abcd")
    queue.release(first.receipt)
    (second,) = queue.dequeue_marked("0123abcd")
    assert second.id == first.id
    with pytest.raises(LeaseLost):
        queue.acknowledge(first.receipt)
    queue.acknowledge(second.receipt)
    assert list(queue.dequeue_marked("0123abcd")) == []


@pytest.mark.parametrize("mark", ["", "0123abc", "0123abcde", "0123ABCD", "0123abc\n", "../../.."])
def test_what_is_no_mark_is_refused(open_queue: Callable[..., SpoolQueue], mark: str):
    with pytest.raises(ValueError, match="mark"):
        open_queue(detached=True).dequeue_marked(mark)


def test_is_free_while_nobody_has_the_lock(open_queue: Callable[..., SpoolQueue]):
    queue, other = open_queue(), open_queue()
    assert queue.is_free()
    with other._session.alone():
        assert not queue.is_free()
    assert queue.is_free()


def test_a_listener_hears_of_an_enqueue(open_queue: Callable[..., SpoolQueue]):
    queue, other = open_queue(), open_queue()
    heard = threading.Event()
    end = queue.listen(heard.set)
    other.enqueue(b"x")
    assert heard.wait(10)
    end()
    assert queue.next_look_s(1.5) == 1.5
    queue.dequeue(lease_s=60)
    assert queue.next_look_s(1.5) == 0.1


def test_is_not_free_while_the_index_is_to_be_made_anew(open_queue: Callable[..., SpoolQueue]):
    queue = open_queue()
    queue.enqueue(b"x")
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        os.unlink(f"{queue._directory.base}/{name}")
    assert not queue.is_free()
    assert queue.stats().ready == 1
    assert queue.is_free()
