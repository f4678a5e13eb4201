"""The contract on PostgreSQL: `interfaces.Queue`, each method a call of functions.sql.

Arguments are judged here, by the rules of every engine. The database's clock alone decides what is due and which lease
has ended. Claims live by time: a database cannot see which process lives, so workers extend.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO

from spoolq import validate
from spoolq.clock import Clock
from spoolq.consume import consume
from spoolq.errors import LeaseLost, MessageNotFound, QueueClosed, QueueNotFound, SpoolqError, StorageError
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
from spoolq.postgres.arrays import Texts, Uuids
from spoolq.postgres.connection import Call, Database, Row, Rows
from spoolq.postgres.consuming import Consumer, PostgresSlot, pace_s
from spoolq.postgres.dead_letters import PostgresDeadLetters
from spoolq.postgres.listening import AWAIT_MS, Listener
from spoolq.postgres.producing import AnyBody, Asked, Ready
from spoolq.reasons import summary
from spoolq.settings import Settings
from spoolq.sources import open_regular, remove_sent

if TYPE_CHECKING:
    import psycopg

_SETTINGS_LOOK_S = 0.3
_KEEP_EVERY_S = 1.0
_KEEP_AT_ONCE = 200
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
        self.listener = Listener(database, f"spoolq_{queue_id}")
        self._know(settings)
        self._detached = detached
        self._closed = False
        self._keep_next_s = self.clock.mono_s() + _KEEP_EVERY_S
        self._own = Consumer(self, "", keeps=not detached)
        self._consumers = [self._own]

    def __repr__(self) -> str:
        return f"<PostgresQueue {self.url}>"

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The queue's settings, as they are now. SPOOLQ_ variables set nothing here: all hosts have the same."""
        return self._know(values.settings(self._one("settings", statements.SETTINGS, self.id, repeats=True)))

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
        asked = Asked(priority, delay_s, headers or {}, content_type, name, dedup_key, group, ttl_s)
        asked.check(headers)
        return self._enqueue(body, asked, "enqueue", connection)

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
        own_name = os.path.basename(where) if name is None else name
        asked = Asked(priority, delay_s, headers or {}, content_type, own_name, dedup_key, group, ttl_s)
        asked.check(headers)
        with closing(open_regular(where)) as file:
            message_id = self._enqueue(file, asked, "enqueue_file", None)
            if move:
                remove_sent(where, file)
        return message_id

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Enqueue many, some hundred a transaction; ids in order."""
        self._check_open()
        ids: list[str] = []
        for batch in producing.batches(messages):
            new = self.clock.new_ids(len(batch.bodies))
            placed = bodies.put_all(self.database.ask, new, batch.bodies, self._most_bytes())
            ids += self._put(Ready(new, placed, batch.asked), "enqueue_many")
        return ids

    def _enqueue(self, body: AnyBody, asked: Asked, op: str, connection: psycopg.Connection[Any] | None) -> str:
        self._check_open()
        message_id = self.clock.new_id()
        ask = self.database.ask if connection is None else self._asking_on(connection)
        placed = bodies.put(ask, message_id, body, self._most_bytes())
        ready = Ready([message_id], bodies.together([placed]), [asked])
        if connection is None:
            return self._put(ready, op)[0]
        known, is_awaited = ask(producing.call(self.id, ready, op))[0]
        if is_awaited:  # told when the caller commits
            ask(Call(op=op, sql=statements.NOTIFY, parameters=(self._channel,)))
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
            self._wake()
        self.keep_in_order()
        return list(known) if known else ready.ids

    # Consuming

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message; None when there is nothing within `wait_s`."""
        return next(iter(self._own.claim(1, wait_s, lease_s)), None)

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
        return PostgresSlot(self, consumer)

    def end_consumer(self, consumer: Consumer) -> None:
        """A slot is closed."""
        consumer.close()
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def consume(self, *, wait_s: float | None = None, lease_s: float | None = None) -> Iterator[Message]:
        """Messages one after another, each acknowledged at the end of the loop's body."""
        return consume(self, wait_s=wait_s, lease_s=lease_s)

    def open_body(self, receipt: str) -> BinaryIO:
        """The body of a claimed message; a large one is read chunk by chunk."""
        message_id, nonce = validate.parse_receipt(receipt)
        rows = self._ask("open_body", statements.CLAIMED_BODY, self.id, message_id, nonce, repeats=True)
        if not rows:
            raise _lease_lost(receipt)
        return bodies.opened(self.database.ask, message_id, rows[0])

    # Settling

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done`. Repeated after a lost answer, since the database answers it with success again."""
        if self.acknowledge_many([receipt]):
            raise _lease_lost(receipt)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Acknowledge many; returns the receipts whose claim had ended."""
        given = list(receipts)
        pairs = [validate.parse_receipt(receipt) for receipt in given]
        lost: list[str] = []
        for at in range(0, len(pairs), _AT_ONCE):
            some = pairs[at : at + _AT_ONCE]
            ids, nonces = zip(*some, strict=True)
            if len(set(nonces)) == 1:  # claimed at once
                nonces = nonces[:1]
            places = self._one("acknowledge", statements.ACKNOWLEDGE, self.id, Uuids(ids), Texts(nonces), repeats=True)
            lost += [given[at + place - 1] for place in places]
        self._ended(given)
        return lost

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        """Failed: back, the attempt counted; dead after `max_attempts`."""
        validate.check_delay(delay_s)
        validate.check_reason(reason)
        message_id, nonce = validate.parse_receipt(receipt)
        state = self._fail(message_id, nonce, delay_s, "requeued", reason, details)
        self._ended([receipt])
        if state is None:
            raise _lease_lost(receipt)
        return state

    def release(self, receipt: str) -> None:
        """Give back untouched, the attempt not counted."""
        self._settle(receipt, "release", statements.RELEASE)
        self._wake()

    def extend(self, receipt: str, lease_s: float) -> None:
        """The claim now ends `lease_s` from now."""
        validate.check_extension(lease_s)
        message_id, nonce = validate.parse_receipt(receipt)
        if not self._one("extend", statements.EXTEND, self.id, message_id, nonce, values.ms(lease_s), repeats=True):
            raise _lease_lost(receipt)

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it."""
        validate.check_reason(reason)
        short = statements.storable(summary(reason))
        self._settle(receipt, "dead_letter", statements.BURY, short, values.line(reason, details))

    def _fail(
        self,
        message_id: str,
        nonce: str | None,
        delay_s: float | None,
        outcome: str,
        reason: str,
        details: Attempt | None,
    ) -> State | None:
        last = reason or (details.reason if details else "") or "failed"
        state: State | None = self._one(
            "requeue",
            statements.FAIL,
            self.id,
            message_id,
            nonce,
            None if delay_s is None else values.ms(delay_s),
            outcome,
            statements.storable(summary(reason)),
            values.line(reason, details),
            statements.storable(summary(last)),
            values.line(last, details),
        )
        if state == "ready":
            self._wake()
        return state

    def _settle(self, receipt: str, op: str, sql: str, *more: Any) -> None:
        """End a delivery; what its claim was held by forgets it, whoever ended it."""
        message_id, nonce = validate.parse_receipt(receipt)
        done = self._one(op, sql, self.id, message_id, nonce, *more)
        self._ended([receipt])
        if not done:
            raise _lease_lost(receipt)

    def _ended(self, receipts: Sequence[str]) -> None:
        for consumer in tuple(self._consumers):
            consumer.settled(receipts)

    # Looking

    def peek(self) -> MessageInfo | None:
        """The message that the next dequeue would claim."""
        rows = self._ask("peek", statements.PEEK, self.id, self.id, self.id, repeats=True)
        return values.info(self.name, rows[0]) if rows else None

    def get(self, message_id: str) -> MessageInfo:
        """All that is known of a message."""
        rows = self._ask("get", statements.GET, self.id, validate.check_message_id(message_id), repeats=True)
        if not rows:
            raise self._not_found(message_id)
        return values.info(self.name, rows[0])

    def read_body(self, message_id: str) -> BinaryIO:
        """The body of a message in any state; a large one is read chunk by chunk."""
        rows = self._ask("read_body", statements.BODY, self.id, validate.check_message_id(message_id), repeats=True)
        if not rows:
            raise self._not_found(message_id)
        return bodies.opened(self.database.ask, message_id, rows[0])

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of the messages in a state."""
        validate.check_state(state)
        validate.check_limit(limit)
        sql, parameters = statements.page(self.id, state, where, limit + 1, _after(cursor))
        found = [values.info(self.name, row) for row in self._ask("list", sql, *parameters, repeats=True)]
        shown = found[:limit]
        more = len(found) > limit
        return Page(messages=tuple(shown), cursor="{}:{}".format(*values.order_of(shown[-1])) if more else None)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        """Messages in any state whose id begins with, or whose name or reason contains `text`."""
        validate.check_limit(limit)
        part = statements.storable(text)
        rows = self._ask("search", statements.SEARCH, self.id, part.lower(), part, part, limit, repeats=True)
        return [values.info(self.name, row) for row in rows]

    def stats(self) -> Stats:
        """Counts, bytes and totals."""
        return values.stats(self.name, self._row("stats", statements.STATS, self.id))

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        """Counted in the database, one by one."""
        validate.check_bounds(bounds_s)
        validate.check_state(state)
        bounds_ms = [int(bound * 1000) for bound in bounds_s]
        rows = self._ask("ages", statements.AGES, bounds_ms, self.id, state, repeats=True)
        found: dict[int, int] = dict(rows)
        return [found.get(at, 0) for at in range(len(bounds_s) + 1)]

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        """The history, minute by minute; eight days of it."""
        rows = self._ask("minutes", statements.HISTORY, self.id, max(0, since_at_ms) // 60_000, repeats=True)
        return [values.minute(row) for row in rows]

    def holders(self) -> Sequence[HolderInfo]:
        """Who holds claims. Alive: the latest of its leases has not ended; whether the process lives nobody can see."""
        return [values.holder(row) for row in self._ask("holders", statements.HOLDERS, self.id, repeats=True)]

    # Changing

    def run_now(self, message_id: str) -> None:
        """Make a scheduled message ready."""
        self._change("run_now", statements.RUN_NOW, message_id)
        self._wake()

    def set_priority(self, message_id: str, priority: int) -> None:
        """Change the priority of a waiting message."""
        validate.check_message_id(message_id)
        validate.check_priority(priority)
        self._change("set_priority", statements.SET_PRIORITY, message_id, priority)

    def replay(self, message_id: str) -> None:
        """Deliver a done message again."""
        if not self.start_again("replay", [validate.check_message_id(message_id)], "done", "replayed"):
            raise self._not_found(message_id)

    def delete(self, message_id: str) -> None:
        """Delete a message that nobody holds."""
        states = ("ready", "scheduled", "done", "dead")
        if not self.remove("delete", [validate.check_message_id(message_id)], states):
            raise self._not_found(message_id)

    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        """End somebody's claim, counted."""
        validate.check_message_id(message_id)
        validate.check_reason(reason)
        if self._fail(message_id, None, 0, "given_back", reason, None) is None:
            raise self._not_found(message_id)

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        self._row("pause", statements.PAUSE, True, self.id)

    def resume(self) -> None:
        """Deliver again."""
        self._row("resume", statements.PAUSE, False, self.id)
        self._wake()

    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        """Delete every message in these states for good, a thousand a transaction."""
        validate.check_purge_states(states)
        wanted = tuple(dict.fromkeys(states))
        counts = self.stats().as_dict()
        total = sum(counts[state] for state in wanted)
        done = 0
        for state in wanted:
            while count := self._one("purge", statements.PURGE, self.id, state, _AT_ONCE):
                done += count
                if progress is not None:
                    progress(done, max(done, total))
        return done

    def change_settings(self, settings: Settings) -> None:
        """Make these the queue's settings. Those of a disk (durability, reserve, drops) mean nothing here."""
        self._row("change_settings", statements.CHANGE_SETTINGS, *values.setting_columns(settings), self.id)
        self._know(settings)

    def start_again(self, op: str, ids: Sequence[str], state: State, outcome: str) -> int:
        """Dead or done messages as if new, up to the first that is not; how many."""
        count: int = self._one(op, statements.START_AGAIN, self.id, [*ids], state, outcome)
        if count:
            self._wake()
        return count

    def remove(self, op: str, ids: Sequence[str], states: Sequence[str]) -> int:
        """Delete, up to the first that is in none of these states; how many."""
        count: int = self._one(op, statements.REMOVE, self.id, [*ids], [*states])
        return count

    def _change(self, op: str, sql: str, message_id: str, *more: Any) -> None:
        if not self._one(op, sql, self.id, validate.check_message_id(message_id), *more, repeats=True):
            raise self._not_found(message_id)

    # Keeping

    def maintain(self, *, budget_s: float = 0.02) -> bool:
        """Do what is due: leases, schedules, expiry, retention, counts. True when more is left."""
        ends_s = self.clock.mono_s() + budget_s
        while self._one("maintain", statements.MAINTAIN, self.id, _KEEP_AT_ONCE, repeats=True):
            if self.clock.mono_s() >= ends_s:
                return True
        return False

    def keep_in_order(self) -> None:
        """A little of `maintain`, once a second, by whoever enqueues or dequeues; as much as they can make due."""
        now_s = self.clock.mono_s()
        if now_s < self._keep_next_s:
            return
        self._keep_next_s = now_s + _KEEP_EVERY_S
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
        row = self._row("clean", statements.CLEAN, self.id, _AT_ONCE, dry_run)
        return dict(zip(("done", "done_bytes", "dead", "dead_bytes"), row, strict=True))

    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        """Compare counts with messages, heads with groups, parts with bodies, all of one instant."""
        rows = self._ask("check", statements.WRONG, self.id, repeats=True)
        mendable = [row for row in rows if row[0] != "body"]
        if fix and mendable:
            self.rebuild()
        return [_problem(row, fixed=fix and row[0] != "body") for row in rows]

    def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make counts and heads of groups anew from the messages; holds everybody off meanwhile."""
        count: int = self._one("rebuild", statements.REBUILD, self.id)
        if progress is not None and count:
            progress(count, count)
        return count

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
        return pace_s(self._row("dequeue", statements.AWAIT, self.id, self.id, for_ms)[0])

    @property
    def _channel(self) -> str:
        return f"spoolq_{self.id}"

    def _wake(self) -> None:
        """Tell those who wait, in a transaction of its own.

        PostgreSQL lets transactions that notify commit one after another: one that writes nothing costs the others no
        time. What a crash before it leaves untold is seen by their poll.
        """
        self._ask("notify", statements.NOTIFY, self._channel, repeats=True)

    def close(self) -> None:
        """Give back, uncounted, what this object still holds, and end its connections. Again: nothing."""
        if self._closed:
            return
        self._closed = self.database.is_closing = True
        try:
            for consumer in tuple(self._consumers):
                self.end_consumer(consumer)
        finally:
            self.listener.close()
            self.database.close()

    # Calls

    def _ask(self, op: str, sql: str, *parameters: Any, repeats: bool = False) -> Rows:
        return self.database.ask(Call(op=op, sql=sql, parameters=parameters, repeats=repeats))

    def _row(self, op: str, sql: str, *parameters: Any) -> Row:
        """The one row of a call that may be repeated; without one the queue is not there any more."""
        rows = self._ask(op, sql, *parameters, repeats=True)
        if not rows:
            raise QueueNotFound(f"the queue {self.name!r} was deleted", op=op, path=self.database.address.shown)
        return rows[0]

    def _one(self, op: str, sql: str, *parameters: Any, repeats: bool = False) -> Any:
        """What a function answers."""
        rows = self._ask(op, sql, *parameters, repeats=repeats)
        if not rows:
            raise QueueNotFound(f"the queue {self.name!r} was deleted", op=op, path=self.database.address.shown)
        return rows[0][0]

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed(f"the queue {self.name!r} is closed")

    def _not_found(self, message_id: str) -> MessageNotFound:
        return MessageNotFound(
            f"no such message {message_id} in the queue {self.name!r}, or it is in another state", message_id=message_id
        )


def _after(cursor: str | None) -> tuple[int, str] | None:
    """The place that a cursor names."""
    if cursor is None:
        return None
    key, _, message_id = cursor.partition(":")
    try:
        return int(key), validate.check_message_id(message_id)
    except ValueError:
        raise ValueError(f"cursor must be one that a page returned, not {cursor!r}") from None


def _problem(row: Row, *, fixed: bool) -> Problem:
    kind, what, message_id = row
    fix = "nothing: delete the message" if kind == "body" else "count anew, and find the heads of groups anew"
    return Problem(kind=kind, what=what, fix=fix, message_id=message_id, fixed=fixed)


def _lease_lost(receipt: str) -> LeaseLost:
    return LeaseLost(
        f"the claim of {receipt} has ended; nothing was changed",
        message_id=receipt.partition(".")[0],
        hint="Somebody else may hold the message now",
    )
