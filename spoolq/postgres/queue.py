"""The contract on PostgreSQL: `interfaces.Queue`, each method a call of functions.sql. It puts the parts together.

Producing is `producing`, claiming `consuming`, ending a delivery `settling`, looking `reading`, keeping in order
`upkeep`. Arguments are judged by the rules of every engine. The database's clock alone decides what is due and which
lease has ended. Claims live by time: a database cannot see which process lives, so workers extend.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from spoolq import validate
from spoolq.clock import Clock
from spoolq.consume import consume
from spoolq.errors import QueueClosed, SpoolqError, StorageError
from spoolq.interfaces import Capabilities, Progress, Queue, Slot
from spoolq.message import Message
from spoolq.models import (
    DEFAULT_PRIORITY,
    Attempt,
    Filter,
    HolderInfo,
    MessageInfo,
    Minute,
    NewMessage,
    Page,
    Problem,
    State,
    Stats,
)
from spoolq.postgres import bodies, producing, statements, values
from spoolq.postgres.calls import Calls, lease_lost
from spoolq.postgres.connection import Call, Database
from spoolq.postgres.consuming import Consumer, pace_s
from spoolq.postgres.dead_letters import PostgresDeadLetters
from spoolq.postgres.listening import AWAIT_MS, Listener
from spoolq.postgres.producing import AnyBody, Ready
from spoolq.postgres.reading import Reading
from spoolq.postgres.settling import Settler
from spoolq.postgres.upkeep import Upkeep
from spoolq.settings import Settings
from spoolq.sources import sending

if TYPE_CHECKING:
    import psycopg

_SETTINGS_LOOK_S = 0.3
_AT_ONCE = 1000


class PostgresQueue(Queue):
    """A queue in PostgreSQL. Open it with `spoolq.open_queue`.

    detached: claims outlive this object; closing it gives nothing back. clock: this host's, for ids and for waiting.
    """

    capabilities = Capabilities(history=True, check=True, several_hosts=True)

    def __init__(
        self,
        database: Database,
        queue_id: int,
        settings: Settings,
        *,
        detached: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.database = database
        self.id = queue_id
        self.name = database.address.queue
        self.url = database.address.url
        self.clock = clock or Clock()
        self.dead_letters = PostgresDeadLetters(self)
        self._calls = Calls(database, queue_id, self.name)
        self.listener = Listener(database, self._calls.channel)
        self._reading = Reading(self._calls)
        self._settler = Settler(self._calls, self._ended)
        self._upkeep = Upkeep(self._calls, self.clock)
        self._know(settings)
        self._detached = detached
        self._closed = False
        self._own = Consumer(self, "", keeps=not detached)
        self._consumers = [self._own]

    def __repr__(self) -> str:
        return f"<PostgresQueue {self.url}>"

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The queue's settings, as they are now. SPOOLQ_ variables set nothing here: all hosts have the same."""
        return self._know(values.settings(self._calls.one("settings", statements.SETTINGS, self.id, repeats=True)))

    def _know(self, settings: Settings) -> Settings:
        self._known = (settings.limits.body_bytes, self.clock.mono_s() + _SETTINGS_LOOK_S)
        return settings

    def _most_bytes(self) -> int:
        """limits.body_bytes, at most half a second old; the other limits are judged in the database."""
        most, until_s = self._known
        return most if self.clock.mono_s() < until_s else self.settings.limits.body_bytes

    # Producing

    def enqueue(
        self,
        body: AnyBody,
        *,
        priority: int = DEFAULT_PRIORITY,
        delay_s: float = 0,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        name: str | None = None,
        dedup_key: str | None = None,
        group: str | None = None,
        ttl_s: float | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> str:
        """Put a message in the queue; a file is streamed.

        connection: a psycopg connection to the same database, in whose transaction it is enqueued: the message is
        there once that is committed, and never was where it is rolled back.
        """
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
        return self._enqueue(body, new, "enqueue", connection)

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
        """Enqueue a file's content; with `move` the file goes, once the message is there."""
        where = os.fspath(path)
        new = validate.new_message(
            priority=priority,
            delay_s=delay_s,
            headers=headers,
            content_type=content_type,
            name=os.path.basename(where) if name is None else name,
            dedup_key=dedup_key,
            group=group,
            ttl_s=ttl_s,
        )
        with sending(where, move=move) as file:
            return self._enqueue(file, new, "enqueue_file", None)

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Enqueue many, some hundred a transaction; ids in order."""
        self._check_open()
        ids: list[str] = []
        for batch in producing.batches(messages):
            theirs = self.clock.new_ids(len(batch.bodies))
            placed = bodies.put_all(self.database.ask, theirs, batch.bodies, self._most_bytes())
            ids += self._put(Ready(theirs, placed, batch.asked), "enqueue_many")
        return ids

    def _enqueue(self, body: AnyBody, new: NewMessage, op: str, connection: psycopg.Connection[Any] | None) -> str:
        self._check_open()
        message_id = self.clock.new_id()
        ask = self.database.ask if connection is None else self._asking_on(connection)
        placed = bodies.put(ask, message_id, body, self._most_bytes())
        ready = Ready([message_id], bodies.together([placed]), [new])
        if connection is None:
            return self._put(ready, op)[0]
        known, is_awaited = ask(producing.call(self.id, ready, op))[0]
        if is_awaited:  # told when the caller commits
            ask(Call(op=op, sql=statements.NOTIFY, parameters=(self._calls.channel,)))
        return known[0] if known else message_id

    def _asking_on(self, connection: psycopg.Connection[Any]) -> bodies.Ask:
        return lambda call: self.database.ask_on(connection, call)

    def _put(self, ready: Ready, op: str) -> list[str]:
        try:
            known, is_awaited = self.database.ask(producing.call(self.id, ready, op))[0]
        except SpoolqError as error:
            for message_id, chunks in zip(ready.ids, ready.bodies.chunks or (), strict=False):
                if chunks and not isinstance(error, StorageError):  # refused, so nobody will want them
                    bodies.drop(self.database.ask, message_id)
            raise
        if is_awaited:
            self._calls.wake()
        self.keep_in_order()
        return list(known) if known else ready.ids

    # Consuming

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message; None when there is nothing within `wait_s`."""
        return self._own.dequeue(wait_s=wait_s, lease_s=lease_s)

    def dequeue_many(self, count: int, *, wait_s: float = 0, lease_s: float | None = None) -> list[Message]:
        """Claim up to `count` messages; waits for the first only."""
        validate.check_count(count)
        return self._own.claim(count, wait_s, lease_s)

    def dequeue_marked(self, mark: str, count: int = 1, *, lease_s: float | None = None) -> Sequence[Message]:
        """Claim under a mark; while one of its claims lasts, these are answered again instead."""
        validate.check_mark(mark)
        validate.check_count(count)
        validate.check_lease(lease_s)
        return self._own.claim_now(count, lease_s, mark)

    def slot(self, label: str = "") -> Slot:
        """A further consumer with claims of its own."""
        consumer = Consumer(self, label, keeps=not self._detached)
        self._consumers.append(consumer)
        return consumer

    def consumer_ended(self, consumer: Consumer) -> None:
        """A slot is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def consume(self, *, wait_s: float | None = None, lease_s: float | None = None) -> Iterator[Message]:
        """Messages one after another, each acknowledged at the end of the loop's body."""
        return consume(self, wait_s=wait_s, lease_s=lease_s)

    def open_body(self, receipt: str) -> BinaryIO:
        """The body of a claimed message; a large one is read chunk by chunk."""
        message_id, nonce = validate.parse_receipt(receipt)
        rows = self._calls.ask("open_body", statements.CLAIMED_BODY, self.id, message_id, nonce, repeats=True)
        if not rows:
            raise lease_lost(receipt)
        return bodies.opened(self.database.ask, message_id, rows[0])

    # Settling

    def acknowledge(self, receipt: str) -> None:
        self._settler.acknowledge(receipt)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        return self._settler.acknowledge_many(receipts)

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        return self._settler.requeue(receipt, delay_s=delay_s, reason=reason, details=details)

    def release(self, receipt: str) -> None:
        self._settler.release(receipt)

    def extend(self, receipt: str, lease_s: float) -> None:
        self._settler.extend(receipt, lease_s)

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        self._settler.move_to_dead_letter_queue(receipt, reason, details=details)

    def _ended(self, receipts: Sequence[str]) -> None:
        for consumer in tuple(self._consumers):
            consumer.settled(receipts)

    # Looking

    def peek(self) -> MessageInfo | None:
        return self._reading.peek()

    def get(self, message_id: str) -> MessageInfo:
        return self._reading.get(message_id)

    def read_body(self, message_id: str) -> BinaryIO:
        return self._reading.read_body(message_id)

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return self._reading.list(state, where=where, limit=limit, cursor=cursor)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        return self._reading.search(text, limit=limit)

    def stats(self) -> Stats:
        return self._reading.stats()

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        return self._reading.ages(bounds_s, state)

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        return self._reading.minutes(since_at_ms)

    def holders(self) -> Sequence[HolderInfo]:
        return self._reading.holders()

    # Changing

    def run_now(self, message_id: str) -> None:
        """Make a scheduled message ready."""
        self._change("run_now", statements.RUN_NOW, message_id)
        self._calls.wake()

    def set_priority(self, message_id: str, priority: int) -> None:
        """Change the priority of a waiting message."""
        validate.check_message_id(message_id)
        validate.check_priority(priority)
        self._change("set_priority", statements.SET_PRIORITY, message_id, priority)

    def replay(self, message_id: str) -> None:
        """Deliver a done message again."""
        if not self.start_again("replay", [validate.check_message_id(message_id)], "done", "replayed"):
            raise self._calls.not_found(message_id)

    def delete(self, message_id: str) -> None:
        """Delete a message that nobody holds."""
        states = ("ready", "scheduled", "done", "dead")
        if not self.remove("delete", [validate.check_message_id(message_id)], states):
            raise self._calls.not_found(message_id)

    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        """End somebody's claim, counted."""
        validate.check_message_id(message_id)
        validate.check_reason(reason)
        if self._settler.fail(message_id, None, 0, "given_back", reason, None) is None:
            raise self._calls.not_found(message_id)

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        self._calls.row("pause", statements.PAUSE, True, self.id)

    def resume(self) -> None:
        """Deliver again."""
        self._calls.row("resume", statements.PAUSE, False, self.id)
        self._calls.wake()

    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        """Delete every message in these states for good, a thousand a transaction."""
        validate.check_purge_states(states)
        wanted = tuple(dict.fromkeys(states))
        counts = self.stats().as_dict()
        total = sum(counts[state] for state in wanted)
        done = 0
        for state in wanted:
            while count := self._calls.one("purge", statements.PURGE, self.id, state, _AT_ONCE):
                done += count
                if progress is not None:
                    progress(done, max(done, total))
        return done

    def change_settings(self, settings: Settings) -> None:
        """Make these the queue's settings. Those of a disk (durability, reserve, drops) mean nothing here."""
        self._calls.row("change_settings", statements.CHANGE_SETTINGS, *values.setting_columns(settings), self.id)
        self._know(settings)

    def start_again(self, op: str, ids: Sequence[str], state: State, outcome: str) -> int:
        """Dead or done messages as if new, up to the first that is not; how many."""
        count: int = self._calls.one(op, statements.START_AGAIN, self.id, [*ids], state, outcome)
        if count:
            self._calls.wake()
        return count

    def remove(self, op: str, ids: Sequence[str], states: Sequence[str]) -> int:
        """Delete, up to the first that is in none of these states; how many."""
        count: int = self._calls.one(op, statements.REMOVE, self.id, [*ids], [*states])
        return count

    def _change(self, op: str, sql: str, message_id: str, *more: Any) -> None:
        if not self._calls.one(op, sql, self.id, validate.check_message_id(message_id), *more, repeats=True):
            raise self._calls.not_found(message_id)

    # Keeping

    def maintain(self, *, budget_s: float = 0.02) -> bool:
        return self._upkeep.maintain(budget_s=budget_s)

    def keep_in_order(self) -> None:
        """What whoever enqueues or dequeues does of that."""
        self._upkeep.keep_in_order()

    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        return self._upkeep.clean(dry_run=dry_run, progress=progress)

    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        return self._upkeep.check(fix=fix)

    def rebuild(self, *, progress: Progress | None = None) -> int:
        return self._upkeep.rebuild(progress=progress)

    # Waiting

    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to claim."""
        validate.check_wait(timeout_s)
        ends_s = self.clock.mono_s() + timeout_s
        awake = threading.Event()
        stop = self.listener.add(awake.set)
        try:
            while True:
                awake.clear()
                pace = self.awaited(AWAIT_MS)
                if self.peek() is not None:
                    return True
                left_s = ends_s - self.clock.mono_s()
                if left_s <= 0:
                    return False
                awake.wait(min(left_s, pace))
        finally:
            stop()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever there may be something to claim; returns what ends that."""
        stop = self.listener.add(listener)
        self.awaited(AWAIT_MS)
        return stop

    def next_look_s(self, longest_s: float) -> float:
        """How soon to look again; whoever asks waits, so enqueueing notifies."""
        return min(longest_s, self.awaited(AWAIT_MS))

    def awaited(self, for_ms: int) -> float:
        """Say that somebody waits, so that enqueueing notifies; how soon to look again all the same."""
        return pace_s(self._calls.row("dequeue", statements.AWAIT, self.id, self.id, for_ms)[0])

    def close(self) -> None:
        """Give back, uncounted, what this object still holds, and end its connections. Again: nothing."""
        if self._closed:
            return
        self._closed = self.database.is_closing = True
        try:
            for consumer in tuple(self._consumers):
                consumer.close()
        finally:
            self.listener.close()
            self.database.close()

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed(f"the queue {self.name!r} is closed")
