"""Section 5 of docs/spool-format.md: one test a row of its table, of the row's name.

Each says what is in which directory before and after, and which steps are taken in which order, for each durability.
What a crash between two steps leaves is in tests/crash.
"""

import os
import socket
import sys
from pathlib import Path

import pytest

from spoolq.models import NewMessage
from spoolq.settings import Retention, Settings, dump
from spoolq.spool import claiming, queues
from spoolq.spool.files import Files
from spoolq.spool.names import parse_name
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import STATE_DIRECTORIES
from tests.spool_format.document import tables
from tests.spool_format.recorder import Recorder, plain

DURABILITIES = ("process", "power", "full")


class Story:
    """A queue whose steps are recorded."""

    def __init__(self, path: Path, durability: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.durability = durability
        self.clock = FakeClock()
        self.recorder = Recorder(path, monkeypatch)
        self.opened: list[SpoolQueue] = []
        self.told = monkeypatch

    def open(self, settings: Settings | None = None, *, detached: bool = False) -> SpoolQueue:
        """The queue, warmed up: what is done once per process is done."""
        if not self.path.exists():
            self.path.mkdir(mode=0o700)
            fields = {} if settings is None else {name: getattr(settings, name) for name in settings.__slots__}
            text = dump(Settings(**(fields | {"durability": self.durability})))
            (self.path / "queue.toml").write_text(text)
        queue = SpoolQueue.open(self.path, files=self.recorder, clock=self.clock, detached=detached)
        self.opened.append(queue)
        assert queue.dequeue() is None
        return queue

    def places(self) -> list[str]:
        """Every message, by place and name."""
        root = self.path
        return [plain(f"{kind}/{text}") for kind in STATE_DIRECTORIES for text in sorted(os.listdir(root / kind))]

    def steps(self, text: str) -> list[str]:
        """`+ fsync new`: where an enqueue is synced; `! sync cur`: where every transition is; the rest always."""
        marks = {"process": "", "power": "+", "full": "+!"}[self.durability]
        found = []
        for line in filter(None, map(str.strip, text.splitlines())):
            mark, _, rest = line.partition(" ")
            if mark not in {"+", "!"}:
                found.append(line)
            elif mark in marks:
                found.append(rest)
        return found


@pytest.fixture(params=DURABILITIES)
def story(request, spool, monkeypatch):
    story = Story(spool, request.param, monkeypatch)
    yield story
    for queue in story.opened:
        queue.close()


def test_each_row_has_a_test():
    """A row that is added to the document without a test fails here."""
    rows = [row[0] for row in tables(5)[0]]
    assert [row for row in rows if f"test_{row}" not in globals()] == []


ENQUEUE = """
    create tmp/ID
    write tmp/ID
    + fsync tmp/ID
    close tmp/ID
    rename tmp/ID new/ID
    + sync new
    lock
    commit
    unlock
    touch wake
"""

WITH_META = """
    create tmp/ID
    write tmp/ID
    + fsync tmp/ID
    close tmp/ID
    create tmp/ID.meta
    write tmp/ID.meta
    + fsync tmp/ID.meta
    close tmp/ID.meta
    rename tmp/ID.meta meta/ID.jsonl
    + sync meta
    rename tmp/ID new/ID,p=7,t=T,n=report.csv
    + sync new
    lock
    commit
    unlock
    touch wake
"""


def test_enqueue(story):
    """The body is on the disk before the rename, the name before it returns; metadata before the message."""
    queue = story.open()
    with story.recorder.story() as steps:
        queue.enqueue(b"x")
    assert steps == story.steps(ENQUEUE)
    assert story.places() == ["new/ID"]
    with story.recorder.story() as steps:
        queue.enqueue(b"y", headers={"a": "b"}, priority=7, delay_s=60, name="report.csv")
    assert steps == story.steps(WITH_META)
    assert story.places() == ["new/ID", "new/ID,p=7,t=T,n=report.csv"]
    assert os.listdir(story.path / "tmp") == []


def test_enqueue_many(story):
    """One sync a body, one a directory, one transaction."""
    queue = story.open()
    with story.recorder.story() as steps:
        queue.enqueue_many([b"1", NewMessage(body=b"2", headers={"a": "b"}), b"3"])
    written = [step for step in steps if step.split()[0] in {"fsync", "sync", "rename", "lock", "commit"}]
    assert written == story.steps("""
        + fsync tmp/ID
        + fsync tmp/ID
        + fsync tmp/ID
        + fsync tmp/ID.meta
        rename tmp/ID.meta meta/ID.jsonl
        + sync meta
        rename tmp/ID new/ID
        rename tmp/ID new/ID
        rename tmp/ID new/ID
        + sync new
        lock
        commit
    """)
    assert story.places() == ["new/ID"] * 3


def test_enqueue_keyed(story):
    """The reservation is committed, in metadata and index, before the message is there; it ends with its row."""
    queue = story.open()
    with story.recorder.story() as steps:
        first = queue.enqueue(b"x", dedup_key="k")
    at = [steps.index(step) for step in ("create tmp/ID", "rename tmp/ID.meta meta/ID.jsonl", "rename tmp/ID new/ID")]
    commits = [number for number, step in enumerate(steps) if step == "commit"]
    assert at == sorted(at)
    assert any(at[1] < commit < at[2] for commit in commits)
    assert commits[-1] > at[2]
    assert [step for step in steps if step.split()[0] in {"fsync", "sync"}] == story.steps("""
        + fsync tmp/ID
        + fsync tmp/ID.meta
        + sync meta
        + sync new
    """)
    with story.recorder.story() as steps:
        assert queue.enqueue(b"again", dedup_key="k") == first
    assert not any(step.startswith("rename") for step in steps)
    assert story.places() == ["new/ID"]
    assert os.listdir(story.path / "tmp") == []


def test_enqueue_file_move(story):
    """The user's own file is synced and renamed; its bytes are not touched."""
    queue = story.open()
    file = story.path.parent / "report.csv"
    file.write_bytes(b"x" * 100_000)
    inode = file.stat().st_ino
    with story.recorder.story() as steps:
        queue.enqueue_file(file, move=True)
    assert [step.replace(f"{story.path.parent}", "..") for step in steps] == story.steps("""
        + fsync ../report.csv
        rename ../report.csv new/ID,n=report.csv
        + sync new
        + sync ..
        lock
        commit
        unlock
        touch wake
    """)
    (found,) = (story.path / "new").iterdir()
    assert found.stat().st_ino == inode
    assert not file.exists()


def test_take_in(story):
    """A drop is synced, and renamed without replacing; its exact name is kept first."""
    queue = story.open()
    (story.path / "new" / "a b").write_bytes(b"x")
    with story.recorder.story() as steps:
        queue.check()
    del steps[steps.index("touch wake") + 1 :]
    assert steps == story.steps("""
        set_time new/a b
        + fsync new/a b
        create tmp/ID.meta
        write tmp/ID.meta
        + fsync tmp/ID.meta
        close tmp/ID.meta
        rename tmp/ID.meta meta/ID.jsonl
        + sync meta
        lock
        rename new/a b new/ID,n=a_b
        commit
        unlock
        + sync new
        touch wake
    """)
    assert story.places() == ["new/ID,n=a_b"]


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))


@pytest.mark.parametrize("make", [_link, os.mkfifo, _socket], ids=["symbolic link", "FIFO", "socket"])
def test_quarantine(story, make, request):
    """What is not a regular file goes to `dead/` unopened, with the reason in its row."""
    queue = story.open()
    make(story.path / "new" / "x")
    with story.recorder.story() as steps:
        queue.check()
    assert steps[:4] == ["lock", "rename new/x dead/ID,n=x", "commit", "unlock"]
    (letter,) = queue.dead_letters.list().messages
    assert letter.reason == f"not a regular file: {request.node.callspec.id.rpartition('-')[2]}"


DEQUEUE = """
    lock
    open new/ID
    probe
    rename new/ID cur/ID,a=1,r=N
    commit
    unlock
    ! sync cur
    ! sync new
"""


def test_dequeue(story):
    """The attempt and the nonce are in the very rename that claims, after a look for a writer, before the commit."""
    queue = story.open()
    recorder = story.recorder
    for name, word in (("open_message", "open"), ("take_lease", "probe")):
        recorder.tell(claiming, name, word)
    queue.enqueue(b"x")
    with recorder.story() as steps:
        message = queue.dequeue()
    assert steps == story.steps(DEQUEUE)
    assert (message.body, message.attempts) == (b"x", 1)
    assert story.places() == ["cur/ID,a=1,r=N"]
    assert message.receipt == f"{message.id}.{parse_name(next(os.walk(story.path / 'cur'))[2][0]).nonce}"


def test_dequeue_with_a_lease(story):
    """The deadline is set as the file's time, before it is renamed."""
    queue = story.open()
    queue.enqueue(b"x")
    with story.recorder.story() as steps:
        message = queue.dequeue(lease_s=20)
    assert steps == story.steps("""
        lock
        set_time new/ID
        rename new/ID cur/ID,a=1,r=N
        commit
        unlock
        ! sync cur
        ! sync new
        ! fsync cur/ID,a=1,r=N
    """)
    assert os.stat(message.path).st_mtime_ns == (story.clock.wall_ms() + 20_000) * 1_000_000


ACKNOWLEDGE_KEEP = """
    lock
    rename cur/ID,a=1,r=N done/ID,a=1,r=N
    commit
    unlock
    ! sync done
    ! sync cur
"""


def test_acknowledge_keep(story):
    """To `done/`, whose name keeps the receipt; its row after it."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    with story.recorder.story() as steps:
        message.ack()
    assert steps == story.steps(ACKNOWLEDGE_KEEP)
    assert story.places() == ["done/ID,a=1,r=N"]


def test_acknowledge_delete(story):
    """Where nothing is kept, the file goes, then its metadata; the row stays to answer for the receipt."""
    queue = story.open(Settings(retention=Retention(done_s=0)))
    queue.enqueue(b"x", headers={"a": "b"})
    message = queue.dequeue()
    with story.recorder.story() as steps:
        message.ack()
    assert [step for step in steps if not step.startswith("sync")] == [
        "lock",
        "unlink cur/ID,a=1,r=N",
        "commit",
        "unlock",
        "unlink meta/ID.jsonl",
    ]
    assert [step for step in steps if step.startswith("sync")] == story.steps("! sync cur")
    assert story.places() == []
    assert os.listdir(story.path / "meta") == []
    queue.acknowledge(message.receipt)


HISTORY = """
    open_append meta/ID.jsonl
    write meta/ID.jsonl
    ! fsync meta/ID.jsonl
    ! sync meta
    close meta/ID.jsonl
"""


def test_requeue(story):
    """The line of history, then the name without a nonce, with the time from the backoff."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    with story.recorder.story() as steps:
        message.requeue(delay_s=30, reason="no")
    assert steps == story.steps(f"""
        lock
        {HISTORY}
        rename cur/ID,a=1,r=N new/ID,t=T,a=1
        commit
        unlock
        ! sync new
        ! sync cur
    """)
    assert story.places() == ["new/ID,t=T,a=1"]


def test_release(story):
    """Without a line of history, one attempt less, without a nonce."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    with story.recorder.story() as steps:
        message.release()
    assert steps == story.steps("""
        lock
        rename cur/ID,a=1,r=N new/ID
        commit
        unlock
        ! sync new
        ! sync cur
        touch wake
    """)
    assert story.places() == ["new/ID"]


@pytest.mark.parametrize(("attempts", "target"), [(2, "new/ID,a=1"), (1, "dead/ID,a=1")])
def test_reap(story, attempts, target):
    """As requeue, at once; to `dead/` where the attempts are used up."""
    queue = story.open(Settings(max_attempts=attempts), detached=True)
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=20)
    story.clock.advance(21)
    with story.recorder.story() as steps:
        queue.maintain()
    assert steps[: steps.index("unlock") + 1] == story.steps(f"""
        lock
        {HISTORY}
        rename cur/ID,a=1,r=N {target}
        commit
        unlock
    """)
    assert [step for step in steps if step.startswith("sync") and "meta" not in step] == story.steps("""
        ! sync new
        ! sync dead
        ! sync cur
    """)
    assert story.places() == [target]
    assert queue.get(message.id).history[-1].reason == "lease ended"


def test_reap_counts_a_claim_by_hand(story):
    """`mv new/X cur/` counted nothing, so the reaper does."""
    queue = story.open()
    id = queue.enqueue(b"x")
    (name,) = os.listdir(story.path / "new")
    (story.path / "new" / name).rename(story.path / "cur" / name)
    os.utime(story.path / "cur" / name, (1, 1))
    assert queue.dequeue() is None
    story.clock.advance(3600)
    queue.maintain()
    story.clock.advance(3600)
    queue.maintain()
    assert story.places() == ["new/ID,a=1"]
    assert queue.get(id).attempts == 1


DEAD_LETTER = f"""
    lock
    {HISTORY}
    rename cur/ID,a=1,r=N dead/ID,a=1
    commit
    unlock
    ! sync dead
    ! sync cur
"""


def test_dead_letter(story):
    """The line of history, then the name without its nonce."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    with story.recorder.story() as steps:
        message.dead_letter("no")
    assert steps == story.steps(DEAD_LETTER)
    assert story.places() == ["dead/ID,a=1"]


def without_meta_sync(text: str) -> str:
    """The metadata file is there already, so that its directory is not synced again."""
    return text.replace("    ! sync meta\n", "")


def test_redrive(story):
    """From `dead/`, its attempts at 0, its history kept."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    message.dead_letter("no")
    with story.recorder.story() as steps:
        assert queue.dead_letters.redrive([message.id]) == 1
    assert steps == story.steps(f"""
        lock
        {without_meta_sync(HISTORY)}
        rename dead/ID,a=1 new/ID
        commit
        unlock
        ! sync new
        ! sync dead
        touch wake
    """)
    assert story.places() == ["new/ID"]
    assert [each.outcome for each in queue.get(message.id).history] == ["dead", "redriven"]


def test_replay(story):
    """From `done/`, attempts, time and nonce left out."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue()
    message.ack()
    with story.recorder.story() as steps:
        queue.replay(message.id)
    assert steps == story.steps(f"""
        lock
        {HISTORY}
        rename done/ID,a=1,r=N new/ID
        commit
        unlock
        ! sync new
        ! sync done
        touch wake
    """)
    assert story.places() == ["new/ID"]


def test_run_now(story):
    """The name without its time."""
    queue = story.open()
    id = queue.enqueue(b"x", delay_s=60)
    with story.recorder.story() as steps:
        queue.run_now(id)
    assert steps == story.steps("""
        lock
        rename new/ID,t=T new/ID
        commit
        unlock
        ! sync new
        touch wake
    """)
    assert story.places() == ["new/ID"]


def test_set_priority(story):
    """The name with another priority."""
    queue = story.open()
    id = queue.enqueue(b"x")
    with story.recorder.story() as steps:
        queue.set_priority(id, 9)
    assert steps == story.steps("""
        lock
        rename new/ID new/ID,p=9
        commit
        unlock
        ! sync new
        touch wake
    """)
    assert story.places() == ["new/ID,p=9"]


@pytest.mark.parametrize("fate", ["dead", "delete"])
def test_expire(story, fate):
    """Past its time to live: to `dead/`, or deleted where the queue says so."""
    queue = story.open(Settings(retention=Retention(expired=fate)))
    queue.enqueue(b"x", ttl_s=5)
    story.clock.advance(6)
    with story.recorder.story() as steps:
        assert queue.dequeue() is None
    moved = [step for step in steps if step.split()[0] in {"rename", "unlink"}]
    if fate == "dead":
        assert moved == ["rename new/ID dead/ID"]
        assert steps.index("write meta/ID.jsonl") < steps.index(moved[0]) < steps.index("commit", steps.index(moved[0]))
        assert story.places() == ["dead/ID"]
    else:
        assert moved == ["unlink new/ID", "unlink meta/ID.jsonl"]
        assert steps.index(moved[0]) < steps.index("commit", steps.index(moved[0]))
        assert [step for step in steps if step.startswith(("unlink", "sync new"))] == story.steps("""
            unlink new/ID
            + sync new
            unlink meta/ID.jsonl
        """)
        assert story.places() == []


def test_extend(story):
    """The file's time, then the row."""
    queue = story.open()
    queue.enqueue(b"x")
    message = queue.dequeue(lease_s=20)
    with story.recorder.story() as steps:
        message.extend(90)
    assert steps == story.steps("""
        lock
        set_time cur/ID,a=1,r=N
        commit
        unlock
        ! fsync cur/ID,a=1,r=N
    """)
    assert os.stat(message.path).st_mtime_ns == (story.clock.wall_ms() + 90_000) * 1_000_000


def test_delete(story):
    """The file, then the row, then the metadata."""
    queue = story.open()
    id = queue.enqueue(b"x", headers={"a": "b"})
    with story.recorder.story() as steps:
        queue.delete(id)
    assert steps == story.steps("""
        lock
        unlink new/ID
        commit
        unlock
        + sync new
        unlink meta/ID.jsonl
    """)
    assert story.places() == []


def test_clean(story):
    """What retention says, oldest first; what is younger stays."""
    queue = story.open(Settings(retention=Retention(done_s=120, dead_s=200)))
    for number in range(4):
        queue.enqueue(b"%d" % number)
        message = queue.dequeue()
        if number % 2:
            message.dead_letter("no")
        else:
            message.ack()
        story.clock.advance(30)
    story.clock.advance(50)
    with story.recorder.story() as steps:
        assert queue.clean()["done"] == 1
    gone = [step for step in steps if step.startswith("unlink")]
    assert gone == ["unlink done/ID,a=1,r=N"]
    assert steps.index(gone[0]) < steps.index("commit", steps.index(gone[0]))
    assert story.places() == ["done/ID,a=1,r=N", "dead/ID,a=1", "dead/ID,a=1"]
    story.clock.advance(200)
    assert queue.clean()["dead"] == 2
    assert story.places() == []
    assert os.listdir(story.path / "meta") == []


def test_make_spool(tmp_path):
    """The way to it is on the disk before anything in it is made; what was there above it belongs to somebody else."""
    did = []

    class Told(Files):
        def sync_directory(self, path):
            did.append(f"sync {os.path.relpath(path, tmp_path)}")
            super().sync_directory(path)

        def mkdir(self, path):
            did.append(f"mkdir {os.path.relpath(path, tmp_path)}")
            super().mkdir(path)

    assert queues.make_spool(tmp_path / "a" / "b" / "spool", files=Told())
    assert did[:3] == ["sync a/b", "sync a", "sync ."]
    assert did[3].startswith("mkdir a/b/spool/")
    did.clear()
    (tmp_path / "there").mkdir(mode=0o700)
    assert queues.make_spool(tmp_path / "there", files=Told())
    assert did[0] == "sync ."
    assert did.count("sync .") == 1


def test_make_queue(story):
    """Made whole in `tmp/`, then renamed: `FORMAT` present means that everything else is."""
    story.open()
    story.told.setattr(queues, "Files", lambda: story.recorder)
    with story.recorder.story() as steps:
        queues.create_queue(story.path, "emails", Settings(durability=story.durability))
    aside = "tmp/queue-emails.ID"
    assert steps.index(f"rename {aside}/tmp/FORMAT.ID {aside}/FORMAT") < steps.index(f"rename {aside} queues/emails")
    assert steps[-2:] == ["sync queues", f"sync {story.path}"]
    assert not any(step.startswith(("create queues/", "mkdir queues/")) for step in steps)
    assert queues.list_queues(story.path) == ["default", "emails"]
    assert os.listdir(story.path / "tmp") == []


def test_delete_queue(story):
    """Out of sight in one rename, then deleted."""
    story.open()
    queues.create_queue(story.path, "emails", Settings(durability=story.durability))
    with SpoolQueue.open(story.path, "emails") as queue:
        queue.enqueue(b"x")
    story.told.setattr(queues, "Files", lambda: story.recorder)
    with story.recorder.story() as steps:
        assert queues.delete_queue(story.path, "emails") == 1
    at = steps.index("rename queues/emails tmp/deleted-emails-ID")
    assert "lock" in steps[:at]
    assert steps[at + 1 :] == ["unlock", "sync tmp", "sync queues", "remove_tree tmp/deleted-emails-ID"]
    assert queues.list_queues(story.path) == ["default"]
    assert os.listdir(story.path / "tmp") == []


def test_rebuild(story):
    """Built aside; the old index and all beside it go before the new one comes; the lock is held throughout."""
    queue = story.open()
    queue.enqueue(b"x")
    with story.recorder.story() as steps:
        assert queue.rebuild() == 1
    assert (steps[0], steps[-1]) == ("lock", "unlock")
    assert "unlock" not in steps[:-1]
    gone = [steps.index(f"unlink index.db{suffix}") for suffix in ("", "-wal", "-shm", "-clean")]
    assert steps.index("create tmp/index-ID.db") < min(gone)
    assert max(gone) < steps.index("rename tmp/index-ID.db index.db")
    assert os.listdir(story.path / "tmp") == []


def test_no_descriptor_is_left_open(story):
    """Everything that is opened on the way is closed."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks in /proc")
    queue = story.open()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        queue.enqueue(b"%d" % number, headers={"a": "b"}, dedup_key=str(number))
        message = queue.dequeue()
        message.requeue(delay_s=0)
        queue.dequeue().ack()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the reader's connection may have come
