"""The contract that every engine fulfils: the local spool, the in-memory model, HTTP, PostgreSQL.

`Queue` has an abstract method for each thing an engine does in its own way, and, written here once, what follows
from them (`consume`, settling through a message). One contract suite (tests/contract) runs against every engine;
where one cannot do a thing it says so in `capabilities`, and raises NotCapable.

Who may call it: every method may be called from several threads at once, and from a forked child.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from spoolq.errors import NotCapable
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

if TYPE_CHECKING:
    from spoolq.message import Message

POLL_S = 0.1
"""How often to look where nothing tells."""

Progress = Callable[[int, int], None]
"""Called now and then with (done, in all); what it raises stops the work between two messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Where engines differ.

    holders: a claim without a lease lasts as long as its process lives, and commands inherit the proof of it. Without
    it every claim lives by time, and workers extend. paths: `Message.path` is a file. drops: files can be dropped.
    history: `minutes`. check: `check` and `rebuild`. several_hosts: consumers on several machines.
    """

    holders: bool = False
    paths: bool = False
    drops: bool = False
    history: bool = False
    check: bool = False
    several_hosts: bool = False


class Slot(ABC):
    """A place from which messages are claimed, one consumer of a worker. `Queue.slot()` opens one.

    What it claims is held in its own name: where the engine has holders, `inheritable_fds` prove its life and a
    command that inherits them keeps the claim while it lives.
    """

    inheritable_fds: tuple[int, ...] = ()

    @abstractmethod
    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message, as `Queue.dequeue` does."""

    @abstractmethod
    def close(self) -> None:
        """Give back, uncounted, what it still holds, and end it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DeadLetterQueue(ABC):
    """The messages of a queue that gave up, for a person to look at."""

    @abstractmethod
    def list(self, *, where: Filter | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of dead letters, oldest first."""

    @abstractmethod
    def reasons(self) -> Sequence[tuple[str, int]]:
        """Each reason with its count, the most frequent first."""

    @abstractmethod
    def redrive(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Put dead letters back to be delivered, attempts at 0, history kept; returns how many.

        ids: these, else all that `where` admits, else all. rate: at most this many a second, 0 < rate. dry_run only
        counts. An id that is not a dead letter: MessageNotFound, when it is met; those before it are redriven.
        """

    @abstractmethod
    def purge(
        self,
        ids: Iterable[str] | None = None,
        *,
        where: Filter | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Delete dead letters for good; returns how many."""


class Queue(ABC):
    """A queue of messages. At least once: see `docs/design.md` for what is promised.

    Receipts are plain ASCII, `<id>.<nonce>`, and prove one delivery. A settling call (`acknowledge`, `requeue`,
    `release`, `move_to_dead_letter_queue`, `extend`) with a receipt whose claim has ended raises LeaseLost and changes
    nothing; one that is no receipt raises ValueError.
    """

    name: str
    url: str
    settings: Settings
    capabilities: Capabilities
    dead_letters: DeadLetterQueue

    # Producing

    @abstractmethod
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
        """Put a message in the queue and return its id; when it returns, the message survives (P1).

        body: bytes, or an open binary file, which is read to its end in pieces. The other arguments are those of
        NewMessage. A known `dedup_key` returns the id of the first message. Raises ValueError for an argument out of
        its range, MessageTooLarge, QueueFull, DiskFull, Busy, StorageError.
        """

    @abstractmethod
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
        """Enqueue a file: a copy in the kernel, or with `move` the file itself, renamed where the device allows.

        `name` is the file's own unless given. Not a regular file: UnsafeFile.
        """

    @abstractmethod
    def enqueue_many(self, messages: Iterable[NewMessage | bytes]) -> list[str]:
        """Enqueue many with one directory sync and one transaction for up to a few hundred; ids in order.

        When it raises, some may have been enqueued; repeating with dedup keys is safe.
        """

    # Consuming

    @abstractmethod
    def dequeue(self, *, wait_s: float = 0, lease_s: float | None = None) -> Message | None:
        """Claim the next message, highest priority first, then oldest; None when there is nothing within `wait_s`.

        The attempt is counted before the body is seen. lease_s: a hard end for the claim; None: as long as this
        process lives, or the queue's `lease_s` where the engine has no holders. Raises Busy, StorageError.
        """

    @abstractmethod
    def dequeue_many(self, count: int, *, wait_s: float = 0, lease_s: float | None = None) -> list[Message]:
        """Claim up to `count` messages in one transaction; waits for the first only."""

    @abstractmethod
    def slot(self, label: str = "") -> Slot:
        """A further consumer in this process with claims of its own. `label` tells people what it is for."""

    @abstractmethod
    def consume(self, *, wait_s: float | None = None, lease_s: float | None = None) -> Iterator[Message]:
        """Messages one after another: the end of the loop's body acknowledges what it has not settled itself.

        Leaving the loop by break, or an exception in it, gives the message in hand back, uncounted. Ends after
        `wait_s` without a message; None waits for ever.
        """

    @abstractmethod
    def open_body(self, receipt: str) -> BinaryIO:
        """The body of a claimed message, from its beginning; the caller closes it."""

    # Settling

    @abstractmethod
    def acknowledge(self, receipt: str) -> None:
        """Processed: to `done`. Again with the same receipt: success, for as long as it is remembered (10 min)."""

    @abstractmethod
    def acknowledge_many(self, receipts: Iterable[str]) -> list[str]:
        """Acknowledge many in one transaction; returns the receipts whose claim had ended."""

    @abstractmethod
    def requeue(
        self, receipt: str, *, delay_s: float | None = None, reason: str = "", details: Attempt | None = None
    ) -> State:
        """Failed: back, the attempt counted, after `delay_s` or the queue's backoff; dead after `max_attempts`.

        details: what a worker knows of the failure (exit_status, signal, stderr, duration_s). Returns the state it is
        in now: "ready", "scheduled" or "dead".
        """

    @abstractmethod
    def release(self, receipt: str) -> None:
        """Give back untouched: deliverable at once, the attempt not counted."""

    @abstractmethod
    def extend(self, receipt: str, lease_s: float) -> None:
        """The claim now ends `lease_s` from now. One that lives by its process alone has no end, and keeps none."""

    @abstractmethod
    def move_to_dead_letter_queue(self, receipt: str, reason: str, *, details: Attempt | None = None) -> None:
        """Give up on it: to `dead`, with the reason."""

    # Looking

    @abstractmethod
    def peek(self) -> MessageInfo | None:
        """The message that the next dequeue would claim, unclaimed; None when there is none."""

    @abstractmethod
    def get(self, message_id: str) -> MessageInfo:
        """All that is known of a message, history included. MessageNotFound when there is none."""

    @abstractmethod
    def read_body(self, message_id: str) -> BinaryIO:
        """The body of a message in any state, from its beginning; the caller closes it."""

    @abstractmethod
    def list(
        self, state: State = "ready", *, where: Filter | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """A page of the messages in a state: ready by delivery order, scheduled by time, the others oldest first."""

    @abstractmethod
    def search(self, text: str, *, limit: int = 100) -> Sequence[MessageInfo]:
        """Messages in any state whose id begins with, or whose name or reason contains `text`."""

    @abstractmethod
    def stats(self) -> Stats:
        """Counts, bytes and totals."""

    @abstractmethod
    def ages(self, bounds_s: Sequence[float], state: State = "ready") -> Sequence[int]:
        """How many messages of a state were enqueued within each bound, and not within the one before; then older ones.

        bounds_s: rising, 1 to 20 of them. One more count than bounds. Costs a few ms for each 100,000 messages.
        """

    def drops(self, *, limit: int = 100) -> Sequence[DropInfo]:
        """Files that were dropped and are no messages yet, with the reason, at most `limit`; by name.

        Raises NotCapable where nothing can be dropped.
        """
        raise NotCapable("nothing can be dropped into this queue", op="drops")

    @abstractmethod
    def minutes(self, since_at_ms: int) -> Sequence[Minute]:
        """The history, minute by minute, oldest first; minutes without an event are left out."""

    @abstractmethod
    def holders(self) -> Sequence[HolderInfo]:
        """Who holds claims."""

    # Changing

    @abstractmethod
    def run_now(self, message_id: str) -> None:
        """Make a scheduled message ready. MessageNotFound when it is not waiting."""

    @abstractmethod
    def set_priority(self, message_id: str, priority: int) -> None:
        """Change the priority of a waiting message. MessageNotFound when it is not waiting."""

    @abstractmethod
    def replay(self, message_id: str) -> None:
        """Deliver a done message again, attempts at 0. MessageNotFound when it is not done."""

    @abstractmethod
    def delete(self, message_id: str) -> None:
        """Delete a message that nobody holds. MessageNotFound when there is none such."""

    @abstractmethod
    def give_back(self, message_id: str, *, reason: str = "given back by hand") -> None:
        """End somebody's claim, counted, so that it is delivered again. MessageNotFound when it is not claimed."""

    @abstractmethod
    def pause(self) -> None:
        """Deliver nothing until `resume`. What is claimed goes on, and enqueueing too."""

    @abstractmethod
    def resume(self) -> None:
        """Deliver again."""

    @abstractmethod
    def purge(self, states: Sequence[State] = ("ready", "scheduled"), *, progress: Progress | None = None) -> int:
        """Delete every message in these states for good; returns how many. "claimed" is refused."""

    def stored_settings(self) -> Settings:
        """The settings as they are kept, without what this process's environment sets over them."""
        return self.settings

    @abstractmethod
    def change_settings(self, settings: Settings) -> None:
        """Make these the queue's settings: here at once, in other processes within half a second."""

    # Keeping

    @abstractmethod
    def maintain(self, *, budget_s: float = 0.02) -> bool:
        """Do what is due: reap, take in, expire, clean up; for at most about `budget_s`. True when more is left."""

    @abstractmethod
    def clean(self, *, dry_run: bool = False, progress: Progress | None = None) -> dict[str, int]:
        """Delete what retention says, all of it, now; returns counts and bytes by what it was."""

    @abstractmethod
    def check(self, *, fix: bool = False, progress: Progress | None = None) -> Sequence[Problem]:
        """Compare what is stored with what is indexed, both ways; what is wrong, in words."""

    @abstractmethod
    def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make the index anew from the files; returns how many messages there are."""

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to claim; False after `timeout_s`. A hint, never a promise.

        Where something is ready already it returns at once, so who does not claim needs a pace of its own.
        """

    def health(self) -> Health:
        """The disk, its reserve and the index. Raises NotCapable where an engine has none of its own."""
        raise NotCapable("this engine knows nothing of a disk", op="health")

    # For those who serve many at once from one thread (spoolq.web)

    def is_free(self) -> bool:
        """Whether a short call would be carried out at once rather than wait for somebody's lock. A hint.

        False, unless an engine knows better: then whoever must not wait calls from a thread.
        """
        return False

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, from another thread, whenever there may be something to claim; returns what ends that.

        A hint, as `wait`. An engine that cannot raises NotCapable: look every now and then instead.
        """
        raise NotCapable("this engine cannot tell when a message comes", op="listen")

    def next_look_s(self, longest_s: float) -> float:
        """How soon to look again, whatever `listen` says: some things come by time alone. At most `longest_s`."""
        return min(longest_s, POLL_S)

    def dequeue_marked(self, mark: str, count: int = 1, *, lease_s: float | None = None) -> Sequence[Message]:
        """Claim up to `count` messages under a mark; while one of its claims lasts, these are answered again instead.

        So an answer that was lost can be asked for again, from any process. The mark, 8 of `0-9a-z`, is in the
        receipts. Claims live by time. Raises NotCapable where an engine has no marks, and as `dequeue`.
        """
        raise NotCapable("this engine has no marked claims", op="dequeue_marked")

    @abstractmethod
    def close(self) -> None:
        """Give back, uncounted, what this object still holds, and let go of everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
