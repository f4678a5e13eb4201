"""Bad input and bad ground (issue 2): each has an error that says what to do, and an exit status."""

import io
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolq import open_queue
from spoolq.errors import (
    LeaseLost,
    MessageNotFound,
    MessageTooLarge,
    NotASpool,
    QueueExists,
    QueueNotFound,
    SettingsError,
    SpoolqError,
    StorageError,
    UnknownFormat,
    UnsafeFile,
    UnsafeSpool,
    UnsupportedFileSystem,
)
from spoolq.settings import Limits, Settings, dump
from spoolq.spool import mounts, queues, session
from spoolq.spool.directory import DIRECTORIES
from spoolq.spool.mounts import LACKING, NETWORK, Mount
from spoolq.spool.queue import SpoolQueue
from tests.faults.mounts import alone, tmpfs
from tests.helpers import needs

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
NOBODY = 65534


def refused(error: SpoolqError, kind: type[SpoolqError], status: int, *words: str) -> None:
    """The right class and exit status; a message that names what is wrong, and a hint what to do."""
    assert type(error) is kind
    assert error.exit_code == status
    assert error.hint, error
    for word in words:
        assert word in str(error), str(error)


@pytest.fixture
def cli(spool):
    """`cli("put")` runs the program on the spool: its exit status and what it says on standard error."""

    def run(*args: str, where: Path = spool, stdin: bytes = b"x") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "spoolq", *args],
            env=os.environ | {"SPOOLQ_SPOOL": os.fspath(where)},
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, " ".join(done.stderr.decode().split())

    return run


def made(spool: Path, settings: Settings | None = None) -> None:
    """A spool, closed."""
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(settings or Settings(durability="process")))
    SpoolQueue.open(spool).close()


# The spool


@pytest.mark.parametrize("text", ["spoolq 2\n", "spoolq 10\n", "maildir\n", "", "spoolq 1", "\xff\xfe"])
def test_an_unknown_format(spool, cli, text):
    """Refused before anything is touched, by whoever opens it."""
    made(spool)
    (spool / "FORMAT").write_text(text, encoding="latin-1")
    before = sorted(os.listdir(spool))
    with pytest.raises(UnknownFormat) as error:
        SpoolQueue.open(spool)
    refused(error.value, UnknownFormat, 1, "FORMAT", "spoolq 1")
    assert sorted(os.listdir(spool)) == before
    status, said = cli("stats")
    assert (status, "FORMAT" in said) == (1, True)
    (spool / "FORMAT").write_text("spoolq 1\n")


@pytest.mark.parametrize("name", DIRECTORIES)
def test_two_devices(tmp_path, name):
    """A rename across devices is a copy: each directory must lie on the spool's own."""

    def act() -> None:
        spool = tmp_path / "spool"
        made(spool)
        tmpfs(spool / name, 1 << 20, 100)
        with pytest.raises(UnsupportedFileSystem) as error:
            SpoolQueue.open(spool)
        refused(error.value, UnsupportedFileSystem, 1, name, "device")

    alone(act)


@pytest.mark.parametrize("kind", sorted(NETWORK))
def test_a_network_file_system(spool, monkeypatch, kind):
    """Neither made nor opened there, whatever is on it."""
    real = mounts.mount_of
    monkeypatch.setattr(mounts, "mount_of", lambda path: Mount(kind, real(path).identity))
    with pytest.raises(UnsupportedFileSystem) as error:
        SpoolQueue.open(spool)
    refused(error.value, UnsupportedFileSystem, 1, "network", kind)
    monkeypatch.undo()
    made(spool)
    monkeypatch.setattr(session.mounts, "mount_of", lambda path: Mount(kind, real(path).identity))
    with pytest.raises(UnsupportedFileSystem):
        SpoolQueue.open(spool)
    with pytest.raises(UnsupportedFileSystem):
        queues.create_queue(spool, "emails")


@pytest.mark.parametrize("kind", sorted(LACKING))
def test_a_file_system_that_lacks_what_is_needed(spool, monkeypatch, kind):
    monkeypatch.setattr(mounts, "mount_of", lambda path: Mount(kind, "1"))
    with pytest.raises(UnsupportedFileSystem) as error:
        SpoolQueue.open(spool)
    refused(error.value, UnsupportedFileSystem, 1, kind)


def test_the_mount_is_found_for_what_it_is(tmp_path):
    """A mount within a path, and one with a blank in its name."""

    def act() -> None:
        for name in ("plain", "with blank"):
            tmpfs(tmp_path / name, 1 << 20, 100)
            (tmp_path / name / "deep").mkdir()
            for path in (tmp_path / name, tmp_path / name / "deep"):
                assert mounts.mount_of(os.fspath(path)).kind == "tmpfs"
        outside, inside = (mounts.mount_of(os.fspath(path)) for path in (tmp_path, tmp_path / "plain"))
        assert outside.identity != inside.identity

    alone(act)


@pytest.mark.parametrize("name", ["", "new", "cur", "tmp", "dead"])
def test_a_spool_that_everybody_may_write_to(spool, cli, name):
    """Refused, with the command that mends it."""
    made(spool)
    path = spool / name if name else spool
    path.chmod(0o777)
    with pytest.raises(UnsafeSpool) as error:
        SpoolQueue.open(spool)
    refused(error.value, UnsafeSpool, 1, f"chmod o-w '{path}'", "--group")
    status, said = cli("put")
    assert (status, "chmod o-w" in said) == (1, True)
    path.chmod(0o700)
    SpoolQueue.open(spool).close()


def test_a_directory_that_everybody_may_write_to_is_not_made_a_spool(spool):
    spool.mkdir()
    spool.chmod(0o777)
    with pytest.raises(UnsafeSpool):
        SpoolQueue.open(spool)
    assert os.listdir(spool) == []


@pytest.mark.parametrize("what", ["a file", "another's files", "a file in between", "a directory that is a file"])
def test_what_is_not_a_spool(spool, cli, what):
    """Somebody's files are never made into a spool."""
    if what == "a file":
        spool.write_bytes(b"x")
    elif what == "another's files":
        spool.mkdir(mode=0o700)
        (spool / "thesis.tex").write_bytes(b"x")
    elif what == "a file in between":
        spool.write_bytes(b"x")
        spool = spool / "deeper"
    else:
        made(spool)
        (spool / "done").rmdir()
        (spool / "done").write_bytes(b"")
    with pytest.raises(NotASpool) as error:
        SpoolQueue.open(spool)
    refused(error.value, NotASpool, 1)
    assert cli("put", where=spool)[0] == 1
    if what == "another's files":
        assert os.listdir(spool) == ["thesis.tex"]
    if what == "a directory that is a file":
        (spool / "done").unlink()


def test_a_spool_that_is_not_there(spool, cli):
    """Asked not to make one, nothing is made."""
    with pytest.raises(NotASpool) as error:
        open_queue(spool, create=False)
    refused(error.value, NotASpool, 1, "spoolq init")
    assert not spool.exists()
    assert cli("stats")[0] == 1
    assert not spool.exists()


def unprivileged(act: Callable[[], None]) -> None:
    """Run it in a child without any right of root's."""
    needs(os.geteuid() == 0, "root, to be somebody else")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    _, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 0, text


@pytest.fixture
def reachable(fast_path):
    """A directory that anybody can reach."""
    fast_path.chmod(0o755)
    return fast_path


def test_a_spool_that_is_not_ours(reachable):
    """Not readable, not writable, not to be made: each says who should look at what."""
    spool = reachable / "spool"
    made(spool)

    def closed() -> None:
        with pytest.raises(StorageError) as error:
            SpoolQueue.open(spool)
        refused(error.value, StorageError, 1, "Permission denied", "owns")

    unprivileged(closed)
    for path in [spool, *spool.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    unprivileged(closed)

    def not_made() -> None:
        with pytest.raises(StorageError) as error:
            SpoolQueue.open(reachable / "mine")
        refused(error.value, StorageError, 1, "Permission denied")

    unprivileged(not_made)
    assert not (reachable / "mine").exists()


@pytest.mark.parametrize("name", ["new", "tmp", "cur", "holders"])
def test_a_directory_that_is_not_ours_to_write(reachable, name):
    """What cannot be done says so; what can goes on."""
    spool = reachable / "spool"

    def act() -> None:
        with SpoolQueue.open(spool) as queue:
            id = queue.enqueue(b"x")
            (spool / name).chmod(0o500)
            try:
                if name in {"new", "tmp"}:
                    with pytest.raises(StorageError) as error:
                        queue.enqueue(b"y")
                    refused(error.value, StorageError, 1, "Permission denied", "owns")
                if name in {"new", "cur", "holders"}:
                    with pytest.raises(StorageError) as error:
                        queue.dequeue()
                    refused(error.value, StorageError, 1, "Permission denied", "owns")
                assert queue.get(id).state == "ready"
            finally:
                (spool / name).chmod(0o700)
            assert queue.dequeue().id == id
            assert os.listdir(spool / "tmp") == []

    spool.mkdir(mode=0o700)
    os.chown(spool, NOBODY, NOBODY)
    unprivileged(act)


# Settings

SPOILT = {
    "max_attempts = 0": ("max_attempts", "0"),
    'max_attempts = "5"': ("max_attempts", "5"),
    "max_atempts = 5": ("max_atempts", "max_attempts"),
    'durability = "safe"': ("durability", '"power"'),
    "lease_s = -1": ("lease_s", "-1"),
    "[retry]\nfactor = 0.5": ("retry.factor", "0.5"),
    "[reserve]\npercent = 101": ("reserve.percent", "101"),
    "retention = 5": ("retention", "table"),
    "[limits]\nbody_bytes = true": ("limits.body_bytes", "whole number"),
}


@pytest.mark.parametrize("text", SPOILT)
def test_a_setting_that_is_not_allowed(spool, cli, text):
    """The error names the key, the value, and what is allowed."""
    made(spool)
    (spool / "queue.toml").write_text(text)
    key, word = SPOILT[text]
    with pytest.raises(SettingsError) as error:
        SpoolQueue.open(spool)
    assert (error.value.key, error.value.exit_code) == (key, 1)
    assert "must be" in str(error.value) or "no such setting" in str(error.value)
    assert word in str(error.value)
    status, said = cli("stats")
    assert (status, key in said) == (1, True)
    (spool / "queue.toml").unlink()


@pytest.mark.parametrize("content", [b"max_attempts =", b"\xff\xfe", b"[retry", b"a = 1\na = 2"])
def test_settings_that_are_not_toml(spool, content):
    made(spool)
    (spool / "queue.toml").write_bytes(content)
    with pytest.raises(SettingsError) as error:
        SpoolQueue.open(spool)
    refused(error.value, SettingsError, 1, "queue.toml", "not TOML")
    (spool / "queue.toml").unlink()


def test_settings_that_are_spoilt_while_in_use(spool, caplog):
    """Reported once; the last good ones are kept, and what mends them is noticed."""
    from spoolq.testing import FakeClock

    made(spool, Settings(durability="process", max_attempts=3))
    clock = FakeClock()
    with SpoolQueue.open(spool, clock=clock) as queue:
        (spool / "queue.toml").write_text("max_attempts = 0")
        for _ in range(3):
            clock.advance(1)
            assert queue.settings.max_attempts == 3
        assert caplog.text.count("settings.refused") == 1
        (spool / "queue.toml").write_text("max_attempts = 7")
        clock.advance(1)
        assert queue.settings.max_attempts == 7


def test_a_setting_of_the_environment(spool, monkeypatch):
    made(spool)
    monkeypatch.setenv("SPOOLQ_MAX_ATTEMPTS", "none")
    with pytest.raises(SettingsError) as error:
        SpoolQueue.open(spool)
    assert "SPOOLQ_MAX_ATTEMPTS" in str(error.value)


# Messages


@pytest.fixture
def queue(spool):
    made(spool, Settings(durability="process", limits=Limits(body_bytes=10)))
    with SpoolQueue.open(spool) as queue:
        yield queue


def test_a_body_over_the_limit(queue, cli, tmp_path):
    """However it comes; nothing is left of it, and the limit itself fits."""
    (tmp_path / "large").write_bytes(b"x" * 11)
    for too_large in (
        lambda: queue.enqueue(b"x" * 11),
        lambda: queue.enqueue(memoryview(b"x" * 11)),
        lambda: queue.enqueue(io.BytesIO(b"x" * 5_000_000)),
        lambda: queue.enqueue_many([b"ok", b"x" * 11]),
        lambda: queue.enqueue_file(tmp_path / "large"),
        lambda: queue.enqueue_file(tmp_path / "large", move=True),
    ):
        with pytest.raises(MessageTooLarge) as error:
            too_large()
        refused(error.value, MessageTooLarge, 1, "10", "limits.body_bytes")
    assert (tmp_path / "large").exists()
    assert os.listdir(queue._directory.tmp) == os.listdir(queue._directory.new) == []
    assert cli("put", stdin=b"x" * 11)[0] == 1
    queue.enqueue(b"x" * 10)


def test_arguments_out_of_range(queue, cli):
    """A wrong argument is the caller's: ValueError with the value, exit status 2."""
    for wrong, value in (
        (lambda: queue.enqueue(b"x", delay_s=-1), "-1"),
        (lambda: queue.enqueue(b"x", delay_s=float("nan")), "nan"),
        (lambda: queue.enqueue(b"x", priority=10), "10"),
        (lambda: queue.enqueue(b"x", ttl_s=-5), "-5"),
        (lambda: queue.dequeue(wait_s=-1), "-1"),
        (lambda: queue.dequeue(lease_s=0), "0"),
        (lambda: queue.dequeue_many(0), "0"),
    ):
        with pytest.raises(ValueError, match=value):
            wrong()
    assert cli("put", "--delay", "-1")[0] == 2
    assert cli("put", "--priority", "12")[0] == 2
    assert queue.stats().ready == 0


NOT_RECEIPTS = ["", "x", ID, f"{ID}.", f"{ID}.x1", f"{ID}.k0a1b2c1/../../x", f"{ID.upper()}.k0a1b2c1", "é"]


@pytest.mark.parametrize("receipt", NOT_RECEIPTS)
def test_a_receipt_that_is_not_one(queue, receipt):
    """ValueError from everything that takes one."""
    for settle in (
        queue.acknowledge,
        queue.requeue,
        queue.release,
        queue.open_body,
        lambda text: queue.extend(text, 5),
        lambda text: queue.move_to_dead_letter_queue(text, "no"),
        lambda text: queue.acknowledge_many([text]),
    ):
        with pytest.raises(ValueError, match="receipt"):
            settle(receipt)


def test_a_receipt_of_nothing(queue, cli):
    """Well made, and nobody's: its claim has ended, exit status 4."""
    with pytest.raises(LeaseLost) as error:
        queue.acknowledge(f"{ID}.k0a1b2c1")
    refused(error.value, LeaseLost, 4, ID)
    assert cli("ack", f"{ID}.k0a1b2c1")[0] == 4
    assert cli("ack", "nonsense")[0] == 2


@pytest.mark.parametrize("id", ["", "x", "../../etc/passwd", ID + "\n", ID.upper(), ID[:-1], f"{ID}/.."])
def test_an_id_that_is_not_one(queue, id):
    for use in (queue.get, queue.read_body, queue.delete, queue.run_now, queue.replay, queue.give_back):
        with pytest.raises(ValueError, match="id"):
            use(id)
    with pytest.raises(ValueError, match="id"):
        queue.dead_letters.redrive([id])


def test_an_id_of_nothing(queue, cli):
    """MessageNotFound, exit status 5."""
    for use in (queue.get, queue.read_body, queue.delete, queue.run_now, queue.replay, queue.give_back):
        with pytest.raises(MessageNotFound) as error:
            use(ID)
        refused(error.value, MessageNotFound, 5, ID)
    assert cli("show", ID)[0] == 5


def test_what_is_not_a_file(queue, tmp_path):
    """A link, a FIFO, a directory, something that is not there: never opened, and a word about it."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("link", "fifo", "directory"):
        for move in (False, True):
            with pytest.raises(UnsafeFile) as error:
                queue.enqueue_file(tmp_path / name, move=move)
            assert error.value.exit_code == 1
            assert name in error.value.path
    with pytest.raises(StorageError) as missing:
        queue.enqueue_file(tmp_path / "missing")
    assert missing.value.exit_code == 1
    assert (tmp_path / "link").is_symlink()


# Queues


def test_an_unknown_queue(queue, spool, cli):
    """The error names those that are there, and how to make one; exit status 5."""
    queues.create_queue(spool, "emails")
    with pytest.raises(QueueNotFound) as error:
        open_queue(spool, queue="e-mails")
    refused(error.value, QueueNotFound, 5, "e-mails", "default, emails", "spoolq queues create")
    assert cli("--queue", "e-mails", "stats")[0] in {2, 5}
    with pytest.raises(QueueNotFound):
        queues.delete_queue(spool, "e-mails")
    with pytest.raises(QueueExists):
        queues.create_queue(spool, "emails")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "a" * 65, "a..b", "a\0b", "a\n"])
def test_a_queue_name_that_could_leave_the_spool(queue, spool, name):
    for use in (
        lambda: queues.create_queue(spool, name),
        lambda: queues.delete_queue(spool, name),
        lambda: SpoolQueue.open(spool, name),
    ):
        with pytest.raises(ValueError, match="queue must be"):
            use()
    assert sorted(os.listdir(spool.parent)) == ["spool"]
