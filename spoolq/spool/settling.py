"""What a consumer does with what it holds: read, acknowledge, requeue, release, extend, dead letter.

Section 5 of docs/spool-format.md. A delivery is ended by who has its receipt: the name in `cur/` carries its nonce, so
a late acknowledge finds that name gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import BinaryIO

from spoolq import validate
from spoolq.errors import LeaseLost, storage_error
from spoolq.models import Attempt, State
from spoolq.retry import delay_s as retry_delay_s
from spoolq.spool import looks, mending, moves
from spoolq.spool.by_names import transact
from spoolq.spool.directory import path_in
from spoolq.spool.files import open_message
from spoolq.spool.index import Index
from spoolq.spool.names import clean_name, format_name, parse_name
from spoolq.spool.rows import Row
from spoolq.spool.session import Session, translated

log = logging.getLogger("spoolq.spool")


class Settler:
    """Ends deliveries of one queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._directory = session.directory
        self._files = session.directory.files

    def open_body(self, receipt: str) -> BinaryIO:
        """The file of a claim, from its beginning."""
        id, nonce = validate.parse_receipt(receipt)
        row: Row | None = None
        for _ in range(2):
            with self._session.look() as db:
                row = looks.row(db, id)
            if row is None or row.nonce != nonce or row.state != "claimed":
                break
            path = moves.path_of(self._session, row)
            try:
                return os.fdopen(open_message(path), "rb")
            except FileNotFoundError:  # RACE: settled meanwhile, or its priority was not what the row said: look again.
                continue
            except OSError as error:
                raise storage_error(error, "open", path) from error
        raise moves.lease_lost(id, "open", row)

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done/`, or deleted where nothing is kept."""
        id, nonce = validate.parse_receipt(receipt)
        keep = self._session.settings.retention.done_s > 0
        lost, has_meta = transact(self._session, lambda index: self._acknowledge(index, id, nonce, keep))
        if lost is not None:
            raise lost
        self._after_acknowledging([id] if has_meta else [], keep)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Many in one transaction; the receipts whose claim had ended."""
        parsed = [(receipt, *validate.parse_receipt(receipt)) for receipt in receipts]
        keep = self._session.settings.retention.done_s > 0
        results: dict[str, tuple[LeaseLost | None, bool]] = {}

        def act(index: Index) -> None:
            # Again, where the index failed: what was done to a file stands, and is not asked for twice.
            for receipt, id, nonce in parsed:
                if receipt not in results:
                    results[receipt] = self._acknowledge(index, id, nonce, keep)

        transact(self._session, act)
        with_meta = [id for receipt, id, _ in parsed if results[receipt] == (None, True)]
        self._after_acknowledging(with_meta, keep)
        return [receipt for receipt, _, _ in parsed if results[receipt][0] is not None]

    def _acknowledge(self, index: Index, id: str, nonce: str, keep: bool) -> tuple[LeaseLost | None, bool]:
        """Settle one; an error to raise once the transaction has ended, and whether metadata is to go."""
        now = self._session.clock.wall_ms()
        state = "done" if keep else "settled"
        found = index.settle(id, nonce, state, now)
        if found is None and mending.adopt_claim(self._session, index, id, nonce):
            found = index.settle(id, nonce, state, now)
        if found is None:
            row = index.row(id)
            if row is not None and row.nonce == nonce and row.state in ("done", "settled"):
                return None, False
            return moves.lease_lost(id, "acknowledge", row), False
        priority, due, attempts, label, _, _, _, has_meta = found
        name = format_name(id, priority, due, attempts, nonce, label)
        source = f"{self._directory.cur}/{name}"
        try:
            if keep:
                there = self._to_done(index, id, source, f"{self._directory.done}/{name}")
            else:
                there = self._directory.remove(source)
        except OSError as error:
            raise storage_error(error, "acknowledge", source) from error
        if not there:
            return self._acknowledge_without_file(index, id, name), bool(has_meta and not keep)
        return None, bool(has_meta and not keep)

    def _to_done(self, index: Index, id: str, source: str, target: str) -> bool:
        """Rename; where not even the ballast makes room for a name, delete it instead: it is processed."""
        try:
            return self._directory.move(source, target)
        except OSError as error:
            if storage_error(error, "").exit_code != 75:
                raise
            log.warning("done.not_kept id=%s error=%s", id, error)
            row = index.row(id)
            assert row is not None
            index.change(row, row._replace(state="settled"))
            return self._directory.remove(source)

    def _acknowledge_without_file(self, index: Index, id: str, name: str) -> LeaseLost | None:
        """The consumer took the file away itself: success. A person moved it: only to `done/` is it success."""
        row = index.row(id)
        assert row is not None
        if row.state == "done" and os.path.lexists(f"{self._directory.done}/{name}"):
            return None
        if any(os.path.lexists(f"{self._directory.base}/{kind}/{name}") for kind in ("new", "dead", "cur")):
            claimed = row._replace(state="claimed", ended_at_ms=None)
            index.change(row, claimed)
            mending.mend(self._session, index, [claimed])
            return moves.lease_lost(id, "acknowledge", index.row(id))
        label = self._keep_product(id, name)
        if label is not None:
            index.change(row, row._replace(state="done", label=label))
        elif row.state == "done":
            index.change(row, row._replace(state="settled"))
        return None

    def _keep_product(self, id: str, name: str) -> str | None:
        """What the consumer made of the file beside it (`gzip {}`): to `done/`, since it is this message; its label."""
        for text in self._directory.names(self._directory.cur):
            if text.startswith(name) and (parsed := parse_name(name)) is not None:
                label = clean_name(text[text.index(",n=") + 3 :] if parsed.label else text[len(name) :])
                self._directory.move(
                    f"{self._directory.cur}/{text}", path_in(self._directory.done, parsed._replace(label=label))
                )
                return label
        return None

    def _after_acknowledging(self, ids: list[str], kept: bool) -> None:
        if self._session.syncs_moves:
            with translated("acknowledge"):
                moves.sync_moved(self._session, *([self._directory.done] if kept else []), self._directory.cur)
        if ids:
            # CRASH: only now, so that no message comes back without what came with it.
            with translated("acknowledge", self._directory.meta):
                moves.remove_meta(self._session, ids, "claimed")

    def requeue(self, receipt: str, delay_s: float | None, reason: str, details: Attempt | None) -> State:
        """Failed: back to `new/` after the backoff, or to `dead/` where the attempts are used up."""
        validate.check_delay(delay_s)
        id, nonce = validate.parse_receipt(receipt)
        self._session.refresh_settings()
        settings = self._session.settings

        def put_back(index: Index, row: Row) -> Row | None:
            now = self._session.clock.wall_ms()
            if row.attempts >= settings.max_attempts:
                entry = moves.history_entry(row, "dead", reason, now, details)
                return moves.to_dead(self._session, index, row, entry.reason or "failed", entry, failed=1)
            wait_s = retry_delay_s(row.attempts, settings.retry) if delay_s is None else delay_s
            due = now + round(wait_s * 1000) if wait_s > 0 else None
            entry = moves.history_entry(row, "requeued", reason, now, details)
            return moves.back_to_new(self._session, index, row, due_at_ms=due, entry=entry, failed=1)

        return self._settle(id, nonce, "requeue", put_back)

    def release(self, receipt: str) -> None:
        """Give back untouched: one attempt less."""
        id, nonce = validate.parse_receipt(receipt)
        self._settle(id, nonce, "release", self.give_back_uncounted)

    def give_back_uncounted(self, index: Index, row: Row) -> Row | None:
        """A claim ends as if it had not begun."""
        return moves.back_to_new(self._session, index, row, attempts=max(0, row.attempts - 1))

    def dead_letter(self, receipt: str, reason: str, details: Attempt | None) -> None:
        """Give up on it."""
        id, nonce = validate.parse_receipt(receipt)

        def bury(index: Index, row: Row) -> Row | None:
            entry = moves.history_entry(row, "dead", reason, self._session.clock.wall_ms(), details)
            return moves.to_dead(self._session, index, row, entry.reason, entry)

        self._settle(id, nonce, "move_to_dead_letter_queue", bury)

    def _settle(self, id: str, nonce: str, op: str, act: Callable[[Index, Row], Row | None]) -> State:
        """End this very delivery by `act`; the state the message is in then. LeaseLost where it has ended already."""

        def fenced(index: Index) -> Row | LeaseLost:
            with translated(op):
                row = self._fenced(index, id, nonce)
                if row is None:
                    return moves.lease_lost(id, op, index.row(id))
                new = act(index, row)
                if new is None:
                    # Moved by hand: the row is mended now, and the caller told once the transaction has ended.
                    mending.mend(self._session, index, [row])
                    return moves.lease_lost(id, op, index.row(id))
                return new

        new = transact(self._session, fenced)
        if isinstance(new, LeaseLost):
            raise new
        with translated(op):
            moves.sync_moved(self._session, self._directory.of_state(new.state), self._directory.cur)
            if new.state == "ready":
                self._files.touch(self._directory.wake)
        return new.state  # type: ignore[return-value]

    def _fenced(self, index: Index, id: str, nonce: str) -> Row | None:
        """The row of this very delivery, or None where it has ended. The file's name decides, not the row."""
        row = index.row(id)
        if row is not None and row.nonce == nonce and row.state == "claimed":
            return row
        if mending.adopt_claim(self._session, index, id, nonce):
            return index.row(id)
        return None

    def extend(self, receipt: str, lease_s: float) -> None:
        """A later, or earlier, deadline; a claim that lives by its holder alone has none, and keeps none."""
        validate.check_extension(lease_s)
        id, nonce = validate.parse_receipt(receipt)
        moved: list[str] = []

        def move_deadline(index: Index) -> LeaseLost | None:
            row = self._fenced(index, id, nonce)
            if row is None:
                return moves.lease_lost(id, "extend", index.row(id))
            if nonce[0] == "k":
                return None
            path = moves.path_of(self._session, row)
            with translated("extend"):
                try:
                    at_ms = moves.set_deadline(self._session, path, lease_s)
                except FileNotFoundError:  # RACE: moved by hand.
                    mending.mend(self._session, index, [row])
                    return moves.lease_lost(id, "extend", index.row(id))
            index.extend(id, self._session.clock.boot_ms() + round(lease_s * 1000), at_ms)
            moved.append(path)
            return None

        lost = transact(self._session, move_deadline)
        if lost is not None:
            raise lost
        with translated("extend"):
            for path in moved:
                moves.sync_deadline(self._session, path)
