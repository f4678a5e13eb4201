"""What is done while dying: every transition of section 5, and what puts things in order again.

The name of a scenario begins with the row of the table that it is for.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from spoolq.models import NewMessage
from spoolq.settings import Retention, Settings
from spoolq.spool import queues
from tests.crash.harness import Scenario, World

SCENARIOS: dict[str, Scenario] = {}
HOUR_S = 3600.0
FULL = Settings(durability="full")


def nothing(world: World) -> None:
    """An empty queue."""


def one(world: World) -> None:
    """A message."""
    world.queue.enqueue(b"first", name="report.csv")


def two(world: World) -> None:
    """Two, one with all that can come with one."""
    one(world)
    world.queue.enqueue(
        b"second", headers={"a": "b"}, content_type="text/plain", group="g", ttl_s=100 * HOUR_S, priority=7, name="a b"
    )


def group(world: World) -> None:
    """Three of a group, in order."""
    for body in (b"first", b"second", b"third"):
        world.queue.enqueue(body, group="g")


def done(world: World) -> None:
    """One acknowledged."""
    two(world)
    world.queue.dequeue().ack()


def dead(world: World) -> None:
    """Two that gave up."""
    two(world)
    for _ in range(2):
        world.queue.dequeue().dead_letter("no")


def scheduled(world: World) -> None:
    """One that is not due for an hour."""
    world.queue.enqueue(b"first", delay_s=HOUR_S, priority=2)


def abandoned(world: World) -> None:
    """Two claimed by a process that died."""
    two(world)
    assert len(world.queue.dequeue_many(2)) == 2


def leased(world: World) -> None:
    """Two claimed for half an hour by somebody of whom no process tells."""
    two(world)
    assert len(world.open(detached=True).dequeue_many(2, lease_s=HOUR_S / 2)) == 2


def by_hand(world: World) -> None:
    """One claimed with `mv`."""
    one(world)
    (name,) = os.listdir(world.root / "new")
    (world.root / "new" / name).rename(world.root / "cur" / name)
    world.queue.check(fix=True)


def files(world: World) -> None:
    """A file of the user's own."""
    (world.outside / "my file.txt").write_bytes(b"first")


def scenario(
    prepare: Callable[[World], None] = nothing,
    *,
    settings: Settings = FULL,
    later_s: float = 0,
    dies: bool = False,
    noreplace: bool = True,
    queue_name: str = "default",
    conserves: bool = True,
    name: str = "",
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register a function as a scenario of its name."""

    def register(act: Callable[[World], None]) -> Callable[[World], None]:
        called = name or act.__name__
        assert called not in SCENARIOS
        SCENARIOS[called] = Scenario(called, act, prepare, settings, later_s, dies, noreplace, queue_name, conserves)
        return act

    return register


# Enqueueing


@scenario()
def enqueue(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"first")
    world.ended(b"first")
    queue.enqueue(b"second", priority=0, delay_s=HOUR_S, name="report.csv")
    world.ended(b"second")


@scenario(one)
def enqueue_with_metadata(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"second", headers={"a": "b"}, content_type="text/plain", ttl_s=90 * HOUR_S, name="a b")
    world.ended(b"second")


@scenario(group)
def enqueue_into_a_group(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"fourth", group="g", priority=9)
    world.ended(b"fourth")


@scenario()
def enqueue_a_stream(world: World) -> None:
    queue = world.queue
    (world.root.parent / "stream").write_bytes(b"first")
    with open(world.root.parent / "stream", "rb") as stream:
        world.arm()
        queue.enqueue(stream)
    world.ended(b"first")


@scenario()
def enqueue_many(world: World) -> None:
    queue = world.queue
    bodies = [b"%d" % number for number in range(5)]
    world.arm()
    queue.enqueue_many([NewMessage(body=body, headers={"a": "b"} if body == b"2" else {}) for body in bodies])
    world.ended(*bodies)


@scenario(one)
def enqueue_keyed(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"second", dedup_key="k")
    world.ended(b"second")


@scenario(files)
def enqueue_file_copy(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue_file(world.outside / "my file.txt")
    world.journal.say("ended", "first")


@scenario(files)
def enqueue_file_move(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue_file(world.outside / "my file.txt", move=True)
    world.ended(b"first")


@scenario(files, noreplace=False)
def enqueue_file_move_without_renameat2(world: World) -> None:
    enqueue_file_move(world)


# Drops


def drops(world: World) -> None:
    """Three drops, one with a name that has to be kept, one for later."""
    for name, body in (("plain.txt", b"first"), ("my report (1).txt", b"second"), ("later.txt", b"third")):
        (world.root / "new" / name).write_bytes(body)
    at_s = world.clock.wall_ms() / 1000 + HOUR_S
    os.utime(world.root / "new" / "later.txt", (at_s, at_s))


@scenario(drops)
def take_in(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.check()
    world.ended(b"first", b"second", b"third")


def not_files(world: World) -> None:
    """A FIFO."""
    os.mkfifo(world.root / "new" / "fifo")


@scenario(not_files)
def quarantine(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.check()
    world.ended(b"special")


# Claiming


@scenario(two)
def dequeue(world: World) -> None:
    queue = world.queue
    world.arm()
    message = queue.dequeue()
    assert message is not None
    world.claimed(message)
    world.ended(message.body)


@scenario(two)
def dequeue_with_a_lease(world: World) -> None:
    queue = world.queue
    world.arm()
    message = queue.dequeue(lease_s=HOUR_S)
    assert message is not None
    world.claimed(message)
    world.ended(message.body)


@scenario(two)
def dequeue_for_somebody_else(world: World) -> None:
    queue = world.open(detached=True)
    world.arm()
    message = queue.dequeue(lease_s=HOUR_S)
    assert message is not None
    world.claimed(message)
    world.ended(message.body)


@scenario(group)
def dequeue_many_and_of_a_group(world: World) -> None:
    queue = world.queue
    queue.enqueue_many([b"x", b"y"])
    world.arm()
    messages = queue.dequeue_many(5)
    for message in messages:
        world.claimed(message)
    world.ended(*(message.body for message in messages))


@scenario(scheduled, later_s=2 * HOUR_S)
def dequeue_what_is_due(world: World) -> None:
    queue = world.queue
    world.arm()
    message = queue.dequeue()
    assert message is not None
    world.claimed(message)
    world.ended(message.body)


# Settling


@scenario(two)
def acknowledge_keep(world: World) -> None:
    message = world.claim()
    world.arm()
    message.ack()
    world.acknowledged(message.receipt)
    world.ended(message.body)


@scenario(group)
def acknowledge_keep_in_a_group(world: World) -> None:
    acknowledge_keep(world)


@scenario(two, settings=Settings(durability="full", retention=Retention(done_s=0)), conserves=False)
def acknowledge_delete(world: World) -> None:
    acknowledge_keep(world)


@scenario(group, settings=Settings(durability="full", retention=Retention(done_s=0)), conserves=False)
def acknowledge_delete_in_a_group(world: World) -> None:
    acknowledge_keep(world)


def _acknowledge_many(world: World) -> None:
    queue = world.queue
    queue.enqueue(b"third", headers={"a": "b"})
    messages = queue.dequeue_many(3)
    for message in messages:
        world.claimed(message)
    world.arm()
    assert queue.acknowledge_many([message.receipt for message in messages]) == []
    for message in messages:
        world.acknowledged(message.receipt)
    world.ended(*(message.body for message in messages))


scenario(two, name="acknowledge_keep_many")(_acknowledge_many)
scenario(
    two,
    name="acknowledge_delete_many",
    settings=Settings(durability="full", retention=Retention(done_s=0)),
    conserves=False,
)(_acknowledge_many)


@scenario(two)
def requeue(world: World) -> None:
    message = world.claim()
    world.arm()
    message.requeue(HOUR_S, "no")
    world.ended(message.body)


@scenario(group)
def requeue_in_a_group(world: World) -> None:
    requeue(world)


@scenario(two, settings=Settings(durability="full", max_attempts=1))
def requeue_to_dead(world: World) -> None:
    requeue(world)


@scenario(two)
def release(world: World) -> None:
    message = world.claim()
    world.arm()
    message.release()
    world.ended(message.body)


@scenario(two)
def give_back(world: World) -> None:
    message = world.claim()
    world.arm()
    world.queue.give_back(message.id)
    world.ended(message.body)


@scenario(group)
def dead_letter(world: World) -> None:
    message = world.claim()
    world.arm()
    message.dead_letter("no")
    world.ended(message.body)


@scenario(two)
def extend(world: World) -> None:
    message = world.open(detached=True).dequeue(lease_s=HOUR_S)
    assert message is not None
    world.claimed(message)
    world.arm()
    message.extend(3 * HOUR_S)
    world.ended(message.body)


@scenario(two)
def close(world: World) -> None:
    queue = world.queue
    assert len(queue.dequeue_many(2)) == 2
    world.arm()
    queue.close()
    world.ended(b"first", b"second")


# Ended by others


@scenario(abandoned, dies=True, later_s=5)
def reap_of_the_dead(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.maintain()
    world.ended(b"first", b"second")


@scenario(abandoned, dies=True, later_s=5, settings=Settings(durability="full", max_attempts=1))
def reap_to_dead(world: World) -> None:
    reap_of_the_dead(world)


@scenario(leased, later_s=HOUR_S)
def reap_by_deadline(world: World) -> None:
    reap_of_the_dead(world)


@scenario(by_hand, later_s=HOUR_S)
def reap_by_hand(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.maintain()
    world.ended(b"first")


@scenario(by_hand, later_s=HOUR_S, settings=Settings(durability="full", max_attempts=1))
def reap_by_hand_to_dead(world: World) -> None:
    reap_by_hand(world)


def expiring(world: World) -> None:
    """Two that expire, one of them scheduled for after that."""
    world.queue.enqueue(b"first", ttl_s=60)
    world.queue.enqueue(b"second", ttl_s=60, delay_s=HOUR_S, headers={"a": "b"})


@scenario(expiring, later_s=120)
def expire(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.maintain()
    world.ended(b"first", b"second")


@scenario(
    expiring,
    later_s=120,
    settings=Settings(durability="full", retention=Retention(expired="delete")),
    conserves=False,
)
def expire_to_nothing(world: World) -> None:
    expire(world)


# People


@scenario(dead)
def redrive(world: World) -> None:
    queue = world.queue
    world.arm()
    assert queue.dead_letters.redrive() == 2
    world.ended(b"first", b"second")


@scenario(done)
def replay(world: World) -> None:
    queue = world.queue
    (info,) = queue.list("done").messages
    world.arm()
    queue.replay(info.id)
    world.ended(b"second")


@scenario(scheduled)
def run_now(world: World) -> None:
    queue = world.queue
    (info,) = queue.list("scheduled").messages
    world.arm()
    queue.run_now(info.id)
    world.ended(b"first")


@scenario(scheduled)
def set_priority(world: World) -> None:
    queue = world.queue
    (info,) = queue.list("scheduled").messages
    world.arm()
    queue.set_priority(info.id, 9)
    world.ended(b"first")


@scenario(two)
def set_priority_of_what_is_ready(world: World) -> None:
    queue = world.queue
    ids = [info.id for info in queue.list("ready").messages]
    world.arm()
    for id in ids:
        queue.set_priority(id, 1)
    world.ended(b"first", b"second")


@scenario(group, conserves=False)
def delete(world: World) -> None:
    queue = world.queue
    first = queue.peek()
    assert first is not None
    world.arm()
    queue.delete(first.id)
    world.ended(b"first")


@scenario(done, conserves=False)
def delete_what_is_done(world: World) -> None:
    queue = world.queue
    (info,) = queue.list("done").messages
    world.arm()
    queue.delete(info.id)
    world.ended(b"second")


@scenario(two, conserves=False)
def purge(world: World) -> None:
    queue = world.queue
    world.arm()
    assert queue.purge() == 2
    world.ended(b"first", b"second")


@scenario(dead, conserves=False)
def purge_dead_letters(world: World) -> None:
    queue = world.queue
    world.arm()
    assert queue.dead_letters.purge() == 2
    world.ended(b"first", b"second")


def done_and_dead(world: World) -> None:
    """Two acknowledged, one dead, one waiting."""
    for body in (b"first", b"second", b"third", b"fourth"):
        world.queue.enqueue(body, headers={"a": "b"})
    world.queue.dequeue().ack()
    world.queue.dequeue().ack()
    world.queue.dequeue().dead_letter("no")


@scenario(
    done_and_dead,
    later_s=1000,
    conserves=False,
    settings=Settings(durability="full", retention=Retention(done_s=100, dead_s=200)),
)
def clean(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.clean()
    world.ended(b"first", b"second", b"third")


@scenario(two)
def pause_and_resume(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.pause()
    queue.resume()
    world.ended(b"first", b"second")


@scenario(two)
def change_settings(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.change_settings(Settings(durability="process"))


# Queues


@scenario(two)
def make_queue(world: World) -> None:
    world.arm()
    queues.create_queue(world.spool, "emails", Settings(durability="full"))
    world.journal.say("ended", "emails")


def another_queue(world: World) -> None:
    """A second queue with two messages."""
    world.opened.clear()
    queues.create_queue(world.spool, "emails", FULL)
    two(world)
    world.queue.dequeue().ack()


@scenario(another_queue, queue_name="emails", conserves=False)
def delete_queue(world: World) -> None:
    world.arm()
    queues.delete_queue(world.spool, "emails", world.clock)
    world.ended(b"first", b"second")
    world.journal.say("ended", "emails")


# The index


@scenario(two)
def rebuild(world: World) -> None:
    queue = world.queue
    world.arm()
    assert queue.rebuild() == 2
    world.ended(b"first", b"second")


@scenario(two)
def open_what_was_closed_in_order(world: World) -> None:
    world.arm()
    world.open().stats()
    world.ended(b"first", b"second")


@scenario(two)
def open_and_close(world: World) -> None:
    world.arm()
    world.open().close()
    world.ended(b"first", b"second")
