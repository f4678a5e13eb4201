"""What only real processes show: statuses, pipes, signals, claims that outlive a command, and what a start loads."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import check_spool

ROOT = Path(__file__).parents[2]
HEAVY = {"typer", "rich", "pydantic", "asyncio", "email", "http"}


@pytest.fixture
def command(tmp_path):
    """`command.run("put", stdin=b"x")` runs a real `spoolq` in an empty directory."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SPOOLQ_", "PYTHON"))}
    environ["PYTHONPATH"] = str(ROOT)
    started: list[subprocess.Popen[bytes]] = []

    def run(*args, stdin=b"", python=()):
        return subprocess.run(
            [sys.executable, *python, "-m", "spoolq", *args],
            cwd=tmp_path, env=environ, input=stdin, capture_output=True, check=False, timeout=30,
        )  # fmt: skip

    def start(*args, **streams):
        process = subprocess.Popen([sys.executable, "-m", "spoolq", *args], cwd=tmp_path, env=environ, **streams)
        started.append(process)
        return process

    yield SimpleNamespace(run=run, start=start, environ=environ)
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
    check_spool(tmp_path / "spool")


def test_a_message_goes_through_processes_and_statuses_say_how_it_went(command):
    assert command.run("get").returncode == 1  # there is no spool
    message_id = command.run("put", stdin=b"hello").stdout.decode().strip()
    taken = command.run("get")
    assert (taken.returncode, taken.stdout) == (0, b"hello")
    receipt = taken.stderr.decode().strip()
    assert receipt.startswith(message_id)
    assert command.run("get").returncode == 3
    assert (
        command.run("show", message_id, "--json").stdout.count(b'"claimed"') == 1
    )  # the process ended, the claim did not
    assert command.run("release", receipt).returncode == 0
    late = command.run("ack", receipt)
    assert (late.returncode, late.stdout) == (4, b"")
    assert late.stderr.startswith(b"spoolq: ")
    assert b"Traceback" not in late.stderr
    assert command.run("show", message_id.replace("0", "1")).returncode == 5
    assert command.run("put", "--nonsense").returncode == 2


def test_a_reader_that_leaves_ends_a_command_quietly(command):
    command.run("put", "--each-line", stdin=b"\n" * 2000)
    reading = command.start("ls", "--all", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout.readline()
    reading.stdout.close()
    assert reading.stderr.read() == b""
    assert reading.wait(10) == 141


def test_output_that_nobody_reads_is_no_noise_beside_an_error(command):
    command.run("put", stdin=b"x")
    receipt = command.run("get").stderr.decode().strip()
    process = command.start("ack", receipt, "nonsense", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    assert errors.count(b"\n") == 1
    assert b'"UsageError"' in errors
    assert process.wait(10) in {2, 141}


def test_a_body_that_nobody_reads_is_given_back(command):
    command.run("put", stdin=b"x" * 1_000_000)
    reading = command.start("get", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reading.stdout.close()
    receipt, *more = reading.stderr.read().splitlines()
    assert not more
    assert reading.wait(10) == 141
    assert command.run("ack", receipt.decode()).returncode == 4
    assert b'"attempts": 1,' in command.run("get", "--json").stdout


def test_a_full_disk_for_the_output_is_said_once(command):
    command.run("put", stdin=b"x")
    with open("/dev/full", "wb") as full:
        process = command.start("ls", stdout=full, stderr=subprocess.PIPE)
        errors = process.stderr.read().decode()
    assert process.wait(10) == 1
    assert errors == "spoolq: No space left on device: standard input or output\n"


def test_lines_are_messages_as_they_arrive(command):
    """A slow writer's lines are not kept until it ends."""
    writing = command.start("put", "--each-line", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for number in range(3):
        writing.stdin.write(b"%d\n" % number)
        writing.stdin.flush()
        assert re.fullmatch(rb"[0-9a-f-]{36}\n", writing.stdout.readline())
    writing.stdin.close()
    assert writing.wait(10) == 0


def test_a_large_body_is_streamed(command, tmp_path):
    """In and out, in less memory than it has."""
    size = 200_000_000
    with open(tmp_path / "large", "wb") as file:
        file.truncate(size)
    limited = ["sh", "-c", 'ulimit -v 400000; exec "$@"', "sh", sys.executable, "-m", "spoolq"]
    environ = command.environ
    with open(tmp_path / "large", "rb") as file:
        subprocess.run([*limited, "put"], cwd=tmp_path, env=environ, stdin=file, check=True, stdout=subprocess.DEVNULL)
    with open(tmp_path / "copy", "wb") as file:
        subprocess.run([*limited, "get"], cwd=tmp_path, env=environ, check=True, stdout=file, stderr=subprocess.DEVNULL)
    assert (tmp_path / "copy").stat().st_size == size


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_takes_in_drops_and_ends_when_asked(command, tmp_path, until, number):
    watching = command.start("watch", stderr=subprocess.PIPE)
    assert b"watching default\n" in iter(watching.stderr.readline, b"")
    (tmp_path / "spool" / "new" / "dropped.txt").write_text("hello")
    until(lambda: any("," in name for name in os.listdir(tmp_path / "spool" / "new")))
    watching.send_signal(number)
    assert watching.wait(10) == 0
    (line,) = watching.stderr.read().splitlines()
    assert b" INFO drop.taken_in " in line


def test_clean_every_ends_when_asked(command):
    command.run("init")
    cleaning = command.start("clean", "--every", "1h", stdout=subprocess.PIPE)
    assert cleaning.stdout.readline() == b"default: nothing deleted\n"
    cleaning.terminate()
    assert cleaning.wait(10) == 0


def test_ctrl_c_while_waiting_is_130_and_quiet(command, until):
    command.run("init")
    waiting = command.start("get", "--wait", "1h", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: _waits(waiting.pid))
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(10) == 130
    assert waiting.stderr.read() == b""


def test_work_runs_a_command_and_a_function(command, tmp_path):
    command.run("put", "--each-line", stdin=b"a\nb\n")
    worked = command.run("work", "--once", "--", "cat")
    assert (worked.returncode, worked.stdout) == (0, b"a")
    (tmp_path / "handlers.py").write_text("def handle(message):\n    print(message.body)\n")
    worked = command.run("work", "--drain", "handlers:handle")
    assert (worked.returncode, worked.stdout) == (0, b"b'b'\n"), worked.stderr
    assert b'"done": 2,' in command.run("stats", "--json").stdout
    missing = command.run("work", "--", "no-such-command-anywhere")
    assert missing.returncode == 78
    assert missing.stderr.startswith(b"spoolq: ")


def test_closed_streams_are_no_crash(command, tmp_path):
    shell = "{0} -m spoolq put <&- 2>err; echo $?; echo x | {0} -m spoolq put >&- 2>>err; echo $?; cat err"
    line = shell.format(shlex.quote(sys.executable))
    ran = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=command.environ, capture_output=True, check=True)
    statuses, _, errors = ran.stdout.decode().partition("spoolq: ")
    assert statuses.split() == ["2", "0"]
    assert errors.startswith("standard input is closed")
    assert "Traceback" not in errors


def test_names_that_a_locale_cannot_show_are_spelled_out(command, tmp_path):
    command.run("put", "--name", "日本.txt", stdin=b"x")
    environ = command.environ | {"PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-m", "spoolq", "ls"], cwd=tmp_path, env=environ, capture_output=True, check=True
    )
    assert rb"\u65e5\u672c.txt" in ran.stdout


def test_top_draws_until_q_is_pressed(command, tmp_path, until):
    command.run("put", stdin=b"x")
    ours, theirs = os.openpty()
    watching = command.start("top", "--every", "1h", stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    drawn = b""
    try:
        while b"q ends" not in drawn:
            drawn += os.read(ours, 65536)
    except OSError:  # it ended by itself
        pytest.fail(watching.stderr.read().decode())
    assert b"default" in drawn
    os.write(ours, b"q")
    try:
        while os.read(ours, 65536):
            pass
    except OSError:  # its side is closed
        pass
    os.close(ours)
    assert watching.wait(10) == 0
    assert watching.stderr.read() == b""


def test_at_a_terminal_long_work_shows_its_progress(command):
    command.run("put", "--each-line", stdin=b"\n" * 50)
    ours, theirs = os.openpty()
    rebuilding = command.start("rebuild", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    drawn = b""
    try:
        while piece := os.read(ours, 65536):
            drawn += piece
    except OSError:  # its side is closed
        pass
    os.close(ours)
    assert b"rebuilding default" in drawn
    assert rebuilding.stdout.read() == b"default: 50 messages\n"
    assert rebuilding.wait(10) == 0


@pytest.mark.parametrize("args", [["put"], ["get"], ["ack", "-"], ["stats"], ["ls"]])
def test_what_scripts_call_loads_nothing_heavy(command, args):
    """The clock of a busy machine shows little; what is imported shows why `put` takes under 150 ms."""
    command.run("put", stdin=b"x")
    ran = command.run(*args, python=["-X", "importtime"])
    assert ran.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.decode().splitlines()}
    assert "spoolq" in loaded
    assert not loaded & HEAVY


def _waits(pid: int) -> bool:
    """Whether it has got as far as its inotify instance."""
    return any("inotify" in _link(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # RACE: closed meanwhile
        return ""
