"""Commands as handlers: real processes, a queue in memory."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from spoolq.memory import MemoryQueue
from spoolq.settings import Retry, Settings
from spoolq.worker import CommandHandler, CommandNotFound
from spoolq.worker.command import as_bytes
from tests.worker.processes import children, kill, lives, pid_in, wait_for, work, working

AT_ONCE = Settings(retry=Retry(base_s=0, jitter=0), max_attempts=1000)


@pytest.fixture
def queue():
    with MemoryQueue() as queue:
        yield queue


def history(queue, id):
    (attempt,) = queue.get(id).history
    return attempt


# Exit statuses


@pytest.mark.parametrize(
    ("status", "state"),
    [(0, "done"), (1, "scheduled"), (65, "dead"), (75, "scheduled"), (77, "dead"), (100, "dead"), (111, "scheduled")],
)
def test_exit_status_decides(queue, status, state):
    id = queue.enqueue(b"")
    assert work(queue, "sh", "-c", f"exit {status}") == 0
    assert queue.get(id).state == state
    if state != "done":
        assert history(queue, id).exit_status == status
        assert f"exit status {status}" in history(queue, id).reason


@pytest.mark.parametrize("status", [126, 127])
def test_a_command_that_cannot_run_gives_back_uncounted_and_stops_the_worker(queue, status):
    ids = [queue.enqueue(b""), queue.enqueue(b"")]
    assert work(queue, "sh", "-c", f"exit {status}", concurrency=2) == 78
    assert [(queue.get(id).state, queue.get(id).attempts) for id in ids] == [("ready", 0)] * 2


def test_a_signal_requeues_and_is_in_the_history(queue):
    id = queue.enqueue(b"")
    work(queue, "sh", "-c", "kill -SEGV $$")
    assert queue.get(id).state == "scheduled"
    assert (history(queue, id).signal, history(queue, id).exit_status) == (signal.SIGSEGV, None)
    assert history(queue, id).reason == "killed by SIGSEGV"


def test_history_says_where_when_and_how_long(queue):
    id = queue.enqueue(b"")
    work(queue, "false")
    attempt = history(queue, id)
    assert attempt.attempt == 1
    assert attempt.outcome == "requeued"
    assert attempt.host == os.uname().nodename
    assert attempt.pid == os.getpid()
    assert attempt.duration_s is not None
    assert 0 < attempt.duration_s < 5


def test_a_child_that_somebody_else_waited_for_is_not_taken_for_a_success(queue):
    """With SIGCHLD ignored, as some parents leave it, the status is lost, and Popen says 0."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        id = queue.enqueue(b"")
        work(queue, "true")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert history(queue, id).reason == "exit status unknown"


# Not found


def test_a_command_that_is_not_there_is_found_at_once(tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    for command, why in [
        ("no-such-command-of-spoolq", "not on PATH"),
        (f"{tmp_path}/missing", "is not there"),
        (f"{tmp_path}/plain", "not executable"),
        (str(tmp_path), "is a directory"),
    ]:
        with pytest.raises(CommandNotFound, match=why) as caught:
            CommandHandler([command])
        assert caught.value.exit_code == 78
    for argv in ([], [""]):
        with pytest.raises(ValueError, match="no command"):
            CommandHandler(argv)


@pytest.mark.parametrize("how", ["removed", "not executable", "no such interpreter", "not a program"])
def test_a_command_that_goes_later_gives_back_uncounted_and_stops_the_worker(queue, tmp_path, how):
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    handler = CommandHandler([str(command)])
    if how == "removed":
        command.unlink()
    elif how == "not executable":
        command.chmod(0o644)
    else:
        command.write_text("#!/no/such/interpreter\n" if how == "no such interpreter" else "neither\n")
    id = queue.enqueue(b"")
    assert work(queue, handler=handler) == 78
    assert (queue.get(id).state, queue.get(id).attempts) == ("ready", 0)


def test_headers_too_large_for_an_environment_are_the_messages_fault(queue):
    id = queue.enqueue(b"", headers={"h": "\N{ENVELOPE}" * 60_000})
    assert work(queue, "true") == 0
    assert "Argument list too long" in history(queue, id).reason


# What the command gets


def test_the_body_is_standard_input_from_its_beginning(queue, tmp_path):
    body = os.urandom(300_000)
    queue.enqueue(body)
    work(queue, "sh", "-c", 'cat > "$1"', "sh", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == body


def test_placeholders_become_the_path_also_within_an_argument(queue, tmp_path):
    queue.enqueue(b"the body", name="my report.csv")
    show = (
        "import sys, pathlib; p = sys.argv[1]; print(sys.argv[1:], pathlib.Path(p).read_text(), file=open({!r}, 'w'))"
    )
    work(queue, sys.executable, "-c", show.format(str(tmp_path / "out")), "{}", "--in={}", "{}:{}", "plain")
    text = (tmp_path / "out").read_text()
    path = text.split("'")[1]
    assert text == f"{[path, f'--in={path}', f'{path}:{path}', 'plain']} the body\n"
    assert path.endswith(".csv")
    assert not Path(path).exists(), "a temporary file was left"


def test_the_command_itself_is_never_the_body():
    with pytest.raises(CommandNotFound):
        CommandHandler(["{}"])


def test_the_environment_says_the_rest(queue, tmp_path):
    headers = {"to": "Zoë", "n": "1"}
    id = queue.enqueue(b"", name="a b.txt", headers=headers)
    out = tmp_path / "out"
    work(queue, sys.executable, "-c", f"import json, os; json.dump(dict(os.environ), open({str(out)!r}, 'w'))")
    found = {key[7:]: value for key, value in json.loads(out.read_text()).items() if key.startswith("SPOOLQ_")}
    assert json.loads(found.pop("HEADERS")) == headers
    assert found.pop("PATH").startswith("/")
    assert found.pop("RECEIPT").startswith(f"{id}.")
    assert found.pop("ORIGINAL_NAME") in {"a b.txt", "a_b.txt"}
    assert found == {"ID": id, "ATTEMPT": "1", "NAME": "a_b.txt", "QUEUE": "default", "SPOOL": "memory:default"}


def test_a_name_that_an_environment_cannot_hold_is_made_to_fit():
    assert as_bytes("a\0b") == b"ab"
    assert as_bytes(os.fsdecode(b"f\xffo")) == b"f\xffo"
    assert as_bytes("lone \ud800") == b"lone ?"


def test_no_descriptor_leaks_into_the_command(queue, tmp_path):
    out = tmp_path / "out"
    queue.enqueue(b"")
    with open("/dev/null") as ours:
        os.set_inheritable(ours.fileno(), True)
        work(queue, "sh", "-c", f"ls /proc/self/fd > {out}")
    assert set(out.read_text().split()) == {"0", "1", "2", "3"}, "3 is of ls itself"


def test_signals_and_the_group_are_as_for_any_program(queue, tmp_path):
    """A handled or blocked signal of ours must not change what the command does; it leads its own group."""
    out = tmp_path / "out"
    queue.enqueue(b"")
    look = f"""
import json, os, signal
ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
blocked = list(signal.pthread_sigmask(signal.SIG_BLOCK, []))
json.dump([ignored, blocked, os.getpgrp() == os.getpid()], open({str(out)!r}, "w"))"""
    work(queue, sys.executable, "-I", "-S", "-c", look)
    ignored, blocked, leads = json.loads(out.read_text())
    assert set(ignored) <= {signal.SIGPIPE, signal.SIGXFSZ}, "Python ignores these itself"
    assert blocked == []
    assert leads


# Standard error


def test_the_end_of_standard_error_is_kept_and_all_of_it_passed_on(queue, capfd):
    id = queue.enqueue(b"")
    work(queue, "sh", "-c", "seq 1 50000 >&2; echo 'the last line' >&2; exit 1")
    expected = "".join(f"{n}\n" for n in range(1, 50001)) + "the last line\n"
    assert capfd.readouterr().err == expected
    assert history(queue, id).stderr == expected[-2048:]


def test_standard_error_of_any_bytes(queue, capfdbinary):
    """Passed on as bytes; in the history as text, from a whole character on."""
    id = queue.enqueue(b"")
    work(
        queue,
        "sh",
        "-c",
        r"""printf 'x%.0s' 1; for i in $(seq 1500); do printf '\303\251'; done >&2; printf '\377' >&2; exit 1""",
    )
    assert capfdbinary.readouterr().err == b"\xc3\xa9" * 1500 + b"\xff"
    assert history(queue, id).stderr == "é" * 1023 + "\ufffd"


def test_standard_output_passes_through(queue, capfd):
    queue.enqueue(b"body")
    work(queue, "sh", "-c", "cat; echo; echo oops >&2")
    assert capfd.readouterr() == ("body\n", "oops\n")


def test_a_closed_standard_error_of_ours_harms_nothing(queue):
    id = queue.enqueue(b"")
    kept = os.dup(2)
    os.close(2)
    try:
        work(queue, "sh", "-c", "echo oops >&2; exit 1")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert history(queue, id).stderr == "oops\n"


def test_what_a_command_leaves_behind_keeps_its_standard_error(queue, tmp_path, capfd):
    """The command has ended and its message is settled; the rest goes on, and its words still come through."""
    go = tmp_path / "go"
    queue.enqueue_many([b"", b""])
    rest = f"while [ ! -e {go} ]; do sleep 0.01; done; echo from the rest >&2"
    assert work(queue, "sh", "-c", f"({rest}) & exit 0") == 0
    assert queue.stats().done == 2
    go.touch()
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "spoolq-stderr"])
    assert capfd.readouterr().err == "from the rest\n" * 2


# Time


def test_a_timeout_ends_the_command_and_is_counted(queue):
    id = queue.enqueue(b"")
    assert work(queue, "sleep", "60", timeout_s=0.1) == 0
    attempt = history(queue, id)
    assert (attempt.reason, attempt.signal) == ("timed out after 0.1 s", signal.SIGTERM)
    assert (queue.get(id).state, queue.get(id).attempts) == ("scheduled", 1)


def test_a_timeout_kills_what_does_not_listen_after_the_grace(queue, tmp_path):
    """The whole group: also a child that ignores TERM, when its parent does not."""
    out = tmp_path / "pids"
    id = queue.enqueue(b"")
    stubborn = f"trap '' TERM; (echo $$ > {out}; exec sleep 60) & exec sleep 61"
    work(queue, "sh", "-c", stubborn, timeout_s=0.1, grace_s=0.1)
    assert history(queue, id).signal == signal.SIGKILL
    wait_for(lambda: not lives(pid_in(out)))


def test_a_timeout_kills_what_outlives_the_leader(queue, tmp_path):
    out = tmp_path / "pid"
    id = queue.enqueue(b"")
    script = f"sh -c 'trap \"\" TERM; echo $$ > {out}; exec sleep 60' & while [ ! -s {out} ]; do :; done; wait"
    work(queue, "sh", "-c", script, timeout_s=0.5, grace_s=30)
    assert history(queue, id).signal == signal.SIGTERM
    wait_for(lambda: not lives(pid_in(out)))


def test_a_command_that_is_stopped_hears_its_timeout(queue):
    id = queue.enqueue(b"")
    work(queue, "sh", "-c", "trap 'echo heard >&2; exit 9' TERM; kill -STOP $$; sleep 60", timeout_s=0.1)
    assert (history(queue, id).stderr, history(queue, id).exit_status) == ("heard\n", 9)


def test_a_command_within_its_time_is_left_alone(queue):
    id = queue.enqueue(b"")
    work(queue, "sh", "-c", "exit 0", timeout_s=30)
    assert queue.get(id).state == "done"


def test_without_pidfds_it_works_as_well(queue, monkeypatch):
    """An older kernel, macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    ids = [queue.enqueue(b"") for _ in range(3)]
    work(queue, "sh", "-c", "echo oops >&2; exit 65")
    assert [history(queue, id).stderr for id in ids] == ["oops\n"] * 3
    id = queue.enqueue(b"")
    work(queue, "sleep", "60", timeout_s=0.05)
    assert history(queue, id).reason == "timed out after 0.05 s"


# Many


def test_slots_run_at_once(queue, tmp_path):
    """Each command waits until all four are there."""
    for _ in range(4):
        queue.enqueue(b"")
    meet = f"touch {tmp_path}/$$; while [ $(ls {tmp_path} | wc -l) -lt 4 ]; do :; done"
    assert work(queue, "timeout", "20", "sh", "-c", meet, concurrency=4) == 0
    assert queue.stats().done == 4


def test_descriptors_threads_and_children_stay_the_same(queue):
    def used():
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children(os.getpid()))

    used_when_idle = []
    with working(queue, "sh", "-c", "echo x >&2; exec true", concurrency=2):
        for wanted in (50, 200):
            queue.enqueue_many([b"x"] * (wanted - queue.stats().done))
            wait_for(lambda: queue.stats().done == wanted)  # noqa: B023 called at once
            used_when_idle.append(used())
    assert used_when_idle[0] == used_when_idle[1]


def test_a_command_killed_from_outside_is_counted(queue, tmp_path):
    out = tmp_path / "pid"
    id = queue.enqueue(b"")
    with working(queue, "sh", "-c", f"echo $$ > {out}; exec sleep 60"):
        kill(pid_in(out))
        wait_for(lambda: queue.get(id).state == "scheduled")
    assert history(queue, id).reason == "killed by SIGKILL"
