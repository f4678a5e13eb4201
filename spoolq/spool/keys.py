"""One message a deduplication key: who has a key, and reserving one. Transition enqueue_keyed of section 5.

A reservation is metadata in `meta/` whose body is still in `tmp/`, locked by its writer; the index has a copy of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from spoolq.errors import Busy
from spoolq.spool import looks
from spoolq.spool.directory import QueueDirectory
from spoolq.spool.index import Index
from spoolq.spool.mending import put_row
from spoolq.spool.meta import discard_arrival, is_anothers_body, place_arrival
from spoolq.spool.rows import Key
from spoolq.spool.session import IndexDamaged, Session, translated

_WRITER_POLL_S = 0.002


def discard_unplaced(directory: QueueDirectory, id: str) -> None:
    """Leave no litter of an enqueue that ended before its commit point.

    CRASH: the metadata goes first, since without a body in `tmp/` it is that of a message which has come and gone, and
    its key would be taken. Where it cannot go, the body stays with it, for the sweep.
    """
    discard_arrival(directory, id)
    if not os.path.lexists(directory.meta_path(id)):
        directory.files.discard(directory.temporary(id))


def discard_reservation(session: Session, id: str) -> None:
    """The same for one whose metadata may be in `meta/`: its removal is synced, if it can be, before the body goes."""
    directory = session.directory
    if os.path.lexists(directory.meta_path(id)):
        directory.files.discard(directory.meta_path(id))
        if session.syncs:
            with contextlib.suppress(OSError):
                directory.files.sync_directory(directory.meta)
    discard_unplaced(directory, id)


class Keys:
    """The keys of one queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files

    def known(self, key: str) -> str | None:
        """The message that a key names already: answered before anything is written, also where there is no room."""
        with self._session.look() as db:
            found = looks.key(db, key)
        if found is None or found.reserved or self.is_over(found):
            return None
        return found.id

    def is_over(self, key: Key) -> bool:
        """Whether a window has ended; also where a clock set back would make it longer than it and another."""
        left_ms = key.until_at_ms - self._session.clock.wall_ms()
        return not 0 < left_ms <= 2000 * self._session.settings.dedup_window_s

    def reserve(self, key: str, id: str, until_ms: int) -> str | None:
        """Reserve a key for the file in `tmp/` of this id, or the id of the message that has it.

        Waits for a writer at work on it; Busy where that takes longer than `busy_s`.
        """
        end = time.monotonic() + self._session.settings.busy_s
        while True:
            # Damage is mended by the next try, which must be made here: a body from a stream cannot be had twice.
            with contextlib.suppress(IndexDamaged):
                settled, known = self._try_to_reserve(key, Key(id, until_ms, True))
                if settled:
                    return known
            if time.monotonic() > end:
                hint = "Its writer lives but does not finish: look at it, or try again later"
                raise Busy(f"another enqueue with the key {key!r} is under way", op="enqueue", hint=hint)
            time.sleep(_WRITER_POLL_S)

    def _try_to_reserve(self, key: str, mine: Key) -> tuple[bool, str | None]:
        """Whether it is settled whose the key is, and the other's id where it is another's."""
        with self._session.write() as index, translated("enqueue", self._directory.base):
            known = index.key(key)
            if known is None or self.is_over(known) or known.id == mine.id:
                self._note(index, key, mine)
                return True, None
            if not known.reserved:
                return True, known.id
            if not self._writer_lives(known.id):
                if self._has_come(index, key, known):
                    return True, known.id
                discard_reservation(self._session, known.id)
                self._note(index, key, mine)
                return True, None
        return False, None

    def _note(self, index: Index, key: str, mine: Key) -> None:
        """Under the lock, in the metadata too: so an index that is made anew at any time knows of it."""
        place_arrival(self._directory, mine.id)
        index.keep_key(key, mine)

    def _writer_lives(self, id: str) -> bool:
        """Whether the file that a reservation names is still being written, by its writer's lock on it."""
        if is_anothers_body(self._directory, id):
            return False
        try:
            fd = os.open(self._directory.temporary(id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _has_come(self, index: Index, key: str, known: Key) -> bool:
        """Of a reservation whose writer is not at it any more: whether its message is, or was, there; then mend."""
        placed = self._directory.locate([known.id])[known.id]
        if not placed and index.row(known.id) is None:
            return False
        if placed and self._session.syncs:
            # Its writer may not have come to this, and what is answered now is a promise.
            with translated("enqueue", self._directory.new):
                self._files.sync_directory(self._directory.new)
        index.keep_key(key, known._replace(reserved=False))
        if placed and index.row(known.id) is None:
            # Not left to the scan: the next of its group would be the head meanwhile, and be delivered first.
            directory, _, name = placed[0]
            put_row(self._session, index, directory, name)
        return True
