"""The contract in memory: judges arguments and locks. What happens to a message then is in `store.py`.

Nothing outlives the process. Several queue objects on one `MemoryStore` are several consumers.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from spoolq import validate
from spoolq.clock import Clock
from spoolq.consume import consume
from spoolq.errors import LeaseLost, MessageTooLarge, NotCapable
from spoolq.interfaces import Capabilities, Progress, Queue, Slot
from spoolq.memory import look
from spoolq.memory.consuming import Consumer, await_change
from spoolq.memory.dead_letters import MemoryDeadLetters
from spoolq.memory.entries import Entry, total_bytes
from spoolq.memory.store import MemoryStore
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
from spoolq.settings import Settings
from spoolq.sources import sending
from spoolq.spool.names import clean_name

_PIECE_BYTES = 1 << 20


class MemoryQueue(Queue):
    """A queue in memory, for unit tests and as the model of the contract.

    name, settings, clock: the queue's own. store: another MemoryQueue's, to share its messages; the other three then
    are the store's.
    """

    capabilities = Capabilities(holders=True)

    def __init__(
        self,
        name: str = "default",
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.store = store or MemoryStore(name, settings, clock)
        self.name = self.store.name
        self.url = f"memory:{self.name}"
        self.dead_letters = MemoryDeadLetters(self.store)
        self._clock = self.store.clock
        self._lock = self.store.changed
        self._own = Consumer(self, "")
        self._consumers = [self._own]

    @property
    def settings(self) -> Settings:  # type: ignore[override] # shared, so that a change reaches every object
        """The settings in force."""
        return self.store.settings

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
        """Put a message in the queue and return its id."""
        new = validate.new_message(
            self._read(body),
            priority=priority,
            delay_s=delay_s,
            headers=headers,
            content_type=content_type,
            name=name,
            dedup_key=dedup_key,
            group=group,
            ttl_s=ttl_s,
        )
        return self.enqueue_many([new])[0]

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
        """Enqueue a file's content; with `move` the file goes."""
        where = os.fspath(path)
        with sending(where, move=move) as file:
            return self.enqueue(
                file,
                priority=priority,
                delay_s=delay_s,
                headers=headers,
                content_type=content_type,
                name=os.path.basename(where) if name is None else name,
                dedup_key=dedup_key,
                group=group,
                ttl_s=ttl_s,
            )

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Enqueue many; ids in order."""
        return [self._put(validate.as_new_message(message)) for message in messages]

    def _put(self, new: NewMessage) -> str:
        name = None if new.name is None else clean_name(new.name) or None
        with self._lock:
            return self.store.enqueue(new, name)

    def _read(self, body: bytes | bytearray | memoryview | BinaryIO) -> bytes:
        if isinstance(body, (bytes, bytearray, memoryview)):
            return bytes(body)
        if not hasattr(body, "read"):
            raise validate.wrong_body(body)
        most = self.settings.limits.body_bytes
        whole = bytearray()
        while piece := body.read(_PIECE_BYTES):
            if not isinstance(piece, bytes):
                raise validate.wrong_body(piece)
            whole += piece
            if most and len(whole) > most:
                raise MessageTooLarge(f"the body is over limits.body_bytes = {most}", op="enqueue")
        return bytes(whole)

    # Consuming

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message; None when there is nothing within `wait_s`."""
        return self._own.dequeue(wait_s=wait_s, lease_s=lease_s)

    def dequeue_many(self, count: int, *, wait_s: float = 0, lease_s: float | None = None) -> list[Message]:
        """Claim up to `count` messages; waits for the first only."""
        validate.check_count(count)
        return self._claim(self._own, count, wait_s, lease_s)

    def slot(self, label: str = "") -> Slot:
        """A further consumer with claims of its own."""
        consumer = Consumer(self, label)
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
        """The body of a claimed message."""
        with self._lock:
            return io.BytesIO(self._claimed(receipt).body)

    def _claim(self, consumer: Consumer, count: int, wait_s: float, lease_s: float | None) -> list[Message]:
        """Every claim passes here, whichever consumer's it is: in tests another kind of queue begins with this."""
        return consumer.claim(count, wait_s, lease_s)

    # Settling

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done`."""
        validate.parse_receipt(receipt)
        with self._lock:
            self.store.acknowledge(receipt)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Acknowledge many; returns the receipts whose claim had ended."""
        receipts = list(receipts)
        for receipt in receipts:
            validate.parse_receipt(receipt)
        lost = []
        with self._lock:
            for receipt in receipts:
                try:
                    self.store.acknowledge(receipt)
                except LeaseLost:
                    lost.append(receipt)
        return lost

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        """Failed: back, the attempt counted; dead after `max_attempts`."""
        validate.check_delay(delay_s)
        validate.check_reason(reason)
        with self._lock:
            return self.store.fail(self._claimed(receipt), delay_s, reason, details)

    def release(self, receipt: str) -> None:
        """Give back untouched, the attempt not counted."""
        with self._lock:
            self.store.release(self._claimed(receipt))

    def extend(self, receipt: str, lease_s: float) -> None:
        """The claim now ends `lease_s` from now."""
        validate.check_extension(lease_s)
        with self._lock:
            self.store.extend(self._claimed(receipt), lease_s)

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it."""
        validate.check_reason(reason)
        with self._lock:
            self.store.bury(self._claimed(receipt), reason, details)

    def _claimed(self, receipt: str) -> Entry:
        validate.parse_receipt(receipt)
        return self.store.find_claim(receipt)

    # Looking

    def peek(self) -> MessageInfo | None:
        """The message that the next dequeue would claim."""
        with self._lock:
            self.store.do_what_is_due(reap=False)
            entry = self.store.next()
            return None if entry is None else look.info(self.store, entry)

    def get(self, message_id: str) -> MessageInfo:
        """All that is known of a message."""
        validate.check_message_id(message_id)
        with self._lock:
            return look.whole_info(self.store, self.store.find(message_id))

    def read_body(self, message_id: str) -> BinaryIO:
        """The body of a message in any state."""
        validate.check_message_id(message_id)
        with self._lock:
            return io.BytesIO(self.store.find(message_id).body)

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of the messages in a state."""
        validate.check_state(state)
        validate.check_limit(limit)
        with self._lock:
            return look.page(self.store, look.admitted(self.store, state, where), limit, cursor)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        """Messages whose id begins with, or whose name or reason contains `text`."""
        validate.check_limit(limit)
        with self._lock:
            return [look.info(self.store, entry) for entry in look.found(self.store, text)[:limit]]

    def stats(self) -> Stats:
        """Counts, bytes and totals."""
        with self._lock:
            return look.stats(self.store)

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        """Counted one by one."""
        validate.check_bounds(bounds_s)
        validate.check_state(state)
        with self._lock:
            return look.ages(self.store, bounds_s, state)

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        """Not kept in memory: NotCapable."""
        raise _not_capable("minutes")

    def holders(self) -> Sequence[HolderInfo]:
        """Who holds claims, of this queue object."""
        with self._lock:
            held = Counter(entry.holder for entry in self.store.entries.in_state("claimed"))
            return [each.info(held[each.id]) for each in self._consumers if held[each.id]]

    # Changing

    def run_now(self, message_id: str) -> None:
        """Make a scheduled message ready."""
        validate.check_message_id(message_id)
        with self._lock:
            entry = self.store.find(message_id, "ready", "scheduled")
            if entry.state == "scheduled":
                self.store.make_ready(entry)

    def set_priority(self, message_id: str, priority: int) -> None:
        """Change the priority of a waiting message."""
        validate.check_message_id(message_id)
        validate.check_priority(priority)
        with self._lock:
            self.store.set_priority(self.store.find(message_id, "ready", "scheduled"), priority)

    def replay(self, message_id: str) -> None:
        """Deliver a done message again."""
        validate.check_message_id(message_id)
        with self._lock:
            self.store.start_again(self.store.find(message_id, "done"), "replayed")

    def delete(self, message_id: str) -> None:
        """Delete a message that nobody holds."""
        validate.check_message_id(message_id)
        with self._lock:
            self.store.drop(self.store.find(message_id, "ready", "scheduled", "done", "dead"))

    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        """End somebody's claim, counted."""
        validate.check_message_id(message_id)
        validate.check_reason(reason)
        with self._lock:
            self.store.fail(self.store.find(message_id, "claimed"), 0, reason, outcome="given_back")

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        with self._lock:
            self.store.paused = True

    def resume(self) -> None:
        """Deliver again."""
        with self._lock:
            self.store.paused = False
            self._lock.notify_all()

    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        """Delete every message in these states for good."""
        validate.check_purge_states(states)
        with self._lock:
            doomed = [entry for state in dict.fromkeys(states) for entry in self.store.entries.in_state(state)]
            return self._drop_all(doomed, progress)

    def change_settings(self, settings: Settings) -> None:
        """Make these the queue's settings."""
        with self._lock:
            self.store.settings = settings

    # Keeping

    def maintain(self, *, budget_s: float = 0.02) -> bool:
        """Do what is due, all of it."""
        with self._lock:
            self.store.do_what_is_due(reap=True)
            self._drop_all(self.store.overdue(), None)
        return False

    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        """Delete what retention says; returns counts and bytes by state."""
        with self._lock:
            doomed = self.store.overdue()
            found: dict[str, int] = {}
            for state in ("done", "dead"):
                of_state = [entry for entry in doomed if entry.state == state]
                found |= {state: len(of_state), f"{state}_bytes": total_bytes(of_state)}
            if not dry_run:
                self._drop_all(doomed, progress)
            return found

    def _drop_all(self, doomed: Sequence[Entry], progress: Progress | None) -> int:
        for number, entry in enumerate(doomed, 1):
            self.store.drop(entry)
            if progress is not None:
                progress(number, len(doomed))
        return len(doomed)

    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        """There is nothing to compare in memory: NotCapable."""
        raise _not_capable("check")

    def rebuild(self, *, progress: Progress | None = None) -> int:
        """There is no index in memory: NotCapable."""
        raise _not_capable("rebuild")

    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to claim."""
        validate.check_wait(timeout_s)
        ends_s = self._clock.mono_s() + timeout_s
        with self._lock:
            while self.peek() is None:
                if not await_change(self.store, ends_s):
                    return False
            return True

    def close(self) -> None:
        """Give back, uncounted, what this object still holds. Again: nothing."""
        for consumer in tuple(self._consumers):
            consumer.close()

    # Its own

    def crash(self) -> None:
        """For tests: end as a killed process does. What this object holds goes back, counted."""
        with self._lock:
            for consumer in self._consumers:
                consumer.crash()
            self._consumers.clear()


def _not_capable(op: str) -> NotCapable:
    return NotCapable(f"a queue in memory has no {op}", op=op, hint="queue.capabilities says what an engine does")
