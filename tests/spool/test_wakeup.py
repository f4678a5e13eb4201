"""Whoever waits is woken by what comes, not by looking; and looks all the same where no wake-up can come."""

import os
import threading
import time
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyFD

from spoolq.spool import upkeep, wakeup
from tests.helpers import names, wait_for
from tests.spool.helpers import Taker, drain

NEVER_S = 1000.0


@pytest.fixture
def no_looking(monkeypatch):
    """Who waits looks only when woken: what arrives all the same has been told of."""
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", NEVER_S)
    monkeypatch.setattr(upkeep, "DROP_LOOK_S", NEVER_S)


@pytest.fixture
def waiting(queue, child):
    """`waiting()`: a process in the middle of a dequeue, which looks only when woken."""

    def start(wait_s=30):
        process = child()
        process("from spoolq.spool import upkeep")
        process(f"upkeep.LOOK_EVERY_S = {NEVER_S}")
        process("queue.dequeue(wait_s=0.001)")
        process(f"""
real, waits = queue._wakeup.wait, []
def wait(seen, timeout_s):
    waits.append(timeout_s)
    open({str(queue._directory.base)!r} + f'/tmp/waits-{{os.getpid()}}', 'w').close()
    return real(seen, timeout_s)
queue._wakeup.wait = wait
""")
        process.start(f"message = queue.dequeue(wait_s={wait_s})")
        mark = queue._directory.root / "tmp" / f"waits-{process.pid}"
        wait_for(mark.exists)
        mark.unlink()
        return process

    return start


def test_a_waiting_consumer_in_another_process_is_woken(queue, waiting):
    process = waiting()
    queue.enqueue(b"body")
    process.result(5)
    assert process("message.body") == b"body"
    assert len(process("waits")) <= 3


@pytest.mark.parametrize(
    "wake",
    [
        "message.release()",
        "message.requeue(0)",
        "queue.dead_letters.redrive()",
        "queue.replay(done)",
        "queue.run_now(later)",
        "queue.give_back(message.id)",
        "queue.enqueue_many([b'x'])",
        "queue.enqueue_file(__file__)",
        "queue.enqueue(b'x', dedup_key='x')",
        "holder.kill()",
        "open(new, 'w').close()",
        "queue.close()",
    ],
)
def test_whatever_makes_something_ready_wakes(spool, queue, waiting, child, wake):
    queue.enqueue_many([b"a", b"b", b"c", b"d"])
    done = queue.dequeue()
    done.ack()
    queue.dequeue().dead_letter("no good")
    holder = None
    if wake == "holder.kill()":
        holder = child()
        holder("queue.dequeue()")
    message = queue.dequeue()
    queue.dequeue()
    later = queue.enqueue(b"later", delay_s=600)
    process = waiting()
    names = {"queue": queue, "message": message, "done": done.id, "later": later, "holder": holder}
    eval(wake, names | {"new": spool / "new" / "job", "__file__": __file__})
    process.result(5)
    assert process("message is not None")


def test_resume_wakes(queue, waiting):
    queue.enqueue(b"body")
    queue.pause()
    process = waiting()
    queue.resume()
    process.result(5)
    assert process("message.body") == b"body"


def test_what_is_due_is_delivered_on_time(queue, waiting):
    queue.enqueue(b"body", delay_s=0.4)
    process = waiting()
    process.result(5)
    assert process("message.body") == b"body"
    assert process("len(waits)") <= 4


def test_what_comes_between_looking_and_waiting_is_not_missed(queue, open_queue, no_looking, monkeypatch):
    other = open_queue()
    real = queue._may_have_something
    looked: list[int] = []

    def look():
        found = real()
        if not looked:
            looked.append(1)
            other.enqueue(b"body")
        return found

    monkeypatch.setattr(queue, "_may_have_something", look)
    assert queue.dequeue(wait_s=5).body == b"body"


def test_eight_who_wait_and_one_message(queue, waiting):
    """One of them gets it; the others look, without the write lock, and wait on."""
    processes = [waiting() for _ in range(8)]
    queue.enqueue(b"one")
    wait_for(lambda: any(process.answered() for process in processes))
    (lucky,) = [process for process in processes if process.answered()]
    lucky.result()
    assert lucky("message.body") == b"one"
    queue.enqueue_many([b"%d" % number for number in range(7)])
    for process in processes:
        if process is not lucky:
            process.result(10)
    bodies = [process("message.body") for process in processes if process is not lucky]
    assert sorted(bodies) == [b"%d" % number for number in range(7)]


def test_wake_that_was_removed_is_made_again(spool, queue, waiting):
    """By whoever waits, and by whoever has something to tell."""
    process = waiting()
    for body in (b"one", b"two"):
        (spool / "wake").unlink()
        queue.enqueue(body)
        process.result(5)
        assert process("message.body") == body
        process("message.ack()")
        process.start("message = queue.dequeue(wait_s=30)")
    process.kill()
    (spool / "wake").unlink()
    queue.enqueue(b"three")
    message = queue.dequeue()
    message.requeue(0)
    queue.dequeue().release()
    assert drain(queue) == [b"three"]
    assert (spool / "wake").exists()


# Where events are lost, or cannot be had


def test_after_an_overflow_everything_is_looked_at(spool, queue, no_looking):
    """More events than the kernel keeps: a drop that no event tells of any more is found."""
    taker = Taker(queue)
    wait_for(lambda: queue._wakeup._watches)
    instance = queue._wakeup._instance
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    here, there = spool / "new" / ".here", spool / "new" / ".there"
    here.touch()
    with instance._lock:  # its thread stands still
        for _ in range(limit // 2 + 100):
            os.rename(here, there)
            os.rename(there, here)
        (spool / "new" / "job").write_bytes(b"drop")
    wait_for(lambda: taker.bodies)
    assert taker.stop() == [b"drop"]
    here.unlink()


@pytest.mark.parametrize("what", ["instance", "watch"])
def test_without_inotify_waiting_is_looking(spool, open_queue, monkeypatch, caplog, what):
    """No instance, or no watch, is left for this user."""

    def refuse(*arguments):
        raise OSError(24 if what == "instance" else 28, "no more")

    monkeypatch.setattr(wakeup, "_shared", {})
    if what == "instance":
        monkeypatch.setattr(InotifyFD, "_create_inotify_fd", refuse)
    else:
        monkeypatch.setattr(InotifyFD, "add_callback", refuse)
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", NEVER_S)
    queue, other = open_queue(), open_queue()
    taker = Taker(queue)
    wait_for(lambda: not queue._wakeup.tells)
    begun = time.monotonic()
    other.enqueue(b"body")
    (spool / "new" / "job").write_bytes(b"drop")
    wait_for(lambda: len(taker.bodies) == 2)
    assert time.monotonic() - begun < 10 * wakeup.POLL_S
    assert sorted(taker.stop()) == [b"body", b"drop"]
    assert "wakeup.polling" in caplog.text
    instance = wakeup._shared.pop(os.getpid(), None)
    if instance is not None:
        instance.stop()
        instance.join()


def test_one_instance_and_one_thread_serve_all_queues_of_a_process(spool, open_queue):
    queues = [open_queue() for _ in range(5)]
    for queue in queues:
        queue.dequeue(wait_s=0.001)
    assert len({id(queue._wakeup._instance) for queue in queues}) == 1
    assert sum(isinstance(thread, InotifyFD) for thread in threading.enumerate()) == 1


# Idle


@pytest.fixture
def looks(queue, monkeypatch):
    """How often one who waits looks."""
    found = []
    real = queue._wakeup.wait

    def wait(seen, timeout_s):
        found.append(timeout_s)
        return real(seen, timeout_s)

    monkeypatch.setattr(queue._wakeup, "wait", wait)
    return found


def test_waiting_at_an_empty_queue_costs_nothing(queue, looks):
    queue.dequeue(wait_s=1)
    assert len(looks) <= 3


def test_waiting_beside_claims_looks_ten_times_a_second(queue, open_queue, looks):
    """For the dead."""
    queue.enqueue(b"body")
    message = open_queue().dequeue()
    queue.dequeue(wait_s=1)
    assert 5 <= len(looks) <= 12
    message.release()


def test_waiting_for_what_is_scheduled_costs_nothing(queue, looks):
    queue.enqueue(b"body", delay_s=600)
    queue.dequeue(wait_s=1)
    assert len(looks) <= 3


def test_waiting_at_a_paused_queue_costs_nothing(queue, looks):
    queue.enqueue(b"body")
    queue.pause()
    queue.dequeue(wait_s=1)
    assert len(looks) <= 3
    queue.resume()


def test_waiting_for_a_group_costs_nothing_but_looking_for_the_dead(queue, open_queue, looks):
    queue.enqueue(b"one", group="g")
    queue.enqueue(b"two", group="g")
    message = open_queue().dequeue()
    queue.dequeue(wait_s=1)
    assert len(looks) <= 12
    message.release()


def test_work_of_others_wakes_but_the_write_lock_is_left_to_them(queue, open_queue, looks, monkeypatch):
    """One who waits and always comes too late takes no transactions."""
    other = open_queue()
    writes = []
    waiting, stop = threading.Event(), threading.Event()

    def too_late():
        waiting.set()
        return False

    def work():
        waiting.wait()
        while not stop.is_set():
            other.enqueue(b"body")
            other.dequeue().ack()

    real = queue._session.write

    def write(*args):
        writes.append(1)
        return real(*args)

    monkeypatch.setattr(queue._session, "write", write)
    monkeypatch.setattr(queue, "_may_have_something", too_late)
    thread = threading.Thread(target=work)
    thread.start()
    assert queue.dequeue(wait_s=0.5) is None
    stop.set()
    thread.join()
    assert len(looks) > 10
    assert len(writes) <= 10
    assert names(queue._directory.root, "cur") == []
