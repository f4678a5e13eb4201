"""What tired operators do to a spool by hand, and what somebody who may only drop files might try."""

import errno
import grp
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from spoolq.errors import DiskFull, SpoolqError, StorageError
from spoolq.spool import claiming, index, moves, queues
from spoolq.spool.files import Files
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import names, needs, wait_for
from tests.spool.helpers import NOBODY, bodies, drain

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
def clock():
    return FakeClock()


def meta(spool, id, *lines):
    """Metadata as somebody wrote it with an editor."""
    with (spool / "meta" / f"{id}.jsonl").open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode())
            file.write(b"\n")


# Metadata that was edited


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"1e999",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"kind":"message","group":"\\ud800"}',
        b'{"kind":"message","headers":{"a\\ud800":"b\\udfff"},"content_type":"\\ud800","dedup_key":"\\ud800"}',
        b'{"kind":"message","name":"\\ud800"}',
        b'{"kind":"message","name":"a\\u0000b"}',
        b'{"kind":"message","name_b64":"AAAA"}',
        b'{"kind":"message","name_b64":"not base64"}',
        b'{"kind":"message","expires_at_ms":1e30,"dedup_until_ms":-5,"group":7,"headers":[1]}',
        b'{"kind":"message","expires_at_ms":99999999999999999999}',
        b'{"kind":"attempt","attempt":1,"outcome":"\\ud800","ended_at_ms":1,"reason":"\\ud800","stderr":"\\udfff"}',
        b'{"kind":"attempt","attempt":-1,"outcome":[],"ended_at_ms":"x"}',
        b'{"kind":"attempt","attempt":1,"outcome":"dead","ended_at_ms":1,"duration_s":NaN,"pid":1e400,"exit_status":null}',
    ],
    ids=range(20),
)
def test_whatever_stands_in_metadata_the_message_is_delivered(spool, open_queue, line):
    queue = open_queue()
    (spool / "new" / ID).write_bytes(b"body")
    meta(spool, ID, line)
    queue.rebuild()
    message = queue.dequeue()
    assert message.body == b"body"
    queue.get(ID).as_dict()
    message.requeue(0, reason="again")
    message = queue.dequeue()
    message.dead_letter("no good")
    json.dumps(queue.get(ID).as_dict(), default=str)
    queue.dead_letters.redrive()
    assert drain(queue) == [b"body"]
    assert queue.check() == []


@pytest.mark.parametrize("kind", ["link", "endless link", "FIFO", "directory"])
def test_what_is_no_file_in_metadata_is_neither_read_nor_waited_for(spool, open_queue, tmp_path, kind):
    queue = open_queue()
    (tmp_path / "secret").write_text('{"kind":"message","headers":{"secret":"secret"}}\n')
    (spool / "new" / ID).write_bytes(b"body")
    path = spool / "meta" / f"{ID}.jsonl"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "endless link" else tmp_path / "secret")
    queue.rebuild()
    message = queue.dequeue()
    assert dict(message.headers) == dict(queue.get(ID).headers) == {}
    message.requeue(0, reason="again")
    assert drain(queue) == [b"body"]
    assert queue.check() == []
    assert (tmp_path / "secret").read_text().count("\n") == 1


@pytest.mark.parametrize("text", ["text/html\r\nSet-Cookie: a=b", "a\0b", "\u20ac", "x" * 100_000])
def test_a_content_type_that_no_header_could_carry_is_none(spool, open_queue, text):
    """By the front door it would have been refused."""
    queue = open_queue()
    (spool / "new" / ID).write_bytes(b"body")
    meta(spool, ID, {"kind": "message", "content_type": text, "headers": {"a": "b"}})
    with queue.dequeue() as message:
        assert (message.content_type, dict(message.headers)) == (None, {"a": "b"})


@pytest.mark.parametrize("reason", ["\udcff of a command", "\ud800", "nul \0", "x" * 100_000, "line\nline\n\n", " \n "])
def test_any_reason_is_kept_and_stops_nothing(queue, reason):
    """The end of what a command said need not be text."""
    queue.enqueue(b"body")
    queue.dequeue().requeue(0, reason=reason)
    queue.dequeue().dead_letter(reason)
    queue.rebuild()
    (dead,) = queue.dead_letters.list().messages
    assert len(dead.reason) <= 300
    dead.reason.encode()
    assert len(queue.get(dead.id).history) == 2
    queue.dead_letters.reasons()
    queue.search("x")


def test_a_holders_file_that_was_edited_is_shown_as_far_as_it_goes(spool, queue):
    queue.enqueue(b"body")
    message = queue.dequeue()
    (holder,) = (spool / "holders").iterdir()
    for text in ("", "{", "[]", "[" * 60_000, '{"pid": "x", "host": 5, "since_at_ms": "yesterday", "label": []}'):
        holder.write_text(text)
        (info,) = queue.holders()
        assert (info.alive, info.claims) == (True, 1)
    message.ack()


def test_a_holder_does_not_show_what_its_command_line_keeps_secret(queue, monkeypatch):
    """`spoolq relay` names a database or a server, and its holder stands on a page of the console."""
    line = ["spoolq", "relay", "postgresql://me:hush@db/x?password=hush", "--to=http://h/queues/q?token=hush&queue=q"]
    monkeypatch.setattr(sys, "argv", line)
    queue.enqueue(b"body")
    with queue.dequeue():
        (info,) = queue.holders()
    assert info.command == "spoolq relay postgresql://me@db/x?password=... --to=http://h/queues/q?token=...&queue=q"


def test_a_fifo_in_holders_is_nobody_and_keeps_nobody_waiting(spool, queue):
    queue.enqueue(b"body")
    with queue.dequeue():
        os.mkfifo(spool / "holders" / "abcdef")
        assert sorted((info.alive, info.claims) for info in queue.holders()) == [(False, 0), (True, 1)]
    queue.maintain()
    queue._upkeep.recovery.sweep()
    assert not (spool / "holders" / "abcdef").exists()


# An index that was forged


@pytest.mark.parametrize(
    "change",
    [
        *("body_bytes = 1", "body_bytes = 1000000000000", "priority = 50", "attempts = 999999999"),
        *("state = 'done', ended_at_ms = 1", "state = 'dead', ended_at_ms = 1", "state = 'settled', ended_at_ms = 1"),
        "state = 'scheduled', due_at_ms = 9999999999999",
        "state = 'claimed', claimed_at_ms = 1, nonce = 't0123456789ab', deadline_boot_ms = 1",
        "state = 'claimed', claimed_at_ms = 1, nonce = 'kzzzzzz1'",
        *("state = 'none'", "id = '../../secret'", "label = 'x/../../../secret'", "label = char(0)", "label = '\n'"),
    ],
)
def test_a_row_is_not_believed_of_a_body(spool, open_queue, tmp_path, change):
    """Of where it is, how large, under which name; and no row leads out of the spool."""
    (tmp_path / "secret").write_bytes(b"secret")
    queue = open_queue()
    id = queue.enqueue(b"body", headers={"a": "b"}, name="n")
    queue.close()
    if "../" in change:
        (spool / "new" / f"{id},n=x").mkdir()
    with closing(sqlite3.connect(spool / "index.db")) as db:
        db.execute(f"UPDATE messages SET {change}")
        db.commit()
    queue = open_queue()
    try:
        with queue.read_body(id) as body:
            assert body.read() == b"body"
    except SpoolqError:
        pass
    message = wait_for(queue.dequeue)
    assert (message.body, message.body_bytes, dict(message.headers)) == (b"body", 4, {"a": "b"})
    message.ack()
    assert (tmp_path / "secret").read_bytes() == b"secret"
    for planted in (spool / "new").iterdir():
        planted.rmdir()
    assert queue.dequeue() is None
    queue.check(fix=True)


@pytest.mark.parametrize("state", ["none", "../new", "", "READY"])
@pytest.mark.parametrize("how", ["get", "search", "read_body", "check", "delete", "purge"])
def test_a_row_of_a_state_that_is_none_makes_the_index_anew(spool, open_queue, state, how):
    queue = open_queue()
    id = queue.enqueue(b"body", name="n")
    queue.close()
    with closing(sqlite3.connect(spool / "index.db")) as db:
        db.execute("UPDATE messages SET state = ?", (state,))
        db.commit()
    queue = open_queue()
    if how == "get":
        assert queue.get(id).state == "ready"
    elif how == "search":
        assert [info.state for info in queue.search("n")] == ["ready"]
    elif how == "read_body":
        with queue.read_body(id) as body:
            assert body.read() == b"body"
    elif how == "check":
        queue.check(fix=True)
        assert queue.get(id).state == "ready"
    else:
        queue.delete(id) if how == "delete" else queue.purge()
        assert names(spool, "new") == []


# Things that fail between a claim and its consumer


@pytest.mark.parametrize("what", ["read_arrival", "sync_moved"])
def test_a_claim_that_does_not_reach_its_consumer_is_given_back(queue, monkeypatch, what):
    """No descriptor left for the metadata, an error of the disk: nobody has the message, so nobody may hold it."""
    id = queue.enqueue(b"body", headers={"a": "b"})

    def fail(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(claiming if what == "read_arrival" else moves, what, fail)
        with pytest.raises((SpoolqError, OSError)):
            queue.dequeue()
    message = queue.dequeue()
    assert message is not None, "it is held by one who never had it"
    assert (message.id, dict(message.headers)) == (id, {"a": "b"})
    message.ack()


def test_with_no_descriptor_left_there_are_words_and_it_goes_on_afterwards(spool, child):
    process = child()
    process("queue.enqueue(b'body', headers={'a': 'b'})")
    process("queue.enqueue(b'another')")
    process("import resource")
    process("soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)")
    for spare in range(6):
        process(f"resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1 + {spare}, hard))")
        process("""
try:
    message = queue.dequeue()
    said = ""
    if message is not None:
        message.release()
except Exception as error:
    said = type(error).__name__ + ": " + str(error)
""")
        process("resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))")
        assert process("said") == "" or process("said").startswith("StorageError: "), process("said")
        assert process("queue.stats().ready + queue.maintain() * 0") == 2, spare
    process.end()
    with SpoolQueue.open(spool) as queue:
        assert sorted(drain(queue)) == [b"another", b"body"]


# Directories and files of the spool, moved and removed


def test_a_lock_file_that_was_removed_is_no_deleted_queue(spool, queue):
    """It is said what is wrong; opened again, the queue has another one."""
    queue.enqueue(b"body")
    (spool / "lock").unlink()
    for path in spool.glob("index.db*"):
        path.unlink()
    with pytest.raises(SpoolqError) as said:
        queue.dequeue()
    assert "lock" in str(said.value)
    with SpoolQueue.open(spool) as again:
        assert drain(again) == [b"body"]


def test_a_spool_that_was_moved_while_it_was_open_is_said_to_be_gone(spool, open_queue, tmp_path):
    queue = open_queue()
    queue.enqueue(b"body")
    message = queue.dequeue()
    os.rename(spool, tmp_path / "elsewhere")
    with pytest.raises(SpoolqError, match="no queue 'default' any more"):
        message.ack()
    with pytest.raises(SpoolqError, match="no queue 'default' any more"):
        queue.enqueue(b"another")
    queue.close()
    with SpoolQueue.open(tmp_path / "elsewhere") as moved:
        assert drain(moved) == [b"body"]


@pytest.mark.parametrize("name", ["tmp", "new", "cur", "done", "dead", "meta", "holders"])
def test_a_directory_that_was_removed_is_told_of_and_made_again_by_opening(spool, open_queue, name):
    queue = open_queue()
    queue.enqueue(b"body", headers={"a": "b"})
    shutil.rmtree(spool / name)
    try:
        queue.enqueue(b"another")
        with queue.dequeue():
            pass
    except (StorageError, AttributeError, TypeError):
        pass
    queue.close()
    with SpoolQueue.open(spool) as again:
        again.check(fix=True)
        again.enqueue(b"last")
        assert b"last" in drain(again)
        assert again.check(fix=True) is not None
        assert again.check() == []


def test_a_directory_that_was_removed_is_told_of_by_the_look_for_room_too(spool, open_queue, clock):
    """Which is made every so often before an enqueue, and asks the file system by that directory."""
    queue = open_queue(clock=clock)
    queue.enqueue(b"body")
    shutil.rmtree(spool / "new")
    clock.advance_waits(1)
    with pytest.raises(StorageError, match="No such file or directory"):
        queue.enqueue(b"another")
    with pytest.raises(StorageError, match="No such file or directory"):
        queue.health()
    (spool / "new").mkdir(mode=0o700)
    queue.check(fix=True)


@pytest.mark.parametrize("state", ["done", "dead"])
@pytest.mark.parametrize("known", ["by nobody", "after a rebuild", "in a message's place"])
def test_a_directory_among_what_has_ended_keeps_nothing_else(spool, open_queue, clock, state, known):
    """A person put it there under a message's name: it is no message, it stays, and check says so."""
    queue = open_queue(clock=clock)
    for _ in range(3):
        queue.enqueue(b"body")
        message = queue.dequeue()
        message.ack() if state == "done" else message.dead_letter("no good")
    planted = spool / state / f"{ID},n=planted"
    if known == "in a message's place":
        planted = next((spool / state).iterdir())
        planted.unlink()
    planted.mkdir()
    (planted / "mine").touch()
    os.symlink("/nowhere", spool / state / clock.new_id())
    if known == "after a rebuild":
        queue.rebuild()
    if known != "in a message's place":
        assert [problem.kind for problem in queue.check() if problem.path == str(planted)] == ["strange"]
    queue.check(fix=True)
    clock.advance(2 * 86_400)
    if state == "done":
        queue.clean()
    else:
        queue.enqueue(b"ready")
        queue.purge(["ready", "dead"])
    assert names(spool, state) == [planted.name]
    assert queue.stats().done == queue.stats().dead == 0
    assert [problem.path for problem in queue.check(fix=True)] == [str(planted)]
    assert names(spool, state) == [planted.name]
    shutil.rmtree(planted)


def test_everything_chowned_and_read_only_says_so(spool, open_queue, child):
    """A process without root's rights, in a spool that root has taken: words, and nothing lost."""
    needs(os.geteuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
    queue = open_queue()
    queue.enqueue(b"body")
    process = child(without=("dac_override", "dac_read_search", "fowner", "chown"))
    process.opened()
    os.chmod(spool / "new", 0o500)
    assert process("queue.stats().ready") == 1
    for line in ("queue.enqueue(b'x')", "queue.dequeue()"):
        with pytest.raises(Exception, match=r"StorageError: .*Permission denied"):
            process(line)
    os.chmod(spool / "new", 0o700)
    process("message = queue.dequeue()")
    assert process("message.attempts") == 1
    process("message.ack()")


class Above(Files):
    """Directories above the spool that cannot be synced."""

    def __init__(self, spool, code):
        super().__init__()
        self.spool = spool
        self.code = code
        self.refused = 0

    def sync_directory(self, path):
        if not path.startswith(str(self.spool)):
            self.refused += 1
            raise OSError(self.code, os.strerror(self.code), path)
        super().sync_directory(path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL], ids=errno.errorcode.get)
def test_a_directory_above_that_is_not_ours_to_sync_stops_nobody(spool, open_queue, code):
    """We may not read it, it is mounted read-only, or its file system syncs no directories."""
    files = Above(spool, code)
    queue = open_queue(files=files)
    assert files.refused > 0
    queue.enqueue(b"body")
    assert drain(queue) == [b"body"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_directory_above_that_fails_to_be_synced_is_told_of(spool, open_queue, code):
    """Nothing is promised in a spool that may not be there after a power cut; the next opening makes it whole."""
    with pytest.raises(StorageError if code == errno.EIO else DiskFull, match="init"):
        open_queue(files=Above(spool, code))
    assert not (spool / "FORMAT").exists()
    assert drain(open_queue()) == []


# Droppers


@pytest.fixture
def shared(spool):
    """A spool into which the members of a group may drop."""
    needs(os.geteuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
    group = grp.getgrgid(NOBODY).gr_name
    queues.make_spool(spool, group=group)
    for parent in spool.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            os.chmod(parent, 0o711)
    return spool


def as_nobody(script, *arguments):
    """In the group, and no more; whether the script succeeded."""
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", script, "sh"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, check=False).returncode == 0


def test_a_dropper_may_drop(shared, open_queue):
    queue = open_queue()
    modes = {
        name: stat.S_IMODE((shared / name).stat().st_mode) for name in ("", "new", "tmp", "cur", "meta", "holders")
    }
    assert modes == {"": 0o710, "new": 0o3770, "tmp": 0o3770, "cur": 0o700, "meta": 0o700, "holders": 0o700}
    assert as_nobody('echo dropped > "$1/new/job"', shared)
    assert as_nobody('echo aside > "$1/tmp/mine" && mv "$1/tmp/mine" "$1/new/two"', shared)
    got = []
    wait_for(lambda: got.extend(drain(queue)) or len(got) == 2)
    assert sorted(got) == [b"aside\n", b"dropped\n"]


@pytest.mark.parametrize(
    "script",
    [
        'rm -f "$1"/new/*',
        'mv "$1"/new/0* "$1/new/renamed"',
        'ln -sf /etc/passwd "$1"/new/0*',
        'rm -f "$1/tmp/theirs"',
        'mv "$1/tmp/theirs" "$1/tmp/mine"',
        'ls "$1/cur"',
        'ls "$1/meta"',
        'cat "$1/index.db"',
        'cat "$1"/new/0*',
        'echo > "$1/queue.toml"',
        'touch "$1/paused"',
        'rm "$1/wake"',
        'mkdir "$1/queues"',
    ],
)
def test_a_dropper_may_not(shared, open_queue, script):
    """Neither read nor move nor remove what is not its own, of which the index in the making is one."""
    queue = open_queue()
    queue.enqueue(b"body")
    (shared / "tmp" / "theirs").touch()
    assert not as_nobody(script, shared)
    assert names(shared, "tmp") == ["theirs"]
    assert drain(queue) == [b"body"]
    assert not (shared / "paused").exists()
    (shared / "tmp" / "theirs").unlink()


def test_a_dropper_cannot_forge_the_index_in_the_making(shared, open_queue, monkeypatch):
    """SQLite plays a WAL that lies beside its file into it: nobody else may make one there."""
    queue = open_queue()
    queue.enqueue(b"body")
    places = []

    def create(path, *arguments):
        places.append(path)
        assert not as_nobody('echo forged > "$1-wal"', path)
        assert not as_nobody('ls "$(dirname "$1")"', path)
        return real(path, *arguments)

    real = index.create
    monkeypatch.setattr(index, "create", create)
    queue.rebuild()
    assert len(places) == 1
    assert names(shared, "tmp") == []
    assert drain(queue) == [b"body"]


def test_what_a_dropper_dropped_it_cannot_remove_once_it_is_claimed(shared, open_queue):
    queue = open_queue()
    assert as_nobody('echo dropped > "$1/new/job"', shared)
    message = queue.dequeue(wait_s=5)
    assert not as_nobody('rm -f "$1"', message.path) or os.path.exists(message.path)
    assert stat.S_IMODE(os.stat(shared / "cur").st_mode) & 0o077 == 0
    message.ack()
    assert bodies(shared) == [b"dropped\n"]


def test_the_disk_full_error_is_one_to_try_again(spool, open_queue):
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(f"[reserve]\nbytes = {1 << 60}\n")
    queue = open_queue()
    with pytest.raises(DiskFull, match="reserve"):
        queue.enqueue(b"body")
    assert names(spool, "tmp") == names(spool, "new") == []
