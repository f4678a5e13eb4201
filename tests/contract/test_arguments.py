"""Wrong arguments: refused at the door, with the value, and nothing is changed."""

import base64
import math

import pytest

from spoolq.models import Filter

OPTIONS = [
    {"priority": -1},
    {"priority": 10},
    {"priority": 5.0},
    {"priority": "5"},
    {"priority": True},
    {"priority": None},
    {"delay_s": -1},
    {"delay_s": math.nan},
    {"delay_s": math.inf},
    {"delay_s": 1e18},
    {"delay_s": "1"},
    {"delay_s": None},
    {"headers": {"a": 1}},
    {"headers": {1: "a"}},
    {"headers": {"": "a"}},
    {"headers": {"a\n": "b"}},
    {"headers": {"a": "b\r\nc: d"}},
    {"headers": {"a": "\0"}},
    {"headers": {"a": "\ud800"}},
    {"headers": {"a": "x" * 100_000}},
    {"headers": ["a"]},
    {"content_type": ""},
    {"content_type": "text/plain\r\nx: y"},
    {"content_type": "ünï/code"},
    {"content_type": 5},
    {"name": ""},
    {"name": 5},
    {"name": "x" * 10_000},
    {"dedup_key": ""},
    {"dedup_key": "x" * 201},
    {"dedup_key": "a\0b"},
    {"dedup_key": "a\nb"},
    {"dedup_key": "\ud800"},
    {"dedup_key": 5},
    {"group": ""},
    {"group": "x" * 201},
    {"group": "\x1b[31m"},
    {"group": 5},
    {"ttl_s": -1},
    {"ttl_s": math.nan},
    {"ttl_s": "1"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: repr(options)[:40])
def test_a_wrong_option_is_refused(queue, tmp_path, options):
    """ValueError or TypeError that names the argument; nothing is enqueued, by any way in."""
    (argument,) = options
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises((ValueError, TypeError), match=argument):
        queue.enqueue(b"x", **options)
    with pytest.raises((ValueError, TypeError), match=argument):
        queue.enqueue_file(path, move=True, **options)
    assert path.exists()
    assert queue.stats().ready == 0
    assert queue.stats().scheduled == 0


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"priority": 12}, "12"),
        ({"delay_s": -2.5}, "-2.5"),
        ({"dedup_key": "a\nb"}, r"'a\\nb'"),
        ({"ttl_s": -7}, "-7"),
        ({"headers": {"key": 3}}, "'key': 3"),
    ],
)
def test_the_error_shows_the_value(queue, options, shown):
    """What was given stands in the words."""
    with pytest.raises((ValueError, TypeError), match=shown):
        queue.enqueue(b"x", **options)


@pytest.mark.parametrize("lease_s", [0, -1, math.nan, math.inf, "60", True])
def test_a_wrong_lease_is_refused(queue, lease_s):
    """By dequeue, dequeue_many, a slot, and extend; nothing is claimed."""
    queue.enqueue(b"x")
    with pytest.raises((ValueError, TypeError), match="lease_s"):
        queue.dequeue(lease_s=lease_s)
    with pytest.raises((ValueError, TypeError), match="lease_s"):
        queue.dequeue_many(1, lease_s=lease_s)
    with queue.slot() as slot, pytest.raises((ValueError, TypeError), match="lease_s"):
        slot.dequeue(lease_s=lease_s)
    message = queue.dequeue()
    assert message.attempts == 1
    with pytest.raises((ValueError, TypeError), match="lease_s"):
        message.extend(lease_s)
    assert queue.get(message.id).deadline_at_ms is None or not queue.capabilities.holders


@pytest.mark.parametrize("wait_s", [-1, math.nan, math.inf, "1", None])
def test_a_wrong_wait_is_refused(queue, wait_s):
    """A wait is 0 seconds or more."""
    queue.enqueue(b"x")
    with pytest.raises((ValueError, TypeError), match="wait_s"):
        queue.dequeue(wait_s=wait_s)
    assert queue.stats().claimed == 0


@pytest.mark.parametrize("count", [0, -1, 10_001, 1.5, "1", None, True])
def test_a_wrong_count_is_refused(queue, count):
    """Of messages to claim, and of messages on a page: 1 to 10000."""
    with pytest.raises((ValueError, TypeError), match="count"):
        queue.dequeue_many(count)
    for look in (queue.list, queue.dead_letters.list, lambda limit: queue.search("x", limit=limit)):
        with pytest.raises((ValueError, TypeError), match="limit"):
            look(limit=count)


@pytest.mark.parametrize("delay_s", [-1, math.nan, math.inf, "1"])
def test_a_wrong_delay_of_a_requeue_is_refused(queue, delay_s):
    """The message stays claimed."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    with pytest.raises((ValueError, TypeError), match="delay_s"):
        message.requeue(delay_s=delay_s)
    assert queue.get(message.id).receipt == message.receipt


def test_a_reason_that_is_no_text_is_refused(queue):
    """The message stays claimed."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    for call in (lambda: message.requeue(reason=None), lambda: message.dead_letter(5)):
        with pytest.raises(TypeError, match="reason"):
            call()
    assert queue.get(message.id).state == "claimed"


@pytest.mark.parametrize("state", ["", "Ready", "settled", "new", None])
def test_a_wrong_state_is_refused(queue, state):
    """With the states there are."""
    with pytest.raises((ValueError, TypeError), match="ready, scheduled, claimed, done, dead"):
        queue.list(state)
    with pytest.raises((ValueError, TypeError), match="state"):
        queue.purge([state])


def _encoded(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "nonsense", "5", "../x", "\0"),
        *map(
            _encoded, (f"[{10**30},{10**30}]", f'[{-(10**30)},"x"]', '["\\ud800","\\ud800"]', "[" * 1400, "[1e999,1]")
        ),
    ],
    ids=range(10),
)
def test_a_wrong_cursor_is_refused(queue, cursor):
    """A cursor is what a page returned; anything else is a ValueError, on every list."""
    queue.enqueue(b"x")
    with pytest.raises(ValueError, match="cursor"):
        queue.list("ready", cursor=cursor)
    with pytest.raises(ValueError, match="cursor"):
        queue.dead_letters.list(cursor=cursor)


@pytest.mark.parametrize("priority", [-1, 10, 5.5, "5", None])
def test_a_wrong_priority_is_not_set(queue, priority):
    """The message keeps its own."""
    message_id = queue.enqueue(b"x")
    with pytest.raises((ValueError, TypeError), match="priority"):
        queue.set_priority(message_id, priority)
    assert queue.get(message_id).priority == 5


@pytest.mark.parametrize("options", [{"limit": -1}, {"limit": "1"}, {"rate": 0}, {"rate": -1}, {"rate": math.nan}])
def test_a_wrong_redrive_is_refused(queue, options):
    """Nothing is redriven."""
    queue.enqueue(b"x")
    queue.dequeue().dead_letter("no")
    (argument,) = options
    with pytest.raises((ValueError, TypeError), match=argument):
        queue.dead_letters.redrive(**options)
    assert queue.stats().dead == 1


def test_odd_but_right_arguments_are_accepted(queue):
    """Whole floats, long keys, odd characters and the edges of each range."""
    queue.enqueue(b"x", delay_s=0.0, priority=0, ttl_s=0.5, dedup_key="k" * 200, group="ключ / \\ ' \" %", name=".")
    queue.enqueue(b"x", priority=9, headers={"Content Type": "a: b", "x" * 1000: ""}, content_type="text/plain; a=b")
    assert len(queue.dequeue_many(10_000, lease_s=0.001)) == 2
    assert queue.list("ready", where=Filter(text="\0"), limit=10_000).messages == ()
