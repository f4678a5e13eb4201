"""Keeping a queue in order: what is due, what retention says, counts that agree with the messages."""

from __future__ import annotations

from collections.abc import Sequence

from spoolq.clock import Clock
from spoolq.interfaces import Progress
from spoolq.models import Problem
from spoolq.postgres import statements
from spoolq.postgres.calls import Calls
from spoolq.postgres.connection import Row

_EVERY_S = 1.0
_DUE_AT_ONCE = 200
_AT_ONCE = 1000


class Upkeep:
    """The work that nobody asks for. clock: for how long it takes, and how often."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._next_s = clock.mono_s() + _EVERY_S

    def maintain(self, *, budget_s: float = 0.02) -> bool:
        """Do what is due: leases, schedules, expiry, retention, counts. True when more is left."""
        ends_s = self._clock.mono_s() + budget_s
        while self._calls.one("maintain", statements.MAINTAIN, self._calls.id, _DUE_AT_ONCE, repeats=True):
            if self._clock.mono_s() >= ends_s:
                return True
        return False

    def keep_in_order(self) -> None:
        """A little of `maintain`, once a second, by whoever enqueues or dequeues; as much as they can make due."""
        now_s = self._clock.mono_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        self.maintain()

    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        """Delete what retention says, a thousand a transaction; returns counts and bytes by state."""
        planned = self._cleaned(dry_run=True)
        if dry_run:
            return planned
        total = planned["done"] + planned["dead"]
        found = dict.fromkeys(planned, 0)
        while (some := self._cleaned(dry_run=False))["done"] + some["dead"]:
            found = {key: value + some[key] for key, value in found.items()}
            if progress is not None:
                count = found["done"] + found["dead"]
                progress(count, max(count, total))
        return found

    def _cleaned(self, *, dry_run: bool) -> dict[str, int]:
        row = self._calls.row("clean", statements.CLEAN, self._calls.id, _AT_ONCE, dry_run)
        return dict(zip(("done", "done_bytes", "dead", "dead_bytes"), row, strict=True))

    def check(self, *, fix: bool = False) -> Sequence[Problem]:
        """Compare counts with messages, heads with groups, parts with bodies, all of one instant."""
        rows = self._calls.ask("check", statements.WRONG, self._calls.id, repeats=True)
        mendable = [row for row in rows if row[0] != "body"]
        if fix and mendable:
            self.rebuild()
        return [_problem(row, fixed=fix and row[0] != "body") for row in rows]

    def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make counts and heads of groups anew from the messages; holds everybody off meanwhile."""
        count: int = self._calls.one("rebuild", statements.REBUILD, self._calls.id)
        if progress is not None and count:
            progress(count, count)
        return count


def _problem(row: Row, *, fixed: bool) -> Problem:
    kind, what, message_id = row
    fix = "nothing: delete the message" if kind == "body" else "count anew, and find the heads of groups anew"
    return Problem(kind=kind, what=what, fix=fix, message_id=message_id, fixed=fixed)
