"""Section 4 of docs/spool-format.md: each row of its table made by hand, and what becomes of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest

from spoolq.errors import LeaseLost, MessageNotFound
from spoolq.settings import Retention, Settings, dump
from spoolq.spool.holders import random_letters
from spoolq.spool.queue import SpoolQueue
from spoolq.spool.rows import Row
from spoolq.testing import FakeClock
from tests.helpers import messages
from tests.spool_format.document import tables

LATER_FIRST = ("done", "dead", "cur", "new")
A_DAY_S = 86_400


class Bench:
    """A queue, its directory, and hands to spoil both with."""

    def __init__(self, root: Path, settings: Settings) -> None:
        root.mkdir(mode=0o700)
        (root / "queue.toml").write_text(dump(settings))
        self.root = root
        self.clock = FakeClock()
        self.queue = SpoolQueue.open(root, clock=self.clock)

    def move(self, id: str, target: str, name: str | None = None) -> Path:
        """Rename a message's file, as a person does, or as somebody did who died before the commit."""
        source = self.path(id)
        path = self.root / target / (source.name if name is None else name)
        source.rename(path)
        return path

    def path(self, id: str) -> Path:
        """The one file of a message."""
        (found,) = self.root.glob(f"[ncd]*/{id}*")
        return found

    def places(self, id: str) -> list[str]:
        """The directories that it is in."""
        return [kind for kind, _ in messages(self.root).get(id, [])]

    def row(self, id: str) -> Row | None:
        with self.queue._session.write() as index:
            return index.row(id)

    def drop_row(self, id: str) -> None:
        """A message whose row nobody wrote."""
        with self.queue._session.write() as index:
            row = index.row(id)
            assert row is not None
            index.remove(row)

    def set_row(self, id: str, **values: object) -> None:
        """A row that says something else than the file."""
        with self.queue._session.write() as index:
            row = index.row(id)
            assert row is not None
            index.change(row, row._replace(**values))  # type: ignore[arg-type]

    def claimed(self, body: bytes = b"x", **options: object) -> str:
        """A message that this process holds."""
        id = self.queue.enqueue(body, **options)  # type: ignore[arg-type]
        message = self.queue.dequeue()
        assert message is not None
        assert message.id == id
        return message.receipt

    def settle(self) -> None:
        """Let what is due be done, at once, and find everything in order."""
        self.queue._session.scan_due = True
        self.clock.advance(2)
        while self.queue.maintain():
            pass
        assert [*self.queue.check()] == []


@pytest.fixture
def make(spool) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**settings: object) -> Bench:
        benches.append(Bench(spool, Settings(durability="process", **settings)))  # type: ignore[arg-type]
        return benches[-1]

    yield make
    for bench in benches:
        bench.queue.close()


@pytest.fixture
def bench(make) -> Bench:
    return make()


ROWS = {
    ("new", "ready"): "test_new_ready",
    ("new with t=", "scheduled"): "test_new_scheduled",
    ("new", "none"): "test_new_without_a_row",
    ("cur with r=", "claimed"): "test_cur_claimed",
    ("cur without r=", "claimed, ready, none"): "test_cur_by_hand",
    ("cur", "ready"): "test_cur_ready",
    ("done", "done"): "test_done_done",
    ("done", "claimed"): "test_done_claimed",
    ("dead", "dead"): "test_dead_dead",
    ("none", "settled"): "test_none_settled",
    ("none", "any other"): "test_none_any_other",
    ("two, the same inode", "any"): "test_two_of_the_same_inode",
    ("two, other inodes", "any"): "test_two_of_other_inodes",
}


def test_each_row_has_a_test():
    """A combination that is added to the document without a test fails here."""
    rows = [tuple(cell.replace("`", "").replace("/", "") for cell in row[:2]) for row in tables(4)[0]]
    assert rows == [*ROWS]
    assert [name for name in ROWS.values() if name not in globals()] == []


def test_new_ready(bench):
    """Ready, or ready but held behind an earlier one of its group."""
    first, second = (bench.queue.enqueue(body, group="g") for body in (b"1", b"2"))
    assert [(bench.row(id).state, bench.row(id).held) for id in (first, second)] == [("ready", 0), ("ready", 1)]
    assert bench.places(first) == bench.places(second) == ["new"]
    bench.settle()


def test_new_scheduled(bench):
    """Its time has not come, or has, and nobody has looked yet: both are in order."""
    id = bench.queue.enqueue(b"x", delay_s=60)
    assert bench.queue.dequeue() is None
    assert (bench.row(id).state, bench.places(id)) == ("scheduled", ["new"])
    bench.clock.advance(61)
    assert bench.row(id).state == "scheduled"
    assert [*bench.queue.check()] == []
    assert bench.queue.dequeue().id == id


def test_new_without_a_row(bench):
    """The next scan adds the row, with all that name and metadata say."""
    id = bench.queue.enqueue(b"x", priority=7, name="report.csv", headers={"a": "b"})
    before = bench.row(id)
    bench.drop_row(id)
    message = bench.queue.dequeue()
    assert (message.id, message.priority, message.name, message.headers) == (id, 7, "report.csv", {"a": "b"})
    assert before is not None
    assert (bench.row(id).enqueued_at_ms, bench.row(id).body_bytes) == (before.enqueued_at_ms, 1)


def test_cur_claimed(bench):
    """Held while its holder lives: by reap, scan and check untouched."""
    receipt = bench.claimed()
    bench.settle()
    bench.clock.advance(A_DAY_S)
    bench.settle()
    bench.queue.acknowledge(receipt)


@pytest.mark.parametrize("row", ["claimed", "ready", "none"])
def test_cur_by_hand(make, row):
    """Claimed by hand: it lives by time, nobody else gets it, and it is counted when it is put back."""
    bench = make(lease_s=600)
    id = bench.queue.enqueue(b"x")
    bench.move(id, "cur")
    if row == "none":
        bench.drop_row(id)
    elif row == "claimed":
        bench.clock.advance(61)  # maintenance looks at cur/ once a minute
        bench.settle()
        assert bench.row(id).state == "claimed"
    assert bench.queue.dequeue() is None
    assert bench.places(id) == ["cur"]
    bench.queue.check(fix=True)
    assert (bench.row(id).state, bench.row(id).nonce, bench.row(id).attempts) == ("claimed", None, 0)
    bench.clock.advance(1300)
    message = bench.queue.dequeue()
    assert (message.id, message.attempts) == (id, 2)
    assert [each.reason for each in bench.queue.get(id).history] == ["lease ended"]


@pytest.mark.parametrize("looked_at_by", ["dequeue", "check", "maintain"])
def test_cur_ready(bench, looked_at_by):
    """Claimed by somebody who died before the commit: the row is mended when it is met, then the claim is reaped."""
    id = bench.queue.enqueue(b"x")
    bench.move(id, "cur", f"{id},a=1,r=k{random_letters(6)}1")
    if looked_at_by == "dequeue":
        assert bench.queue.dequeue() is None
    elif looked_at_by == "check":
        assert [each.kind for each in bench.queue.check()] == ["row_differs", "row_without_file"]
        bench.queue.check(fix=True)
    else:
        bench.clock.advance(61)
        bench.settle()
    bench.clock.advance(2)
    message = bench.queue.dequeue()
    assert (message.id, message.attempts) == (id, 2)
    assert [each.reason for each in bench.queue.get(id).history] == ["holder died"]


def test_done_done(bench):
    """Acknowledged; again with the same receipt is a success, and with an older one not."""
    receipt = bench.claimed()
    bench.queue.acknowledge(receipt)
    bench.settle()
    bench.queue.acknowledge(receipt)
    assert bench.places(receipt[:36]) == ["done"]


@pytest.mark.parametrize("looked_at_by", ["acknowledge", "check", "requeue", "reap"])
def test_done_claimed(bench, looked_at_by):
    """Acknowledged by somebody who died before the commit, or by hand: mended, and never delivered again."""
    receipt = bench.claimed()
    id = receipt[:36]
    bench.move(id, "done")
    if looked_at_by == "acknowledge":
        bench.queue.acknowledge(receipt)
    elif looked_at_by == "check":
        bench.queue.check(fix=True)
    elif looked_at_by == "requeue":
        with pytest.raises(LeaseLost):
            bench.queue.requeue(receipt)
    else:
        (holder,) = bench.queue._session.holders.values()
        bench.queue._session.holders.clear()
        holder.forget()
        bench.clock.advance(2)
        assert bench.queue.dequeue() is None
    assert (bench.row(id).state, bench.places(id)) == ("done", ["done"])
    assert bench.queue.dequeue() is None


def test_dead_dead(bench):
    """Gave up; stays until somebody acts."""
    receipt = bench.claimed()
    bench.queue.move_to_dead_letter_queue(receipt, "no")
    bench.clock.advance(100 * A_DAY_S)
    bench.settle()
    assert bench.places(receipt[:36]) == ["dead"]


def test_none_settled(make):
    """Acknowledged and deleted: the row stays 10 minutes to answer for its receipt."""
    bench = make(retention=Retention(done_s=0))
    receipt = bench.claimed()
    bench.queue.acknowledge(receipt)
    assert (bench.row(receipt[:36]).state, bench.places(receipt[:36])) == ("settled", [])
    bench.clock.advance(590)
    bench.settle()
    bench.queue.acknowledge(receipt)
    bench.clock.advance(20)
    bench.queue.clean()
    assert bench.row(receipt[:36]) is None
    with pytest.raises(LeaseLost):
        bench.queue.acknowledge(receipt)


@pytest.mark.parametrize("state", ["ready", "scheduled", "claimed", "done", "dead"])
def test_none_any_other(bench, state):
    """Deleted by hand, or by somebody who died before the commit: the row goes."""
    if state in {"ready", "scheduled"}:
        id = bench.queue.enqueue(b"x", delay_s=60 * (state == "scheduled"))
    else:
        receipt = bench.claimed()
        id = receipt[:36]
        if state == "done":
            bench.queue.acknowledge(receipt)
        elif state == "dead":
            bench.queue.move_to_dead_letter_queue(receipt, "no")
    bench.path(id).unlink()
    problems = [*bench.queue.check()]
    assert [(each.kind, each.message_id) for each in problems] == [("row_without_file", id)]
    bench.queue.check(fix=True)
    assert bench.row(id) is None
    bench.settle()
    with pytest.raises(MessageNotFound):
        bench.queue.get(id)


def test_none_ready_is_skipped_by_dequeue(bench):
    """A ready message whose file is gone does not keep the others waiting."""
    ids = [bench.queue.enqueue(b"%d" % number) for number in range(5)]
    for id in ids[:3]:
        bench.path(id).unlink()
    assert bench.queue.dequeue().id == ids[3]
    assert bench.row(ids[0]) is None


def spelled(kind: str, id: str) -> str:
    """A name that a message has in this directory."""
    return {"new": id, "cur": f"{id},a=1,r=kabcdef1", "done": f"{id},a=1,r=kabcdef1", "dead": f"{id},a=1"}[kind]


def in_two_places(bench: Bench, pair: tuple[str, str], row: str, put: Callable[[Path, Path], object]) -> str:
    """A message in two directories, whose row says that it is in the first, in the second, or is not there."""
    later, earlier = pair
    id = bench.queue.enqueue(b"body")
    first = bench.path(id)
    for kind in pair:
        target = bench.root / kind / spelled(kind, id)
        if target != first:
            put(first, target)
    if "new" not in pair:
        first.unlink()
    kind = {"later": later, "earlier": earlier}.get(row)
    if kind is None:
        bench.drop_row(id)
    elif kind != "new":
        states = {"cur": "claimed", "done": "done", "dead": "dead"}
        nonce = None if kind == "dead" else "kabcdef1"
        ended = None if kind == "cur" else bench.clock.wall_ms()
        claimed = bench.clock.wall_ms()
        bench.set_row(id, state=states[kind], attempts=1, nonce=nonce, claimed_at_ms=claimed, ended_at_ms=ended)
    return id


PAIRS = [*combinations(LATER_FIRST, 2)]


@pytest.mark.parametrize("row", ["later", "earlier", "none"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("mended_by", ["check", "rebuild"])
def test_two_of_the_same_inode(bench, pair, row, mended_by):
    """A crash or a link: the later state stays, the other name goes; nothing is delivered twice."""
    id = in_two_places(bench, pair, row, os.link)
    mended_by_hand(bench, mended_by)
    left = bench.places(id)
    assert left == [pair[0]] or (pair[0] == "cur" and left == ["new"])  # its holder is dead, so it is reaped
    assert bench.path(id).read_bytes() == b"body"
    assert sum(len(os.listdir(bench.root / kind)) for kind in LATER_FIRST) == 1


@pytest.mark.parametrize("row", ["later", "earlier", "none"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("mended_by", ["check", "rebuild"])
def test_two_of_other_inodes(bench, pair, row, mended_by):
    """A copy by hand: the one the row names, else the later state, keeps the id; the other is a message of its own."""
    id = in_two_places(bench, pair, row, shutil.copy)
    mended_by_hand(bench, mended_by)
    scanned = row == "none" and pair[1] == "new"  # check scans first, which gives the file in new/ a row
    kept = pair[1] if (row == "earlier" or scanned) and mended_by == "check" else pair[0]
    other = pair[0] if kept == pair[1] else pair[1]
    after_reaping = {"cur": "new"}
    assert bench.places(id) == [after_reaping.get(kept, kept)]
    ((copy, where),) = [each for each in messages(bench.root).items() if each[0] != id]
    assert [kind for kind, _ in where] == [after_reaping.get(other, other)]
    assert bench.path(copy).read_bytes() == bench.path(id).read_bytes() == b"body"


def mended_by_hand(bench: Bench, how: str) -> None:
    """Let it be put right, and find everything in order, claims of the dead given back."""
    if how == "check":
        bench.queue.check(fix=True)
    else:
        bench.queue.rebuild()
    bench.clock.advance(61)
    bench.settle()


def test_a_copy_in_new_of_what_is_claimed_is_another_message(bench):
    """`cp cur/X new/`: a scan alone sees to that."""
    receipt = bench.claimed(b"body")
    shutil.copy(bench.path(receipt[:36]), bench.root / "new")
    message = bench.queue.dequeue()
    assert message.id != receipt[:36]
    assert message.body == b"body"
    bench.queue.acknowledge(receipt)
    message.ack()
