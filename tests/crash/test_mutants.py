"""Is a broken spool found out? Each test breaks the code in one way, and says which test finds it.

A mutant that passes fails here: then the harness, or the order that tests/spool_format holds steps to, sees nothing.
"""

import os
import sqlite3
from collections.abc import Callable

import pytest

from spoolq.errors import LeaseLost
from spoolq.settings import Settings
from spoolq.spool import claiming, mending, moves, session, settling
from spoolq.spool.directory import QueueDirectory
from spoolq.spool.index import Index
from spoolq.spool.producer import Producer
from spoolq.spool.queue import SpoolQueue
from spoolq.testing import FakeClock
from tests.crash.harness import CrashFiles, Harness
from tests.crash.scenarios import SCENARIOS
from tests.spool_format.power import lost_by_a_power_cut, moved_after_the_commit, torn_by_a_power_cut
from tests.spool_format.recorder import Recorder


@pytest.fixture
def harness(fast_path, monkeypatch):
    """`harness(scenario, mutate)` runs the crash points of a scenario on broken code."""

    def run(name: str, mutate: Callable[[pytest.MonkeyPatch], None], *hows: str) -> None:
        with monkeypatch.context() as patch:
            mutate(patch)
            Harness(SCENARIOS[name], fast_path / name).run(*hows)

    return run


@pytest.fixture
def enqueued(fast_path, monkeypatch):
    """The steps of an enqueue on broken code."""

    def steps(mutate: Callable[[pytest.MonkeyPatch], None]) -> list[str]:
        recorder = Recorder(fast_path / "spool", monkeypatch)
        with SpoolQueue.open(fast_path / "spool", files=recorder, clock=FakeClock()) as queue:
            with monkeypatch.context() as patch, recorder.story() as steps:
                mutate(patch)
                queue.enqueue(b"x", headers={"a": "b"})
        return steps

    return steps


# Unbroken, nothing is found


def unbroken(patch: pytest.MonkeyPatch) -> None:
    """Nothing is changed."""


def test_what_is_whole_passes(harness, enqueued):
    steps = enqueued(unbroken)
    harness("acknowledge_keep", unbroken)
    assert torn_by_a_power_cut(steps) == lost_by_a_power_cut(steps, ("new", "meta")) == []


# Durability: found by the order of operations (tests/spool_format/test_durability.py)


def rename_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """The body is synced when it has its name."""
    fsync, put = Recorder.fsync, Producer._put_in_place
    patch.setattr(Recorder, "fsync", lambda self, fd: None)

    def put_then_sync(self, run):
        put(self, run)
        for prepared in run:
            fd = os.open(f"{self._directory.new}/{prepared.file_name}", os.O_RDONLY)
            fsync(self._files, fd)
            os.close(fd)

    patch.setattr(Producer, "_put_in_place", put_then_sync)


def test_rename_before_fsync_is_found_by_the_order_of_operations(enqueued):
    assert torn_by_a_power_cut(enqueued(rename_before_fsync)) == [
        "rename tmp/ID.meta meta/ID.jsonl",
        "rename tmp/ID new/ID",
    ]


def no_directory_fsync(patch: pytest.MonkeyPatch) -> None:
    """Names are left to the system."""
    patch.setattr(Recorder, "sync_directory", lambda self, path: None)


def test_no_directory_fsync_is_found_by_the_order_of_operations(enqueued):
    lost = lost_by_a_power_cut(enqueued(no_directory_fsync), ("new", "meta"))
    assert sorted(lost) == ["meta: rename tmp/ID.meta meta/ID.jsonl", "new: rename tmp/ID new/ID"]


# Crashes: found by dying at every step (tests/crash/test_crash_points.py)


def copy_and_delete(patch: pytest.MonkeyPatch) -> None:
    """A move that is none."""

    def move(self, source, target):
        with open(source, "rb") as file:
            body = file.read()
        fd = self.files.create(target)
        self.files.write(fd, body)
        self.files.close(fd)
        self.files.unlink(source)
        return True

    patch.setattr(QueueDirectory, "move", move)


@pytest.mark.parametrize("name", ["dequeue", "acknowledge_keep", "requeue", "redrive"])
def test_copy_and_delete_is_found_by_dying_in_between(harness, name):
    with pytest.raises(AssertionError, match=r"twice|never sent|neither|differ"):
        harness(name, copy_and_delete)


def no_receipt_in_the_name(patch: pytest.MonkeyPatch) -> None:
    """The claim is in the row alone."""

    def without(id, priority, due, attempts, nonce, label):
        return moves.format_name(id, priority, due, attempts, None, label)

    patch.setattr(claiming, "format_name", without)
    patch.setattr(settling, "format_name", without)
    patch.setattr(moves, "_nonce_in_name", lambda row: None)


def test_no_receipt_in_the_name_is_found_by_dying_after_the_rename(harness):
    """Nobody knows of the claim that its holder is dead; without an index its receipt is worth nothing."""
    with pytest.raises(AssertionError, match=r"neither|not known"):
        harness("dequeue", no_receipt_in_the_name)


def row_before_rename(patch: pytest.MonkeyPatch) -> None:
    """The row is committed, and then the file is moved."""
    move, commit = QueueDirectory.move, Index.commit
    put_off: list[tuple[QueueDirectory, str, str]] = []

    def later(self, source, target):
        put_off.append((self, source, target))
        return os.path.exists(source)

    def commit_then_move(self):
        commit(self)
        while put_off:
            directory, source, target = put_off.pop()
            move(directory, source, target)

    patch.setattr(QueueDirectory, "move", later)
    patch.setattr(Index, "commit", commit_then_move)


def test_row_before_rename_is_found_by_the_order_of_operations(fast_path, monkeypatch):
    """Dying in between shows nothing, since whoever comes next believes the file; so the order is held to."""
    recorder = Recorder(fast_path, monkeypatch)
    with SpoolQueue.open(fast_path, files=recorder, clock=FakeClock()) as queue:
        for mutate in (unbroken, row_before_rename):
            queue.enqueue(b"x")
            with monkeypatch.context() as patch:
                mutate(patch)
                with recorder.story() as steps:
                    queue.dequeue().ack()
            late = moved_after_the_commit(steps)
            if mutate is unbroken:
                assert late == []
            else:
                assert late == ["rename new/ID cur/ID,a=1,r=N", "rename cur/ID,a=1,r=N done/ID,a=1,r=N"]


def acknowledge_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    """Any receipt of the message will do."""
    settle = Index.settle

    def unfenced(self, id, nonce, state, now_ms):
        row = self.row(id)
        return settle(self, id, row.nonce if row is not None and row.nonce else nonce, state, now_ms)

    patch.setattr(Index, "settle", unfenced)


def test_acknowledge_without_a_fence_is_found_by_a_late_receipt(fast_path, monkeypatch):
    """Whose claim has ended is refused, while another has the message, and changes nothing."""
    clock = FakeClock()

    def is_refused(message) -> bool:
        try:
            message.ack()
        except LeaseLost:
            return queue.get(message.id).state == "claimed"
        return False

    with SpoolQueue.open(fast_path, clock=clock) as queue:
        queue.enqueue(b"x")
        late = queue.dequeue(lease_s=5)
        clock.advance(10)
        again = queue.dequeue()
        assert again is not None
        assert again.id == late.id
        assert is_refused(late)
        with monkeypatch.context() as patch:
            acknowledge_without_a_fence(patch)
            assert not is_refused(late)
        queue.check(fix=True)


def trusting_the_row(patch: pytest.MonkeyPatch) -> None:
    """A row whose file is gone is right, and what is in `cur/` is in order."""
    patch.setattr(mending, "mend", lambda session, index, rows: None)


@pytest.mark.parametrize("name", ["dequeue", "acknowledge_keep", "dead_letter"])
def test_recovery_that_trusts_a_row_is_found_by_dying_before_the_commit(harness, name):
    with pytest.raises(AssertionError):
        harness(name, trusting_the_row)


def deaf_to_deaths(patch: pytest.MonkeyPatch) -> None:
    """A holder's lock is not asked for."""
    from spoolq.spool import recovery

    patch.setattr(recovery, "is_alive", lambda directory, name: True)


def test_a_reaper_that_never_asks_is_found_by_dying(harness):
    with pytest.raises(AssertionError):
        harness("dequeue", deaf_to_deaths)


def metadata_after_the_message(patch: pytest.MonkeyPatch) -> None:
    """What came with a message is written when it is there already."""
    from spoolq.spool import producer

    write, rename = producer.write_arrival, CrashFiles.rename
    put_off: list[Callable[[], None]] = []
    patch.setattr(producer, "write_arrival", lambda *args, **kwargs: put_off.append(lambda: write(*args, **kwargs)))

    def rename_then_write(self, source, target):
        rename(self, source, target)
        while put_off:
            put_off.pop()()

    patch.setattr(CrashFiles, "rename", rename_then_write)


def test_metadata_after_the_message_is_found_by_dying_in_between(harness):
    with pytest.raises(AssertionError, match="neither"):
        harness("enqueue_with_metadata", metadata_after_the_message)


def deleted_before_it_was_put_back(patch: pytest.MonkeyPatch) -> None:
    """A body that is only in memory for a moment."""

    def move(self, source, target):
        with open(source, "rb") as file:
            body = file.read()
        self.files.unlink(source)
        fd = self.files.create(target)
        self.files.write(fd, body)
        self.files.close(fd)
        return True

    patch.setattr(QueueDirectory, "move", move)


def test_a_body_that_is_nowhere_for_a_moment_is_found_by_dying_then(harness):
    with pytest.raises(AssertionError, match="lost even before recovery"):
        harness("requeue", deleted_before_it_was_put_back)


def uncommitted(patch: pytest.MonkeyPatch) -> None:
    """Rows are not kept: the answer to an acknowledgement outruns its row."""

    def forget(self):
        self.rollback()

    patch.setattr(Index, "commit", forget)


def test_rows_that_are_not_committed_are_found(harness):
    with pytest.raises((AssertionError, sqlite3.Error)):
        harness("acknowledge_delete", uncommitted)


def test_the_mutants_break_what_is_there():
    """A name that is patched above and has gone would make a test pass for nothing."""
    assert callable(claiming.format_name)
    assert callable(settling.format_name)
    assert callable(moves._nonce_in_name)
    assert callable(mending.mend)
    assert callable(session.Session.write)
    assert Settings().durability == "power"
