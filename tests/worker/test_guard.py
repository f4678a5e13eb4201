"""The guard: a command ends with its worker, and nothing else does."""

import os
import signal
import subprocess
import sys

import pytest

from spoolq.worker import guard_process
from spoolq.worker.guard import Guard
from tests.worker.processes import ROOT, children, guard_of, kill, lives, pid_in, wait_for

WORKER = """
import os, sys
from spoolq.memory import MemoryQueue
from spoolq.worker import CommandHandler, Worker
from spoolq.worker.guard import Guard
queue = MemoryQueue()
for _ in range({messages}):
    queue.enqueue(b"")
{change}
raise SystemExit(Worker(queue, CommandHandler(sys.argv[1:]), concurrency=2, grace_s=0.2, poll_s=0.05).run())
"""
DIES_BEFORE_TELLING = """
def die(*_):
    while not (os.path.exists({path!r}) and os.path.getsize({path!r})):
        pass
    os.kill(os.getpid(), 9)
Guard.started = die
"""


@pytest.fixture
def start():
    """Start a worker with a message or two in its memory, for a shell script."""
    started = []

    def start(script, change="", messages=1):
        code = WORKER.format(change=change, messages=messages)
        process = subprocess.Popen([sys.executable, "-c", code, "sh", "-c", script], cwd=ROOT)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def gone(*pids):
    wait_for(lambda: not any(map(lives, pids)), 1.0)


def test_kill_worker_and_its_command_ends_with_its_whole_group(start, tmp_path):
    script = f"sh -c 'echo $$ > {tmp_path}/child; trap \"\" TERM HUP; sleep 60' & echo $$ > {tmp_path}/leader; wait"
    worker = start(script)
    pids = pid_in(tmp_path / "leader"), pid_in(tmp_path / "child")
    guard = guard_of(worker.pid)
    kill(worker.pid)
    gone(*pids, guard)


def test_kill_worker_and_the_commands_of_all_slots_end(start, tmp_path):
    worker = start(f"echo $$ > {tmp_path}/$$; exec sleep 60", messages=2)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    pids = [pid_in(path) for path in tmp_path.iterdir()]
    kill(worker.pid)
    gone(*pids)


def test_kill_worker_in_the_instant_before_it_tells_the_guard(start, tmp_path):
    """The guard knows the pipe that is the command's standard error, and finds who has it."""
    out = tmp_path / "pid"
    start(f"echo $$ > {out}; exec sleep 60", change=DIES_BEFORE_TELLING.format(path=str(out)))
    gone(pid_in(out))


@pytest.mark.parametrize("change", ["", DIES_BEFORE_TELLING], ids=["told", "not yet told"])
def test_a_command_that_closes_everything_is_still_known(start, tmp_path, change):
    """It holds neither the claim nor a pipe of ours any more. (ssh and sudo close all but 0, 1, 2.)"""
    out = tmp_path / "pid"
    close = "exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-"
    worker = start(f"{close}; echo $$ > {out}; exec sleep 60", change.format(path=str(out)))
    pid = pid_in(out)
    worker.kill()
    gone(pid)


def test_kill_worker_before_it_tells_the_guard_and_after_the_leader_has_gone(start, tmp_path):
    out = tmp_path / "left"
    start(f"sleep 60 & echo $! > {out}; exit 0", DIES_BEFORE_TELLING.format(path=str(out)))
    gone(pid_in(out))


def test_what_a_command_left_in_its_group_ends_with_the_worker_too(start, tmp_path):
    """It still holds the lock that proves the slot's claims, so it would hold back the message in hand."""
    script = f"""
        if mkdir {tmp_path}/first; then sleep 60 & echo $! > {tmp_path}/left; exit 0; fi
        echo $$ > {tmp_path}/second; exec sleep 60"""
    worker = start(script, messages=2)
    pids = pid_in(tmp_path / "left"), pid_in(tmp_path / "second")
    kill(worker.pid)
    gone(*pids)


def test_an_end_in_order_leaves_what_commands_left_behind(start, tmp_path):
    worker = start(f"sleep 60 & echo $! > {tmp_path}/left; exit 0")
    left = pid_in(tmp_path / "left")
    guard = guard_of(worker.pid)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert not lives(guard)
    assert lives(left)
    kill(left)


def test_the_guard_has_a_session_of_its_own_and_ignores_what_stops_others(start, tmp_path):
    worker = start(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    pid = pid_in(tmp_path / "pid")
    guard = guard_of(worker.pid)
    assert os.getsid(guard) == guard != os.getsid(worker.pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard, number)
    kill(worker.pid)
    gone(pid, guard)


def test_the_guard_holds_nothing_but_its_pipe(start, tmp_path):
    worker = start(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    pid_in(tmp_path / "pid")
    guard = guard_of(worker.pid)

    def held():
        listed = subprocess.run(["ls", "-l", f"/proc/{guard}/fd"], capture_output=True, text=True, check=False).stdout
        targets = [line.rpartition(" -> ")[2] for line in listed.splitlines() if " -> " in line]
        return sorted(each.partition("[")[0] for each in targets if each != "anon_inode:[pidfd]")

    wait_for(lambda: held() == ["/dev/null", "/dev/null", "pipe:"])


def test_with_the_guard_killed_a_new_one_takes_over_with_the_next_command(start, tmp_path):
    worker = start(
        f"echo $$ > {tmp_path}/$$; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; rm {tmp_path}/go", messages=3
    )
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    first = {pid_in(path) for path in tmp_path.iterdir()}
    guard = guard_of(worker.pid)
    kill(guard)
    gone(guard)
    (tmp_path / "go").touch()
    pids = wait_for(
        lambda: (now := {int(path.name) for path in tmp_path.iterdir() if path.name != "go"}) - first and now
    )
    guard_of(worker.pid)
    kill(worker.pid)
    gone(*pids)


def test_a_guard_that_is_stopped_never_blocks_the_worker_nor_wakes_up_to_kill():
    guard = Guard()
    first = guard.pid or 0
    command = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        guard.starting(1, "x")
        guard.started(1, command.pid)
        os.kill(first, signal.SIGSTOP)
        for key in range(2, 20_000):
            guard.starting(key, "x")
            guard.ended(key)
        assert guard.pid != first
        assert not lives(first)
        assert lives(command.pid)
        guard.close()
        gone(command.pid)
    finally:
        command.kill()
        command.wait()


def test_the_guard_leaves_at_once_when_the_worker_ends():
    guard = Guard()
    pid = guard.pid
    guard.close()
    assert pid not in children(os.getpid())
    guard.close()


def test_without_a_guard_commands_run_all_the_same(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    guard = Guard()
    assert guard.pid is None
    guard.starting(1, "x")
    guard.ended(1)
    guard.close()
    assert "guard.unavailable" in caplog.text


@pytest.mark.parametrize("kernel", ["new", "old"])
class TestPids:
    """A number that means another process by now is never killed."""

    @pytest.fixture(autouse=True)
    def _kernel(self, kernel, monkeypatch):
        real = signal.pidfd_send_signal

        def old(pidfd, number, info=None, flags=0):
            if flags:
                raise OSError(22, "Invalid argument")
            real(pidfd, number, info, flags)

        if kernel == "old":
            monkeypatch.setattr(signal, "pidfd_send_signal", old)

    @pytest.fixture
    def command(self):
        process = subprocess.Popen(
            ["sh", "-c", "sleep 60 > /dev/null & echo $!; read x"], process_group=0, stdin=-1, stdout=-1
        )
        assert process.stdout is not None
        process.child = int(process.stdout.readline())  # type: ignore[attr-defined]
        yield process
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()

    def test_a_group_is_killed(self, command):
        with closing_fd(os.pidfd_open(command.pid)) as pidfd:
            guard_process.kill_group(command.pid, pidfd, os.getsid(0))
        gone(command.pid, command.child)

    def test_a_group_without_its_leader_is_killed(self, command):
        with closing_fd(os.pidfd_open(command.pid)) as pidfd:
            command.communicate(b"\n")
            assert lives(command.child)
            guard_process.kill_group(command.pid, pidfd, os.getsid(0))
        gone(command.child)

    def test_a_number_used_again_is_left_alone(self, command):
        """The pidfd is of a process that has ended; the number, of the command."""
        other = subprocess.Popen(["true"])
        with closing_fd(os.pidfd_open(other.pid)) as pidfd:
            other.wait()
            guard_process.kill_group(command.pid, pidfd, os.getsid(0))
        command.communicate(b"\n")
        assert command.returncode == 0
        assert lives(command.child)

    def test_one_that_had_gone_when_the_guard_was_told_is_left_alone(self, command):
        guard_process.kill_group(command.pid, -1, os.getsid(0))
        command.communicate(b"\n")
        assert command.returncode == 0


class closing_fd:  # noqa: N801 used like a function
    def __init__(self, fd):
        self.fd = fd

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        os.close(self.fd)
