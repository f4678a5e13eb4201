"""Many at once: threads, and a forked child."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from spoolq.errors import LeaseLost

LIMIT_S = 60


def in_threads(count, work):
    """Run `work(number)` in `count` threads that begin together; their results."""
    start = threading.Barrier(count)

    def begin(number):
        start.wait(LIMIT_S)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_eight_threads_drain_a_queue_each_message_once(queue):
    """500 messages, 8 consumers on one object: each is delivered to one of them, once."""
    ids = queue.enqueue_many([b"%d" % number for number in range(500)])

    def drain(_):
        taken = []
        while (message := queue.dequeue()) is not None:
            taken.append((message.id, message.attempts))
            message.ack()
        return taken

    taken = [pair for pairs in in_threads(8, drain) for pair in pairs]
    assert Counter(taken) == Counter((message_id, 1) for message_id in ids)
    assert queue.stats().done == 500


def test_producers_and_consumers_run_side_by_side(engine):
    """Four of each, every one with an object of its own: all that went in came out, once."""
    queues = [engine.make_queue() for _ in range(8)]
    left = threading.Semaphore(0)
    each, producers = 50, 4

    def work(number):
        queue = queues[number]
        if number < producers:
            return [queue.enqueue(b"%d:%d" % (number, turn)) and b"%d:%d" % (number, turn) for turn in range(each)]
        taken = []
        while not left.acquire(blocking=False):
            message = queue.dequeue(wait_s=0.05)
            if message is not None:
                taken.append(message.body)
                message.ack()
                if queue.stats().done == each * producers:
                    left.release(8)
        return taken

    results = in_threads(8, work)
    sent = [body for bodies in results[:producers] for body in bodies]
    taken = [body for bodies in results[producers:] for body in bodies]
    assert sorted(taken) == sorted(sent)


def test_one_key_from_many_threads_is_one_message(queue):
    """Who is first makes it; all are answered with its id."""
    ids = in_threads(8, lambda number: queue.enqueue(b"%d" % number, dedup_key="k"))
    assert len(set(ids)) == 1
    assert queue.stats().ready == 1


def test_only_one_of_many_settles_a_delivery(queue):
    """Eight release the same receipt at once: one succeeds, seven get LeaseLost, one attempt is given back."""
    message_id = queue.enqueue(b"x")
    receipt = queue.dequeue().receipt

    def release(_):
        try:
            queue.release(receipt)
        except LeaseLost:
            return 0
        return 1

    assert sum(in_threads(8, release)) == 1
    assert (queue.get(message_id).state, queue.get(message_id).attempts) == ("ready", 0)


def test_a_group_is_never_delivered_twice_at_once(queue):
    """Eight consumers, two groups: at no time do two hold messages of one group, and each group is in order."""
    for number in range(60):
        queue.enqueue(b"%d" % number, group=f"g{number % 2}")
    inside = {"g0": threading.Lock(), "g1": threading.Lock()}
    order: dict[str, list[int]] = {"g0": [], "g1": []}

    def drain(_):
        while queue.stats().ready + queue.stats().claimed:
            message = queue.dequeue(wait_s=0.01)
            if message is not None:
                assert inside[message.group].acquire(blocking=False)
                order[message.group].append(int(message.body))
                inside[message.group].release()
                message.ack()

    in_threads(8, drain)
    assert order == {"g0": list(range(0, 60, 2)), "g1": list(range(1, 60, 2))}


def test_slots_in_threads_drain_together(queue):
    """Each thread its own slot; closing them leaves nothing claimed."""
    queue.enqueue_many([b"x"] * 100)

    def drain(number):
        with queue.slot(f"slot {number}") as slot:
            count = 0
            while (message := slot.dequeue()) is not None:
                message.ack()
                count += 1
            return count

    assert sum(in_threads(4, drain)) == 100
    assert queue.stats().claimed == 0


def test_a_forked_child_may_use_the_queue(queue, engine, needs):
    """Parent and child each claim and enqueue through the object that was open before the fork."""
    needs(queue, "paths")
    queue.enqueue_many([b"1", b"2"])
    mine = queue.dequeue()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            message = queue.dequeue()
            if message is not None and message.body == b"2":
                message.ack()
                queue.enqueue(b"from the child")
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mine.ack()
    assert queue.dequeue().body == b"from the child"
    assert queue.stats().done == 2
    engine.advance(1300)  # until what the child left behind is swept


@pytest.mark.parametrize("ends", ["exits", "is closed"])
def test_a_forked_child_ends_no_claim_of_its_parent(queue, needs, ends):
    """The child's copy of the object does not hold what the parent holds."""
    needs(queue, "paths")
    queue.enqueue(b"x")
    message = queue.dequeue()
    child = os.fork()
    if child == 0:
        try:
            if ends == "is closed":
                queue.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    queue.maintain()
    assert queue.get(message.id).receipt == message.receipt
    message.ack()
