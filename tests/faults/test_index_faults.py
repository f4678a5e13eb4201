"""The index cannot be written, or read: SQLite says so at every statement of every transition.

The files decide, so an enqueue succeeds, and claims and acknowledgements go on by names alone (promise P9).
"""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spoolq.errors import SpoolqError
from spoolq.spool import index
from spoolq.spool.queue import SpoolQueue
from tests.crash.harness import Scenario, State, World, Wreck
from tests.crash.scenarios import SCENARIOS
from tests.faults.harness import FaultHarness, FaultyFiles

SAYINGS = {
    "full": sqlite3.OperationalError("database or disk is full"),
    "io": sqlite3.OperationalError("disk I/O error"),
    "readonly": sqlite3.OperationalError("attempt to write a readonly database"),
    "damaged": sqlite3.DatabaseError("database disk image is malformed"),
}


class Faults:
    """When statements fail: the n-th from `arm` on, or it and all after it, until `cured`."""

    def __init__(self, error: sqlite3.Error, at: int | None, *, lasting: bool) -> None:
        self.error = error
        self.at = at
        self.lasting = lasting
        self.count = 0
        self.armed = False
        self.cured = False
        self.failed = ""
        self._kind = ""

    def meet(self, statement: str) -> None:
        """A statement is about to be carried out. A ROLLBACK of SQLite's own always works."""
        if not self.armed or self.cured or statement.startswith(("ROLLBACK", "PRAGMA")):
            return
        kind = statement[:20]
        if kind == self._kind and not self.failed:
            # The same again, for the next row: to fail at the first of them is enough.
            return
        self._kind = kind
        self.count += 1
        if self.at is not None and (self.count == self.at or (self.lasting and self.count > self.at)):
            self.failed = self.failed or statement
            raise self.error


class Connection:
    """A connection that fails when it is told to."""

    def __init__(self, real: sqlite3.Connection, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        self._faults.meet(statement)
        return self._real.execute(statement, *args)

    def executemany(self, statement: str, *args: Any) -> sqlite3.Cursor:
        self._faults.meet(statement)
        return self._real.executemany(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class ArmingBoth:
    """What `World.arm` calls."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def arm(self) -> None:
        self._faults.armed = True


class IndexFaultHarness(FaultHarness):
    """As FaultHarness; here SQL fails, not the file system."""

    def __init__(self, scenario: Scenario, home: Path, error: sqlite3.Error, *, lasting: bool) -> None:
        super().__init__(scenario, home, 5, lasting=lasting)
        self._error = error
        self._faults = Faults(error, None, lasting=False)

    def _run(self, home: Path, number: int | None, files: FaultyFiles, *, begins: bool) -> Wreck:
        at = None if number is None or not begins else number + 1
        self._faults = Faults(self._error, at, lasting=self._lasting)
        connect = index._connect
        index._connect = lambda path, mode: Connection(connect(path, mode), self._faults)  # type: ignore[assignment,return-value]
        try:
            return super()._run(home, number, files, begins=begins)
        finally:
            index._connect = connect

    def _arming(self, files: FaultyFiles, *, begins: bool) -> Any:
        return ArmingBoth(self._faults) if begins else super()._arming(files, begins=begins)

    def _judge_error(self, error: SpoolqError, files: FaultyFiles) -> None:
        assert self._faults.failed, f"raised without a fault: {error}"
        assert error.hint, f"no hint: {error!r}"

    def _judge_receipts(self, queue: SpoolQueue, state: State, wreck: Wreck, how: str) -> None:
        """What was deleted while no row could be written is forgotten, as without an index."""
        super()._judge_receipts(queue, state, wreck, "without an index")

    def _judge_after(self, world: World, files: FaultyFiles) -> None:
        self._faults.cured = True
        files.failed = self._faults.failed
        super()._judge_after(world, files)


HERE = [name for name in SCENARIOS if name not in {"close", "open_and_close"}]


SOME = (
    *("enqueue_keyed", "take_in", "dequeue_with_a_lease", "acknowledge_delete_many", "requeue", "clean"),
    *("reap_of_the_dead", "redrive", "rebuild"),
)


def run(name: str, mode: str, home: Path) -> None:
    kind, _, lasts = mode.partition("-")
    scenario = SCENARIOS[name]
    IndexFaultHarness(scenario, home, SAYINGS[kind], lasting=lasts == "lasting").run(scenario.hows[0])


@pytest.mark.parametrize("name", HERE)
def test_statement(name, fast_path):
    """A clear error or none, nothing lost, and it goes on when the cause is gone."""
    run(name, "full-lasting", fast_path)


@pytest.mark.parametrize("mode", ["io-once", "io-lasting", "readonly-lasting", "full-once"])
@pytest.mark.parametrize(
    "name", ["enqueue_keyed", "dequeue_with_a_lease", "acknowledge_delete_many", "requeue", "clean"]
)
def test_statement_of_another_kind(name, mode, fast_path):
    """Whatever SQLite says."""
    run(name, mode, fast_path)


@pytest.mark.parametrize("kind", ["full", "io", "readonly"])
def test_go_on_by_names_alone(kind, fast_path, monkeypatch):
    """While the index cannot be written: what is enqueued is there, in its order, claimed once, and acknowledged."""
    faults = Faults(SAYINGS[kind], 1, lasting=True)
    connect = index._connect
    monkeypatch.setattr(index, "_connect", lambda path, mode: Connection(connect(path, mode), faults))
    with SpoolQueue.open(fast_path / "spool") as queue:
        before = queue.enqueue(b"before")
        held = queue.dequeue()
        assert held is not None
        assert held.id == before
        faults.armed = True
        ids = [queue.enqueue(b"%d" % number, priority=number) for number in range(4)]
        messages = [queue.dequeue() for _ in range(4)]
        assert [message.id for message in messages if message] == ids[::-1]
        assert queue.dequeue() is None
        held.ack()
        first, second, third, _ = [message for message in messages if message]
        first.ack()
        second.requeue(0, "no")
        third.release()
        again = queue.dequeue()
        assert again is not None
        assert again.id == second.id
        assert again.attempts == 2
        faults.cured = True
        again.ack()
        assert queue.dequeue().id == third.id
        queue.check(fix=True)
        assert [*queue.check()] == []
        assert queue.stats().done == 3
