"""The local queue: `interfaces.Queue` on files. It puts the parts together; what they do is theirs.

Producing is `producer`, claiming `claiming`, ending a delivery `settling`, looking `reading`, keeping in order
`upkeep`. Here is what needs several of them: waiting, a consumer's own claims, and a person's changes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from spoolq import settings as settings_module
from spoolq import validate
from spoolq.clock import Clock
from spoolq.consume import consume
from spoolq.errors import NotASpool, QueueNotFound, SpoolqError
from spoolq.interfaces import POLL_S, Capabilities, Progress, Queue, Slot
from spoolq.message import Message
from spoolq.models import (
    DEFAULT_PRIORITY,
    Attempt,
    DropInfo,
    Filter,
    Health,
    HolderInfo,
    MessageInfo,
    Minute,
    NewMessage,
    Page,
    Problem,
    State,
    Stats,
)
from spoolq.settings import Settings
from spoolq.spool import looks, mending, moves, queues
from spoolq.spool.checking import Check
from spoolq.spool.claiming import Claimer, Mark, Owner
from spoolq.spool.dead_letters import SpoolDeadLetters
from spoolq.spool.files import Files
from spoolq.spool.holders import Holder
from spoolq.spool.index import Index
from spoolq.spool.producer import PLAIN, Producer
from spoolq.spool.reading import Reading, not_found
from spoolq.spool.rows import Row
from spoolq.spool.session import IndexDamaged, Session, answerable, translated
from spoolq.spool.settling import Settler
from spoolq.spool.upkeep import SCAN_BUDGET_S, Upkeep
from spoolq.spool.wakeup import Wakeup

log = logging.getLogger("spoolq.spool")

HOLDER_LOOK_S = 1.0
_SLICE = 200


class SpoolSlot(Slot):
    """A consumer with a holder of its own."""

    def __init__(self, queue: SpoolQueue, label: str) -> None:
        self._queue = queue
        self._holder = queue._open_holder(label)
        self.inheritable_fds = (self._holder.fd,)

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        self._holder = self._queue._kept_holder(self._holder)
        self.inheritable_fds = (self._holder.fd,)
        found = self._queue._dequeue(self._holder, 1, wait_s, lease_s)
        return found[0] if found else None

    def close(self) -> None:
        self._queue._close_holder(self._holder)


class SpoolQueue(Queue):
    """A queue of a spool on this machine. Open it with `spoolq.open_queue`."""

    capabilities = Capabilities(holders=True, paths=True, drops=True, history=True, check=True)

    def __init__(self, session: Session, spool: Path, *, detached: bool = False) -> None:
        self.name = session.name
        self.url = f"{spool}?queue={session.name}" if session.name != queues.DEFAULT else str(spool)
        self._session = session
        self._directory = session.directory
        self._detached = detached
        self._producer = Producer(session)
        self._settler = Settler(session)
        self._claimer = Claimer(session, self, self._settler)
        self._reading = Reading(session)
        self._wakeup = Wakeup(session.directory)
        self._upkeep = Upkeep(session, self._producer.room, self._wakeup)
        self._holder_mutex = threading.Lock()
        self._holder: Holder | None = None
        self._holder_seen_s = 0.0
        self.dead_letters = SpoolDeadLetters(session, self._reading)
        session.on_fork = self._after_fork

    @classmethod
    def open(
        cls,
        path: Path,
        name: str = queues.DEFAULT,
        *,
        create: bool = True,
        clock: Clock | None = None,
        files: Files | None = None,
        detached: bool = False,
    ) -> SpoolQueue:
        """Open a queue, and make the spool where there is none. detached: see `open_queue`."""
        queues.check_queue_name(name)
        if create:
            queues.make_spool(path, files=files)
        root = queues.queue_root(path, name)
        if name != queues.DEFAULT and not os.path.exists(root / "FORMAT"):
            if not os.path.exists(path / "FORMAT"):
                raise NotASpool(
                    f"{path} is not a spool", op="open", path=path, hint=f"Make one with: spoolq init {path}"
                )
            raise queues.queue_not_found(path, name)
        try:
            with translated("open", os.fspath(root)):
                session = Session.open(queues.directory_of(path, name, files), name, clock or Clock())
        except SpoolqError as error:
            if name != queues.DEFAULT and not os.path.exists(root / "FORMAT"):  # RACE: deleted in this very moment.
                raise queues.queue_not_found(path, name) from error
            raise
        return cls(session, path, detached=detached)

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The queue's settings, as `queue.toml` has them now."""
        self._session.refresh_settings()
        return self._session.settings

    # Producing

    def enqueue(
        self,
        body: bytes | bytearray | memoryview | BinaryIO,
        *,
        priority: int = DEFAULT_PRIORITY,
        delay_s: float = 0,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        name: str | None = None,
        dedup_key: str | None = None,
        group: str | None = None,
        ttl_s: float | None = None,
    ) -> str:
        asked = (priority, delay_s, headers, content_type, name, dedup_key, group, ttl_s)
        if asked == _ASKS_NOTHING and type(priority) is int and type(delay_s) is int:
            return self._producer.enqueue(body, PLAIN)
        new = validate.new_message(
            priority=priority,
            delay_s=delay_s,
            headers=headers,
            content_type=content_type,
            name=name,
            dedup_key=dedup_key,
            group=group,
            ttl_s=ttl_s,
        )
        return self._producer.enqueue(body, new)

    def enqueue_file(
        self,
        path: str | os.PathLike[str],
        *,
        move: bool = False,
        priority: int = DEFAULT_PRIORITY,
        delay_s: float = 0,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        name: str | None = None,
        dedup_key: str | None = None,
        group: str | None = None,
        ttl_s: float | None = None,
    ) -> str:
        text = os.fspath(path)
        new = validate.new_message(
            priority=priority,
            delay_s=delay_s,
            headers=headers,
            content_type=content_type,
            name=os.path.basename(text) if name is None else name,
            dedup_key=dedup_key,
            group=group,
            ttl_s=ttl_s,
        )
        return self._producer.enqueue_file(text, new, move=move)

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        return self._producer.enqueue_many(messages)

    # Consuming

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        found = self.dequeue_many(1, wait_s=wait_s, lease_s=lease_s)
        return found[0] if found else None

    def dequeue_many(self, count: int, *, wait_s: float = 0, lease_s: float | None = None) -> list[Message]:
        validate.check_count(count)
        holder = None
        if not self._detached:
            holder = self._holder
            if holder is None or self._session.clock.mono_s() >= self._holder_seen_s:
                holder = self._own_holder()
        return self._dequeue(holder, count, wait_s, lease_s)

    def _own_holder(self) -> Holder:
        """This object's holder, made at the first dequeue, and again where somebody removed its file."""
        with self._holder_mutex:
            if self._holder is None:
                self._holder = self._open_holder("")
            else:
                self._holder = self._kept_holder(self._holder)
            self._holder_seen_s = self._session.clock.mono_s() + HOLDER_LOOK_S
            return self._holder

    def _open_holder(self, label: str) -> Holder:
        self._session.check_open()
        self._session.check_still_there()
        with translated("holder", self._directory.holders):
            holder = Holder.open(self._directory, label, self._session.clock.wall_ms())
        self._session.holders[holder.name] = holder
        return holder

    def _kept_holder(self, holder: Holder) -> Holder:
        """The holder, or a new one where its file was removed: nobody could see that it lives."""
        if holder.fd >= 0 and holder.is_there():
            return holder
        log.warning("holder.lost holder=%s", holder.name)
        self._session.holders.pop(holder.name, None)
        holder.forget()
        return self._open_holder("")

    def _close_holder(self, holder: Holder) -> None:
        """Give back, uncounted, what it still holds; then its file goes."""
        while rows := self._release_some(holder):
            if rows < _SLICE:
                break
        self._session.holders.pop(holder.name, None)
        with translated("close", holder.path):
            holder.close(self._directory)

    def _release_some(self, holder: Holder) -> int:
        with self._session.write() as index, translated("close"):
            rows = index.claims_of(holder.name, _SLICE)
            for row in rows:
                if self._settler.give_back_uncounted(index, row) is None:
                    mending.mend(self._session, index, [row])
        if rows:
            with translated("close"):
                moves.sync_moved(self._session, self._directory.new, self._directory.cur)
                self._directory.files.touch(self._directory.wake)
        return len(rows)

    def _dequeue(self, holder: Owner | None, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        validate.check_wait(wait_s)
        validate.check_lease(lease_s)
        clock = self._session.clock
        self._session.refresh_settings()
        self._upkeep.at_hand()
        found = self._claimer.take(holder, count, lease_s)
        if not found:
            found = self._take_after_scan(holder, count, lease_s)
        if found or wait_s <= 0:
            return found
        return self._wait_and_take(holder, count, clock.mono_s() + wait_s, lease_s)

    def _take_after_scan(self, holder: Owner | None, count: int, lease_s: float | None) -> list[Message]:
        """Before "nothing there" is answered: look for files that no row knows of."""
        if self._upkeep.is_scan_needed() and self._upkeep.scan(SCAN_BUDGET_S):
            return self._claimer.take(holder, count, lease_s)
        return []

    def _wait_and_take(self, holder: Owner | None, count: int, end_s: float, lease_s: float | None) -> list[Message]:
        """Watch first, then look, then wait."""
        clock = self._session.clock
        self._wakeup.watch()
        while True:
            seen = self._wakeup.count
            self._upkeep.while_waiting()
            if self._may_have_something():
                found = self._claimer.take(holder, count, lease_s) or self._take_after_scan(holder, count, lease_s)
                if found:
                    return found
            left_s = end_s - clock.mono_s()
            if left_s <= 0:
                return []
            self._wait(seen, left_s)

    def _has_something(self) -> bool:
        """Whether a dequeue would find something, as far as a look and a scan tell."""
        self._upkeep.while_waiting()
        if not self._may_have_something():
            return False
        self._upkeep.promote()
        return self._reading.peek() is not None or self._upkeep.scan(SCAN_BUDGET_S) > 0

    def _may_have_something(self) -> bool:
        """A look without the write lock: of eight who wait for one message, seven stop here."""
        if os.path.exists(self._directory.paused):
            return False
        with self._session.look() as db:
            if looks.ready(db) is not None:
                return True
            due = looks.next_due(db)
        return (due is not None and due <= self._session.clock.wall_ms()) or self._upkeep.is_scan_needed()

    def is_free(self) -> bool:
        return self._session.is_free()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self._wakeup.add_listener(listener)

    def next_look_s(self, longest_s: float) -> float:
        self._wakeup.watch()
        return self._upkeep.by_time_alone_s(longest_s if self._wakeup.tells else min(longest_s, POLL_S))

    def dequeue_marked(self, mark: str, count: int = 1, *, lease_s: float | None = None) -> list[Message]:
        validate.check_count(count)
        validate.check_lease(lease_s)
        validate.check_mark(mark)
        return self._dequeue(Mark(mark), count, 0, lease_s)

    def _wait(self, seen: int, left_s: float) -> bool:
        """Until a wake-up, or the next thing that comes by time alone."""
        return self._wakeup.wait(seen, self._upkeep.by_time_alone_s(left_s))

    def slot(self, label: str = "") -> Slot:
        return SpoolSlot(self, label)

    def consume(self, *, wait_s: float | None = None, lease_s: float | None = None) -> Iterator[Message]:
        return consume(self, wait_s=wait_s, lease_s=lease_s)

    def open_body(self, receipt: str) -> BinaryIO:
        return self._settler.open_body(receipt)

    # Settling

    def acknowledge(self, receipt: str) -> None:
        self._settler.acknowledge(receipt)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        return self._settler.acknowledge_many(receipts)

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        validate.check_reason(reason)
        return self._settler.requeue(receipt, delay_s, reason, details)

    def release(self, receipt: str) -> None:
        self._settler.release(receipt)

    def extend(self, receipt: str, lease_s: float) -> None:
        self._settler.extend(receipt, lease_s)

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        validate.check_reason(reason)
        self._settler.dead_letter(receipt, reason, details)

    # Looking

    def peek(self) -> MessageInfo | None:
        if os.path.exists(self._directory.paused):
            return None
        self._upkeep.promote()
        return self._reading.peek()

    def get(self, message_id: str) -> MessageInfo:
        return self._reading.get(message_id)

    def read_body(self, message_id: str) -> BinaryIO:
        return self._reading.read_body(message_id)

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return self._reading.page(state, where, limit, cursor)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        return self._reading.search(text, limit)

    def stats(self) -> Stats:
        return self._reading.stats()

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        return self._reading.ages(bounds_s, state)

    def drops(self, *, limit: int = 100) -> Sequence[DropInfo]:
        validate.check_limit(limit)
        with translated("drops", self._directory.new):
            return self._upkeep.drops.look(limit)

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        return self._reading.minutes(since_at_ms)

    def holders(self) -> Sequence[HolderInfo]:
        return self._reading.holders()

    def health(self) -> Health:
        with translated("health", self._directory.base):
            return self._producer.room.health()

    # Changing

    def run_now(self, message_id: str) -> None:
        self._change_waiting(message_id, lambda index, row: self._renamed(index, row, row.priority, None))

    def set_priority(self, message_id: str, priority: int) -> None:
        validate.check_priority(priority)
        self._change_waiting(message_id, lambda index, row: self._renamed(index, row, priority, row.due_at_ms))

    def _renamed(self, index: Index, row: Row, priority: int, due_at_ms: int | None) -> Row | None:
        return moves.back_to_new(self._session, index, row, priority=priority, due_at_ms=due_at_ms)

    def _change_waiting(self, id: str, change: Callable[[Index, Row], Row | None]) -> None:
        self._change(id, ("ready", "scheduled"), "waiting", change, self._directory.new)
        with translated("wake", self._directory.wake):
            self._directory.files.touch(self._directory.wake)

    def _change(
        self, id: str, states: Sequence[str], said: str, change: Callable[[Index, Row], Row | None], *touched: str
    ) -> None:
        """Change one message that is in one of these states; a file that was moved by hand is looked for once.

        touched: the directories that this changes, destination first; where none is given, the one where it was.
        """
        validate.check_message_id(id)
        for _ in range(2):
            changed = None
            with self._session.write() as index, translated("change"):
                row = index.row(id)
                if row is not None and row.state in states:
                    changed = change(index, row)
                    if changed is None:
                        mending.mend(self._session, index, [row])
                elif row is None:
                    self._session.scan_due = True
            if changed is not None:
                with translated("change"):
                    moves.sync_moved(self._session, *(touched or (self._directory.of_state(changed.state),)))
                return
            self._upkeep.scan(SCAN_BUDGET_S)
        raise not_found(id, said)

    def replay(self, message_id: str) -> None:
        def send_again(index: Index, row: Row) -> Row | None:
            now = self._session.clock.wall_ms()
            entry = Attempt(attempt=row.attempts, outcome="replayed", ended_at_ms=now, host=moves.host())
            return moves.back_to_new(self._session, index, row, attempts=0, entry=entry)

        self._change(message_id, ("done",), "done", send_again, self._directory.new, self._directory.done)
        with translated("wake", self._directory.wake):
            self._directory.files.touch(self._directory.wake)

    def delete(self, message_id: str) -> None:
        removed: list[Row] = []

        def remove(index: Index, row: Row) -> Row:
            moves.remove(self._session, index, row)
            removed.append(row)
            return row

        self._change(message_id, ("ready", "scheduled", "done", "dead"), "there and free", remove)
        with translated("delete", self._directory.meta):
            ids = [message_id] if os.path.lexists(self._directory.meta_path(message_id)) else []
            moves.remove_meta(self._session, ids, removed[-1].state)

    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        def end(index: Index, row: Row) -> Row:
            self._upkeep.recovery.end_claim(index, row, reason, "given_back")
            return row

        validate.check_reason(reason)
        touched = (self._directory.new, self._directory.dead, self._directory.cur)
        self._change(message_id, ("claimed",), "claimed", end, *touched)
        with translated("wake", self._directory.wake):
            self._directory.files.touch(self._directory.wake)

    def pause(self) -> None:
        self._session.check_still_there()
        with translated("pause", self._directory.paused):
            os.close(self._directory.files.open_lock(self._directory.paused))

    def resume(self) -> None:
        self._session.check_still_there()
        with translated("resume", self._directory.paused):
            self._directory.files.unlink_if_there(self._directory.paused)
            self._directory.files.touch(self._directory.wake)

    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        validate.check_purge_states(states)
        if "ready" in states:
            self._upkeep.scan_wholly()
        with self._session.look() as db:
            counts = looks.counts(db)._asdict()
        in_all = sum(counts[state] for state in states)
        purged = 0
        for state in states:
            while rows := self._purge_some(state):
                purged += rows
                if progress is not None:
                    progress(purged, max(purged, in_all))
        return purged

    def _purge_some(self, state: State) -> int:
        removed: dict[str, Row] = {}
        for last_try in (False, True):
            try:
                with self._session.write() as index, translated("purge"):
                    for row in index.some_of(state, _SLICE):
                        removed[row.id] = row
                        moves.remove(self._session, index, row)
                break
            except IndexDamaged:
                # What was removed stands, and counts.
                if last_try:
                    raise
        with translated("purge", self._directory.meta):
            if removed:
                moves.sync_moved(self._session, self._directory.of_state(state))
            moves.remove_meta(self._session, [id for id, row in removed.items() if row.has_meta], state)
        return len(removed)

    def stored_settings(self) -> Settings:
        return settings_module.load(Path(self._directory.settings), {})

    def change_settings(self, settings: Settings) -> None:
        settings_module.parse(dataclasses.asdict(settings))
        self._session.change_settings(settings)

    # Keeping

    def maintain(self, *, budget_s: float = SCAN_BUDGET_S) -> bool:
        self._session.refresh_settings()
        return self._upkeep.run(budget_s)

    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        if not dry_run:
            return self._upkeep.clean(progress)
        due = self._upkeep.cleanup.due()
        counts = {state: count for state, (count, _) in due.items()}
        return counts | {f"{state}_bytes": size for state, (_, size) in due.items()}

    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        upkeep = self._upkeep
        upkeep.scan_wholly()
        if fix:
            upkeep.recovery.adopt_claims()
            upkeep.reap()
        return Check(self._session, upkeep.drops, upkeep.recovery, fix=fix, progress=progress).run()

    def rebuild(self, *, progress: Progress | None = None) -> int:
        return self._session.rebuild(progress)

    def wait(self, timeout_s: float) -> bool:
        validate.check_wait(timeout_s)
        end_s = self._session.clock.mono_s() + timeout_s
        self._wakeup.watch()
        while True:
            seen = self._wakeup.count
            if self._has_something():
                return True
            left_s = end_s - self._session.clock.mono_s()
            if left_s <= 0 or (self._wait(seen, left_s) and self._wakeup.count != seen):
                return left_s > 0

    def close(self) -> None:
        if self._session.is_closed:
            return
        try:
            for holder in list(self._session.holders.values()):
                self._close_holder(holder)
        except (QueueNotFound, SpoolqError) as error:
            # What is not given back now is reaped, counted, once the locks are gone.
            log.warning("close.not_given_back error=%s", error.message)
        finally:
            self._holder = None
            self._producer.close()
            self._wakeup.close()
            self._session.close()

    def _after_fork(self) -> None:
        """In a forked child: no claims, no watches, no half-held locks of this process's threads."""
        self._upkeep.forget()
        self._producer.forget()
        self._holder_mutex = threading.Lock()
        self._holder = None
        self._wakeup.forget()


# A slot claims by `_dequeue` too; those that end in it need no second net.
for _operation in Queue.__abstractmethods__ - {"close", "consume", "dequeue", "dequeue_many"} | {"_dequeue"}:
    setattr(SpoolQueue, _operation, answerable(getattr(SpoolQueue, _operation)))

_ASKS_NOTHING: tuple[object, ...] = (DEFAULT_PRIORITY, 0, None, None, None, None, None, None)
