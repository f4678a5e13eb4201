"""Forks, threads and pools: claims stay with whom they were, locks with whom they are, and nobody is left with half."""

import multiprocessing
import os
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from spoolq.errors import LeaseLost, QueueClosed
from spoolq.spool import rebuilding
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue
from tests.helpers import names, wait_for
from tests.spool.helpers import drain, in_fork


def descriptors() -> Counter[str]:
    """What this process has open, by path."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{fd}")] += 1
        except FileNotFoundError:  # the listing itself
            continue
    return found


@pytest.fixture
def rebuilt(monkeypatch):
    times = []
    real = rebuilding.rebuild

    def rebuild(*args, **kwargs):
        times.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(rebuilding, "rebuild", rebuild)
    return times


def take(queue):
    """Claim one and keep it: its body and attempts."""
    message = queue.dequeue()
    return None if message is None else (message.body, message.attempts)


def test_the_parents_claim_stays_the_parents(spool, queue):
    queue.enqueue(b"parents")
    queue.enqueue(b"childs")
    message = queue.dequeue()
    assert in_fork(lambda: take(queue)) == (b"childs", 1)
    assert queue.dequeue(wait_s=5).attempts == 2, "the child is dead, and what it claimed comes back"
    message.ack()
    assert queue.stats().done == 1


def test_a_child_that_closes_the_queue_gives_back_its_own_claims_only(spool, queue):
    queue.enqueue(b"parents")
    queue.enqueue(b"childs")
    message = queue.dequeue()

    def use_and_close():
        found = take(queue)
        queue.close()
        return found

    assert in_fork(use_and_close) == (b"childs", 1)
    assert len(names(spool, "holders")) == 1
    again = queue.dequeue()
    assert (again.body, again.attempts) == (b"childs", 1)
    message.ack()
    again.ack()


def test_a_child_cannot_be_taken_for_its_dead_parent(spool, child):
    """The parent dies, its child lives on: what the parent held comes back."""
    parent = child()
    parent("queue.enqueue(b'body')")
    parent("message = queue.dequeue()")
    parent("pid = os.fork() or time.sleep(600)")
    grandchild = parent("pid")
    try:
        parent.kill()
        with SpoolQueue.open(spool) as queue:
            message = queue.dequeue(wait_s=5)
            assert message is not None
            assert message.attempts == 2
            message.ack()
    finally:
        os.kill(grandchild, 9)


def test_the_childs_receipt_is_good_in_the_parent_while_the_child_lives(queue):
    """A receipt is plain text; who settles it does not matter."""
    queue.enqueue(b"body")
    told_read, told_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told_write, queue.dequeue().receipt.encode())
        os.read(done_read, 1)
        os._exit(0)
    receipt = os.read(told_read, 1000).decode()
    assert queue.dequeue() is None
    queue.acknowledge(receipt)
    os.write(done_write, b"x")
    os.waitpid(pid, 0)
    for fd in (told_read, told_write, done_read, done_write):
        os.close(fd)


def test_the_parents_receipt_is_good_in_the_child(queue):
    queue.enqueue(b"body")
    message = queue.dequeue()
    assert in_fork(lambda: queue.acknowledge(message.receipt)) is None
    assert queue.stats().done == 1


def test_a_fork_costs_no_index(queue, rebuilt):
    """Totals begin anew where it is made anew; that is not what a fork is for."""
    for number in range(3):
        queue.enqueue(b"%d" % number)
        queue.dequeue().ack()
        assert in_fork(lambda: queue.stats().acknowledged_total) == 2 * number + 1
        assert in_fork(lambda: queue.enqueue(b"x") and queue.dequeue().ack()) is None
        queue.dead_letters.list()
        assert in_fork(queue.peek) is None
    assert rebuilt == []
    assert queue.stats().acknowledged_total == 6


class Threads:
    """Threads that do a thing until they are stopped; what goes wrong in one is raised at the end."""

    def __init__(self, *works):
        self.stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def _run(self, work):
        try:
            while not self.stopping.is_set():
                work()
        except BaseException as error:
            self._errors.append(error)

    def stop(self):
        self.stopping.set()
        for thread in self._threads:
            thread.join(30)
        assert self._errors == []


def test_forks_in_the_middle_of_everything(queue):
    """Four threads at work, and the main one forks: no child is stuck, and every message is delivered once."""
    sent: list[bytes] = []
    got: list[bytes] = []

    def produce():
        body = b"%s-%d" % (threading.current_thread().name.encode(), len(sent))
        queue.enqueue(body)
        sent.append(body)

    def consume():
        message = queue.dequeue(wait_s=0.05)
        if message is not None:
            got.append(message.body)
            message.ack()

    threads = Threads(produce, produce, consume, consume)
    for number in range(8):
        body = b"child-%d" % number
        in_fork(partial(queue.enqueue, body))
        sent.append(body)
        assert in_fork(lambda: queue.stats().ready >= 0)
    threads.stop()
    got += drain(queue)
    assert Counter(got) == Counter(sent)


def test_a_grandchild_has_the_same_rights(queue):
    queue.enqueue(b"body")

    def fork_again():
        queue.enqueue(b"from the child")
        return in_fork(lambda: sorted(drain(queue)))

    assert in_fork(fork_again) == [b"body", b"from the child"]
    assert queue.stats().done == 2


def test_a_child_that_cannot_open_its_own_lock_shares_nobodys(spool, open_queue):
    """Two that lock through one open file do not exclude each other; then rather none at all."""
    parent = os.getpid()

    class NoMoreFiles(Files):
        def open_lock(self, path):
            if os.getpid() != parent:
                raise OSError(24, "Too many open files", path)
            return super().open_lock(path)

    queue = open_queue(files=NoMoreFiles())
    queue.enqueue(b"body")
    inode = os.stat(spool / "lock").st_ino

    def holds_the_lock_file():
        return [fd for fd in os.listdir("/proc/self/fd") if inode_of(fd) == inode]

    def inode_of(fd):
        try:
            return os.stat(f"/proc/self/fd/{fd}").st_ino
        except FileNotFoundError:
            return 0

    assert in_fork(holds_the_lock_file) == []
    assert drain(queue) == [b"body"]


# Descriptors


def test_opening_and_closing_leaks_nothing(spool):
    with SpoolQueue.open(spool) as queue:
        queue.dequeue(wait_s=0.01)
    before = descriptors()
    for _ in range(5):
        with SpoolQueue.open(spool) as queue:
            queue.enqueue(b"body")
            queue.dequeue(wait_s=0.01)
            queue.rebuild()
            queue.stats()
            (spool / "new" / "a drop").write_bytes(b"")
            queue.check()
            with queue.slot() as slot:
                slot.dequeue()
            queue.purge()
    assert descriptors() == before


def test_forking_leaks_nothing(queue):
    queue.enqueue(b"body")
    message = queue.dequeue()
    queue.dequeue(wait_s=0.01)
    queue.stats()
    before = descriptors()
    in_child: Counter[str] = Counter()

    def look():
        queue.stats()
        queue.dequeue(wait_s=0.01)
        return dict(descriptors())

    for _ in range(3):
        in_child = Counter(in_fork(look))
        queue.stats()
        assert descriptors() == before
    for path, count in in_child.items():
        if str(queue._directory.base) in path:
            # Its own holder stands beside what it has in common with the parent; nothing is open twice.
            assert count <= before[path] or "/holders/" in path, path
    assert sum("/holders/" in path for path in in_child) == 1, "the parent's proof of life was inherited"
    message.ack()


# Threads and pools


def test_eight_threads_on_one_queue(queue):
    queue.enqueue_many([b"%d" % number for number in range(200)])
    got: list[bytes] = []
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def work():
        try:
            start.wait()
            while (message := queue.dequeue()) is not None:
                got.append(message.body)
                message.ack()
                queue.stats()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert Counter(got) == Counter(b"%d" % number for number in range(200))


def test_eight_threads_that_open_one_spool_at_once(spool):
    """It is made once, by whoever comes first, and all of them have it."""
    start = threading.Barrier(8)
    opened: list[SpoolQueue] = []
    errors: list[BaseException] = []

    def work():
        try:
            start.wait()
            opened.append(SpoolQueue.open(spool))
            opened[-1].enqueue(b"body")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert drain(opened[0]) == [b"body"] * 8
    assert names(spool, "tmp") == []
    for queue in opened:
        queue.close()


@pytest.mark.parametrize("when", ["before looking", "before making FORMAT"])
def test_a_spool_that_somebody_else_makes_in_the_same_moment(spool, when):
    """Both have it, and it is one: neither replaces what the other holds a lock on."""
    others: list[SpoolQueue] = []

    class Slow(Files):
        def create(self, path):
            if "FORMAT" in path and when == "before making FORMAT":
                others.append(SpoolQueue.open(spool))
            return super().create(path)

    real = os.listdir

    def listdir(path):
        if when == "before looking" and not others:
            os.listdir = real
            others.append(SpoolQueue.open(spool))
        return real(path)

    os.listdir = listdir if when == "before looking" else real
    try:
        queue = SpoolQueue.open(spool, files=Slow())
    finally:
        os.listdir = real
    (other,) = others
    format_of_other = os.fstat(other._session._format_fd).st_ino
    assert os.stat(spool / "FORMAT").st_ino == format_of_other
    other.enqueue(b"body")
    assert drain(queue) == [b"body"]
    queue.close()
    assert not (spool / "index.db-clean").exists(), "the other one has it open"
    other.close()
    assert names(spool, "tmp") == []


def test_closing_while_others_are_at_it_ends_them_with_words(spool):
    queue = SpoolQueue.open(spool)
    queue.enqueue_many([b"x"] * 200)
    errors: list[BaseException] = []
    at_it = threading.Barrier(5)

    def work():
        at_it.wait()
        try:
            while True:
                message = queue.dequeue(wait_s=1)
                if message is not None:
                    message.ack()
                queue.stats()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    at_it.wait()
    wait_for(lambda: queue.stats().done > 5)
    queue.close()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in errors if not isinstance(error, QueueClosed | LeaseLost)] == []
    assert len(errors) == 4
    with SpoolQueue.open(spool) as again:
        again.maintain()
        assert again.stats().claimed == 0
        assert again.stats().done + again.stats().ready == 200


POOLED: list[SpoolQueue] = []


def enqueue_in_pool(number: int) -> str:
    return POOLED[0].enqueue(b"%d" % number)


def open_and_enqueue(arguments: tuple[str, int]) -> str:
    path, number = arguments
    with SpoolQueue.open(Path(path)) as queue:
        return queue.enqueue(b"%d" % number)


def test_a_pool_of_forked_processes(queue):
    """The open queue goes with the fork."""
    POOLED.append(queue)
    try:
        with multiprocessing.get_context("fork").Pool(3) as pool:
            ids = pool.map(enqueue_in_pool, range(30))
            pool.close()
            pool.join()
    finally:
        POOLED.clear()
    assert len(set(ids)) == 30
    assert sorted(drain(queue), key=int) == [b"%d" % number for number in range(30)]


def test_a_pool_of_spawned_processes(spool, queue, monkeypatch):
    """Each opens its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        ids = pool.map(open_and_enqueue, [(str(spool), number) for number in range(10)])
        pool.close()
        pool.join()
    assert len(set(ids)) == 10
    assert sorted(drain(queue), key=int) == [b"%d" % number for number in range(10)]
