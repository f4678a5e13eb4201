"""The spool beside the model: the same operations on both, in any order, show the same.

Hypothesis invents the operations, time passes, consumers are killed, the queue is closed and opened, the index is
removed; after each step everything that can be seen of the two is compared, and at the end the spool is checked. The
model (spoolq.memory) is the contract written down as plainly as can be.

SPOOLQ_EXAMPLES sets how many runs are tried (default 60, about 20 s); a failure prints the shortest one found.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spoolq.errors import LeaseLost, MessageNotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.memory import MemoryQueue, MemoryStore
from spoolq.message import Message
from spoolq.models import STATES, Attempt, Filter, MessageInfo, NewMessage
from spoolq.settings import Limits, Retention, Retry, Settings, dump
from spoolq.testing import FakeClock

if importlib.util.find_spec("spoolq.spool.queue") is None and not os.environ.get("CI"):
    pytest.skip("the spool is not there yet", allow_module_level=True)

EXAMPLES = int(os.environ.get("SPOOLQ_EXAMPLES", "60"))
FOR_EVER_S = 10 * 365 * 86_400.0  # longer than any run: files bear real times, so no retention ends on the fake clock
FAILURES = ("requeued", "given_back", "dead", "expired")

SETTINGS = st.builds(
    Settings,
    durability=st.just("process"),
    max_attempts=st.integers(1, 3),
    ttl_s=st.sampled_from([0.0, 0.0, 0.0, 40.0]),
    dedup_window_s=st.sampled_from([30.0, 300.0]),
    retry=st.just(Retry(list_s=(5.0, 0.0, 60.0))),
    retention=st.builds(
        Retention, done_s=st.sampled_from([0.0, FOR_EVER_S]), expired=st.sampled_from(["dead", "delete"])
    ),
    limits=st.sampled_from([Limits(), Limits(), Limits(messages=4), Limits(bytes=12)]),
)
NEW = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from([0, 4, 5, 9]),
        "delay_s": st.sampled_from([0.0, 0.0, 0.0, 2.0, 20.0, 400.0]),
        "headers": st.just({"k": "wert ✓"}),
        "content_type": st.just("text/plain"),
        "name": st.sampled_from(["report.csv", "ü.txt"]),
        "dedup_key": st.sampled_from([None, None, "a", "b"]),
        "group": st.sampled_from([None, "g", "g", "h"]),
        "ttl_s": st.sampled_from([None, None, 0.0, 4.0, 60.0]),
    },
)
LEASES = st.sampled_from([None, None, 5.0, 50.0])
ANY = st.integers(0, 1_000_000)  # picks one of what there is


def whole(file: BinaryIO) -> bytes:
    """What is in a file, which is closed then."""
    with file:
        return file.read()


SETTLE: dict[str, Callable[[Queue, str], object]] = {
    "acknowledge": lambda queue, receipt: queue.acknowledge(receipt),
    "requeue": lambda queue, receipt: queue.requeue(receipt, reason="backoff"),
    "requeue at once": lambda queue, receipt: queue.requeue(receipt, delay_s=0, reason="at once"),
    "release": lambda queue, receipt: queue.release(receipt),
    "extend": lambda queue, receipt: queue.extend(receipt, 20),
    "bury": lambda queue, receipt: queue.move_to_dead_letter_queue(receipt, "buried"),
    "open": lambda queue, receipt: whole(queue.open_body(receipt)),
}
BY_ID: dict[str, Callable[[Queue, str], object]] = {
    "run_now": lambda queue, id: queue.run_now(id),
    "set_priority": lambda queue, id: queue.set_priority(id, 7),
    "replay": lambda queue, id: queue.replay(id),
    "delete": lambda queue, id: queue.delete(id),
    "give_back": lambda queue, id: queue.give_back(id, reason="by hand"),
    "redrive": lambda queue, id: queue.dead_letters.redrive([id]),
    "purge": lambda queue, id: queue.dead_letters.purge([id]),
    "read": lambda queue, id: whole(queue.read_body(id)),
}


ON_THE_QUEUE: dict[str, Callable[[Queue], object]] = {
    "redrive all": lambda queue: queue.dead_letters.redrive(),
    "redrive some": lambda queue: queue.dead_letters.redrive(
        [info.id for info in queue.dead_letters.list(limit=2).messages]
    ),
    "redrive the buried": lambda queue: queue.dead_letters.redrive(where=Filter(reason="BURIED")),
    "redrive the tried": lambda queue: queue.dead_letters.redrive(where=Filter(min_attempts=2)),
    "redrive the named": lambda queue: queue.dead_letters.redrive(where=Filter(name="report")),
    "purge": lambda queue: queue.purge(),
    "purge the settled": lambda queue: queue.purge(("done", "dead")),
    "clean": lambda queue: queue.clean() and None,
    "pause": lambda queue: queue.pause(),
    "resume": lambda queue: queue.resume(),
    "resume again": lambda queue: queue.resume(),
}


def outcome(call: Callable[[], object]) -> object:
    """What a call answers, or the kind of error it raises."""
    try:
        return call()
    except SpoolqError as error:
        return type(error)


def differences(model: object, spool: object, where: str = "") -> list[str]:
    """Where two nested dictionaries differ, in words."""
    if not (isinstance(model, dict) and isinstance(spool, dict)):
        return [] if model == spool else [f"{where}: model {model!r}, spool {spool!r}"]
    parts = dict.fromkeys([*model, *spool])
    return [
        found for part in parts for found in differences(model.get(part), spool.get(part), f"{where} {part}".strip())
    ]


class Side:
    """One of the two queues, its messages named by the numbers in which they were enqueued."""

    def __init__(self, queue: Queue, clock: FakeClock) -> None:
        self.queue = queue
        self.clock = clock
        self.ids: list[str] = []  # by number
        self.receipts: list[str] = []  # of every delivery, in order

    def number(self, id: str) -> int:
        return self.ids.index(id)

    def took(self, messages: list[Message]) -> list[object]:
        """Remember deliveries, and tell of them what a consumer sees."""
        self.receipts += [message.receipt for message in messages]
        return [
            (
                self.number(message.id),
                message.body,
                message.attempts,
                message.priority,
                message.name,
                message.body_bytes,
                dict(message.headers),
                message.content_type,
                message.group,
            )
            for message in messages
        ]

    def seen(self) -> dict[str, Any]:
        """All that can be seen of the queue."""
        found: dict[str, Any] = {"told": {}, "listed": {}}
        in_state = {state: self.queue.list(state, limit=1000).messages for state in STATES}
        for info in (info for listed in in_state.values() for info in listed):
            found["told"][self.number(info.id)] = self.told(self.queue.get(info.id))
            found["listed"][self.number(info.id)] = self.listed(info)
        line = [*in_state["ready"], *(info for info in in_state["scheduled"] if self.is_due(info))]
        line.sort(key=lambda info: (-info.priority, info.id))
        found["line"] = [self.number(info.id) for info in line if not info.held]
        assert [info for info in in_state["ready"] if not info.held] == [
            info for info in line if not info.held and info.state == "ready"
        ]
        peeked = self.queue.peek()
        found["peek"] = None if peeked is None else self.number(peeked.id)
        found["reasons"] = self.queue.dead_letters.reasons()
        return found

    def is_due(self, info: MessageInfo) -> bool:
        """Whether the next dequeue would make it ready: until then either state is right."""
        return info.state == "scheduled" and info.due_at_ms is not None and info.due_at_ms <= self.clock.wall_ms()

    def listed(self, info: MessageInfo) -> dict[str, object]:
        waits = info.state in ("ready", "scheduled")
        return {
            "state": "ready" if self.is_due(info) else info.state,
            "priority": info.priority,
            "attempts": info.attempts,
            "name": info.name,
            "body_bytes": info.body_bytes,
            "due_at_ms": info.due_at_ms if info.state == "scheduled" and not self.is_due(info) else None,
            "expires_at_ms": info.expires_at_ms if waits else None,
            "group": info.group,
            "held": info.held,
            "reason": info.reason if info.state == "dead" else None,
            "receipt": self.receipts.index(info.receipt) if info.receipt and info.state == "claimed" else None,
            "deadline_at_ms": info.deadline_at_ms,
        }

    def told(self, info: MessageInfo) -> dict[str, object]:
        return self.listed(info) | {
            "headers": dict(info.headers),
            "content_type": info.content_type,
            "dedup_key": info.dedup_key,
            "history": [self.failure(info.id, each) for each in info.history if each.outcome in FAILURES],
        }

    def failure(self, id: str, attempt: Attempt) -> tuple[object, ...]:
        receipt = f"{id}.{attempt.nonce}"
        known = self.receipts.index(receipt) if receipt in self.receipts else None
        return (attempt.attempt, attempt.outcome, attempt.reason, attempt.ended_at_ms, known)

    def counts(self) -> dict[str, object]:
        """What is counted is what is listed; waiting messages together, since some may be due."""
        stats = self.queue.stats().as_dict()
        for state in STATES:
            listed = self.queue.list(state, limit=1000).messages
            assert (stats[state], stats[f"{state}_bytes"]) == (len(listed), sum(each.body_bytes for each in listed))
        waiting = {kind: stats[f"ready{kind}"] + stats[f"scheduled{kind}"] for kind in ("", "_bytes")}
        rest = ("claimed", "claimed_bytes", "done", "done_bytes", "dead", "dead_bytes", "paused")
        return {"waiting": waiting} | {kind: stats[kind] for kind in rest}

    def totals(self) -> dict[str, object]:
        stats = self.queue.stats().as_dict()
        return {kind: stats[kind] for kind in stats if kind.endswith("_total")}


class ModelAndSpool(RuleBasedStateMachine):
    """What the two do when they are told the same."""

    @initialize(chosen=SETTINGS, clock_jumps=st.booleans())
    def open_both(self, chosen: Settings, clock_jumps: bool) -> None:
        # Without its index the spool has deadlines by the wall clock only, so one run has jumps or loses its index.
        self.clock_jumps = clock_jumps
        self.home = Path(tempfile.mkdtemp(prefix="spoolq-model-"))
        self.clock = FakeClock()
        self.spool_path = self.home / "spool"
        self.spool_path.mkdir(mode=0o700)
        (self.spool_path / "queue.toml").write_text(dump(chosen))
        self.store = MemoryStore(settings=chosen, clock=self.clock)
        self.model = Side(MemoryQueue(store=self.store), self.clock)
        self.spool = Side(self.open_spool(), self.clock)
        self.index_was_removed = False
        self.is_sound = False
        self.bodies = 0
        for _ in range(3):
            self.enqueue({})

    def open_spool(self) -> Queue:
        from spoolq.spool.queue import SpoolQueue

        return SpoolQueue.open(self.spool_path, "default", create=True, clock=self.clock)

    def both(self, call: Callable[[Side], object]) -> object:
        """Do it on both; the same must come of it."""
        expected, got = (outcome(lambda side=side: call(side)) for side in (self.model, self.spool))  # type: ignore[misc]
        assert got == expected
        self.let_pass(1.5)
        return got

    def let_pass(self, seconds: float) -> None:
        """Time passes, and both do what is due by then."""
        self.clock.advance(seconds)
        for _ in range(2):  # what one pass took back may be expired, for the next pass to find
            self.clock.advance_waits(1.5)
            for side in (self.model, self.spool):
                while side.queue.maintain():
                    pass

    # What users do

    @rule(options=NEW)
    def enqueue(self, options: dict[str, Any]) -> None:
        self.bodies += 1
        body = b"%d" % self.bodies

        def call(side: Side) -> int:
            id = side.queue.enqueue(body, **options)
            if id not in side.ids:
                side.ids.append(id)
            return side.number(id)

        self.both(call)

    @precondition(lambda self: self.model.queue.settings.limits == Limits())
    @rule(many=st.lists(NEW, min_size=1, max_size=4))
    def enqueue_many(self, many: list[dict[str, Any]]) -> None:
        """Without limits: how many of a batch fit before one is refused is not promised."""
        messages = [NewMessage(body=b"%d" % (self.bodies + number), **each) for number, each in enumerate(many, 1)]
        self.bodies += len(many)

        def call(side: Side) -> list[int]:
            ids = side.queue.enqueue_many(messages)
            side.ids += sorted(set(ids) - set(side.ids))
            return [side.number(id) for id in ids]

        self.both(call)

    @rule(count=st.integers(1, 3), lease_s=LEASES)
    def dequeue(self, count: int, lease_s: float | None) -> None:
        self.both(lambda side: side.took(side.queue.dequeue_many(count, lease_s=lease_s)))

    @rule(how=st.sampled_from([*sorted(SETTLE), *["acknowledge", "requeue at once"] * 2]), lease_s=LEASES)
    def dequeue_and_settle(self, how: str, lease_s: float | None) -> None:
        def call(side: Side) -> object:
            message = side.queue.dequeue(lease_s=lease_s)
            return message and (side.took([message]), outcome(lambda: SETTLE[how](side.queue, message.receipt)))

        self.both(call)

    @precondition(lambda self: self.model.receipts)
    @rule(how=st.sampled_from(sorted(SETTLE)), which=ANY, late_s=st.sampled_from([0.0, 0.0, 60.0]))
    def settle(self, how: str, which: int, late_s: float) -> None:
        """With any receipt there ever was, the latest most often, and also past its deadline."""
        number = max(0, len(self.model.receipts) - 1 - which % 7)
        self.clock.advance(late_s)  # nobody has taken it back yet
        expected, got = (
            outcome(lambda side=side: SETTLE[how](side.queue, side.receipts[number]))  # type: ignore[misc]
            for side in (self.model, self.spool)
        )
        if not self.may_differ(how, number, expected, got):
            assert got == expected
        self.let_pass(1.5)

    def may_differ(self, how: str, number: int, expected: object, got: object) -> bool:
        """Whether the spool may answer otherwise about the receipt of a message that is gone.

        It remembers such a receipt for at least ten minutes, and not beyond its index.
        """
        if how != "acknowledge" or {expected, got} != {None, LeaseLost}:
            return False
        id = self.model.receipts[number].partition(".")[0]
        gone = outcome(lambda: self.model.queue.get(id)) is MessageNotFound
        return gone and (got is None or self.index_was_removed)

    @precondition(lambda self: self.model.ids)
    @rule(how=st.sampled_from(sorted(BY_ID)), which=ANY)
    def change(self, how: str, which: int) -> None:
        """By id, whatever state it is in."""
        number = which % len(self.model.ids)
        self.both(lambda side: BY_ID[how](side.queue, side.ids[number]))

    @rule(seconds=st.sampled_from([1.0, 5.0, 5.0, 30.0, 30.0, 400.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.let_pass(seconds)

    @precondition(lambda self: self.clock_jumps)
    @rule(by_s=st.sampled_from([-3600, -20, 20, 3600]))
    def clock_is_set(self, by_s: int) -> None:
        """Somebody sets the wall clock, though not while it is open whether a due message was made ready by it, and
        not back into a window that had ended: whether its key has been swept meanwhile is open, too.
        """
        if any(self.spool.is_due(info) for info in self.spool.queue.list("scheduled", limit=1000).messages):
            return
        now = self.clock.wall_ms()
        if any(now + by_s * 1000 < ends_at_ms <= now for _, ends_at_ms in self.store._keys.values()):
            return
        self.clock.set_wall(self.clock.wall_ms() + by_s * 1000)
        self.let_pass(1.5)

    @rule(how=st.sampled_from(sorted(ON_THE_QUEUE)))
    def change_the_queue(self, how: str) -> None:
        self.both(lambda side: ON_THE_QUEUE[how](side.queue))

    # What happens to them

    @rule(without_index=st.booleans())
    def reopen(self, without_index: bool) -> None:
        """Closed in order, and opened again, perhaps without its index."""
        self.model.queue.close()
        self.model.queue = MemoryQueue(store=self.store)
        self.spool.queue.close()
        if without_index and not self.clock_jumps:
            self.unlink_index()
        self.spool.queue = self.open_spool()
        self.let_pass(1.5)

    @precondition(lambda self: not self.clock_jumps)
    @rule()
    def remove_index(self) -> None:
        """As `rm index.db*`, with the queue open."""
        self.unlink_index()
        self.let_pass(1.5)

    def unlink_index(self) -> None:
        self.index_was_removed = True
        for path in self.spool_path.glob("index.db*"):
            path.unlink()

    @rule(count=st.integers(1, 2), lease_s=LEASES)
    def a_consumer_is_killed(self, count: int, lease_s: float | None) -> None:
        """It had claimed some, and is gone without a word; they come back, counted."""
        child = os.fork()
        if child == 0:
            try:
                self.open_spool().dequeue_many(count, lease_s=lease_s)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        killed = MemoryQueue(store=self.store)
        killed.dequeue_many(count, lease_s=lease_s)
        self.clock.advance(1.5)
        killed.crash()
        self.let_pass(0)

    # What must be so

    @invariant()
    def both_show_the_same(self) -> None:
        self.is_sound = False
        assert differences(self.model.counts(), self.spool.counts()) == []
        assert differences(self.model.seen(), self.spool.seen()) == []
        if not self.index_was_removed:
            assert differences(self.model.totals(), self.spool.totals()) == []
        self.is_sound = True

    def teardown(self) -> None:
        """The spool is in order, closed and open; unless it is known already that it is not."""
        if not hasattr(self, "spool"):
            return
        try:
            if self.is_sound:
                self.let_pass(1300)  # until what the killed have left behind is swept
                assert self.spool.queue.check() == []
                self.spool.queue.close()
                self.spool.queue = self.open_spool()
                assert self.spool.queue.check() == []
            self.spool.queue.close()
        finally:
            shutil.rmtree(self.home)


# Looking for the shortest failure takes long.
TestModelAndSpool = pytest.mark.timeout(max(600, 2 * EXAMPLES))(ModelAndSpool.TestCase)
TestModelAndSpool.settings = settings(
    max_examples=EXAMPLES,
    # The same runs each time, so that a change is judged by what it changes; more of them, and others, when asked for.
    derandomize="SPOOLQ_EXAMPLES" not in os.environ,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    print_blob=True,
)


# Runs that were found once, in their shortest form


@contextmanager
def running(chosen: Settings) -> Iterator[ModelAndSpool]:
    """The two, open; compared and checked at the end."""
    run = ModelAndSpool()
    run.open_both(chosen=chosen, clock_jumps=False)
    try:
        yield run
        run.both_show_the_same()
    finally:
        run.teardown()


def test_what_never_expires_does_not_for_want_of_an_index():
    """Its own ttl_s=0 against the queue's default is known from the files."""
    with running(Settings(ttl_s=40)) as run:
        run.enqueue(options={"ttl_s": 0.0})
        run.remove_index()
        run.time_passes(seconds=400)


def test_what_was_redriven_does_not_expire_for_want_of_an_index():
    """That a person wanted it after all is known from the files."""
    with running(Settings()) as run:
        run.enqueue(options={"ttl_s": 4.0})
        run.time_passes(seconds=5)
        run.change_the_queue(how="redrive all")
        run.remove_index()
        run.time_passes(seconds=400)


def test_a_fork_costs_no_index():
    """A child that opens the queue, and is killed, leaves the totals and the index."""
    with running(Settings()) as run:
        run.a_consumer_is_killed(count=1, lease_s=None)


def test_the_metadata_of_what_is_gone_goes_with_its_deduplication_window():
    """A key that nobody asks for any more leaves nothing for `check` to find."""
    with running(Settings(retention=Retention(done_s=0), dedup_window_s=30)) as run:
        run.enqueue(options={"dedup_key": "a", "priority": 9})
        run.dequeue_and_settle(how="acknowledge", lease_s=None)
        run.time_passes(seconds=4000)


def test_the_oldest_dead_letters_are_redriven_first():
    """As they are listed: by when they died, not by when they were enqueued."""
    with running(Settings(max_attempts=1)) as run:
        run.change(how="set_priority", which=2)
        run.dequeue_and_settle(how="bury", lease_s=None)
        run.dequeue_and_settle(how="bury", lease_s=None)
        run.both(lambda side: side.queue.dead_letters.redrive(limit=1))


@pytest.mark.parametrize("done_s", [0, 600])
def test_a_clock_that_is_set_back_does_not_keep_a_key_for_longer_than_two_windows(done_s):
    """A window follows the wall clock, as schedules do; an hour back, what is sent is another message."""
    with running(Settings(retention=Retention(done_s=done_s), dedup_window_s=300)) as run:
        run.enqueue(options={"dedup_key": "a", "priority": 9})
        run.dequeue_and_settle(how="acknowledge", lease_s=None)
        run.time_passes(seconds=60)
        run.clock.set_wall(run.clock.wall_ms() - 20_000)
        run.enqueue(options={"dedup_key": "a", "priority": 9})
        assert run.model.queue.stats().ready == 3, "within its window it is the same message"
        run.clock.set_wall(run.clock.wall_ms() - 3_600_000)
        run.enqueue(options={"dedup_key": "a", "priority": 9})
        assert run.model.queue.stats().ready == 4, "it is another message"
