"""What is done while dying: every transition of section 5, and what puts things in order again.

The name of a scenario begins with the row of the table that it is for.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from dataclasses import replace

from spoolq.models import NewMessage
from spoolq.settings import Retention, Settings
from spoolq.spool import queues
from spoolq.spool.queue import SpoolQueue
from tests.crash.harness import Scenario, State, World

SCENARIOS: dict[str, Scenario] = {}
HOUR_S = 3600.0
FULL = Settings(durability="full", lease_s=24 * HOUR_S)


def nothing(world: World) -> None:
    """An empty queue."""


def one(world: World) -> None:
    """A message."""
    world.queue.enqueue(b"first", name="report.csv")


def two(world: World) -> None:
    """Two, one with all that can come with one."""
    one(world)
    world.queue.enqueue(
        b"second", headers={"a": "b"}, content_type="text/plain", ttl_s=100 * HOUR_S, priority=7, name="a b"
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
    fresh: bool = False,
    hows: tuple[str, ...] = ("maintain", "check", "without an index"),
    afterwards: Callable[[SpoolQueue, State], None] = lambda queue, state: None,
    name: str = "",
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register a function as a scenario of its name."""

    def register(act: Callable[[World], None]) -> Callable[[World], None]:
        called = name or act.__name__
        assert called not in SCENARIOS
        SCENARIOS[called] = Scenario(
            called,
            act,
            prepare,
            settings,
            later_s=later_s,
            dies=dies,
            noreplace=noreplace,
            queue_name=queue_name,
            conserves=conserves,
            fresh=fresh,
            hows=hows,
            afterwards=afterwards,
        )
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


def again(queue: SpoolQueue, state: State) -> None:
    """Whoever was not answered asks again, with the same key: there is one message then, of the answered id."""
    there = {info.id for info in queue.list("ready").messages}
    id = queue.enqueue(b"second", dedup_key="k")
    with queue.read_body(id) as file:
        assert file.read() == b"second"
    now = {info.id for info in queue.list("ready").messages}
    assert now == there | {id}, "two messages of one key"
    assert len(now) == 2
    assert queue.enqueue(b"second", dedup_key="k") == id


@scenario(one, afterwards=again)
def enqueue_keyed(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"second", dedup_key="k")
    world.ended(b"second")


def reserved(world: World) -> None:
    """A key whose writer died just before its message was there."""
    one(world)
    producer = world.queue._producer
    rename = world.files.rename

    def die(source: str, target: str) -> None:
        if target.startswith(world.queue._directory.new):
            os._exit(0)
        rename(source, target)

    world.files.rename = die  # type: ignore[method-assign]
    producer.enqueue(b"second", NewMessage(body=b"", dedup_key="k"))


@scenario(reserved, afterwards=again)
def enqueue_keyed_after_a_writer_that_died(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.enqueue(b"second", dedup_key="k")
    world.ended(b"second")


def placed(world: World) -> None:
    """A key whose writer died just after its message was there."""
    one(world)
    queue = world.queue
    queue._producer._finish_keyed = lambda key, plan: os._exit(0)  # type: ignore[method-assign]
    queue.enqueue(b"second", dedup_key="k")


@scenario(placed, afterwards=again)
def enqueue_keyed_after_a_writer_that_had_placed_it(world: World) -> None:
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


@scenario(drops, noreplace=False)
def take_in_without_renameat2(world: World) -> None:
    take_in(world)


def not_files(world: World) -> None:
    """A FIFO."""
    os.mkfifo(world.root / "new" / "fifo")


@scenario(not_files)
def quarantine(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.check()
    world.ended(b"special")


@scenario(not_files, noreplace=False)
def quarantine_without_renameat2(world: World) -> None:
    quarantine(world)


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


@scenario(two, settings=replace(FULL, retention=Retention(done_s=0)), conserves=False)
def acknowledge_delete(world: World) -> None:
    acknowledge_keep(world)


@scenario(group, settings=replace(FULL, retention=Retention(done_s=0)), conserves=False)
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
    settings=replace(FULL, retention=Retention(done_s=0)),
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


@scenario(two, settings=replace(FULL, max_attempts=1))
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


@scenario(abandoned, dies=True, later_s=5, settings=replace(FULL, max_attempts=1))
def reap_to_dead(world: World) -> None:
    reap_of_the_dead(world)


@scenario(leased, later_s=HOUR_S)
def reap_by_deadline(world: World) -> None:
    reap_of_the_dead(world)


@scenario(by_hand, later_s=25 * HOUR_S)
def reap_by_hand(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.maintain()
    world.ended(b"first")


@scenario(by_hand, later_s=25 * HOUR_S, settings=replace(FULL, max_attempts=1))
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
    settings=replace(FULL, retention=Retention(expired="delete")),
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
    settings=replace(FULL, retention=Retention(done_s=100, dead_s=200)),
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


@scenario(fresh=True)
def make_spool(world: World) -> None:
    world.arm()
    world.queue.enqueue(b"first")
    world.ended(b"first")


@scenario(fresh=True)
def make_spool_for_a_group(world: World) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    world.arm()
    queues.make_spool(world.spool, group=group, files=world.files)


# Recovery


def mess(world: World) -> None:
    """What several deaths and a person leave."""
    root = world.root
    queue = world.queue
    for number in range(8):
        queue.enqueue(
            b"%d" % number, group="g" if number in {3, 4} else None, headers={"a": "b"} if number == 5 else {}
        )
    claimed = queue.dequeue_many(2)
    claimed[0].ack()
    files = {path.read_bytes(): path for path in (root / "new").iterdir()}
    new = {body: path.name for body, path in files.items()}
    # 1: acknowledged by hand. 2: claimed by somebody who died before the commit. 3: by hand. 4: renamed by hand.
    assert claimed[1].path is not None
    os.rename(claimed[1].path, root / "done" / os.path.basename(claimed[1].path))
    files[b"2"].rename(root / "cur" / f"{new[b'2']},a=1,r=kdead001")
    files[b"3"].rename(root / "cur" / new[b"3"])
    files[b"4"].rename(root / "new" / f"{new[b'4']},p=9")
    # 6: put back by hand, with its nonce.
    files[b"6"].rename(root / "new" / f"{new[b'6']},a=1,r=kdead003")
    # Without a row, dropped, and not a file.
    (root / "new" / "01890a5d-ac96-774b-bcce-b302099a8057,p=3").write_bytes(b"no row")
    (root / "new" / "a drop").write_bytes(b"drop")
    (root / "new" / "link").symlink_to("/nowhere")
    # Litter.
    (root / "holders" / "dead00").write_bytes(b"{}")
    (root / "tmp" / "01890a5d-ac96-774b-bcce-b302099a8058").write_bytes(b"half")
    (root / "meta" / "01890a5d-ac96-774b-bcce-b302099a8058.jsonl").write_bytes(b"{}\n")


@scenario(mess, dies=True, later_s=5)
def recover_by_maintenance(world: World) -> None:
    queue = world.queue
    world.arm()
    for _ in range(2):
        while queue.maintain():
            pass


@scenario(mess, dies=True, later_s=5)
def recover_by_check(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.check(fix=True)


@scenario(mess, dies=True, later_s=5)
def recover_without_an_index(world: World) -> None:
    for path in world.root.glob("index.db*"):
        path.unlink()
    world.arm()
    world.queue.check()


def twins(world: World) -> None:
    """Messages of one id: by a link, and by copies, of which one was changed."""
    root = world.root
    two(world)
    for path in [*(root / "new").iterdir()]:
        if path.read_bytes() == b"first":
            os.link(path, root / "done" / f"{path.name[:36]},a=1,r=kdead003")
        else:
            (root / "dead" / path.name[:36]).write_bytes(b"a copy")
            (root / "cur" / path.name[:36]).write_bytes(b"another")


@scenario(twins, dies=True, hows=("check",))
def recover_twins_by_check(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.check(fix=True)


@scenario(twins, dies=True, hows=("without an index",))
def recover_twins_by_rebuilding(world: World) -> None:
    queue = world.queue
    world.arm()
    queue.rebuild()


@scenario(two, dies=True, later_s=5)
def open_what_was_not_closed(world: World) -> None:
    world.arm()
    world.open().stats()
    world.ended(b"first", b"second")
