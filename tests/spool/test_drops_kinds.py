"""Drops that are no plain files, for later, or too many, and what people do by hand: each has an end that is told."""

import os
import socket
import stat
import time
from contextlib import contextmanager
from functools import partial

import pytest

from spoolq.errors import LeaseLost, StorageError, UnsafeFile
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue
from tests.helpers import names, wait_for
from tests.spool.helpers import Taker, bodies, drain


@contextmanager
def settings(spool, text):
    """The queue's settings, written before it is opened."""
    spool.mkdir(mode=0o700, exist_ok=True)
    (spool / "queue.toml").write_text(text)
    yield


def said(queue):
    """What `check` says of each waiting drop, by its name."""
    return {os.path.basename(problem.path): problem.what for problem in queue.check() if problem.kind == "waiting_drop"}


# Not regular files: to dead/, unopened


def a_link(path, secret):
    os.symlink(secret, path)


def a_dangling_link(path, secret):
    os.symlink("/nowhere", path)


def a_link_to_a_directory(path, secret):
    os.symlink(secret.parent, path)


def a_fifo(path, secret):
    os.mkfifo(path)


def a_socket(path, secret):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir("/")


def a_device(path, secret):
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def a_block_device(path, secret):
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 99))


KINDS = {
    "symbolic link": (a_link, a_dangling_link, a_link_to_a_directory),
    "FIFO": (a_fifo,),
    "socket": (a_socket,),
    "device": (a_device, a_block_device),
}
MAKERS = [(make, word) for word, makers in KINDS.items() for make in makers]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("secret")
    os.utime(path, (1, 1))
    yield path
    assert path.read_text() == "secret"
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("name", ["job", "01890a5d-ac96-774b-bcce-b302099a8057,n=job"])
@pytest.mark.parametrize(("make", "word"), MAKERS)
def test_what_is_no_plain_file_goes_to_the_dead_letters_unopened(spool, queue, secret, make, word, name):
    make(spool / "new" / name, secret)
    (spool / "new" / "zebra").write_bytes(b"after it")
    assert drain(queue) == [b"after it"]
    (dead,) = queue.dead_letters.list().messages
    assert dead.reason == f"not a regular file: {word}"
    assert dead.name == "job"
    assert len(names(spool, "dead")) == 1


@pytest.mark.parametrize("name", ["job", "01890a5d-ac96-774b-bcce-b302099a8057"])
def test_its_reason_survives_a_rebuild(spool, queue, secret, name):
    a_link(spool / "new" / name, secret)
    assert queue.dequeue() is None
    queue.rebuild()
    (dead,) = queue.dead_letters.list().messages
    assert dead.reason == "not a regular file: symbolic link"


def test_a_quarantined_link_is_read_by_nobody(queue, spool, secret):
    a_link(spool / "new" / "job", secret)
    assert queue.dequeue() is None
    (dead,) = queue.dead_letters.list().messages
    with pytest.raises(UnsafeFile):
        queue.read_body(dead.id)
    queue.dead_letters.redrive()
    assert queue.dequeue() is None
    assert [each.id for each in queue.dead_letters.list().messages] == [dead.id]


def test_a_link_that_takes_a_drops_place_changes_nothing_outside(spool, open_queue, secret):
    """The file is open and is to be renamed: what stands under its name by then is another one."""

    class Swapping(Files):
        def utime_ns(self, path, ns):
            if isinstance(path, str) and path.endswith("/new/job"):
                os.rename(path, spool / "mine")
                os.symlink(secret, path)
            super().utime_ns(path, ns)

    queue = open_queue(files=Swapping())
    (spool / "new" / "job").write_bytes(b"body")
    drain(queue)


def test_a_directory_stays_and_is_reported(spool, queue):
    (spool / "new" / "directory").mkdir()
    (spool / "new" / "zebra").write_bytes(b"after it")
    assert drain(queue) == [b"after it"]
    assert said(queue) == {"directory": "new/directory is not taken in: a directory cannot be a message"}
    (spool / "new" / "directory").rmdir()
    assert queue.dequeue() is None
    assert said(queue) == {}


def test_a_directory_that_lies_around_keeps_nobody_busy(spool, queue, monkeypatch):
    """One who waits looks at it now and then."""
    (spool / "new" / "directory").mkdir()
    assert queue.dequeue() is None
    looks = []
    real = queue._upkeep.scanner.run

    def run(budget_s):
        looks.append(budget_s)
        return real(budget_s)

    monkeypatch.setattr(queue._upkeep.scanner, "run", run)
    begun = time.monotonic()
    assert queue.dequeue(wait_s=1) is None
    assert len(looks) <= 8 * (time.monotonic() - begun)
    (spool / "new" / "directory").rmdir()


# For later


def ahead(path, seconds):
    when = time.time() + seconds
    path.write_bytes(b"later")
    os.utime(path, (when, when))


def test_a_time_ahead_schedules(spool, queue):
    ahead(spool / ".job", 7200)
    os.rename(spool / ".job", spool / "new" / "job")
    assert queue.dequeue() is None
    (info,) = queue.list("scheduled").messages
    assert info.due_at_ms == pytest.approx(time.time() * 1000 + 7_200_000, abs=5000)
    (name,) = names(spool, "new")
    assert f",t={info.due_at_ms}" in name


@pytest.mark.parametrize("seconds", [-1e9, -5, 0, 30])
def test_a_time_that_is_not_ahead_by_a_minute_means_now(spool, queue, seconds):
    ahead(spool / "new" / "job", seconds)
    assert drain(queue) == [b"later"]


@pytest.mark.parametrize("seconds", [32 * 86400, 3e9])
def test_a_time_too_far_ahead_means_now_with_a_warning(spool, queue, seconds, caplog):
    ahead(spool / "new" / "job", seconds)
    assert drain(queue) == [b"later"]
    assert "drop.time_too_far" in caplog.text


def test_a_take_in_that_failed_keeps_the_schedule(spool, open_queue):
    """Its time is the drop's own until the rename; the rename fails the first time."""

    class Failing(Files):
        failed = False

        def rename(self, source, target):
            if source.endswith("/new/job") and not self.failed:
                self.failed = True
                raise OSError(5, "Input/output error", source)
            super().rename(source, target)

    files = Failing()
    queue = open_queue(files=files)
    ahead(spool / "new" / "job", 7200)
    with pytest.raises(StorageError, match="Input/output error"):
        queue.check()
    assert files.failed
    wait_for(lambda: queue.dequeue() is None and queue.stats().scheduled == 1)


def test_a_scheduled_drop_comes_when_it_is_due_although_the_index_went(spool, queue):
    ahead(spool / "new" / "job", 61)
    assert queue.dequeue() is None
    for path in spool.glob("index.db*"):
        path.unlink()
    assert queue.dequeue() is None
    assert queue.stats().scheduled == 1
    queue.run_now(queue.list("scheduled").messages[0].id)
    assert drain(queue) == [b"later"]


# Limits


def test_over_the_limit_of_messages_drops_wait_and_come_in_one_by_one(spool, open_queue):
    with settings(spool, "[limits]\nmessages = 2\n"):
        queue = open_queue()
    for number in range(5):
        (spool / "new" / f"job {number}").write_bytes(b"%d" % number)
    queue.maintain()
    assert queue.stats().ready == 2
    assert set(said(queue)) == {"job 2", "job 3", "job 4"}
    assert drain(queue) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_drop_over_the_limit_of_a_body_stays_and_blocks_nobody(spool, open_queue):
    with settings(spool, "[limits]\nbody_bytes = 10\n"):
        queue = open_queue()
    (spool / "new" / "a big one").write_bytes(b"x" * 11)
    (spool / "new" / "small").write_bytes(b"y" * 10)
    assert drain(queue) == [b"y" * 10]
    assert said(queue) == {
        "a big one": "new/a big one is not taken in: the body has 11 bytes, and at most 10 are allowed"
    }
    (spool / "queue.toml").write_text("[limits]\nbody_bytes = 11\n")
    taker = Taker(queue)
    wait_for(lambda: taker.bodies)
    assert taker.stop() == [b"x" * 11]


def test_over_the_limit_of_bytes_drops_wait(spool, open_queue):
    with settings(spool, "[limits]\nbytes = 25\n"):
        queue = open_queue()
    for number in range(4):
        (spool / "new" / f"job {number}").write_bytes(b"x" * 10)
    queue.maintain()
    assert queue.stats().ready_bytes <= 25
    assert drain(queue) == [b"x" * 10] * 4


def test_below_the_reserve_drops_wait_and_claims_go_on(spool, open_queue):
    with settings(spool, ""):
        queue = open_queue()
    queue.enqueue(b"before")
    text = f"[reserve]\nbytes = {1 << 60}\n"
    (spool / "queue.toml").write_text(text)
    (spool / "new" / "job").write_bytes(b"drop")
    wait_for(lambda: queue.settings.reserve.bytes == 1 << 60)
    assert drain(queue) == [b"before"]
    assert "the disk's reserve" in said(queue)["job"]
    (spool / "queue.toml").write_text("")
    wait_for(lambda: queue.settings.reserve.bytes < 1 << 60)
    wait_for(lambda: drain(queue) == [b"drop"])


# Noticed, and by whom


def test_drops_with_nothing_running_are_taken_by_the_next_dequeue(spool, open_queue):
    open_queue().close()
    for number in range(100):
        (spool / "new" / f"job {number:03}").write_bytes(b"%d" % number)
    assert drain(open_queue()) == [b"%d" % number for number in range(100)]


def test_a_drop_is_noticed_by_one_who_maintains_and_waits(spool, open_queue):
    """What `spoolq watch` does; a second is many times what it takes."""
    watching, looking = open_queue(), open_queue()
    assert not watching.wait(0)
    while watching.maintain():
        pass
    (spool / "new" / "job").write_bytes(b"body")
    begun = time.monotonic()
    assert watching.wait(5)
    watching.maintain()
    assert looking.stats().ready == 1
    assert time.monotonic() - begun < 1
    assert drain(looking) == [b"body"]


def arrived(taker, number):
    return len(taker.bodies) > number


def test_a_drop_is_noticed_by_a_consumer_that_waits_alone(spool, open_queue):
    taker = Taker(open_queue())
    for number in range(5):
        begun = time.monotonic()
        (spool / "new" / "job").write_bytes(b"%d" % number)
        wait_for(partial(arrived, taker, number))
        assert time.monotonic() - begun < 1
    assert taker.stop() == [b"0", b"1", b"2", b"3", b"4"]


def test_drops_do_not_starve_behind_messages_that_never_end(spool, open_queue):
    """A consumer that always finds something takes in what was dropped all the same, before long."""
    queue = open_queue()
    queue.enqueue(b"filler")
    (spool / "new" / "job").write_bytes(b"drop")

    def takes():
        with queue.dequeue() as message:
            queue.enqueue(b"filler")
            return message.body == b"drop"

    wait_for(takes, limit_s=5)


# By hand


def test_cp_from_done_is_a_new_message(spool, queue):
    queue.enqueue(b"body", name="job", headers={"a": "b"})
    with queue.dequeue() as first:
        pass
    (name,) = names(spool, "done")
    (spool / "new" / name).write_bytes((spool / "done" / name).read_bytes())
    with queue.dequeue() as second:
        assert second.body == b"body"
        assert (second.id != first.id, second.attempts, second.name) == (True, 1, "job")
    assert queue.get(first.id).state == "done"
    assert queue.stats().done == 2


def test_cp_of_a_claimed_one_is_a_new_message_and_the_claim_goes_on(spool, queue):
    queue.enqueue(b"body")
    first = queue.dequeue()
    (name,) = names(spool, "cur")
    (spool / "new" / name).write_bytes(b"body")
    second = queue.dequeue()
    assert second.id != first.id
    second.ack()
    first.ack()


def test_mv_from_cur_puts_it_back_and_ends_the_claim(spool, queue):
    queue.enqueue(b"body")
    first = queue.dequeue()
    (name,) = names(spool, "cur")
    os.rename(spool / "cur" / name, spool / "new" / name)
    with pytest.raises(LeaseLost):
        first.ack()
    second = queue.dequeue()
    assert (second.id, second.attempts) == (first.id, 2)
    second.ack()


@pytest.mark.parametrize("look", [False, True])
def test_mv_from_cur_is_seen_by_another_and_the_late_ack_is_refused(spool, open_queue, look):
    """Whoever sees it first: the file is not gone, it is in `new/`."""
    holding, other = open_queue(), open_queue()
    holding.enqueue(b"body")
    first = holding.dequeue()
    (name,) = names(spool, "cur")
    os.rename(spool / "cur" / name, spool / "new" / name)
    if look:
        other._session.scan_due = True
        other._upkeep.scan(1.0)
    with pytest.raises(LeaseLost):
        first.ack()
    assert [message.body for message in (other.dequeue(),)] == [b"body"]


def test_mv_from_done_is_delivered_again(spool, queue):
    queue.enqueue(b"body")
    queue.dequeue().ack()
    (name,) = names(spool, "done")
    os.rename(spool / "done" / name, spool / "new" / name)
    assert drain(queue) == [b"body"]


def test_mv_into_cur_is_a_claim_by_hand_that_comes_back_counted(spool, open_queue):
    with settings(spool, "lease_s = 0.2\n"):
        queue = open_queue()
    queue.enqueue(b"body")
    (name,) = names(spool, "new")
    os.rename(spool / "new" / name, spool / "cur" / name)
    assert queue.dequeue() is None
    assert queue.stats().claimed == 1
    message = queue.dequeue(wait_s=5)
    assert message.attempts == 2
    message.ack()


def test_a_link_from_cur_into_new_is_no_second_message(spool, queue):
    """Two names of one inode are a crash between link and unlink: the later state stays."""
    queue.enqueue(b"body")
    message = queue.dequeue()
    (name,) = names(spool, "cur")
    os.link(spool / "cur" / name, spool / "new" / name)
    assert queue.dequeue() is None
    assert names(spool, "new") == []
    message.ack()


@pytest.mark.parametrize("twin", [",p=9", ",p=1", ",a=1", ",a=1,r=k0a1b2c7", ",n=twin"])
def test_a_copy_beside_the_original_in_new_gets_an_id_of_its_own(spool, queue, twin):
    """The one that the row knows keeps its id, and what came with it."""
    id = queue.enqueue(b"original", priority=4, headers={"whose": "original"})
    (spool / "new" / f"{id}{twin}").write_bytes(b"copy")
    got: dict[bytes, tuple[bool, dict[str, str]]] = {}
    while (message := queue.dequeue()) is not None or len(got) < 2:
        assert message is not None, "not found"
        got[message.body] = (message.id == id, dict(message.headers))
        message.ack()
    assert got == {b"original": (True, {"whose": "original"}), b"copy": (False, {})}


def test_a_copy_without_any_row_overwrites_nothing(spool, open_queue):
    """Both are unknown to the index: put right, one must not take the other's name."""
    open_queue().close()
    id = "01890a5d-ac96-774b-bcce-b302099a8057"
    for name in (f"{id},a=1", f"{id},a=1,r=k0a1b2c7", f"{id},a=1,r=k0a1b2c8"):
        (spool / "new" / name).write_bytes(name.encode())
    queue = open_queue()
    got = drain(queue)
    while more := drain(queue):
        got += more
    assert len(set(got)) == 3
    assert len(bodies(spool)) == 3


def test_files_that_were_deleted_by_hand_are_no_trouble(spool, queue):
    for number in range(5):
        queue.enqueue(b"%d" % number)
    for name in names(spool, "new")[:4]:
        os.unlink(spool / "new" / name)
    assert drain(queue) == [b"4"]


def test_the_first_of_many_deleted_by_hand_does_not_hold_back_the_rest(spool, open_queue, queue):
    other: SpoolQueue = open_queue()
    for number in range(3):
        queue.enqueue(b"%d" % number)
    os.rename(spool / "new" / names(spool, "new")[0], spool / "dead" / names(spool, "new")[0])
    assert drain(other) == [b"1", b"2"]
    assert queue.stats().dead == 1
