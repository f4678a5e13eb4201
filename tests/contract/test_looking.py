"""Looking without touching: get, bodies, lists and their pages, search, counts."""

import json

import pytest

from spoolq.errors import MessageNotFound
from spoolq.models import Filter
from spoolq.settings import Settings

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


def pages(queue, state, **arguments):
    """All pages of a list."""
    found = [queue.list(state, **arguments)]
    while found[-1].cursor is not None:
        found.append(queue.list(state, cursor=found[-1].cursor, **arguments))
    return found


def ids(page):
    return [info.id for info in page.messages]


def test_all_that_is_known_of_a_message(queue, clock):
    """`get` answers with every field of a message that waits."""
    message_id = queue.enqueue(
        b"12345",
        priority=7,
        delay_s=60,
        headers={"k": "v"},
        content_type="text/plain",
        name="n.txt",
        dedup_key="key",
        group="g",
        ttl_s=3600,
    )
    info = queue.get(message_id)
    now_ms = clock.wall_ms()
    assert (info.id, info.queue, info.state) == (message_id, "default", "scheduled")
    assert (info.priority, info.attempts, info.body_bytes, info.name) == (7, 0, 5, "n.txt")
    assert (info.enqueued_at_ms, info.due_at_ms, info.expires_at_ms) == (now_ms, now_ms + 60_000, now_ms + 3_600_000)
    assert (dict(info.headers), info.content_type) == ({"k": "v"}, "text/plain")
    assert (info.dedup_key, info.group, info.held) == ("key", "g", False)
    assert (info.receipt, info.holder, info.deadline_at_ms, info.history, info.reason) == (None, None, None, (), "")
    json.dumps(info.as_dict())


def test_a_claimed_message_shows_its_claim(queue, clock):
    """Receipt and deadline of the delivery under way."""
    message_id = queue.enqueue(b"x")
    clock.advance(5)
    message = queue.dequeue(lease_s=60)
    info = queue.get(message_id)
    assert (info.state, info.receipt) == ("claimed", message.receipt)
    assert info.deadline_at_ms == clock.wall_ms() + 60_000
    assert info.changed_at_ms == clock.wall_ms()
    assert info.enqueued_at_ms == clock.wall_ms() - 5000
    assert message.enqueued_at_ms == info.enqueued_at_ms


def test_changed_at_is_when_it_entered_its_state(queue, clock):
    """Each state has its own."""
    message_id = queue.enqueue(b"x")
    begun_at_ms = clock.wall_ms()
    clock.advance(10)
    assert queue.get(message_id).changed_at_ms == begun_at_ms
    message = queue.dequeue()
    clock.advance(10)
    assert queue.get(message_id).changed_at_ms == begun_at_ms + 10_000
    message.ack()
    clock.advance(10)
    assert queue.get(message_id).changed_at_ms == begun_at_ms + 20_000


@pytest.mark.parametrize("look", ["get", "read_body", "run_now", "delete", "give_back", "replay"])
def test_an_unknown_id_is_not_found(queue, look):
    """MessageNotFound, with the id."""
    with pytest.raises(MessageNotFound, match=NOBODY) as caught:
        getattr(queue, look)(NOBODY)
    assert caught.value.message_id == NOBODY


@pytest.mark.parametrize("look", ["get", "read_body", "run_now", "delete", "give_back", "replay"])
@pytest.mark.parametrize("wrong", ["", "nonsense", NOBODY.upper(), NOBODY + "\n", "../" + NOBODY, "*", NOBODY[:-1]])
def test_what_is_no_id_is_a_wrong_argument(queue, look, wrong):
    """ValueError, with what was given: it never becomes part of a path."""
    with pytest.raises(ValueError, match="message id"):
        getattr(queue, look)(wrong)


def test_the_body_can_be_read_in_every_state(queue):
    """Waiting, claimed, done and dead; reading changes nothing."""
    waiting = queue.enqueue(b"waiting", delay_s=60)
    bodies = {waiting: b"waiting"}
    for name in (b"done", b"dead", b"claimed"):
        bodies[queue.enqueue(name)] = name
        message = queue.dequeue()
        if name == b"done":
            message.ack()
        elif name == b"dead":
            message.dead_letter("no")
    before = queue.stats()
    for message_id, body in bodies.items():
        with queue.read_body(message_id) as file:
            assert file.read() == body
    assert queue.stats() == before


def test_ready_is_listed_in_delivery_order(queue):
    """By priority, then by age."""
    low = queue.enqueue(b"x", priority=1)
    first, second = queue.enqueue(b"x"), queue.enqueue(b"x")
    high = queue.enqueue(b"x", priority=9)
    assert ids(queue.list("ready")) == [high, first, second, low]


def test_scheduled_is_listed_by_time(queue):
    """Whatever their priority and age."""
    late, soon, middle = (queue.enqueue(b"x", delay_s=delay_s, priority=p) for delay_s, p in ((9, 9), (1, 0), (5, 5)))
    assert ids(queue.list("scheduled")) == [soon, middle, late]


@pytest.mark.parametrize("state", ["claimed", "done", "dead"])
def test_other_states_are_listed_oldest_first(queue, clock, state):
    """Oldest first."""
    expected = []
    for _ in range(3):
        queue.enqueue(b"x")
        message = queue.dequeue()
        expected.append(message.id)
        if state == "done":
            message.ack()
        elif state == "dead":
            message.dead_letter("no")
        clock.advance(1)
    assert ids(queue.list(state)) == expected


@pytest.mark.parametrize("state", ["ready", "scheduled", "claimed", "done", "dead"])
def test_pages_show_each_message_once(queue, state):
    """25 messages in pages of 10: 10, 10 and 5, the cursor None after the last."""
    for number in range(25):
        queue.enqueue(b"%d" % number, priority=number % 3, delay_s=number % 4 + 1 if state == "scheduled" else 0)
    if state not in ("ready", "scheduled"):
        for message in queue.dequeue_many(25):
            if state == "done":
                message.ack()
            elif state == "dead":
                message.dead_letter("no")
    found = pages(queue, state, limit=10)
    assert [len(page.messages) for page in found] == [10, 10, 5]
    shown = [each for page in found for each in ids(page)]
    assert len(set(shown)) == 25
    assert shown == ids(queue.list(state))


def test_a_full_last_page_has_no_cursor(queue):
    """Ten of ten: there is no further page."""
    queue.enqueue_many([b"x"] * 10)
    assert [len(page.messages) for page in pages(queue, "ready", limit=10)] == [10]
    assert [len(page.messages) for page in pages(queue, "ready", limit=5)] == [5, 5]


def test_pages_are_stable_while_messages_go(queue):
    """What stays is shown once, although what was shown has gone, the last one of the page included."""
    expected = queue.enqueue_many([b"%d" % number for number in range(9)])
    first = queue.list("ready", limit=3)
    for message in queue.dequeue_many(3):
        message.ack()
    second = queue.list("ready", limit=3, cursor=first.cursor)
    queue.delete(expected[5])
    third = queue.list("ready", limit=3, cursor=second.cursor)
    assert ids(first) + ids(second) + ids(third) == expected


def test_pages_are_stable_while_messages_come(queue):
    """A new one may be shown or not; the others are shown once."""
    expected = queue.enqueue_many([b"%d" % number for number in range(6)])
    first = queue.list("ready", limit=3)
    queue.enqueue(b"urgent", priority=9)
    second = queue.list("ready", limit=3, cursor=first.cursor)
    assert ids(first) + ids(second) == expected


def test_an_empty_list_is_a_page(queue):
    """Nothing on it, and no cursor."""
    page = queue.list("dead")
    assert (page.messages, page.cursor) == ((), None)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(), "abc"),
        (Filter(name="ORDER"), "ab"),
        (Filter(name="order", group="g"), "b"),
        (Filter(group="g"), "b"),
        (Filter(text="stock"), "c"),
        (Filter(min_age_s=15), "ab"),
        (Filter(max_age_s=15), "c"),
        (Filter(min_age_s=15, max_age_s=25), "b"),
        (Filter(name="%"), ""),
        (Filter(name="_"), "c"),
        (Filter(name="\\"), ""),
        (Filter(name="\0"), ""),
        (Filter(text="order\0"), ""),
    ],
    ids=repr,
)
def test_lists_are_filtered(queue, clock, where, expected):
    """Each given part must hold; a part of a name is taken literally, in any case."""
    bodies = {}
    for body, options in (
        ("a", {"name": "order-1.csv"}),
        ("b", {"name": "Order-2.csv", "group": "g"}),
        ("c", {"name": "stock_3.csv"}),
    ):
        bodies[queue.enqueue(body.encode(), **options)] = body
        clock.advance(10)
    assert "".join(bodies[each] for each in ids(queue.list("ready", where=where))) == expected


def test_filters_by_attempts_and_reason(queue):
    """min_attempts and a part of the reason."""
    for reason, attempts in (("Timeout", 1), ("not JSON", 2)):
        queue.enqueue(b"x", name=reason.replace(" ", "-"))
        for _ in range(attempts - 1):
            queue.dequeue().requeue(delay_s=0)
        queue.dequeue().dead_letter(reason)
    names = [info.name for info in queue.list("dead", where=Filter(min_attempts=2)).messages]
    assert names == ["not-JSON"]
    assert [info.name for info in queue.list("dead", where=Filter(reason="timeOUT")).messages] == ["Timeout"]
    assert [info.name for info in queue.list("dead", where=Filter(text="json")).messages] == ["not-JSON"]


def test_a_filter_and_pages_go_together(queue):
    """Pages of what the filter admits are full, whatever lies between."""
    for number in range(20):
        queue.enqueue(b"x", name="even" if number % 2 == 0 else "odd")
    found = pages(queue, "ready", where=Filter(name="even"), limit=4)
    assert [len(page.messages) for page in found] == [4, 4, 2]


def test_search_finds_in_every_state(queue):
    """By the beginning of the id, a part of the name, or a part of the reason."""
    dead = queue.enqueue(b"1", name="report.csv")
    queue.dequeue().dead_letter("Disk FULL")
    done = queue.enqueue(b"2", name="Report-2.csv")
    queue.dequeue().ack()
    ready = queue.enqueue(b"3", name="other")

    def found(text, **arguments):
        return {info.id for info in queue.search(text, **arguments)}

    assert found("report") == {dead, done}
    assert found("disk full") == {dead}
    assert found(ready) == {ready}
    assert ready in found(ready[:12])
    assert found(ready[3:]) == set()
    assert found("100%") == set()
    assert found("\0") == found("report\0") == set()
    assert len(found("report", limit=1)) == 1


def test_counts_and_bytes_of_every_state(queue):
    """Each state with its messages and their bytes."""
    assert queue.stats().ready == 0
    for body in (b"1", b"22", b"333", b"4444"):
        queue.enqueue(body)
    queue.enqueue(b"55555", delay_s=60)
    queue.dequeue().ack()
    queue.dequeue().dead_letter("no")
    queue.dequeue()
    stats = queue.stats()
    assert (stats.queue, stats.paused) == ("default", False)
    assert (stats.ready, stats.scheduled, stats.claimed, stats.done, stats.dead) == (1, 1, 1, 1, 1)
    sizes = (stats.ready_bytes, stats.scheduled_bytes, stats.claimed_bytes, stats.done_bytes, stats.dead_bytes)
    assert sizes == (4, 5, 3, 1, 2)
    json.dumps(stats.as_dict())


def test_totals_count_what_happened(engine):
    """Enqueued, acknowledged, failed (counted and given back) and dead, whatever has become of the messages."""
    queue = engine.make_queue(Settings(max_attempts=2))
    queue.enqueue_many([b"1", b"2", b"3"])
    queue.dequeue().ack()
    queue.dequeue().requeue(delay_s=0)
    queue.dequeue().requeue(delay_s=0)
    queue.dequeue().release()
    stats = queue.stats()
    totals = (stats.enqueued_total, stats.acknowledged_total, stats.failed_total, stats.dead_total)
    assert totals == (3, 1, 2, 1)


def test_the_oldest_ready_message_is_dated(queue, clock):
    """When it became ready; None when nothing is."""
    assert queue.stats().oldest_ready_at_ms is None
    queue.enqueue(b"1", delay_s=60)
    assert queue.stats().oldest_ready_at_ms is None
    queue.enqueue(b"2")
    since = clock.wall_ms()
    clock.advance(10)
    queue.enqueue(b"3")
    assert queue.stats().oldest_ready_at_ms == since
    queue.dequeue()
    assert queue.stats().oldest_ready_at_ms == since + 10_000
    queue.dequeue()
    assert queue.stats().oldest_ready_at_ms is None


def test_the_oldest_ready_message_is_found_behind_some_that_came_back(queue, clock):
    """Which are ready since a moment ago, and first in line again."""
    queue.enqueue_many([b"x"] * 12)
    since = clock.wall_ms()
    clock.advance(10)
    for message in queue.dequeue_many(10):
        message.release()
    assert queue.stats().oldest_ready_at_ms == since


def test_the_ages_of_a_states_messages(queue, engine):
    """Counted by when they were enqueued, whatever their priority; each within its bound, the last ones older."""
    queue.enqueue(b"old", priority=9)
    engine.advance(500)
    queue.enqueue_many([b"1", b"2"])
    engine.advance(100)
    queue.enqueue(b"new", priority=1)
    queue.enqueue(b"later", delay_s=60)
    assert list(queue.ages([60, 300])) == [1, 2, 1]
    assert list(queue.ages([1000], "scheduled")) == [1, 0]
    queue.dequeue().dead_letter("no")
    assert list(queue.ages([60, 300], "dead")) == [0, 0, 1]
    assert list(queue.ages([60, 300])) == [1, 2, 0]
    assert sum(queue.ages([60], "done")) == sum(queue.ages([60], "claimed")) == 0


@pytest.mark.parametrize("bounds", [[], [0], [60, 60], [60, 30], [float("inf")], [float("nan")], list(range(1, 22))])
def test_bounds_that_are_none(queue, bounds):
    with pytest.raises(ValueError, match="bounds_s"):
        queue.ages(bounds)


def test_the_history_by_minutes(queue, engine, clock, needs):
    """Where an engine keeps it: what happened in each minute, and nothing of minutes in which nothing did."""
    needs(queue, "history")
    since = clock.wall_ms()
    queue.enqueue_many([b"1", b"2"])
    engine.advance(600)
    queue.dequeue().ack()
    minutes = queue.minutes(since - 60_000)
    assert sum(minute.enqueued for minute in minutes) == 2
    assert sum(minute.acknowledged for minute in minutes) == 1
    assert [minute.minute_at_ms for minute in minutes] == sorted({minute.minute_at_ms for minute in minutes})
    assert len(minutes) <= 3
    assert minutes[-1].ready == 1


def test_what_an_engine_cannot_do_it_refuses(queue):
    """NotCapable for what its capabilities deny."""
    from spoolq.errors import NotCapable

    for capability, call in (("history", lambda: queue.minutes(0)), ("check", queue.check), ("check", queue.rebuild)):
        if not getattr(queue.capabilities, capability):
            with pytest.raises(NotCapable):
                call()
