"""Making rows say what the files say: for one message when its file is not where its row says, and when time is up.

Everything here runs inside `with session.write() as index`. Section 9 of docs/spool-format.md: mend, expire.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Sequence

from spoolq.spool import moves
from spoolq.spool.directory import path_in
from spoolq.spool.index import Index
from spoolq.spool.meta import Meta, read_meta
from spoolq.spool.names import Name, format_name, parse_name
from spoolq.spool.rebuilding import row_of_file
from spoolq.spool.rows import Row
from spoolq.spool.session import Session

log = logging.getLogger("spoolq.spool")

MEND_AT_ONCE = 1000


def mend(session: Session, index: Index, rows: Sequence[Row]) -> None:
    """Look where the files of these rows are, in one listing, and make the rows so."""
    places = session.directory.locate(row.id for row in rows)
    for row in rows:
        found = places[row.id]
        if not found:
            log.info("row.removed id=%s state=%s reason=no file", row.id, row.state)
            index.remove(row)
            continue
        directory, text, name = found[0]
        for place, other, parsed in found:
            if place == session.directory.of_state(row.state) and other == moves.name_of(row):
                directory, text, name = place, other, parsed
        _follow(session, index, row, directory, text, name)


def _follow(session: Session, index: Index, row: Row, directory: str, text: str, name: Name) -> None:
    """The row becomes what its file's place and name say."""
    try:
        found = os.lstat(f"{directory}/{text}")
    except FileNotFoundError:  # RACE: moved by hand again; whoever meets it next mends it.
        return
    if _is_no_message(session, directory, found):
        index.remove(row)
        return
    meta = read_meta(session.directory, name.id)
    has_meta = os.path.exists(session.directory.meta_path(name.id))
    if directory == session.directory.new and name.nonce is not None:
        name = _without_nonce(session, directory, text, name)
    new = row_of_file(directory, name, found, meta, has_meta, session.clock, session.settings)
    held = row.held if new.state in ("ready", "scheduled") else 0
    new = new._replace(held=held, enqueued_at_ms=row.enqueued_at_ms)
    log.info("row.mended id=%s was=%s now=%s", row.id, row.state, new.state)
    index.change(row, new)


def _without_nonce(session: Session, directory: str, text: str, name: Name) -> Name:
    """Put back by hand from `cur/`: the claim's nonce means nothing in `new/`. Another file of that name stays."""
    plain = name._replace(nonce=None)
    with contextlib.suppress(FileNotFoundError, FileExistsError):  # RACE: moved again. Or a twin: scan sees to it.
        session.directory.files.rename_new(f"{directory}/{text}", path_in(directory, plain))
    return plain


def adopt_claim(session: Session, index: Index, id: str, nonce: str) -> bool:
    """Whether `cur/` holds this very delivery although its row says otherwise; the row is then made so.

    After a commit that failed, or by somebody who had no index: the name is the claim, and its receipt is good.
    """
    directory = session.directory
    for text in directory.names(directory.cur):
        if text[:36] == id and (name := parse_name(text)) is not None and name.nonce == nonce:
            row = index.row(id)
            if row is None:
                put_row(session, index, directory.cur, name)
            elif row.state != "claimed" or row.nonce != nonce:
                _follow(session, index, row, directory.cur, text, name)
            return True
    return False


def mend_ready(session: Session, index: Index, skip: int) -> None:
    """The file of the ready row after `skip` is gone: mend all of the next rows whose files are, in one listing."""
    directory = session.directory
    following = index.first_ready(MEND_AT_ONCE, skip)
    missing = [row for row in following if not os.path.lexists(f"{directory.new}/{moves.name_of(row)}")]
    mend(session, index, missing)


def expire(session: Session, index: Index, row: Row) -> list[str]:
    """A waiting message past its time to live: to `dead/`, or deleted where the queue says so.

    Whose metadata is to go once this is synced: a message that comes back must not do so without its time to live.
    """
    if session.settings.retention.expired == "delete":
        moves.remove(session, index, row)
        return [row.id] if row.has_meta else []
    entry = moves.history_entry(row, "expired", "expired", session.clock.wall_ms())
    if moves.to_dead(session, index, row, "expired", entry) is None:
        mend(session, index, [row])
    return []


def put_row(session: Session, index: Index, directory: str, name: Name) -> bool:
    """A row for a file that has none; False where the file has gone meanwhile, or is a directory."""
    try:
        found = os.lstat(f"{directory}/{format_name(*name)}")
    except FileNotFoundError:  # RACE: moved by hand, with no lock; it is looked for again where it went.
        return False
    if _is_no_message(session, directory, found):
        return False
    has_meta = os.path.exists(session.directory.meta_path(name.id))
    meta = read_meta(session.directory, name.id) if has_meta else Meta()
    index.put(row_of_file(directory, name, found, meta, has_meta, session.clock, session.settings))
    return True


def _is_no_message(session: Session, directory: str, found: os.stat_result) -> bool:
    """A directory, whatever its name: it stays where it is, and is reported. In `cur/` it goes back to `new/` first."""
    return directory != session.directory.cur and stat.S_ISDIR(found.st_mode)
