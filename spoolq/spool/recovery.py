"""What brings a queue back in order after deaths: reap, expire, sweep, and who does it when. Section 9 of
docs/spool-format.md.

Everything is looked at first, without the write lock; only who found something takes it, in slices, and looks again
under it. So it does not matter how many processes do this at once, or that one of them is stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Callable

from spoolq.models import Attempt
from spoolq.spool import looks, mending, moves
from spoolq.spool.directory import path_in
from spoolq.spool.files import open_message
from spoolq.spool.holders import is_alive, read_holder
from spoolq.spool.index import Index
from spoolq.spool.meta import Arrival, is_anothers_body, read_arrival, write_arrival
from spoolq.spool.names import Name, clean_name, holder_of, is_holder, is_id, parse_name
from spoolq.spool.probe import Writer, take_lease
from spoolq.spool.rebuilding import deadline_boot_ms
from spoolq.spool.rows import SETTLED_KEPT_MS, Row
from spoolq.spool.session import Session, translated

log = logging.getLogger("spoolq.spool")

SLICE = 100
LITTER_AGE_S = 36 * 3600
KEYED_AGE_S = 600
FORGET_ROWS = 20_000
FORGET_SLICE = 500


class Recovery:
    """Reaps, expires and sweeps for one open queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files
        self._noted_s = (session.clock.mono_s(), session.clock.wall_ms() / 1000)
        """One instant on both clocks: when this was opened, or of its last sweep but for those that follow at once."""

    # Claims that have ended

    def reap(self) -> int:
        """Give back the claims of dead holders and those past their deadline; how many messages were given back."""
        with self._session.look() as db:
            counts = looks.counts(db)
            if counts.claimed == 0 and counts.ready + counts.scheduled == 0:
                return 0
            holders = looks.holders(db) if counts.claimed else []
            late, expired = looks.overdue(db, self._session.clock.boot_ms(), self._session.clock.wall_ms())
        reaped = sum(self._reap_holder(holder) for holder in holders if self._is_dead(holder))
        if late:
            reaped += self._sliced(self._reap_late)
        if expired:
            reaped += self._expire()
        if reaped:
            with translated("wake", self._directory.wake):
                self._files.touch(self._directory.wake)
        return reaped

    def _is_dead(self, holder: str) -> bool:
        with translated("reap", self._directory.holders):
            return holder not in self._session.holders and not is_alive(self._directory, holder)

    def _reap_holder(self, holder: str) -> int:
        reaped = self._sliced(lambda index: self._reap_claims_of(index, holder))
        # CRASH: the file stays, without claims: sweep.
        with translated("reap", self._directory.holders):
            self._files.unlink_if_there(f"{self._directory.holders}/{holder}")
        return reaped

    def _sliced(self, part: Callable[[Index], int]) -> int:
        """Do a part of the work in a transaction of its own, until there is none left."""
        total = 0
        while True:
            with self._session.write() as index, translated("reap"):
                done = part(index)
            total += done
            if done < SLICE:
                break
        if total:
            with translated("reap"):
                moves.sync_moved(self._session, self._directory.new, self._directory.dead, self._directory.cur)
        return total

    def _reap_claims_of(self, index: Index, holder: str) -> int:
        rows = index.claims_of(holder, SLICE)
        for row in rows:
            self.end_claim(index, row, "holder died")
        return len(rows)

    def _reap_late(self, index: Index) -> int:
        rows = index.claims_past(self._session.clock.boot_ms(), SLICE)
        for row in rows:
            if not self._extended_on_disk(index, row):
                self.end_claim(index, row, "lease ended")
        return len(rows)

    def _extended_on_disk(self, index: Index, row: Row) -> bool:
        """Somebody set the file's time and died before the row, or did it by hand: the file is believed."""
        try:
            found = os.lstat(moves.path_of(self._session, row))
        except FileNotFoundError:
            return False
        at_ms = found.st_mtime_ns // 1_000_000
        if at_ms == row.deadline_at_ms:
            return False
        deadline = deadline_boot_ms(found, row.nonce, self._session.clock, self._session.settings.lease_s)
        index.extend(row.id, deadline, at_ms)
        return deadline is None or deadline > self._session.clock.boot_ms()

    def end_claim(self, index: Index, row: Row, reason: str, outcome: str = "requeued") -> None:
        """Take a claim back, counted: to `new/` at once, or to `dead/` where the attempts are used up.

        A claim by hand has not been counted by its name, so it is now.
        """
        now = self._session.clock.wall_ms()
        attempts = row.attempts + (row.nonce is None)
        counted = row._replace(attempts=attempts)
        who = self._who_held(row)
        if attempts >= self._session.settings.max_attempts:
            entry = moves.history_entry(counted, "dead", reason, now, who)
            moved = moves.to_dead(self._session, index, row, reason, entry, attempts=attempts, failed=1)
        else:
            entry = moves.history_entry(counted, outcome, reason, now, who)
            moved = moves.back_to_new(self._session, index, row, attempts=attempts, entry=entry, failed=1)
        if moved is None:
            mending.mend(self._session, index, [row])
        else:
            log.info("claim.reaped id=%s attempt=%d now=%s reason=%s", row.id, attempts, moved.state, reason)

    def _who_held(self, row: Row) -> Attempt | None:
        """The process that held a claim, for the history, as far as its file tells."""
        holder = holder_of(row.nonce)
        known = read_holder(self._directory, holder) if holder is not None else {}
        if not known:
            return None
        return Attempt(
            attempt=0, outcome="", ended_at_ms=0, host=str(known.get("host", "")), pid=int(known.get("pid") or 0)
        )

    # Time to live

    def _expire(self) -> int:
        gone: list[str] = []
        expired = self._sliced(lambda index: self._expire_slice(index, gone))
        with translated("expire", self._directory.meta):
            # CRASH: metadata without a message: sweep.
            moves.remove_meta(self._session, gone, "ready")
        return expired

    def _expire_slice(self, index: Index, gone: list[str]) -> int:
        rows = index.expired(self._session.clock.wall_ms(), SLICE)
        for row in rows:
            gone += mending.expire(self._session, index, row)
            log.info("message.expired id=%s", row.id)
        return len(rows)

    # Claims by hand that no row knows of

    def adopt_claims(self) -> int:
        """`cur/` is small: a row for what is there without one, or whose row says that it is elsewhere."""
        with translated("scan", self._directory.cur):
            texts = self._directory.names(self._directory.cur)
        names = [name for text in texts if (name := parse_name(text))]
        adopted = sum(self._return_drop(text) for text in texts if parse_name(text) is None)
        for start in range(0, len(names), SLICE):
            part = {name.id: name for name in names[start : start + SLICE]}
            with self._session.look() as db:
                strange = part.keys() - looks.claimed_among(db, list(part))
            if strange:
                with self._session.write() as index, translated("scan"):
                    adopted += sum(self._adopt(index, id) for id in sorted(strange))
        return adopted

    def _return_drop(self, text: str) -> bool:
        """A drop that was claimed by hand before it was taken in: past its deadline it is a message, counted once.

        Until then it keeps its name, by which whoever took it knows it.
        """
        path = f"{self._directory.cur}/{text}"
        try:
            found = os.lstat(path)
        except FileNotFoundError:  # RACE: settled by hand.
            return False
        now = self._session.clock.wall_ms()
        deadline = deadline_boot_ms(found, None, self._session.clock, self._session.settings.lease_s)
        if not stat.S_ISREG(found.st_mode) or deadline is None or deadline > self._session.clock.boot_ms():
            return False
        label = clean_name(os.fsencode(text)) or None
        name = Name(self._session.clock.new_id(now), attempts=1, label=label)
        used_up = self._session.settings.max_attempts <= 1
        target = self._directory.dead if used_up else self._directory.new
        with self._session.write() as index, translated("reap", path):
            if label != text:
                # CRASH: metadata without a message: sweep.
                write_arrival(self._directory, name.id, Arrival(name=text), sync=self._session.syncs_moves)
            try:
                self._files.rename(path, path_in(target, name))
            except FileNotFoundError:  # RACE: settled by hand.
                self._files.discard(self._directory.meta_path(name.id))
                return False
            mending.put_row(self._session, index, target, name)
        with translated("reap"):
            moves.sync_moved(self._session, target, self._directory.cur)
        log.info(
            "claim.reaped id=%s attempt=%d now=%s reason=%s", name.id, 1, "dead" if used_up else "ready", "lease ended"
        )
        return True

    def _adopt(self, index: Index, id: str) -> int:
        row = index.row(id)
        if row is not None:
            if row.state != "claimed":
                mending.mend(self._session, index, [row])
            return 1
        places = self._directory.locate([id])[id]
        if places:
            mending.put_row(self._session, index, places[0][0], places[0][2])
        return len(places)

    # Litter

    def sweep(self) -> int:
        """What the dead left: in `tmp/`, `meta/` and `holders/`, and rows and keys whose time is over; how many."""
        swept = self._sweep_rows()
        with translated("sweep", self._directory.base):
            swept += sum(self._each(self._sweep_temporary, text) for text in os.listdir(self._directory.tmp))
            swept += self._sweep_meta()
            holders = filter(is_holder, self._directory.names(self._directory.holders))
            swept += sum(self._each(self._sweep_holder, holder) for holder in holders)
        if swept:
            log.info("sweep.done removed=%d", swept)
        if self._session.clock.mono_s() - self._noted_s[0] >= KEYED_AGE_S:
            self._noted_s = (self._session.clock.mono_s(), self._session.clock.wall_ms() / 1000)
        return swept

    def _now_s(self) -> float:
        """The wall clock, or what it was at the last sweep and the time since, whichever is earlier.

        Where it jumped ahead, or the machine slept, what somebody is just making is not old, nor is what was just
        acknowledged: it is judged by a later sweep, ten minutes on.
        """
        mono_s, wall_s = self._noted_s
        return min(self._session.clock.wall_ms() / 1000, wall_s + self._session.clock.mono_s() - mono_s)

    def _each(self, sweep: Callable[[str], bool], text: str) -> bool:
        """One entry that cannot be removed, whatever it is, must not keep the rest."""
        try:
            return sweep(text)
        except (OSError, RecursionError) as error:  # the second: directories in directories, without end
            log.warning("sweep.left name=%r error=%s", text, error)
            return False

    def _sweep_holder(self, holder: str) -> bool:
        if not self._is_dead(holder) or self._has_claims(holder):
            return False
        return self._files.unlink_if_there(f"{self._directory.holders}/{holder}")

    def _has_claims(self, holder: str) -> bool:
        with self._session.look() as db:
            return holder in looks.holders(db)

    def _sweep_rows(self) -> int:
        now = self._session.clock.wall_ms()
        total = 0
        while True:
            with self._session.write() as index:
                keys = index.forget_keys_before(now, SLICE)
                index.forget_minutes(now)
            total += keys
            if keys < SLICE:
                return total

    def forget_some(self, after: str) -> str:
        """Drop rows of what was acknowledged and deleted ten minutes ago: the part of the table after an id.

        Returns the id to go on after, "" at the end of the table.
        """
        before_ms = round(self._now_s() * 1000) - SETTLED_KEPT_MS
        with self._session.look() as db:
            settled, last = looks.settled(db, after, before_ms, FORGET_ROWS)
        for start in range(0, len(settled), FORGET_SLICE):
            with self._session.write() as index:
                index.forget_settled(settled[start : start + FORGET_SLICE])
        if last != after:
            with self._session.write() as index:
                index.set_info(forget_after=last)
        return last

    def _sweep_temporary(self, text: str) -> bool:
        """Old, not locked by its writer, and open for writing nowhere."""
        path = self._directory.temporary(text)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        # Its change time too: a file that was just moved here keeps the time of its last write.
        if self._now_s() - max(found.st_mtime, found.st_ctime) < LITTER_AGE_S:
            return False
        if stat.S_ISDIR(found.st_mode):
            self._files.remove_tree(path)
            return True
        if stat.S_ISREG(found.st_mode) and _in_use(path):
            return False
        if is_id(text) and not self._has_row(text) and not is_anothers_body(self._directory, text):
            # First, so that without a body there is no metadata of a message that never was: its key would count.
            self._files.unlink_if_there(self._directory.meta_path(text))
        return self._files.unlink_if_there(path)

    def _has_row(self, id: str) -> bool:
        """Then it is no enqueue that died: whoever may drop can name a file after any message that it sees."""
        with self._session.look() as db:
            return id in looks.known_among(db, [id])

    def _sweep_meta(self) -> int:
        return sum(self._each(self._remove_meta, id) for id in self.orphans())

    def _remove_meta(self, id: str) -> bool:
        return self._files.unlink_if_there(self._directory.meta_path(id))

    def orphans(self) -> list[str]:
        """Metadata without a message: left by an enqueue that died, or kept for a deduplication window that is over."""
        ids = [text[:36] for text in self._directory.names(self._directory.meta) if is_id(text[:36])]
        unknown: set[str] = set()
        for start in range(0, len(ids), SLICE):
            part = ids[start : start + SLICE]
            with self._session.look() as db:
                unknown |= set(part) - looks.known_among(db, part)
        old = [id for id in sorted(unknown) if self._is_over(id)]
        # A message may be there without its row.
        places = self._directory.locate(old) if old else {}
        return [id for id in old if not places[id]]

    def _is_over(self, id: str) -> bool:
        """Not that of a message which is being enqueued just now, and not needed for its key any more."""
        now_s = self._now_s()
        age_s = now_s - _mtime_s(self._directory.meta_path(id), now_s)
        until = read_arrival(self._directory, id).dedup_until_ms
        if until is None:
            return age_s >= LITTER_AGE_S
        return until <= self._session.clock.wall_ms() and age_s >= KEYED_AGE_S


def _mtime_s(path: str, default: float) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return default


def _in_use(path: str) -> bool:
    """Whether somebody has a temporary file locked, or open for writing."""
    with contextlib.suppress(FileNotFoundError):
        fd = open_message(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return take_lease(fd) is Writer.WRITING
        finally:
            os.close(fd)
    return False
