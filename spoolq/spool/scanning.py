"""The scan of `new/`: a row for each file without one, and drops taken in. Section 9 of docs/spool-format.md.

It goes on where it stopped, a few milliseconds at a time, and takes the write lock only for what it found. A listing
beside moves can miss files; what one scan missed the next one finds.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from itertools import islice

from spoolq.errors import UnsafeFile
from spoolq.spool import looks, mending, moves
from spoolq.spool.directory import path_in
from spoolq.spool.drops import Drops
from spoolq.spool.files import is_directory, open_message
from spoolq.spool.index import Index
from spoolq.spool.names import Name, format_name, parse_name
from spoolq.spool.probe import Writer, take_lease
from spoolq.spool.session import Session, translated

log = logging.getLogger("spoolq.spool")

_SLICE = 400
_CLOCK_GRAIN_NS = 50_000_000
_REST_SHARE = 20
_MIN_INTERVAL_S = 1.0


class Scanner:
    """Scans one queue's `new/`. Not thread-safe: its owner serialises."""

    def __init__(self, session: Session, drops: Drops) -> None:
        self._session = session
        self._directory = session.directory
        self._drops = drops
        self._listing: Iterator[str] | None = None
        self._strange: set[str] = set()
        self._began_s = 0.0
        self._spent_s = 0.0
        self._stamp_ns = 0
        self._seen_stamp_ns = 0
        self._later = False
        self._next_s = 0.0
        self.last_ms = 0
        self.ended_at_ms = 0

    def is_due(self) -> bool:
        """Whether a scan should begin, or go on, by its own interval."""
        return self.is_running() or self._session.scan_due or self._session.clock.mono_s() >= self._next_s

    def is_running(self) -> bool:
        """Whether a scan has begun and is not at its end."""
        return self._listing is not None

    def is_needed(self) -> bool:
        """Whether something may be there that no scan has seen: False only where `new/` has certainly not changed."""
        if self.is_running() or self._session.scan_due or self._later or self._drops.waiting:
            return True
        return self._seen_stamp_ns == 0 or os.stat(self._directory.new).st_mtime_ns != self._seen_stamp_ns

    def run(self, budget_s: float) -> int:
        """Scan for about `budget_s`; how many messages were added. Goes on at the next call where it is not done."""
        clock = self._session.clock
        start = clock.mono_s()
        found = 0
        with translated("scan", self._directory.new):
            listing = self._listing or self._begin()
            while part := list(islice(listing, _SLICE)):
                found += self._look_at(part)
                if clock.mono_s() - start >= budget_s:
                    break
            self._spent_s += clock.mono_s() - start
            if len(part) < _SLICE:
                self._end()
        return found

    def _begin(self) -> Iterator[str]:
        self._session.scan_due = False
        self._stamp_ns = os.stat(self._directory.new).st_mtime_ns
        settled = self._session.clock.wall_ms() * 1_000_000 - self._stamp_ns > _CLOCK_GRAIN_NS
        if not settled:
            # A change within the same tick of the clock would not be seen by this stamp.
            self._stamp_ns = 0
        self._listing = self._directory.each_name(self._directory.new)
        self._strange = set()
        self._later = False
        self._spent_s = 0.0
        return self._listing

    def _end(self) -> None:
        self._listing = None
        self._drops.forget_gone(self._strange)
        self._seen_stamp_ns = self._stamp_ns
        self.last_ms = round(self._spent_s * 1000)
        self.ended_at_ms = self._session.clock.wall_ms()
        self._next_s = self._session.clock.mono_s() + max(_MIN_INTERVAL_S, _REST_SHARE * self._spent_s)

    def _look_at(self, texts: list[str]) -> int:
        """One slice of the listing: which of it has no row, and which of it are drops."""
        named: dict[str, tuple[str, Name]] = {}
        odd: list[tuple[str, Name]] = []
        strange: list[str] = []
        for text in texts:
            name = parse_name(text)
            if name is None:
                strange.append(text)
            elif name.nonce is None and name.id not in named:
                named[name.id] = (text, name)
            else:
                # Of two with one id it may be the first one that is not the row's.
                odd += filter(None, ((text, name), named.get(name.id)))
        with self._session.look() as db:
            known = looks.waiting_among(db, list(named))
        missing = [each for _, each in sorted(named.items()) if (*each[1][:4], each[1].label) not in known]
        # A directory never gets a row: another owner's cannot be moved to dead/, and would hold up all behind it.
        strange += [text for text, _ in missing if is_directory(f"{self._directory.new}/{text}")]
        missing = [each for each in missing if each[0] not in strange]
        self._strange.update(strange)
        strange.sort()
        found = self._add_missing(missing) if missing else 0
        found += sum(self._put_right(text, name) for text, name in odd)
        return found + (self._drops.take_in(strange) if strange else 0)

    def _put_right(self, text: str, name: Name) -> int:
        """Put back by hand with its nonce, or a second file of one id: it gets the name it should have, and a row."""
        directory, path = self._directory, f"{self._directory.new}/{text}"
        with self._session.write() as index:
            if not self._is_finished(path):
                return 0
            row = index.row(name.id)
            plain = name._replace(nonce=None)
            if row is not None and row.state in ("ready", "scheduled"):
                own = moves.path_of(self._session, row)
                if own == path:
                    return 0
                if os.path.lexists(path) and os.path.lexists(own):
                    return self._separate(index, path, own, plain)
            target = path_in(directory.new, plain)
            try:
                # The same where the other of its id is a directory, and so neither has a row.
                if target != path:
                    directory.files.rename_new(path, target)
            except FileNotFoundError:  # RACE: moved by hand again.
                return 0
            except FileExistsError:
                return self._separate(index, path, target, plain)
            return self._add(index, format_name(*plain), plain)

    def _add_missing(self, missing: list[tuple[str, Name]]) -> int:
        found = 0
        with self._session.write() as index:
            for text, name in missing:
                with contextlib.suppress(FileNotFoundError):  # RACE: moved by hand meanwhile.
                    found += self._add(index, text, name)
        return found

    def _add(self, index: Index, text: str, name: Name) -> int:
        """A file in `new/` whose row is not there, or says it is elsewhere, or called otherwise. Under the lock."""
        path = f"{self._directory.new}/{text}"
        if not os.path.lexists(path) or not self._is_finished(path):
            return 0
        row = index.row(name.id)
        if row is None:
            if not mending.put_row(self._session, index, self._directory.new, name):
                return 0
            log.info("row.added id=%s", name.id)
            return 1
        own = moves.path_of(self._session, row)
        if own == path:
            return 0
        if row.state != "settled" and os.path.lexists(own):
            return self._separate(index, path, own, name)
        mending.mend(self._session, index, [row])
        return 1

    def _separate(self, index: Index, path: str, own: str, name: Name) -> int:
        """A copy by hand (`cp done/... new/`) is another message. Another name of the same inode is a crash."""
        if os.path.samestat(os.lstat(path), os.lstat(own)):
            self._directory.remove(path)
            return 0
        copy = name._replace(id=self._session.clock.new_id(), attempts=0)
        self._directory.files.rename(path, f"{self._directory.new}/{format_name(*copy)}")
        mending.put_row(self._session, index, self._directory.new, copy)
        log.info("twin.renamed id=%s was=%s", copy.id, name.id)
        return 1

    def _is_finished(self, path: str) -> bool:
        """Whether nobody is writing it: a file without a row may have been copied here under any name."""
        try:
            fd = open_message(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            # The dequeue that meets it says so.
            return True
        except UnsafeFile:
            return True
        try:
            writer = take_lease(fd)
            unknown = writer is Writer.UNKNOWN and not self._drops.at_rest(os.path.basename(path), os.fstat(fd))
            if writer is Writer.WRITING or unknown:
                self._later = True
                return False
        finally:
            os.close(fd)
        return True
