"""The write lock when its holder is stopped, dies, or is slow: who waits is told who it is, and goes on afterwards."""

import fcntl
import os
import threading
import time

import pytest

from spoolq.errors import Busy
from spoolq.spool.lock import WriteLock
from tests.helpers import wait_for
from tests.spool.helpers import drain, in_fork

BUSY_S = 0.15


@pytest.fixture
def queue(spool, open_queue):
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(f"busy_s = {BUSY_S}\n")
    return open_queue()


@pytest.fixture
def stopped(queue, child):
    """A process that is stopped with the write lock in its hand."""
    process = child()
    process("queue._session._lock.acquire(5)")
    process.stop()
    return process


def test_busy_names_who_has_the_lock(queue, stopped):
    begun = time.monotonic()
    with pytest.raises(Busy) as busy:
        queue.dequeue()
    assert time.monotonic() - begun >= BUSY_S
    assert f"pid {stopped.pid}" in str(busy.value)
    assert f"{BUSY_S:g} s" in str(busy.value)


def test_a_dequeue_waits_for_it_once(queue, child, monkeypatch):
    """Not for each thing that it might do first: claims of the dead, a scan, cleaning."""
    queue.enqueue_many([b"x"] * 3)
    dead = child()
    dead("queue.dequeue()")
    dead.kill()
    process = child()
    process("queue._session._lock.acquire(5)")
    process.stop()
    waits = []
    real = WriteLock._wait_for_file

    def wait(self, busy_s):
        waits.append(busy_s)
        real(self, busy_s)

    monkeypatch.setattr(WriteLock, "_wait_for_file", wait)
    with pytest.raises(Busy):
        queue.dequeue()
    assert waits == [BUSY_S]


@pytest.mark.parametrize(
    "operation",
    [
        "dequeue()",
        "dequeue(wait_s=1)",
        "acknowledge(receipt)",
        "requeue(receipt)",
        "release(receipt)",
        "extend(receipt, 5)",
        "run_now(id)",
        "set_priority(id, 1)",
        "delete(id)",
        "purge()",
        "enqueue(b'x', dedup_key='x')",
        "check()",
        "rebuild()",
    ],
)
def test_every_change_is_busy(queue, child, operation):
    id = queue.enqueue(b"x")
    queue.enqueue(b"y")
    receipt = queue.dequeue(lease_s=60).receipt
    process = child()
    process("queue._session._lock.acquire(5)")
    process.stop()
    with pytest.raises(Busy, match=f"pid {process.pid}"):
        eval(f"queue.{operation}", {"queue": queue, "receipt": receipt, "id": id})


def test_looking_waits_for_nobody(queue, stopped):
    begun = time.monotonic()
    queue.peek()
    queue.stats()
    queue.list()
    queue.holders()
    assert time.monotonic() - begun < BUSY_S


def test_an_enqueue_returns_all_the_same_and_is_delivered_afterwards(queue, stopped):
    """Its message is safe; the row is added by the next scan."""
    queue.enqueue(b"one")
    queue.enqueue_many([b"two", b"three"])
    stopped.go_on()
    stopped("queue._session._lock.release()")
    assert drain(queue) == [b"one", b"two", b"three"]


def test_it_goes_on_as_soon_as_the_holder_does(queue, stopped):
    for _ in range(3):
        with pytest.raises(Busy):
            queue.dequeue()
    queue.enqueue(b"body")
    stopped.go_on()
    stopped("queue._session._lock.release()")
    begun = time.monotonic()
    assert drain(queue) == [b"body"]
    assert time.monotonic() - begun < BUSY_S


def test_it_goes_on_when_the_holder_is_killed(queue, stopped):
    with pytest.raises(Busy):
        queue.dequeue()
    stopped.kill()
    queue.enqueue(b"body")
    assert drain(queue) == [b"body"]


def test_who_waits_gets_it_within_the_time(queue, child):
    """Not at the end of it."""
    process = child()
    process("queue.enqueue(b'body')")
    process("import threading")
    process("queue._session._lock.acquire(5)")
    process.start("time.sleep(0.1) or queue._session._lock.release()")
    assert drain(queue) == [b"body"]
    process.result()


def test_a_thread_that_has_it_is_named_as_this_process(queue):
    held, done = threading.Event(), threading.Event()

    def hold():
        with queue._session.alone():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with pytest.raises(Busy, match=f"pid {os.getpid()}"):
        queue.dequeue()
    done.set()
    thread.join()
    assert queue.dequeue() is None


def test_many_threads_that_give_up_leave_nothing_behind(queue, stopped):
    before = threading.active_count()
    errors = []

    def work():
        try:
            queue.dequeue()
        except Busy as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(errors) == 6
    assert threading.active_count() <= before + 1, "one waits on, for whoever comes next"
    stopped.kill()
    wait_for(lambda: threading.active_count() <= before)


def test_a_fork_while_the_lock_is_stuck(queue, stopped):
    """It waits for its time, and then goes on: neither side is worse off than before."""
    queue.enqueue(b"body")

    def is_busy():
        try:
            queue.dequeue()
        except Busy:
            return True

    assert in_fork(is_busy)
    assert is_busy()
    stopped.kill()
    assert in_fork(lambda: drain(queue)) == [b"body"]
    assert queue.stats().done == 1


def test_a_fork_with_a_waiter_left_does_not_share_the_lock(queue, stopped, spool):
    """The child of one who gave up must not hold the parent's lock open."""
    with pytest.raises(Busy):
        queue.dequeue()
    inode = os.stat(spool / "lock").st_ino

    def descriptors_of_the_lock():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                found.append(os.stat(f"/proc/self/fd/{fd}").st_ino)
            except FileNotFoundError:
                continue
        return found.count(inode)

    assert in_fork(descriptors_of_the_lock) == 1
    stopped.kill()


def test_who_gave_up_and_closed_takes_no_lock_from_anybody(tmp_path):
    """Its thread waits on in the kernel; by the time it has the lock its descriptor's number is another file's."""
    path, other = str(tmp_path / "lock"), str(tmp_path / "other")
    holder = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    fd = os.open(path, os.O_RDWR)
    lock = WriteLock(path, fd)
    before = threading.active_count()
    with pytest.raises(Busy):
        lock.acquire(0.05)
    assert threading.active_count() == before + 1
    lock.close()
    mine = os.open(other, os.O_RDWR | os.O_CREAT)
    assert mine == fd
    fcntl.flock(mine, fcntl.LOCK_EX)
    fcntl.flock(holder, fcntl.LOCK_UN)
    wait_for(lambda: threading.active_count() == before)
    # Nobody holds the first lock any more, and the other one is still held.
    fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    again = os.open(other, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for each in (holder, mine, again):
        os.close(each)
