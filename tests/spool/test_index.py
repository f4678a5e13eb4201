"""The index is disposable: removed, cut short, overwritten, of another boot or version: no message loses anything."""

import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from spoolq import queue as top
from spoolq.errors import IndexInUse, QueueNotFound
from spoolq.models import NewMessage
from spoolq.spool import believing, rebuilding, session
from spoolq.spool import index as sql
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.helpers import names
from tests.spool.helpers import ChildError, bodies, drain

DAY_S = 86_400


def remove(spool: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        (spool / f"index.db{suffix}").unlink(missing_ok=True)


def cut(spool: Path, size: int) -> None:
    with (spool / "index.db").open("r+b") as file:
        file.truncate(size)


def overwrite(spool: Path, data: bytes, at: int = 0) -> None:
    with (spool / "index.db").open("r+b") as file:
        file.seek(at)
        file.write(data)


def size(spool: Path) -> int:
    return (spool / "index.db").stat().st_size


def other_database(spool: Path) -> None:
    remove(spool, "", "-wal", "-shm")
    connection = sqlite3.connect(spool / "index.db")
    connection.execute("CREATE TABLE messages (id)")
    connection.execute(f"PRAGMA user_version = {sql.USER_VERSION}")
    connection.commit()
    connection.close()


DAMAGES = {
    "rm index.db*": lambda spool: remove(spool, "", "-wal", "-shm", "-clean"),
    "rm index.db": lambda spool: remove(spool, ""),
    "rm index.db-wal": lambda spool: remove(spool, "-wal"),
    "rm index.db-shm": lambda spool: remove(spool, "-shm"),
    "rm index.db-wal index.db-shm": lambda spool: remove(spool, "-wal", "-shm"),
    "emptied": lambda spool: cut(spool, 0),
    "cut to half": lambda spool: cut(spool, size(spool) // 2),
    "cut to a page and a bit": lambda spool: cut(spool, 4096 + 17),
    "cut to a bit": lambda spool: cut(spool, 50),
    "a text": lambda spool: overwrite(spool, b"this is not a database\n"),
    "garbage": lambda spool: overwrite(spool, random.Random(1).randbytes(size(spool))),
    "zeros": lambda spool: overwrite(spool, bytes(size(spool))),
    "garbage behind the first page": lambda spool: overwrite(spool, random.Random(2).randbytes(size(spool)), 1024),
    "zeros behind the first page": lambda spool: overwrite(spool, bytes(size(spool)), 1024),
    "another program's database": other_database,
}


def fill(queue: SpoolQueue) -> dict[str, object]:
    """Messages of every state, with all that may come with one; what is known of each."""
    queue.enqueue(b"ready", name="a name.txt", headers={"a": "b"}, content_type="text/plain")
    queue.enqueue(b"first", priority=9)
    queue.enqueue(b"later", delay_s=DAY_S, ttl_s=2 * DAY_S)
    queue.enqueue(b"keyed", dedup_key="key")
    queue.enqueue_many([NewMessage(body=b"g%d" % number, group="g") for number in range(3)])
    for action in ("ack", "requeue", "dead"):
        queue.enqueue(action.encode(), priority=9, name=action)
    for message in queue.dequeue_many(20):
        if message.body == b"ack":
            message.ack()
        elif message.body == b"requeue":
            message.requeue(DAY_S, reason="not yet")
        elif message.body == b"dead":
            message.dead_letter("no good")
        else:
            message.release()
    return known(queue)


def known(queue: SpoolQueue) -> dict[str, object]:
    """All that a rebuild has to keep, by id."""
    found: dict[str, object] = {}
    for state in ("ready", "scheduled", "claimed", "done", "dead"):
        for info in queue.list(state).messages:
            whole = queue.get(info.id).as_dict()
            for changing in ("changed_at_ms", "deadline_at_ms"):
                if state != "dead":  # its history tells
                    del whole[changing]
            found[info.id] = whole
    return found


@pytest.mark.parametrize("damage", DAMAGES)
def test_at_rest(spool, open_queue, damage):
    before = fill(queue := open_queue())
    counts = queue.stats()
    queue.close()
    DAMAGES[damage](spool)
    queue = open_queue()
    assert known(queue) == before
    after = queue.stats()
    for column in ("ready", "scheduled", "claimed", "done", "dead", "ready_bytes", "scheduled_bytes", "dead_bytes"):
        assert getattr(after, column) == getattr(counts, column)
    assert queue.enqueue(b"keyed again", dedup_key="key") in before
    assert queue.check() == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_while_it_is_open(spool, open_queue, damage):
    """Whoever has it open notices, makes it anew, and the claims of those who live go on."""
    queue, other = open_queue(), open_queue()
    fill(queue)
    message = queue.dequeue()
    before = known(queue)
    assert known(other) == before
    DAMAGES[damage](spool)
    queue.enqueue(b"after")
    after = {id: what for id, what in known(other).items() if id in before}
    assert after == before
    message.ack()
    other.acknowledge(message.receipt)
    assert queue.stats().done == 2
    assert set(drain(other)) >= {b"ready", b"after", b"keyed", b"g0", b"g1", b"g2"}
    assert len(bodies(spool)) == 11
    assert queue.check() == []


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, list[bytes]]:
    """A spool with messages of all kinds, to be copied, and the bodies that are ready in it."""
    path = tmp_path_factory.mktemp("template") / "spool"
    with SpoolQueue.open(path) as queue:
        queue.enqueue_many([NewMessage(body=b"body %03d" % n, name=f"job {n}", priority=n % 10) for n in range(60)])
        queue.enqueue_many([NewMessage(body=b"later", delay_s=DAY_S)] * 5)
        for message in queue.dequeue_many(10):
            message.ack()
        for message in queue.dequeue_many(5):
            message.dead_letter("no good")
        ready = []
        for info in queue.list("ready").messages:
            with queue.read_body(info.id) as file:
                ready.append(file.read())
    return path, sorted(ready)


@pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_SEEDS", "60"))))
def test_flipped_bits(template, spool, open_queue, seed):
    """Whatever a row says by then: every message is delivered, once, with its bytes."""
    shutil.copytree(template[0], spool)
    everything = bodies(spool)
    chance = random.Random(seed)
    with (spool / "index.db").open("r+b") as file:
        data = bytearray(file.read())
        for _ in range(chance.choice((1, 1, 1, 8, 64))):
            place = chance.randrange(len(data) if chance.random() < 0.9 else 100)
            data[place] ^= 1 << chance.randrange(8)
        file.seek(0)
        file.write(data)
    queue = open_queue()
    got = drain(queue)
    queue.check(fix=True)
    assert sorted(got + drain(queue)) == template[1]
    assert bodies(spool) == everything
    assert queue.check() == []


# Believed or not


@pytest.fixture
def rebuilt(monkeypatch):
    """How often an index was made anew."""
    times = []
    real = rebuilding.rebuild

    def rebuild(*args, **kwargs):
        times.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(rebuilding, "rebuild", rebuild)
    return times


class OtherBoot(FakeClock):
    def boot_id(self):
        return "another-boot"


@pytest.mark.parametrize("mark", ["there", "missing", "of another size"])
def test_after_another_boot_it_is_believed_only_where_it_was_closed_clean(spool, open_queue, rebuilt, mark):
    queue = open_queue()
    queue.enqueue(b"body")
    queue.dequeue().ack()
    queue.enqueue(b"another")
    queue.close()
    if mark == "missing":
        remove(spool, "-clean")
    elif mark == "of another size":
        (spool / "index.db-clean").write_text("12345")
    del rebuilt[:]
    queue = open_queue(clock=OtherBoot())
    assert rebuilt == ([] if mark == "there" else [1])
    assert queue.stats().acknowledged_total == (1 if mark == "there" else 0)
    assert not (spool / "index.db-clean").exists()
    assert drain(queue) == [b"another"]


def test_a_kill_leaves_no_mark_and_the_same_boot_needs_none(spool, open_queue, child, rebuilt):
    killed = child()
    killed("queue.enqueue(b'body')")
    killed("queue.dequeue().ack()")
    killed("queue.enqueue(b'another')")
    killed.kill()
    assert not (spool / "index.db-clean").exists()
    queue = open_queue()
    assert rebuilt == []
    assert queue.stats().acknowledged_total == 1
    assert drain(queue) == [b"another"]


def test_after_a_kill_and_another_boot_it_is_made_anew(spool, open_queue, child, rebuilt):
    killed = child()
    killed("queue.enqueue(b'body')")
    killed.kill()
    assert drain(open_queue(clock=OtherBoot())) == [b"body"]
    assert rebuilt == [1]


def test_the_mark_is_the_last_ones(spool, open_queue):
    one, other = open_queue(), open_queue()
    one.close()
    assert not (spool / "index.db-clean").exists()
    other.close()
    assert (spool / "index.db-clean").exists()


def test_one_opener_and_one_closer_at_a_time_leave_a_mark_that_is_true(spool, open_queue, child):
    """Opened and closed in turns by two processes: whatever comes last, an index with a mark is whole."""
    other = child()
    for number in range(10):
        queue = open_queue()
        queue.enqueue(b"%d" % number)
        queue.close()
        assert other("queue.stats().ready") == number + 1
    other.end()
    assert (spool / "index.db-clean").read_text() == str(size(spool))


# Versions


def make_version(spool: Path, version: int) -> None:
    connection = sqlite3.connect(spool / "index.db")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_another_version_is_made_anew_by_one_who_is_alone(spool, open_queue, rebuilt):
    open_queue().close()
    make_version(spool, 999)
    del rebuilt[:]
    queue = open_queue()
    queue.enqueue(b"body")
    assert rebuilt == [1]
    assert drain(queue) == [b"body"]


def test_another_version_that_is_in_use_is_refused_with_the_pids(spool, open_queue, child):
    """Those are the processes to stop."""
    first, second = child(), child()
    first("queue.enqueue(b'body')")
    second("queue.stats()")
    make_version(spool, 999)
    with pytest.raises(IndexInUse) as refused:
        open_queue()
    assert f"pid {', '.join(map(str, sorted((first.pid, second.pid))))}" in str(refused.value)
    first.kill()
    second.kill()
    assert drain(open_queue()) == [b"body"]


def test_a_version_that_is_in_use_by_one_unknown_is_refused_as_well(spool, open_queue, child, monkeypatch):
    """/proc/locks tells nothing: somebody is there all the same."""
    first = child()
    first("queue.enqueue(b'body')")
    make_version(spool, 999)
    monkeypatch.setattr(believing, "lock_holders", lambda fd: [])
    with pytest.raises(IndexInUse, match="unknown"):
        open_queue()


# Queues that go


OPERATIONS = """
enqueue(b'x')
enqueue(b'x', dedup_key='x')
enqueue_many([b'x'])
dequeue()
dequeue(wait_s=5)
dequeue_many(2)
acknowledge(receipt)
acknowledge_many([receipt])
requeue(receipt)
release(receipt)
extend(receipt, 5)
move_to_dead_letter_queue(receipt, 'x')
open_body(receipt)
peek()
get(id)
read_body(id)
list()
search('x')
stats()
minutes(0)
holders()
run_now(id)
set_priority(id, 1)
replay(id)
delete(id)
give_back(id)
pause()
resume()
purge()
change_settings(queue.settings)
maintain()
clean()
check()
rebuild()
wait(0)
slot()
dead_letters.list()
dead_letters.reasons()
dead_letters.redrive()
dead_letters.purge()
enqueue_file(__file__)
""".strip().splitlines()


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_deleted_queue_is_not_found_by_any_operation(spool, open_queue, operation, again):
    """And one of the same name that was made since is another queue: nothing of it is seen, or put into it."""
    top.init_spool(spool)
    top.create_queue(spool, "emails").close()
    queue = open_queue("emails")
    id = queue.enqueue(b"body")
    receipt = queue.dequeue(lease_s=60).receipt
    top.delete_queue(spool, "emails")
    if again:
        top.create_queue(spool, "emails").close()
    with pytest.raises(QueueNotFound, match="emails"):
        eval(f"queue.{operation}", {"queue": queue, "receipt": receipt, "id": id, "__file__": __file__})
    queue.close()
    if again:
        other = open_queue("emails")
        assert other.stats().ready == 0
        other.enqueue(b"of the new one")
        assert drain(other) == [b"of the new one"]
        assert not other.stats().paused
        assert bodies(spool / "queues" / "emails") == [b"of the new one"]
    else:
        assert os.listdir(spool / "queues") == []
    assert names(spool, "tmp") == []


@pytest.mark.parametrize("step", ["check_file_system", "settings", "lock"])
def test_a_queue_that_is_deleted_as_it_is_opened_is_not_found(spool, open_queue, monkeypatch, step):
    """Whatever was looked at first, and whatever is missing then."""
    top.init_spool(spool)
    top.create_queue(spool, "emails").close()
    owner, name = {
        "check_file_system": (session, "check_file_system"),
        "settings": (session.settings_module, "load"),
        "lock": (session.mounts, "mount_of"),
    }[step]
    real = getattr(owner, name)

    def act(*arguments, **options):
        monkeypatch.undo()
        top.delete_queue(spool, "emails")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, act)
    with pytest.raises(QueueNotFound, match="emails"):
        open_queue("emails")
    assert os.listdir(spool / "queues") == []


def test_who_waits_at_a_queue_that_is_deleted_is_told_at_once(spool, child):
    top.init_spool(spool)
    top.create_queue(spool, "emails").close()
    waiter = child("emails")
    waiter("queue.dequeue(wait_s=0.01)")
    waiter.start("queue.dequeue(wait_s=20)")
    top.delete_queue(spool, "emails")
    with pytest.raises(ChildError, match="QueueNotFound"):
        waiter.result(5)


def test_a_queue_that_was_moved_with_its_spool_is_opened_where_it_is(spool, tmp_path, open_queue):
    queue = open_queue()
    queue.enqueue(b"body")
    queue.close()
    os.rename(spool, tmp_path / "elsewhere")
    with SpoolQueue.open(tmp_path / "elsewhere") as moved:
        assert drain(moved) == [b"body"]
