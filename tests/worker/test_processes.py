"""The worker as people run it: `spoolq work` on a spool, killed, stopped and signalled from outside."""

import gzip
import os
import resource
import shutil
import signal
import threading
import time

import pytest

from spoolq import open_queue
from spoolq.settings import Retry, Settings, dump
from spoolq.worker import PythonHandler
from tests.worker.processes import LIMIT_S, Workers, children, guard_of, is_told, kill, lives, pid_in, wait_for, work

BACK_WITHIN_S = 1.5
SETTINGS = Settings(durability="process", max_attempts=3, retry=Retry(base_s=0, jitter=0))


@pytest.fixture
def queue(tmp_path):
    """A spool, in perfect order at the end."""
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(SETTINGS))
    with open_queue(spool) as queue:
        yield queue
        assert list(queue.check()) == []


@pytest.fixture
def workers(queue, tmp_path):
    workers = Workers(tmp_path / "spool")
    yield workers
    workers.kill_all()
    wait_for(lambda: queue.maintain() or not queue.stats().claimed)
    wait_for(lambda: queue.maintain() or not list(queue.check()))


def state(queue, id):
    info = queue.get(id)
    return info.state, info.attempts


def once_it_runs(path, rest="exec sleep 60"):
    """A script that writes its pid into a file named by the attempt, and on the first attempt does the rest."""
    return f"echo $$ > {path}.$SPOOLQ_ATTEMPT; [ $SPOOLQ_ATTEMPT -gt 1 ] || {{ {rest}; }}"


# Killed


def test_kill_worker_and_another_starts_the_message_within_a_second_and_a_half(queue, workers, tmp_path):
    """The command ends with its worker, so does what it started, and the attempt is counted."""
    child = f"sh -c 'trap \"\" TERM HUP; echo $$ > {tmp_path}/child; sleep 60' & wait"
    first = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid", child))
    id = queue.enqueue(b"")
    command, child_pid = pid_in(tmp_path / "pid.1"), pid_in(tmp_path / "child")
    workers.start("--", "sh", "-c", f"echo $$ > {tmp_path}/second.$SPOOLQ_ATTEMPT")
    queue.enqueue(b"")
    pid_in(tmp_path / "second.1")  # it is there, and waits
    killed_s = time.monotonic()
    kill(first.pid)
    wait_for((tmp_path / "second.2").exists)
    took_s = time.monotonic() - killed_s
    assert took_s < BACK_WITHIN_S
    assert not lives(command)
    assert not lives(child_pid)
    wait_for(lambda: state(queue, id) == ("done", 2))
    assert [each.reason for each in queue.get(id).history] == ["holder died"]


def test_kill_worker_and_guard_and_no_second_run_starts_while_the_command_lives(queue, workers, tmp_path):
    """The command inherits the lock that proves the claim."""
    first = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    id = queue.enqueue(b"")
    command, guard = pid_in(tmp_path / "pid.1"), guard_of(first.pid)
    kill(guard)
    wait_for(lambda: not lives(guard))
    kill(first.pid)
    first.wait()
    workers.start("--", "sh", "-c", f"echo $$ > {tmp_path}/second.$SPOOLQ_ATTEMPT")
    for count in range(1, 4):  # it works, so it reaps; and so do we
        queue.enqueue(b"")
        wait_for(lambda: queue.stats().done == count)  # noqa: B023 called at once
        assert queue.dequeue(wait_s=0.2) is None
    assert lives(command)
    assert state(queue, id) == ("claimed", 1)
    kill(command)
    wait_for((tmp_path / "second.2").exists, BACK_WITHIN_S)
    wait_for(lambda: state(queue, id) == ("done", 2))


def test_kill_worker_and_no_second_run_starts_while_a_part_lives_that_left_the_group(queue, workers, tmp_path):
    """The guard does not know of it; the lock does."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/away; exec sleep 60' & wait"
    first = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid", script))
    id = queue.enqueue(b"")
    command, away = pid_in(tmp_path / "pid.1"), pid_in(tmp_path / "away")
    wait_for(lambda: is_told(guard_of(first.pid), command))
    kill(first.pid)
    wait_for(lambda: not lives(command))
    queue.maintain()
    assert lives(away)
    assert state(queue, id) == ("claimed", 1)
    kill(away)
    wait_for(lambda: queue.maintain() or state(queue, id) == ("ready", 1), BACK_WITHIN_S)


def test_a_command_that_always_kills_its_worker_ends_in_dead(queue, workers):
    id = queue.enqueue(b"poison")
    for _ in range(SETTINGS.max_attempts):
        wait_for(lambda: queue.maintain() or queue.get(id).state == "ready")
        workers.start("--once", "--", "sh", "-c", "kill -9 $PPID; sleep 60").wait(LIMIT_S)
    wait_for(lambda: queue.maintain() or queue.get(id).state == "dead")
    assert [each.reason for each in queue.get(id).history] == ["holder died"] * SETTINGS.max_attempts


def test_a_stopped_worker_loses_nothing_to_the_clock(queue, workers, tmp_path):
    first = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    id = queue.enqueue(b"")
    pid_in(tmp_path / "pid.1")
    first.send_signal(signal.SIGSTOP)
    queue.maintain()
    assert queue.dequeue(wait_s=0.3) is None
    assert state(queue, id) == ("claimed", 1)


def test_a_worker_stopped_past_its_asked_lease_ends_its_command_and_settles_nothing(queue, workers, tmp_path):
    first = workers.start("--lease", "0.5", "--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    id = queue.enqueue(b"")
    command = pid_in(tmp_path / "pid.1")
    first.send_signal(signal.SIGSTOP)
    message = wait_for(lambda: queue.dequeue(wait_s=0.1))
    assert (message.id, message.attempts) == (id, 2)
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: not lives(command))
    assert state(queue, id) == ("claimed", 2)
    message.ack()


# Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_lets_what_is_in_hand_finish(queue, workers, tmp_path, number):
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    worker = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid", script))
    ids = [queue.enqueue(b""), queue.enqueue(b"")]
    pid_in(tmp_path / "pid.1")
    worker.send_signal(number)
    (tmp_path / "go").touch()
    assert worker.wait(LIMIT_S) == 0
    assert [state(queue, id) for id in ids] == [("done", 1), ("ready", 0)]


def test_the_second_signal_gives_it_back_uncounted(queue, workers, tmp_path):
    worker = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    id = queue.enqueue(b"")
    command = pid_in(tmp_path / "pid.1")
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(LIMIT_S) == 0
    assert not lives(command)
    assert state(queue, id) == ("ready", 0)
    assert queue.get(id).history == ()


def test_the_end_of_the_grace_gives_it_back_uncounted(queue, workers, tmp_path):
    worker = workers.start("--grace", "0.1", "--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    id = queue.enqueue(b"")
    pid_in(tmp_path / "pid.1")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(LIMIT_S) == 0
    assert state(queue, id) == ("ready", 0)


def test_an_idle_worker_stops_soon(queue, workers):
    worker = workers.start("--", "true")
    queue.enqueue(b"")
    wait_for(lambda: queue.stats().done)
    guard = guard_of(worker.pid)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(3) == 0
    assert not lives(guard)
    assert os.listdir(workers.spool / "holders") == []


# The file


@pytest.mark.parametrize(
    "command", [["mv", "{}", "../kept"], ["sh", "-c", 'gzip < {} > ../kept.gz; rm "$SPOOLQ_PATH"']]
)
def test_a_command_may_take_its_file_away(queue, workers, tmp_path, command):
    queue.enqueue(b"a report", name="my report.csv")
    assert workers.run("--drain", "--", *[each.replace("../", f"{tmp_path}/") for each in command]) == 0
    assert queue.stats().claimed == queue.stats().ready == 0
    assert queue.stats().acknowledged_total == 1
    if (tmp_path / "kept").exists():
        assert (tmp_path / "kept").read_bytes() == b"a report"
    else:
        assert gzip.decompress((tmp_path / "kept.gz").read_bytes()) == b"a report"


def test_the_body_is_the_file_itself_whatever_it_was_called(queue, workers, tmp_path):
    dropped = tmp_path / "Bericht für $(rm -rf) 'Zoë'.txt"
    dropped.write_bytes(os.urandom(1_000_000))
    shutil.copy(dropped, workers.spool / "new")
    script = f'[ "$(stat -Lc %i {{}} /dev/stdin | uniq | wc -l)" = 1 ] && cp -- {{}} {tmp_path}/out'
    assert (
        workers.run("--drain", "--", "sh", "-c", f'{script}; printf %s "$SPOOLQ_ORIGINAL_NAME" > {tmp_path}/name') == 0
    )
    assert (tmp_path / "out").read_bytes() == dropped.read_bytes()
    assert (tmp_path / "name").read_text() == dropped.name
    assert queue.stats().done == 1


def test_the_path_holds_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_queue("relative") as queue:
        queue.enqueue(b"the body")
        show = f'cd / && cat {{}} > {tmp_path}/out && cmp {{}} "$SPOOLQ_PATH" && test -e "$SPOOLQ_SPOOL/FORMAT"'
        assert work(queue, "sh", "-c", show) == 0
        assert queue.stats().done == 1
    assert (tmp_path / "out").read_bytes() == b"the body"


def test_a_command_inherits_what_proves_the_claim_and_the_guard_does_not(queue, workers, tmp_path):
    worker = workers.start("--", "sh", "-c", once_it_runs(tmp_path / "pid"))
    queue.enqueue(b"")
    command, guard = pid_in(tmp_path / "pid.1"), guard_of(worker.pid)

    def held(pid):
        return [os.path.basename(os.path.dirname(os.readlink(fd))) for fd in os.scandir(f"/proc/{pid}/fd")]

    assert held(command).count("holders") == 1
    assert "holders" not in held(guard)
    assert not [each for each in held(command) if each in {"spool", "new"}]


# Failing


def test_a_command_that_always_fails_ends_in_dead_with_each_attempt(queue, workers):
    id = queue.enqueue(b"")
    assert workers.run("--drain", "--", "sh", "-c", "echo attempt $SPOOLQ_ATTEMPT failed >&2; exit 9") == 0
    assert state(queue, id) == ("dead", 3)
    history = queue.get(id).history
    assert [each.exit_status for each in history] == [9, 9, 9]
    assert [each.stderr for each in history] == [f"attempt {n} failed\n" for n in (1, 2, 3)]
    assert queue.dead_letters.reasons() == [("exit status 9", 1)]


def test_a_timeout_kills_the_whole_group(queue, workers, tmp_path):
    child = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; sleep 60' & wait"
    workers.start("--timeout", "0.5", "--grace", "0.1", "--", "sh", "-c", once_it_runs(tmp_path / "pid", child))
    id = queue.enqueue(b"")
    child_pid = pid_in(tmp_path / "child")
    wait_for(lambda: not lives(child_pid))
    wait_for(lambda: state(queue, id) == ("done", 2))
    assert queue.get(id).history[0].reason == "timed out after 0.5 s"


def test_a_command_that_is_not_there_is_78_before_the_first_claim(queue, workers):
    id = queue.enqueue(b"")
    assert workers.run("--", "no-such-command-of-spoolq") == 78
    assert state(queue, id) == ("ready", 0)


def test_a_command_that_goes_later_is_78_and_gives_back_uncounted(queue, workers, tmp_path):
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\nrm {command}\n")
    command.chmod(0o755)
    ids = [queue.enqueue(b""), queue.enqueue(b"")]
    assert workers.run("--", str(command)) == 78
    assert [state(queue, id) for id in ids] == [("done", 1), ("ready", 0)]


# Others


def test_slots_run_at_once(queue, workers, tmp_path):
    queue.enqueue_many([b""] * 4)
    (tmp_path / "here").mkdir()
    meet = f"touch {tmp_path}/here/$$; while [ $(ls {tmp_path}/here | wc -l) -lt 4 ]; do sleep 0.01; done"
    assert workers.run("-c", "4", "--drain", "--", "sh", "-c", meet) == 0
    assert queue.stats().done == 4


def test_two_workers_share_the_messages_and_nothing_is_done_twice(queue, workers, tmp_path):
    ids = queue.enqueue_many([b""] * 100)
    both = [
        workers.start("-c", "2", "--drain", "--", "sh", "-c", f"echo $SPOOLQ_ID >> {tmp_path}/log.$PPID") for _ in "ab"
    ]
    assert [worker.wait(30) for worker in both] == [0, 0]
    logged = [line for path in tmp_path.glob("log.*") for line in path.read_text().split()]
    assert sorted(logged) == sorted(ids)


def test_python_handlers_are_found_in_the_current_directory(queue, workers, tmp_path):
    (tmp_path / "handlers.py").write_text("def keep(message):\n    open('kept', 'wb').write(message.body)\n")
    id = queue.enqueue(b"the body")
    assert workers.run("--once", "handlers:keep") == 0
    assert (tmp_path / "kept").read_bytes() == b"the body"
    assert state(queue, id) == ("done", 1)
    assert workers.run("--once", "handlers:keep") == 3


def test_memory_descriptors_and_threads_stay_the_same(queue):
    """By the thousand here; a benchmark does it by the hundred thousand."""

    def used():
        return (
            len(os.listdir("/proc/self/fd")),
            sorted(each.name for each in threading.enumerate()),
            len(children(os.getpid())),
        )

    def work_on(count):
        queue.enqueue_many([b"x"] * count)
        work(queue, "true", concurrency=2)
        queue.enqueue_many([b"x"] * count)
        work(queue, handler=PythonHandler(lambda message: message.body))
        return used(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    work_on(100)
    before, memory = work_on(100)
    after, memory_after = work_on(600)
    assert after == before
    assert memory_after < memory * 1.05
