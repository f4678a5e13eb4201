"""The contract over HTTP: `interfaces.Queue` for a queue of a server. Each method is a route of docs/rest-api.md.

Arguments are judged here, by the rules of every engine, before anything is sent. Claims live by time: a server cannot
see who lives, so workers extend.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO, TypeVar

from spoolq import validate
from spoolq.client import producing, values
from spoolq.client.address import Address
from spoolq.client.bodies import Upload
from spoolq.client.connection import BULK_S, Call, Connection, not_understood, quoted
from spoolq.client.consuming import Consumer
from spoolq.client.dead_letters import HttpDeadLetters
from spoolq.client.download import download
from spoolq.clock import Clock
from spoolq.consume import consume
from spoolq.errors import LeaseLost
from spoolq.interfaces import Capabilities, Progress, Queue, Slot
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
from spoolq.sources import sending

T = TypeVar("T")

_SETTINGS_LOOK_S = 0.3
_ACKNOWLEDGE_AT_ONCE = 1000
_LOOKS_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class HttpQueue(Queue):
    """A queue of a server. Open it with `spoolq.open_queue`.

    detached: claims outlive this object; closing it gives nothing back.
    """

    capabilities = Capabilities(history=True, check=True, several_hosts=True)

    def __init__(self, address: Address, *, detached: bool = False) -> None:
        self.name = address.queue
        self.url = address.url
        self.server = address.server
        self.connection = Connection(address)
        self.dead_letters = HttpDeadLetters(self)
        self._clock = Clock()
        self._detached = detached
        self._closed = False
        self._own = Consumer(self, keeps=not detached)
        self._consumers = [self._own]
        self._settings: tuple[Settings, float] | None = None

    def __repr__(self) -> str:
        return f"<HttpQueue {self.url}>"

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The queue's settings, at most half a second old."""
        known = self._settings
        if known is not None and self._clock.mono_s() < known[1]:
            return known[0]
        return self._know(self.ask("GET", "/settings", "settings", values.settings))

    def _know(self, settings: Settings) -> Settings:
        self._settings = (settings, self._clock.mono_s() + _SETTINGS_LOOK_S)
        return settings

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
        """Put a message in the queue; a file is streamed. Without `dedup_key`, a lost answer is OutcomeUnknown."""
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
        return self._enqueue(Upload(body), new, "enqueue")

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
            return self._enqueue(Upload(file), new, "enqueue_file")

    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Enqueue many, some hundred a request; ids in order."""
        ids: list[str] = []
        for batch in producing.batches(messages):
            if producing.is_large(batch):
                ids.append(self._enqueue(Upload(batch[0].body), batch[0], "enqueue_many"))
            else:
                ids += self._answer(producing.many(self._path("/messages/batch"), batch), lambda data: data["ids"])
        return ids

    def _enqueue(self, upload: Upload, new: NewMessage, op: str) -> str:
        return self._answer(producing.single(self._path("/messages"), upload, new, op), lambda data: str(data["id"]))

    # Consuming

    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message; None when there is nothing within `wait_s`. A lost answer is asked for again."""
        return self._own.dequeue(wait_s=wait_s, lease_s=lease_s)

    def dequeue_many(self, count: int, *, wait_s: float = 0, lease_s: float | None = None) -> list[Message]:
        """Claim up to `count` messages; waits for the first only."""
        validate.check_count(count)
        return self._own.claim(count, wait_s, lease_s)

    def slot(self, label: str = "") -> Slot:
        """A further consumer with claims of its own."""
        consumer = Consumer(self, keeps=not self._detached)
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
        """The body of a claimed message, fetched whole: in memory where it is small, else a temporary file."""
        return download(self.connection, self._claim_path(receipt, "/body"), "open_body")

    # Settling

    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done`. Repeated after a lost answer, since the server answers it with success again."""
        self._settle(receipt, "/acknowledge", "acknowledge", repeats=True)

    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Acknowledge many; returns the receipts whose claim had ended."""
        given = list(receipts)
        for receipt in given:
            validate.parse_receipt(receipt)
        left = iter(given)
        lost: list[str] = []
        while some := list(islice(left, _ACKNOWLEDGE_AT_ONCE)):
            asked = {"receipts": some}
            lost += self.ask(
                "POST", "/claims/acknowledge", "acknowledge", lambda data: data["lost"], json=asked, repeats=True
            )
            self._ended(some)
        return lost

    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        """Failed: back, the attempt counted; dead after `max_attempts`."""
        validate.check_delay(delay_s)
        validate.check_reason(reason)
        asked = values.failure(reason, details) | values.given(delay_s=delay_s)
        state: State = self._settle(receipt, "/requeue", "requeue", json=asked)["state"]
        return state

    def release(self, receipt: str) -> None:
        """Give back untouched, the attempt not counted."""
        self._settle(receipt, "/release", "release")

    def extend(self, receipt: str, lease_s: float) -> None:
        """The claim now ends `lease_s` from now."""
        validate.check_extension(lease_s)
        path, asked = self._claim_path(receipt, "/extend"), {"lease_s": lease_s}
        self.connection.ask(Call(method="POST", path=path, op="extend", json=asked, repeats=True))

    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it."""
        validate.check_reason(reason)
        self._settle(receipt, "/dead-letter", "dead_letter", json=values.failure(reason, details))

    def _settle(self, receipt: str, action: str, op: str, **more: Any) -> Any:
        """End a delivery; what its claim was held by forgets it, whoever ended it."""
        call = Call(method="POST", path=self._claim_path(receipt, action), op=op, **more)
        try:
            answer = self.connection.ask(call)
        except LeaseLost:
            self._ended([receipt])
            raise
        self._ended([receipt])
        return answer

    def _ended(self, receipts: Sequence[str]) -> None:
        for consumer in tuple(self._consumers):
            consumer.settled(receipts)

    # Looking

    def peek(self) -> MessageInfo | None:
        """The message that the next dequeue would claim."""
        return self.ask("GET", "/messages/peek", "peek", lambda data: data and values.message_info(data))

    def get(self, message_id: str) -> MessageInfo:
        """All that is known of a message."""
        return self._answer(Call(method="GET", path=self._message_path(message_id), op="get"), values.message_info)

    def read_body(self, message_id: str) -> BinaryIO:
        """The body of a message in any state, fetched as `open_body` does."""
        return download(self.connection, self._message_path(message_id, "/body"), "read_body")

    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of the messages in a state."""
        validate.check_state(state)
        validate.check_limit(limit)
        query = {"state": state, **values.filter_parts(where), "limit": limit, "cursor": cursor}
        return self.ask("GET", "/messages", "list", values.page, query=query)

    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        """Messages in any state whose id begins with, or whose name or reason contains `text`."""
        validate.check_limit(limit)
        return self.ask("GET", "/messages/search", "search", values.messages, query={"text": text, "limit": limit})

    def stats(self) -> Stats:
        """Counts, bytes and totals."""
        return self.ask("GET", "/stats", "stats", values.stats)

    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        """How old the messages of a state are."""
        validate.check_bounds(bounds_s)
        validate.check_state(state)
        query = {"state": state, "bounds_s": ",".join(f"{bound:g}" for bound in bounds_s)}
        return self.ask("GET", "/ages", "ages", lambda data: [int(count) for count in data["counts"]], query=query)

    def drops(self, *, limit: int = 100) -> Sequence[DropInfo]:
        """Files that were dropped at the server and are no messages yet."""
        validate.check_limit(limit)
        return self.ask("GET", "/drops", "drops", values.records(DropInfo, "drops"), query={"limit": limit})

    def health(self) -> Health:
        """The server's disk, its reserve and the index. NotCapable where its engine has none."""
        return self.ask("GET", "/health", "health", lambda data: values.record(Health, data))

    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        """The history, minute by minute."""
        read = values.records(Minute, "minutes")
        return self.ask("GET", "/minutes", "minutes", read, query={"since_at_ms": since_at_ms})

    def holders(self) -> Sequence[HolderInfo]:
        """Who holds claims by a live process at the server's machine; claims over HTTP have no holder."""
        return self.ask("GET", "/holders", "holders", values.records(HolderInfo, "holders"))

    def queues(self) -> Sequence[str]:
        """The names of the server's queues, as far as the token may see them."""
        call = Call(method="GET", path="/queues", op="queues")
        return self._answer(call, lambda data: [str(name) for name in data["queues"]])

    # Changing

    def run_now(self, message_id: str) -> None:
        """Make a scheduled message ready."""
        self._act_on(message_id, "/run-now", "run_now")

    def set_priority(self, message_id: str, priority: int) -> None:
        """Change the priority of a waiting message."""
        path = self._message_path(message_id)
        validate.check_priority(priority)
        asked = {"priority": priority}
        self.connection.ask(Call(method="PATCH", path=path, op="set_priority", json=asked, repeats=True))

    def replay(self, message_id: str) -> None:
        """Deliver a done message again."""
        self._act_on(message_id, "/replay", "replay")

    def delete(self, message_id: str) -> None:
        """Delete a message that nobody holds."""
        self.connection.ask(Call(method="DELETE", path=self._message_path(message_id), op="delete"))

    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        """End somebody's claim, counted."""
        validate.check_reason(reason)
        self._act_on(message_id, "/give-back", "give_back", json={"reason": values.tail(reason, 1000)})

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        self.ask("POST", "/pause", "pause", _nothing, repeats=True)

    def resume(self) -> None:
        """Deliver again."""
        self.ask("POST", "/resume", "resume", _nothing, repeats=True)

    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        """Delete every message in these states for good, in one request: progress is told at its end."""
        validate.check_purge_states(states)
        asked = {"states": list(dict.fromkeys(states))}
        return _told(progress, self.ask("POST", "/purge", "purge", values.count, json=asked, answer_s=BULK_S))

    def change_settings(self, settings: Settings) -> None:
        """Make these the queue's settings."""
        asked = values.plain(settings)
        self._know(self.ask("PUT", "/settings", "change_settings", values.settings, json=asked, repeats=True))

    def _act_on(self, message_id: str, action: str, op: str, **more: Any) -> None:
        self.connection.ask(Call(method="POST", path=self._message_path(message_id, action), op=op, **more))

    # Keeping

    def maintain(self, *, budget_s: float = 0.02) -> bool:
        """Nothing: the server does what is due. Always False."""
        return False

    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        """Delete what retention says; returns counts and bytes by what it was. Progress is told at its end."""
        asked = {"dry_run": dry_run}
        found = self.ask("POST", "/clean", "clean", lambda data: dict(data["counts"]), json=asked, answer_s=BULK_S)
        if not dry_run:
            _told(progress, sum(count for what, count in found.items() if not what.endswith("_bytes")))
        return found

    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        """Have the server compare what is stored with what is indexed. Without paths, which are its own."""
        read = values.records(Problem, "problems")
        return self.ask("POST", "/check", "check", read, json={"fix": fix}, answer_s=BULK_S)

    def rebuild(self, *, progress: Progress | None = None) -> int:
        """Have the server make the index anew. Progress is told at its end."""
        count = self.ask("POST", "/rebuild", "rebuild", lambda data: int(data["messages"]), answer_s=BULK_S)
        return _told(progress, count)

    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to claim, by looking now and then."""
        validate.check_wait(timeout_s)
        ends_s = self._clock.mono_s() + timeout_s
        looks = iter(_LOOKS_S)
        while self.peek() is None:
            left_s = ends_s - self._clock.mono_s()
            if left_s <= 0:
                return False
            threading.Event().wait(min(left_s, next(looks, _LOOKS_S[-1])))
        return True

    def close(self) -> None:
        """Give back, uncounted, what this object still holds, and end its connections. Again: nothing."""
        if self._closed:
            return
        self._closed = True
        for consumer in tuple(self._consumers):
            consumer.close()
        self.connection.close()

    # Requests

    def ask(self, method: str, route: str, op: str, read: Callable[[Any], T], **more: Any) -> T:
        """A request to this queue, its answer as `read` reads it."""
        return self._answer(Call(method=method, path=self._path(route), op=op, **more), read)

    def _answer(self, call: Call, read: Callable[[Any], T]) -> T:
        """SpoolqError where the answer is none that a spoolq server gives."""
        data = self.connection.ask(call)
        try:
            return read(data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise not_understood(call.op, self.server) from error

    def _path(self, route: str) -> str:
        return f"/queues/{self.name}{route}"

    def _message_path(self, message_id: str, route: str = "") -> str:
        return self._path(f"/messages/{quoted(validate.check_message_id(message_id))}{route}")

    def _claim_path(self, receipt: str, route: str) -> str:
        validate.parse_receipt(receipt)
        return self._path(f"/claims/{quoted(receipt)}{route}")


def _told(progress: Progress | None, count: int) -> int:
    """The count, after telling that all is done."""
    if progress is not None and count:
        progress(count, count)
    return count


def _nothing(_: object) -> None:
    """For an answer without content."""
