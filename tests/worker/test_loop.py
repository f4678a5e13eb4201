"""The worker's life: what it does when it is told to stop, when there is nothing, and when the spool is in trouble."""

import threading

import pytest

from spoolq.errors import Busy, DiskFull, QueueNotFound, StorageError
from spoolq.memory import MemoryQueue
from spoolq.worker import CommandHandler, PythonHandler, Worker
from spoolq.worker.settle import Backoff
from tests.worker.processes import lives, pid_in, wait_for, work, working


@pytest.fixture
def queue():
    with MemoryQueue() as queue:
        yield queue


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Backoff, "FIRST_S", 0.001)
    monkeypatch.setattr(Backoff, "MOST_S", 0.002)


def failing(queue, monkeypatch, method, *errors):
    """Let a method of the queue raise these, one call each, before it works; they are gone from the list when met."""
    left = list(errors)
    real = getattr(queue, method)

    def call(*args, **kwargs):
        if left:
            raise left.pop(0)
        return real(*args, **kwargs)

    monkeypatch.setattr(queue, method, call)
    return left


# How long it works


def test_once_is_one_message(queue):
    queue.enqueue_many([b"", b""])
    assert work(queue, "true", drain=False, once=True, concurrency=3) == 0
    assert (queue.stats().done, queue.stats().ready) == (1, 1)


def test_once_with_nothing_there_is_3(queue):
    assert work(queue, "true", drain=False, once=True) == 3


def test_drain_is_until_nothing_is_ready(queue):
    queue.enqueue_many([b""] * 20)
    queue.enqueue(b"", delay_s=60)
    assert work(queue, "true", concurrency=3) == 0
    assert (queue.stats().done, queue.stats().scheduled) == (20, 1)
    assert work(queue, "true") == 0


def test_drain_believes_nothing_there_only_when_the_engine_has_looked_everywhere(queue, monkeypatch):
    """A scan is made in slices: the first look may come back with empty hands."""
    slices = [True, True, False]

    def maintain(**_):
        more = slices.pop(0)
        if not more:
            queue.enqueue(b"")
        return more if slices else False

    monkeypatch.setattr(queue, "maintain", maintain)
    slices.append(False)
    assert work(queue, "true", drain=False, once=True) == 0


def test_a_worker_waits_for_messages(queue):
    with working(queue, "true"):
        for count in (1, 2, 3):
            queue.enqueue(b"")
            wait_for(lambda: queue.stats().done == count)  # noqa: B023 called at once


# Told to stop


def test_stop_drains_what_is_in_hand_is_finished(queue, tmp_path):
    ids = [queue.enqueue(b""), queue.enqueue(b"")]
    with working(
        queue, "sh", "-c", f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    ) as w:
        pid_in(tmp_path / "pid")
        w.drain()
        (tmp_path / "go").touch()
    assert [(queue.get(id).state, queue.get(id).attempts) for id in ids] == [("done", 1), ("ready", 0)]


def test_a_second_stop_ends_what_is_in_hand_uncounted(queue, tmp_path):
    """TERM to the group; the message is given back also when the command then says that all is well."""
    id = queue.enqueue(b"")
    script = f"trap 'touch {tmp_path}/told; exit 0' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.01; done"
    with working(queue, "sh", "-c", script) as worker:
        pid = pid_in(tmp_path / "pid")
        worker.stop()
        worker.stop()
    assert not lives(pid)
    assert (tmp_path / "told").exists()
    assert (queue.get(id).state, queue.get(id).attempts, queue.get(id).history) == ("ready", 0, ())


def test_the_end_of_the_grace_ends_what_is_in_hand_uncounted(queue, tmp_path, monkeypatch):
    """And KILLs what does not listen."""
    monkeypatch.setattr("spoolq.worker.process.END_S", 0.05)
    id = queue.enqueue(b"")
    with working(queue, "sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/pid; exec sleep 60", grace_s=0.05) as worker:
        pid = pid_in(tmp_path / "pid")
        worker.stop()
    assert not lives(pid)
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_a_stop_shortens_the_grace_of_a_timeout_which_stays_one(queue, tmp_path, monkeypatch):
    monkeypatch.setattr("spoolq.worker.process.END_S", 0.05)
    id = queue.enqueue(b"")
    script = f"trap 'touch {tmp_path}/told' TERM; while :; do sleep 0.01; done"
    with working(queue, "sh", "-c", script, timeout_s=0.2, grace_s=60) as worker:
        wait_for((tmp_path / "told").exists)
        worker.stop()
        worker.stop()
    assert queue.get(id).history[0].reason == "timed out after 0.2 s"


def test_a_command_stopped_together_with_its_worker_is_not_counted(queue, tmp_path):
    """As systemd does, which sends TERM to every process of a service."""
    id = queue.enqueue(b"")
    with working(
        queue, "sh", "-c", f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do :; done; kill $$"
    ) as w:
        pid_in(tmp_path / "pid")
        w.drain()
        (tmp_path / "go").touch()
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_what_was_claimed_while_it_was_told_to_stop_is_given_back_uncounted(queue):
    id = queue.enqueue(b"")
    handled: list[object] = []
    worker = Worker(queue, PythonHandler(handled.append))
    real = queue._claim

    def claim(*args):
        worker._stop.drain()
        return real(*args)

    queue._claim = claim
    assert worker.run() == 0
    assert handled == []
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


# Trouble


@pytest.mark.parametrize("error", [Busy("locked"), StorageError("EIO"), DiskFull("no room")])
def test_trouble_at_dequeue_is_logged_and_gone_through(queue, monkeypatch, quick, caplog, error):
    id = queue.enqueue(b"")
    assert failing(queue, monkeypatch, "_claim", error, error) is not None
    assert work(queue, "true") == 0
    assert queue.get(id).state == "done"
    assert caplog.text.count("worker.trouble op=dequeue") == 2


@pytest.mark.parametrize("error", [Busy("locked"), StorageError("EIO"), DiskFull("no room")])
def test_trouble_at_settling_is_tried_again(queue, monkeypatch, quick, caplog, error):
    """The work is done: to forget that would do it twice."""
    id = queue.enqueue(b"")
    failing(queue, monkeypatch, "acknowledge", error, error)
    assert work(queue, "true") == 0
    assert (queue.get(id).state, queue.get(id).attempts) == ("done", 1)
    assert caplog.text.count("worker.trouble op=settle") == 2


def test_trouble_at_settling_does_not_keep_a_worker_that_ends(queue, monkeypatch, quick, caplog):
    id = queue.enqueue(b"")
    left = failing(queue, monkeypatch, "acknowledge", *[Busy("locked")] * 100_000)
    with working(queue, "true") as worker:
        wait_for(lambda: len(left) < 100_000)
        worker.stop()
        worker.stop()
    assert "message.unsettled" in caplog.text
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_the_waits_grow_to_five_seconds():
    backoff = Backoff()
    assert [round(backoff.next_s(), 1) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_s() == 0.1


def test_a_deleted_queue_stops_the_worker_with_its_message(queue, monkeypatch, caplog):
    failing(queue, monkeypatch, "_claim", *[QueueNotFound("the queue emails was deleted")] * 2)
    assert work(queue, "true", concurrency=2) == 5
    assert "the queue emails was deleted" in caplog.text


def test_a_slot_that_failed_takes_no_other_message_while_the_worker_hears_of_it(queue, monkeypatch):
    """The main thread may be slow to hear, or the command would be tried, and fail, again and again."""
    queue.enqueue_many([b""] * 3)
    worker = Worker(queue, CommandHandler(["sh", "-c", "exit 127"]), drain=True)
    say = worker._say
    releases: list[str] = []
    monkeypatch.setattr(worker, "_say", lambda word: word == b"o" and say(word))
    monkeypatch.setattr(queue, "release", releases.append)
    assert worker.run() == 78
    assert len(releases) == 1


def test_a_bug_stops_the_worker_rather_than_a_slot(queue, monkeypatch, caplog):
    failing(queue, monkeypatch, "_claim", RuntimeError("never thought of"))
    with pytest.raises(AssertionError), working(queue, "true", concurrency=3):
        wait_for(lambda: "never thought of" in caplog.text)
    assert not [each for each in threading.enumerate() if each.name.startswith("spoolq-slot")]


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"grace_s": -1},
        {"grace_s": float("inf")},
        {"lease_s": 0},
        {"poll_s": 0},
        {"once": True, "drain": True},
    ],
)
def test_arguments_out_of_range_are_refused(queue, options):
    with pytest.raises(ValueError, match=r"must be|contradict"):
        Worker(queue, CommandHandler(["true"]), **options)
