"""Drops of other owners: where no lease can be had, size and change time at rest; what may not be read stays."""

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from spoolq.clock import Clock
from spoolq.spool.queue import SpoolQueue
from tests.helpers import needs, wait_for
from tests.spool.helpers import NOBODY, ChildError, drain, in_fork

SETTLE_S = 0.3
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
def stranger(spool, child):
    """A process to which the files of `nobody` are somebody else's, and whose settle time is short."""
    needs(os.geteuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(f"[drops]\nsettle_s = {SETTLE_S}\n")
    started = child(without=("lease", "dac_override", "dac_read_search", "fowner"))
    started.opened()
    started("""
def take():
    message = queue.dequeue()
    if message is not None:
        message.ack()
        return message.body
""")
    return started


def drop(path: Path, body: bytes, mode: int = 0o644) -> None:
    """By `nobody`, who may write here for the moment."""
    aside = path.with_name(".aside")
    aside.write_bytes(body)
    os.chown(aside, NOBODY, NOBODY)
    os.chmod(aside, mode)
    os.rename(aside, path)


def rested_s(path: Path) -> float:
    return time.time() - path.stat().st_ctime


@pytest.mark.parametrize("name", ["job", f"{ID},n=job"])
def test_somebody_elses_file_is_taken_when_it_has_rested(spool, stranger, name):
    """Also one that is named as a message: it may have been copied there."""
    path = spool / "new" / name
    drop(path, b"body")
    body, rested = None, 0.0
    while body is None:
        rested = rested_s(path)
        assert rested < 10, "never taken"
        body = stranger("take()")
    assert body == b"body"
    assert rested + 0.2 >= SETTLE_S, "taken too early"


def test_the_report_says_how_long_it_has_to_rest(spool, stranger):
    drop(spool / "new" / "job", b"body")
    stranger("take()")
    assert "changed within the last 0.3 s" in stranger("list(queue._upkeep.drops.waiting.values())[0]")
    wait_for(lambda: stranger("take()") == b"body")


def test_an_old_time_of_change_by_cp_p_is_not_believed(spool, stranger):
    """`cp -p` sets the time of the last write; the time of the last change nobody can set."""
    path = spool / "new" / "job"
    drop(path, b"half")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert stranger("take()") is None
    with path.open("ab") as file:
        file.write(b" and half")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert stranger("take()") is None
    wait_for(lambda: stranger("take()") == b"half and half")


def test_every_write_begins_the_rest_anew(spool, stranger):
    path = spool / "new" / "job"
    drop(path, b"")
    for _ in range(12):
        with path.open("ab") as file:
            file.write(b"piece")
        if rested_s(path) < SETTLE_S / 2:  # the machine was not too slow for this to be a fair question
            assert stranger("take()") is None
    wait_for(lambda: stranger("take()") == b"piece" * 12)


def test_what_rested_before_anybody_looked_is_taken_at_once(spool, stranger):
    path = spool / "new" / "job"
    drop(path, b"body")
    wait_for(lambda: rested_s(path) > SETTLE_S)
    assert stranger("take()") == b"body"


def test_a_clock_that_goes_back_does_not_keep_it_waiting(spool, stranger):
    """Then it is the time that it has been seen at rest which counts."""
    drop(spool / "new" / "job", b"body")
    os.utime(spool / "new" / "job", (1_000_000_000, 1_000_000_000))
    stranger("real = queue._session.clock.wall_ms")
    stranger("queue._session.clock.wall_ms = lambda: real() - 3_600_000")
    wait_for(lambda: stranger("take()") == b"body")


@pytest.mark.parametrize("name", ["a job", ID])
def test_what_may_not_be_read_stays_and_blocks_nobody(spool, stranger, name):
    path = spool / "new" / name
    drop(path, b"secret", 0o600)
    stranger("queue.enqueue(b'after it')")
    assert stranger("take()") == b"after it"
    assert stranger("take()") is None
    assert path.exists()
    os.chmod(path, 0o644)
    wait_for(lambda: stranger("take()") == b"secret")


def test_what_may_not_be_read_is_reported(spool, stranger):
    path = spool / "new" / "job"
    drop(path, b"secret", 0o600)
    (what,) = stranger("[problem.what for problem in queue.check()]")
    assert what == "new/job is not taken in: we may not read it (Permission denied)"
    path.unlink()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_a_directory_under_a_messages_name_holds_up_nobody(spool, stranger, mode):
    """Another owner's cannot be moved to dead/; it stays, is reported, and never gets a row."""
    path = spool / "new" / f"{ID},p=9"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)
    stranger("queue.enqueue(b'after it')")
    assert stranger("take()") == b"after it"
    assert stranger("take()") is None
    stranger("queue.rebuild()")
    stranger("queue.enqueue(b'and after')")
    assert stranger("take()") == b"and after"
    (what,) = stranger("[problem.what for problem in queue.check(fix=True)]")
    assert what.startswith(f"new/{ID},p=9 is not taken in: ")
    assert path.exists()
    path.rmdir()


@pytest.mark.parametrize("name", [",p=0", ",p=9", ",n=a", ",a=1", ",a=1,r=t0123456789ab"])
@pytest.mark.parametrize("rows", [True, False])
def test_a_directory_under_the_id_of_a_message_takes_nothing_of_it(spool, open_queue, name, rows):
    """Whichever of the two a listing has first."""
    queue = open_queue()
    ids = [queue.enqueue(b"%d" % number, name="n") for number in range(20)]
    for id in ids:
        (spool / "new" / f"{id}{name}").mkdir()
    if not rows:
        queue.close()
        for path in spool.glob("index.db*"):
            path.unlink()
        queue = open_queue()
    with closing(sqlite3.connect(spool / "index.db")) as db:
        db.execute("DELETE FROM messages" if not rows else "UPDATE messages SET label = 'other'")
        db.commit()
    got = []
    wait_for(lambda: got.extend(drain(queue)) or len(got) == 20)
    assert sorted(got) == sorted(b"%d" % number for number in range(20))
    for path in (spool / "new").iterdir():
        path.rmdir()
    queue.dequeue()
    queue.check(fix=True)


@pytest.mark.parametrize("end", ["message.release()", "queue.give_back(message.id)", "message.requeue(0)"])
def test_a_directory_where_a_message_comes_back_is_put_aside(spool, stranger, end):
    """Whoever may drop can foresee the name, and would keep the message from ever coming back."""
    id = stranger("queue.enqueue(b'body')")
    stranger("message = queue.dequeue()")
    for name in (id, f"{id},a=1"):
        (spool / "new" / name).mkdir()
        (spool / "new" / name / "inside").touch()
        os.chown(spool / "new" / name, NOBODY, NOBODY)
    stranger(end)
    wait_for(lambda: stranger("take()") == b"body")
    for path in (spool / "new").iterdir():
        shutil.rmtree(path)


def test_what_takes_the_place_of_a_file_that_is_being_claimed_is_not_claimed(spool, stranger, tmp_path):
    """It is open and about to be renamed: a link in its place would be what the consumer gets."""
    (tmp_path / "secret").write_bytes(b"secret")
    path = spool / "new" / ID
    drop(path, b"body")
    wait_for(lambda: rested_s(path) > SETTLE_S)
    stranger("real = queue._directory.files.rename")
    stranger(f"""
def swap(source, target):
    if "/new/" in source:
        os.unlink(source)
        os.symlink({str(tmp_path / "secret")!r}, source)
        queue._directory.files.rename = real
    real(source, target)
queue._directory.files.rename = swap
""")
    assert stranger("take()") is None
    assert stranger("take()") is None
    (reason,) = stranger("[each.reason for each in queue.dead_letters.list().messages]")
    assert reason == "not a regular file: symbolic link"


def test_a_lease_on_somebody_elses_file_is_kept_in_the_row(spool, stranger):
    """Its time cannot be set; the claim ends all the same, by its row, and by the queue's lease without it."""
    drop(spool / "new" / "job", b"body")
    wait_for(lambda: stranger("queue.stats().ready + queue.maintain()"))
    stranger("message = queue.dequeue(lease_s=0.2)")
    assert stranger("message.attempts") == 1
    stranger("again = queue.dequeue(wait_s=5)")
    assert stranger("again.attempts") == 2
    with pytest.raises(ChildError, match="LeaseLost"):
        stranger("message.ack()")
    stranger("again.ack()")


def test_a_holder_of_another_user_is_taken_for_alive(spool, open_queue, child):
    """Who may not look at its file cannot say that it has died: `sudo spoolq work` beside one's own worker."""
    needs(os.geteuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
    queue = open_queue()
    queue.enqueue(b"body")
    message = queue.dequeue()
    (holder,) = (spool / "holders").iterdir()
    os.chown(holder, NOBODY, NOBODY)
    os.chmod(holder, 0o600)
    other = child(without=("dac_override", "dac_read_search"))
    assert other("queue.dequeue(wait_s=0.3)") is None
    other("queue.maintain()")
    other("queue._upkeep.recovery.sweep()")
    message.ack()


def test_nobody_in_person(tmp_path_factory):
    """Not a capability less, but another user, in a spool of its own: the same rules."""
    needs(os.geteuid() == 0, "root")
    home = Path(tempfile.mkdtemp(prefix="spoolq-nobody-"))
    try:
        os.chmod(home, 0o755)
        spool = home / "spool"
        spool.mkdir(mode=0o700)
        (spool / "queue.toml").write_text(f"[drops]\nsettle_s = {SETTLE_S}\n")
        os.chown(spool, NOBODY, NOBODY)
        # All that is loaded at need is loaded now: the child may read neither /root nor what is below it.
        with SpoolQueue.open(tmp_path_factory.mktemp("warm") / "spool", clock=Clock()) as warm:
            (tmp_path_factory.getbasetemp() / "x").touch()
            warm.dequeue(wait_s=0.01)
            warm.check()
            Path(warm._directory.settings).write_text("lease_s = 1\n")
            wait_for(lambda: warm.settings.lease_s == 1)

        def consume():
            with SpoolQueue.open(spool) as queue:
                Path(spool / "ready").touch()
                return next(message.body for message in queue.consume(wait_s=10))

        def put_when_ready():
            wait_for((spool / "ready").exists)
            (spool / "new" / "job").write_bytes(b"of root")
            os.chmod(spool / "new" / "job", 0o644)

        putting = threading.Thread(target=put_when_ready)
        putting.start()
        assert in_fork(consume, uid=NOBODY) == b"of root"
        putting.join()
    finally:
        shutil.rmtree(home)
