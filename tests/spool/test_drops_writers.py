"""A drop is delivered when nobody writes it, whole and once: `cp`, `mv`, every way of holding a file for writing."""

import array
import mmap
import os
import socket
import subprocess
import threading
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from spoolq.spool.files import Files
from tests.helpers import names, wait_for
from tests.spool.helpers import Taker, drain

BODY = b"whole" * 1000


def shell(script, *arguments):
    subprocess.run(["sh", "-ec", script, "sh", *map(str, arguments)], check=True)


@pytest.mark.parametrize(
    "script",
    [
        'cp "$1" "$2/new/job"',
        'cp -p "$1" "$2/new/job"',
        'mv "$1" "$2/new/job"',
        'ln "$1" "$2/new/job"',
        'cat "$1" > "$2/new/job"',
        'cat "$1" >> "$2/new/job"',
        'dd if="$1" of="$2/new/job" bs=7 2>/dev/null',
        'tee "$2/new/job" < "$1" > /dev/null',
        'install -m 600 "$1" "$2/new/job"',
        'cp "$1" "$2/new/job.part"; mv "$2/new/job.part" "$2/new/job"',
        'cp "$1" "$2/new/.job"; mv "$2/new/.job" "$2/new/job"',
        'cp "$1" "$2/tmp/job"; mv "$2/tmp/job" "$2/new/job"',
    ],
)
def test_a_drop_by_any_tool_is_delivered_once(spool, queue, tmp_path, script):
    source = tmp_path / "source"
    source.write_bytes(BODY)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    shell(script, source, spool)
    message = queue.dequeue()
    assert (message.body, message.name, message.attempts) == (BODY, "job", 1)
    message.ack()
    assert queue.dequeue() is None
    assert names(spool, "new") == []


# Each holds `path` open for writing in its own way, inside the `with`; all have written BODY.


@contextmanager
def opened(path, flags):
    fd = os.open(path, flags | os.O_CREAT, 0o600)
    os.write(fd, BODY)
    yield
    os.close(fd)


@contextmanager
def buffered(path):
    with open(path, "wb") as file:
        file.write(BODY)
        yield


@contextmanager
def mapped(path):
    """Only a shared mapping: its descriptor is closed."""
    path.write_bytes(b"\0" * len(BODY))
    fd = os.open(path, os.O_RDWR)
    view = mmap.mmap(fd, len(BODY))
    os.close(fd)
    view[:] = BODY
    yield
    view.close()


@contextmanager
def duplicated(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    other = os.dup(fd)
    os.close(fd)
    os.write(other, BODY)
    yield
    os.close(other)


@contextmanager
def inherited(path):
    """Only another process has it open."""
    path.write_bytes(BODY)
    with path.open("ab") as file:
        holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    yield
    holder.communicate()


@contextmanager
def reopened(path):
    """By /proc, through a descriptor that reads."""
    path.write_bytes(BODY)
    reading = os.open(path, os.O_RDONLY)
    writing = os.open(f"/proc/self/fd/{reading}", os.O_WRONLY)
    os.close(reading)
    yield
    os.close(writing)


@contextmanager
def linked(path):
    """By another name of the same file, elsewhere."""
    other = path.parent.parent.parent / "elsewhere"
    other.write_bytes(BODY)
    with other.open("ab"):
        os.link(other, path)
        yield


@contextmanager
def in_flight(path):
    """Nobody has it open: the descriptor is on its way through a socket."""
    left, right = socket.socketpair()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, BODY)
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(fd)
    yield
    left.close()
    right.close()


@contextmanager
def by_sendfile(path):
    source = path.parent.parent.parent / "source"
    source.write_bytes(BODY)
    reading, writing = os.open(source, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.sendfile(writing, reading, 0, len(BODY))
    yield
    os.close(reading)
    os.close(writing)


@contextmanager
def truncated(path):
    """Shortened and filled again."""
    path.write_bytes(b"long" * 5000)
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, 0)
    yield
    os.write(fd, BODY)
    os.close(fd)


@contextmanager
def allocated(path):
    """Its size is right from the start, its bytes come later."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, len(BODY))
    yield
    os.pwrite(fd, BODY, 0)
    os.close(fd)


@contextmanager
def renamed_while_open(path):
    """`mv` of a file that its writer still has open."""
    aside = path.parent.parent.parent / "aside"
    with aside.open("wb") as file:
        os.rename(aside, path)
        yield
        file.write(BODY)


WRITERS = {
    "O_WRONLY": lambda path: opened(path, os.O_WRONLY),
    "O_RDWR": lambda path: opened(path, os.O_RDWR),
    "O_APPEND": lambda path: opened(path, os.O_WRONLY | os.O_APPEND),
    "O_TRUNC": lambda path: opened(path, os.O_WRONLY | os.O_TRUNC),
    "O_EXCL": lambda path: opened(path, os.O_WRONLY | os.O_EXCL),
    "O_SYNC": lambda path: opened(path, os.O_WRONLY | os.O_SYNC),
    "buffered": buffered,
    "mapped": mapped,
    "duplicated": duplicated,
    "inherited": inherited,
    "reopened": reopened,
    "linked": linked,
    "in_flight": in_flight,
    "by_sendfile": by_sendfile,
    "truncated": truncated,
    "allocated": allocated,
    "renamed_while_open": renamed_while_open,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_drop_that_somebody_may_write_waits(spool, queue, writer):
    with WRITERS[writer](spool / "new" / "job"):
        assert queue.dequeue() is None
        queue.maintain()
        assert queue.dequeue() is None
        assert names(spool, "new") == ["job"]
    assert drain(queue) == [BODY]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_named_as_a_message_waits_as_well(spool, queue, writer):
    """`cp done/... new/`: its name is no reason to trust its bytes."""
    name = "01890a5d-ac96-774b-bcce-b302099a8057,p=9"
    with WRITERS[writer](spool / "new" / name):
        assert queue.dequeue() is None
        assert names(spool, "new") == [name]
    assert drain(queue) == [BODY]


def test_a_reader_keeps_nothing_waiting(spool, queue):
    """Neither a descriptor that reads nor a private mapping can change the file."""
    path = spool / "new" / "job"
    path.write_bytes(BODY)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE):
        assert drain(queue) == [BODY]


def test_a_writer_of_a_while_is_delivered_once_and_whole_after_closing(spool, queue, child):
    writer = child()
    taker = Taker(queue)
    pieces = [f"piece {number}\n".encode() for number in range(20)]
    writer(f"file = open({str(spool / 'new' / 'job')!r}, 'wb', buffering=0)")
    for piece in pieces:
        writer(f"file.write({piece!r})")
        assert taker.bodies == []
    # What waits is looked at again and again; seen from outside it has not moved.
    wait_for(lambda: queue.check()[0].kind == "waiting_drop")
    assert names(spool, "new") == ["job"]
    writer("file.close()")
    wait_for(lambda: taker.bodies)
    assert taker.stop() == [b"".join(pieces)]


def test_a_killed_writer_leaves_what_it_wrote_as_a_message(spool, queue, child):
    """Nobody can tell a file that was cut short from one that is whole: it is written by nobody, so it is taken in."""
    writer = child()
    writer(f"file = open({str(spool / 'new' / 'job')!r}, 'wb', buffering=0)")
    writer("file.write(b'half')")
    assert queue.dequeue() is None
    writer.kill()
    assert drain(queue) == [b"half"]


# A second writer, in the middle of being taken in


class Racing(Files):
    """Lets somebody come in the middle of taking in: `before` and `after` the rename."""

    def __init__(self):
        super().__init__()
        self.before = self.after = lambda: None

    def rename(self, source, target):
        if "/new/" not in source or "/new/" not in target:
            super().rename(source, target)
            return
        act, self.before = self.before, lambda: None
        act()
        super().rename(source, target)
        act, self.after = self.after, lambda: None
        act()


class Writer(threading.Thread):
    """`cp` onto a name: its open waits as long as the lease is held."""

    def __init__(self, path, body):
        super().__init__()
        self.path, self.body = path, body

    def run(self):
        self.path.write_bytes(self.body)

    def begin(self):
        """Start, and wait until the open is under way: a lease that it breaks is in /proc/locks as BREAKING."""
        self.start()
        wait_for(lambda: "BREAKING" in Path("/proc/locks").read_text() or not self.is_alive())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_second_cp_in_the_middle_of_taking_in_tears_nothing(spool, open_queue, moment):
    """It opens the old file by its old name, and would overwrite what was taken in: that goes back and waits."""
    files = Racing()
    queue = open_queue(files=files)
    path = spool / "new" / "job"
    path.write_bytes(BODY)
    writer = Writer(path, b"second" * 1000)
    if moment == "before":
        files.before = writer.begin
    else:
        # After the rename the name is free: this is another file.
        files.after = writer.start
    got = [] if (message := queue.dequeue()) is None else [message.body]
    writer.join()
    got += drain(queue)
    if moment == "before":
        assert got == [b"second" * 1000], (
            "the second cp truncated the first drop itself, as it would have a moment before"
        )
    else:
        assert got == [BODY, b"second" * 1000]
    if message is not None:
        message.ack()


def test_a_drop_that_cannot_go_back_waits_for_its_writer_under_its_new_name(spool, open_queue):
    """A writer came for the first file, and by then a second drop had its name."""
    files = Racing()
    queue = open_queue(files=files)
    path = spool / "new" / "a job"
    path.write_bytes(BODY)
    writer = Writer(path, b"rewritten")
    files.before = writer.begin
    files.after = lambda: path.write_bytes(b"second")
    while queue.maintain() or writer.is_alive():
        pass
    got = []
    while (message := queue.dequeue()) is not None:
        got.append((message.body, message.original_name))
        message.ack()
    assert sorted(got) == [(b"rewritten", "a job"), (b"second", "a job")]


def test_cp_onto_the_same_name_again_and_again(spool, open_queue):
    """Every delivered body is one that was sent, whole; the last one always arrives."""
    taker = Taker(open_queue())
    sent = [bytes([65 + number]) * 50_000 for number in range(26)]
    for body in sent:
        subprocess.run(["cp", "/dev/stdin", spool / "new" / "job"], input=body, check=True)
    wait_for(lambda: sent[-1] in taker.bodies)
    got = taker.stop()
    assert set(got) <= set(sent), "torn"
    assert all(one < two for one, two in pairwise(got)), "in the order they were sent, and none twice"


def test_mv_onto_the_same_name_loses_nothing_that_was_taken_in(spool, open_queue, tmp_path):
    """Each `mv` waits until the one before it was taken in: a second file of the same name is a second message."""
    taker = Taker(open_queue())
    sent = [f"body {number}".encode() for number in range(20)]
    for body in sent:
        (tmp_path / "job").write_bytes(body)
        wait_for(lambda: not (spool / "new" / "job").exists())
        os.rename(tmp_path / "job", spool / "new" / "job")
    wait_for(lambda: len(taker.bodies) == len(sent))
    assert taker.stop() == sent
