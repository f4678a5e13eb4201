"""Who does recovery, scans and cleaning, and when: whoever is at hand. Section 9 of docs/spool-format.md.

A queue asks at every dequeue (`at_hand`), while it waits (`while_waiting`), and all the time in `spoolq watch` (`run`).
Looking is free of the write lock; what is done once a minute in all, by whoever comes first, takes turns in the index.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from spoolq.errors import SpoolqError
from spoolq.interfaces import Progress
from spoolq.spool import index as sql
from spoolq.spool import looks
from spoolq.spool.cleanup import Cleanup
from spoolq.spool.drops import Drops
from spoolq.spool.recovery import Recovery
from spoolq.spool.room import Room
from spoolq.spool.scanning import Scanner
from spoolq.spool.session import Session, translated
from spoolq.spool.wakeup import Wakeup

log = logging.getLogger("spoolq.spool")

SCAN_BUDGET_S = 0.02
REAP_EVERY_S = 1.0
REAP_WAITING_S = 0.1
KEEP_EVERY_S = 1.0
CLEAN_EVERY_MS = 60_000
SWEEP_EVERY_MS = 10 * 60_000
FORGET_EVERY_MS = 1000
TELL_EVERY_MS = 10_000
LOOK_EVERY_S = 2.0
DROP_LOOK_S = 0.2


class Upkeep:
    """Keeps one open queue in order. Thread-safe."""

    def __init__(self, session: Session, room: Room, wakeup: Wakeup) -> None:
        self._session = session
        self._directory = session.directory
        self._room = room
        self._wakeup = wakeup
        self.drops = Drops(session, room)
        self.scanner = Scanner(session, self.drops)
        self.recovery = Recovery(session)
        self.cleanup = Cleanup(session)
        self._scan_mutex = threading.Lock()
        self._reaped_s = float("-inf")
        self._keep_next_s = 0.0
        room.relief = lambda: self.cleanup.make_room(room)

    # When

    def at_hand(self) -> None:
        """Before a claim: what is due, for a few milliseconds. What goes wrong is not a reason to claim nothing.

        Where the write lock is not free it is left for later: who would wait for it here would wait again for a claim.
        """
        if self._is_reap_due(REAP_EVERY_S) and self._session.is_free():
            self.reap()
            self._tolerant(self._scan_if_due)
            self._tolerant(self._keep_if_due)

    def while_waiting(self) -> None:
        """Between two looks of somebody who waits."""
        self._wakeup.watch()
        self._reap_if_due(REAP_WAITING_S)
        self.take_in_dropped()
        self._tolerant(self._keep_if_due)

    def run(self, budget_s: float) -> bool:
        """All that is due, for about `budget_s`; True where more is left."""
        self._reap_if_due(REAP_WAITING_S)
        self.take_in_dropped()
        self._scan_if_due(budget_s)
        self.promote()
        more = self._keep_if_due(budget_s)
        return more or self.scanner.is_running()

    def by_time_alone_s(self, left_s: float) -> float:
        """How long until something may come without a wake-up: a claim's end, what is scheduled, a drop at rest."""
        with self._session.look() as db:
            due = looks.next_due(db)
            claimed = looks.counts(db).claimed
        timeout_s = min(left_s, LOOK_EVERY_S)
        if claimed:
            timeout_s = min(timeout_s, REAP_WAITING_S)
        if self.drops.waiting:
            timeout_s = min(timeout_s, DROP_LOOK_S)
        if due is not None:
            timeout_s = min(timeout_s, max(0.001, (due - self._session.clock.wall_ms()) / 1000))
        return timeout_s

    def _tolerant(self, do: Callable[[], object]) -> None:
        try:
            do()
        except SpoolqError as error:
            # What it met is met again by whoever keeps the queue, and said then.
            log.warning("upkeep.failed queue=%s error=%s", self._session.name, error.message)

    # Claims that have ended

    def _is_reap_due(self, every_s: float) -> bool:
        """Whether it was this long ago, by whoever came here last."""
        return self._session.clock.mono_s() >= self._reaped_s + every_s

    def _reap_if_due(self, every_s: float) -> None:
        if self._is_reap_due(every_s):
            self.reap()

    def reap(self) -> int:
        """Give back what the dead held; how many messages."""
        self._reaped_s = self._session.clock.mono_s()
        try:
            return self.recovery.reap()
        except SpoolqError as error:
            # Somebody else's claims: not a reason for this dequeue to fail.
            log.warning("reap.failed error=%s", error.message)
            return 0

    # What came, and what has come due

    def scan(self, budget_s: float) -> int:
        """How many messages a scan found; 0 where another thread is at it."""
        if not self._scan_mutex.acquire(blocking=False):
            return 0
        try:
            return self.scanner.run(budget_s)
        finally:
            self._scan_mutex.release()

    def scan_wholly(self) -> None:
        """To the end of a scan that finds nothing more."""
        while self.scan(1.0) or self.scanner.is_running():
            pass

    def _scan_if_due(self, budget_s: float = SCAN_BUDGET_S) -> None:
        """Also where there is something ready: drops must not starve behind messages that never end."""
        if self.scanner.is_due():
            self.scan(budget_s)

    def is_scan_needed(self) -> bool:
        """Whether something may be in `new/` that no scan has seen."""
        with translated("scan", self._directory.new):
            return self.scanner.is_needed()

    def take_in_dropped(self) -> int:
        """Drops that a wake-up named, without a scan."""
        if self._wakeup.overflowed:
            self._wakeup.overflowed = False
            self._session.scan_due = True
        names = self._wakeup.dropped()
        if not names:
            return 0
        with self._scan_mutex, translated("take_in", self._directory.new):
            return self.drops.take_in(sorted(names))

    def promote(self) -> None:
        """Make ready what is due, where something is."""
        with self._session.look() as db:
            due = looks.next_due(db)
        now = self._session.clock.wall_ms()
        if due is not None and due <= now:
            with self._session.write() as index:
                index.promote(now, sql.PROMOTE_AT_ONCE)

    # Once in a while, in all processes together

    def _keep_if_due(self, budget_s: float = SCAN_BUDGET_S) -> bool:
        now = self._session.clock.mono_s()
        if now < self._keep_next_s:
            return False
        self._keep_next_s = now + KEEP_EVERY_S
        return self._keep(budget_s)

    def _keep(self, budget_s: float) -> bool:
        with self._session.look() as db:
            info = looks.info(db)
        more = False
        if self._is_my_turn("next_forget_boot_ms", info.next_forget_boot_ms, FORGET_EVERY_MS):
            self.recovery.forget_some(info.forget_after)
        if self._is_my_turn("next_clean_boot_ms", info.next_clean_boot_ms, CLEAN_EVERY_MS):
            more = self._clean_some(budget_s)
        if self._is_my_turn("next_sweep_boot_ms", info.next_sweep_boot_ms, SWEEP_EVERY_MS):
            self.recovery.sweep()
        self._tell_of_scan(info.last_scan_at_ms)
        return more

    def _tell_of_scan(self, told_at_ms: int) -> None:
        """Keep when `new/` was last looked through, for people; not each time, since a scan writes nothing itself."""
        ended_at_ms = self.scanner.ended_at_ms
        if ended_at_ms and abs(ended_at_ms - told_at_ms) >= TELL_EVERY_MS:
            with self._session.write() as index:
                index.set_info(last_scan_at_ms=ended_at_ms, last_scan_ms=self.scanner.last_ms)

    def _is_my_turn(self, column: str, next_boot_ms: int, every_ms: int) -> bool:
        boot_ms = self._session.clock.boot_ms()
        if not sql.is_due(next_boot_ms, boot_ms):
            return False
        with self._session.write() as index:
            return index.take_turn(column, boot_ms, boot_ms + every_ms)

    def _clean_some(self, budget_s: float) -> bool:
        self.recovery.adopt_claims()
        with translated("ballast", self._directory.ballast):
            self._room.restore_ballast()
        left = bool(self.cleanup.run(budget_s=budget_s).get("left"))
        values = {"last_clean_at_ms": self._session.clock.wall_ms()}
        if left:
            values["next_clean_boot_ms"] = self._session.clock.boot_ms() + 1000
        with self._session.write() as index:
            index.set_info(**values)
        return left

    def clean(self, progress: Progress | None) -> dict[str, int]:
        """All that retention says, and all litter, now; counts and bytes by what it was."""
        result = self.cleanup.run(progress=progress)
        after = self.recovery.forget_some("")
        while after:
            after = self.recovery.forget_some(after)
        self.recovery.sweep()
        with translated("ballast", self._directory.ballast):
            self._room.restore_ballast()
        with self._session.write() as index:
            index.set_info(last_clean_at_ms=self._session.clock.wall_ms())
        return result

    def forget(self) -> None:
        """In a forked child: no half-held locks of the parent's threads."""
        self._scan_mutex = threading.Lock()
