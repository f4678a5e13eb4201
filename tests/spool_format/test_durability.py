"""Section 10 of docs/spool-format.md: one test a row, by what a power cut at the end of each operation may take."""

import errno
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from spoolq.errors import StorageError
from spoolq.models import NewMessage
from spoolq.settings import Retention, Settings, dump
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.spool_format.document import code, tables
from tests.spool_format.power import lost_by_a_power_cut, moved_after_the_commit, torn_by_a_power_cut
from tests.spool_format.recorder import Recorder


@dataclass
class Life:
    """A queue and what its operations did, in the order in which they were called."""

    queue: SpoolQueue
    recorder: Recorder
    clock: FakeClock
    steps: dict[str, list[str]]

    def do(self, name: str, act: Callable[[], object]):
        with self.recorder.story() as steps:
            found = act()
        self.steps[name] = steps
        return found


def enqueues(life: Life, outside) -> None:
    """Every way of enqueueing."""
    queue = life.queue
    life.do("enqueue", lambda: queue.enqueue(b"1"))
    life.do("enqueue with metadata", lambda: queue.enqueue(b"2", headers={"a": "b"}))
    life.do("enqueue_keyed", lambda: queue.enqueue(b"3", dedup_key="k"))
    life.do("enqueue_many", lambda: queue.enqueue_many([b"4", NewMessage(body=b"5", group="g"), b"6", b"7", b"8"]))
    with open(outside / "stream", "w+b") as file:
        file.write(b"x" * 100)
        file.seek(0)
        life.do("enqueue a stream", lambda: queue.enqueue(file))
    (outside / "file").write_bytes(b"9")
    life.do("enqueue_file", lambda: queue.enqueue_file(outside / "file"))
    life.do("enqueue_file_move", lambda: queue.enqueue_file(outside / "file", move=True))
    (queue._directory.root / "new" / "a drop").write_bytes(b"10")
    life.do("take_in", queue.check)


def moves(life: Life) -> None:
    """Every other transition."""
    queue = life.queue
    life.do("acknowledge", life.do("dequeue", queue.dequeue).ack)
    some = life.do("dequeue_many", lambda: queue.dequeue_many(3, lease_s=500))
    life.do("acknowledge_many", lambda: queue.acknowledge_many([each.receipt for each in some]))
    message = queue.dequeue()
    life.do("requeue", lambda: message.requeue(delay_s=60, reason="no"))
    life.do("set_priority", lambda: queue.set_priority(message.id, 9))
    life.do("run_now", lambda: queue.run_now(message.id))
    life.do("release", queue.dequeue().release)
    life.do("give_back", lambda: queue.give_back(queue.dequeue().id))
    late = queue.dequeue(lease_s=5)
    life.clock.advance(6)
    life.do("reap", queue._upkeep.recovery.reap)
    assert queue.get(late.id).state == "ready"
    message = queue.dequeue()
    life.do("dead_letter", lambda: message.dead_letter("no"))
    life.do("redrive", queue.dead_letters.redrive)
    message = queue.dequeue()
    message.ack()
    life.do("replay", lambda: queue.replay(message.id))
    life.do("delete", lambda: queue.delete(message.id))
    queue.dequeue().dead_letter("no")
    life.do("purge dead letters", queue.dead_letters.purge)
    queue.enqueue(b"short", ttl_s=5, priority=9)
    life.clock.advance(6)
    life.do("expire", queue._upkeep.recovery.reap)
    life.clock.advance(1000)
    life.do("clean", queue.clean)
    message = queue.dequeue()
    life.do("close", lambda: queue._close_holder(queue._own_holder()))
    life.do("purge", queue.purge)


@pytest.fixture
def live(spool, monkeypatch):
    """All transitions of one durability; the steps of each."""

    def live(durability: str) -> dict[str, list[str]]:
        spool.mkdir(mode=0o700)
        settings = Settings(durability=durability, retention=Retention(done_s=1000))  # type: ignore[arg-type]
        (spool / "queue.toml").write_text(dump(settings))
        recorder, clock = Recorder(spool, monkeypatch), FakeClock()
        outside = spool.parent / "outside"
        outside.mkdir()
        with SpoolQueue.open(spool, files=recorder, clock=clock) as queue:
            life = Life(queue, recorder, clock, {})
            enqueues(life, outside)
            moves(life)
        return life.steps

    return live


def syncs(steps: list[str]) -> list[str]:
    return [step for step in steps if step.split()[0] in {"sync", "fsync"}]


ENQUEUES = (
    *("enqueue", "enqueue with metadata", "enqueue_keyed", "enqueue_many", "enqueue a stream", "enqueue_file"),
    *("enqueue_file_move", "take_in"),
)


def test_each_row_has_a_test():
    rows = [code(row[0]) for row in tables(10)[0]]
    assert rows == ["process", "power", "full"]
    assert [row for row in rows if f"test_{row}" not in globals()] == []


def test_process(live):
    """Nothing is ever synced."""
    assert {name: syncs(steps) for name, steps in live("process").items() if syncs(steps)} == {}


def test_power(live):
    """An enqueue that returned is on the disk, whole; no other transition syncs, but for metadata that goes."""
    steps = live("power")
    for name in ENQUEUES:
        assert torn_by_a_power_cut(steps[name]) == [], name
        assert lost_by_a_power_cut(steps[name], ("new", "meta")) == [], name
    assert {name: syncs(taken) for name, taken in steps.items() if name not in ENQUEUES and syncs(taken)} == {
        "delete": ["sync new"],
        "purge dead letters": ["sync dead"],
        "purge": ["sync new"],
    }


@pytest.mark.parametrize("durability", ["power", "full"])
def test_what_was_deleted_does_not_come_back_without_its_metadata(spool, monkeypatch, durability):
    """The deletion is on the disk before the metadata goes: it would be delivered without its time to live."""
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability=durability, retention=Retention(0, 100, "delete"))))
    recorder, clock = Recorder(spool, monkeypatch), FakeClock()
    with SpoolQueue.open(spool, files=recorder, clock=clock) as queue:
        life = Life(queue, recorder, clock, {})
        for name, act in {"expire": queue._upkeep.recovery.reap, "expire at a dequeue": queue.dequeue}.items():
            queue.enqueue(b"x", ttl_s=5)
            clock.advance(6)
            life.do(name, act)
        id = queue.enqueue(b"x", ttl_s=5)
        life.do("delete", lambda: queue.delete(id))
        queue.enqueue(b"x", ttl_s=5, delay_s=3)
        life.do("purge", queue.purge)
        for name, act in {"purge dead letters": queue.dead_letters.purge, "clean": queue.clean}.items():
            queue.enqueue(b"x", headers={"a": "b"})
            queue.dequeue().dead_letter("no")
            clock.advance(101)
            life.do(name, act)
    for name, steps in life.steps.items():
        place = "dead" if name in ("purge dead letters", "clean") else "new"
        gone = next(number for number, step in enumerate(steps) if step.startswith(f"unlink {place}/ID"))
        synced = steps.index(f"sync {place}", gone)
        assert gone < steps.index("unlock", gone) < synced < steps.index("unlink meta/ID.jsonl"), name


def test_full(live):
    """What returned is on the disk: of each move, both directories, and only after the lock is free."""
    steps = live("full")
    for name in ENQUEUES:
        assert torn_by_a_power_cut(steps[name]) == [], name
        assert lost_by_a_power_cut(steps[name], ("new", "meta")) == [], name
    for name, taken in steps.items():
        assert lost_by_a_power_cut(taken) == [], name
        held = False
        for step in taken:
            held = step == "lock" or (held and step != "unlock")
            assert not (held and step.startswith("sync ") and not step.endswith("meta")), f"{name}: {taken}"


def test_the_file_is_synced_when_a_move_takes_it_as_it_is(live):
    """A file that is moved, or dropped, was written by somebody who may never have synced it."""
    steps = live("power")
    for name in ("enqueue_file_move", "take_in"):
        taken = steps[name]
        synced = next(number for number, step in enumerate(taken) if step.startswith("fsync") and ".meta" not in step)
        moved = next(number for number, step in enumerate(taken) if step.startswith("rename") and " new/ID" in step)
        assert synced < moved


def test_the_row_is_never_ahead_of_the_file(live):
    """Of each transition the rename is the commit point; its row is committed after it."""
    assert {name: late for name, taken in live("full").items() if (late := moved_after_the_commit(taken))} == {}


@pytest.fixture
def full(spool, monkeypatch):
    """A queue that syncs everything, and the recorder of what it does."""
    spool.mkdir(mode=0o700)
    (spool / "queue.toml").write_text(dump(Settings(durability="full", retention=Retention(done_s=1000))))
    recorder, clock = Recorder(spool, monkeypatch), FakeClock()
    with SpoolQueue.open(spool, files=recorder, clock=clock) as queue:
        yield Life(queue, recorder, clock, {})


def test_a_deadline_is_synced_with_full(full):
    """It is the file's time: of the file itself, by the name that it has in `cur/`, after the lock is free."""
    full.queue.enqueue(b"x")
    message = full.do("dequeue", lambda: full.queue.dequeue(lease_s=60))
    full.do("extend", lambda: message.extend(600))
    for steps in full.steps.values():
        assert steps.index("unlock") < steps.index("fsync cur/ID,a=1,r=N"), steps


def test_what_a_dequeue_buries_is_synced_though_it_claims_nothing(full):
    full.queue.enqueue(b"x", ttl_s=5)
    full.clock.advance(6)
    assert full.do("expired", full.queue.dequeue) is None
    id = full.queue.enqueue(b"y")
    (path,) = (full.queue._directory.root / "new").glob(f"{id}*")
    path.unlink()
    path.symlink_to("/nowhere")
    assert full.do("no file", full.queue.dequeue) is None
    for steps in full.steps.values():
        assert {"sync dead", "sync new"} <= set(steps), steps


def test_what_is_quarantined_is_synced_with_full(full):
    (full.queue._directory.root / "new" / "link").symlink_to("/nowhere")
    full.do("quarantine", full.queue.check)
    assert {"sync dead", "sync new"} <= set(full.steps["quarantine"])


@pytest.mark.parametrize("several", [False, True])
def test_an_acknowledge_whose_sync_failed_syncs_again_before_it_is_confirmed(full, monkeypatch, several):
    """The move is made; that it lasts is only said after a sync that succeeded."""
    full.queue.enqueue(b"x")
    receipt = full.queue.dequeue().receipt

    def acknowledge() -> None:
        full.queue.acknowledge_many([receipt]) if several else full.queue.acknowledge(receipt)

    with monkeypatch.context() as patch:

        def fails(self, path: str) -> None:
            raise OSError(errno.EIO, "no", path)

        patch.setattr(Recorder, "sync_directory", fails)
        with pytest.raises(StorageError):
            acknowledge()
    full.do("again", acknowledge)
    assert {"sync done", "sync cur"} <= set(full.steps["again"])
