"""What failed: attempts, backoff, the last attempt, and the history that tells of all this."""

import pytest

from spoolq.models import Attempt
from spoolq.settings import Retry, Settings


def fail(queue, times, **arguments):
    """Deliver the next message and requeue it at once, again and again."""
    for _ in range(times):
        queue.dequeue().requeue(**({"delay_s": 0} | arguments))


def test_each_delivery_is_counted_before_the_body_is_seen(queue):
    """The first delivery is attempt 1, and a look from outside sees it counted."""
    message_id = queue.enqueue(b"x")
    assert queue.get(message_id).attempts == 0
    assert queue.dequeue().attempts == 1
    assert queue.get(message_id).attempts == 1


def test_a_requeued_message_is_delivered_again_with_one_attempt_more(queue):
    """The id stays, the attempts grow."""
    message_id = queue.enqueue(b"x")
    for attempt in (1, 2, 3):
        message = queue.dequeue()
        assert (message.id, message.attempts) == (message_id, attempt)
        assert message.requeue(delay_s=0) == "ready"


def test_requeue_keeps_the_place_in_line(queue, drain):
    """Tried again at once, an old message is still older than the others."""
    queue.enqueue(b"first")
    queue.enqueue(b"second")
    fail(queue, 1)
    assert drain(queue) == [b"first", b"second"]


def test_requeue_with_a_delay_of_its_own(queue, clock):
    """`delay_s` is used instead of the queue's backoff."""
    message_id = queue.enqueue(b"x")
    assert queue.dequeue().requeue(delay_s=100) == "scheduled"
    assert queue.get(message_id).due_at_ms == clock.wall_ms() + 100_000
    clock.advance(99)
    assert queue.dequeue() is None
    clock.advance(1)
    assert queue.dequeue().attempts == 2


def test_the_backoff_grows_to_its_cap(engine, clock):
    """It is base x factor^(attempts - 1), at most the cap."""
    queue = engine.make_queue(Settings(max_attempts=9, retry=Retry(base_s=5, factor=2, cap_s=30, jitter=0)))
    message_id = queue.enqueue(b"x")
    waited = []
    for _ in range(5):
        queue.dequeue().requeue()
        waited.append((queue.get(message_id).due_at_ms - clock.wall_ms()) / 1000)
        clock.advance(waited[-1])
    assert waited == [5, 10, 20, 30, 30]


def test_the_backoff_can_be_a_list(engine, clock):
    """Its entries one by one; the last one repeats."""
    queue = engine.make_queue(Settings(max_attempts=9, retry=Retry(list_s=(1, 60, 7))))
    message_id = queue.enqueue(b"x")
    waited = []
    for _ in range(5):
        queue.dequeue().requeue()
        waited.append((queue.get(message_id).due_at_ms - clock.wall_ms()) / 1000)
        clock.advance(waited[-1])
    assert waited == [1, 60, 7, 7, 7]


def test_the_backoff_is_spread_by_chance(engine, clock):
    """With jitter 0.2 each wait is within a fifth of the plain one, and not all are the same."""
    queue = engine.make_queue(Settings(retry=Retry(base_s=100, jitter=0.2)))
    ids = queue.enqueue_many([b"x"] * 20)
    for message in queue.dequeue_many(20):
        message.requeue()
    waited = [queue.get(each).due_at_ms - clock.wall_ms() for each in ids]
    assert all(80_000 <= each <= 120_000 for each in waited)
    assert len(set(waited)) > 1


def test_a_backoff_of_nothing_is_ready_at_once(engine):
    """base_s = 0 is no wait."""
    queue = engine.make_queue(Settings(retry=Retry(base_s=0)))
    queue.enqueue(b"x")
    assert queue.dequeue().requeue() == "ready"


def test_the_last_attempt_ends_in_a_dead_letter(engine):
    """With max_attempts = 3 the third failure is the end; the reason is kept."""
    queue = engine.make_queue(Settings(max_attempts=3))
    message_id = queue.enqueue(b"x")
    fail(queue, 2)
    assert queue.dequeue().requeue(delay_s=0, reason="still broken") == "dead"
    info = queue.get(message_id)
    assert (info.state, info.attempts, info.reason) == ("dead", 3, "still broken")
    assert queue.dequeue() is None


def test_a_last_failure_without_a_reason_has_one(engine):
    """Dead letters are looked at by reason: "failed" where nobody said more."""
    queue = engine.make_queue(Settings(max_attempts=1))
    message_id = queue.enqueue(b"x")
    queue.dequeue().requeue()
    assert queue.get(message_id).reason == "failed"
    assert list(queue.dead_letters.reasons()) == [("failed", 1)]


def test_one_attempt_is_enough_where_the_queue_says_so(engine):
    """max_attempts = 1: the first failure is the end."""
    queue = engine.make_queue(Settings(max_attempts=1))
    queue.enqueue(b"x")
    assert queue.dequeue().requeue() == "dead"


def test_the_last_attempt_is_delivered(engine, drain):
    """Attempts are judged when a delivery ends: the last one can still succeed."""
    queue = engine.make_queue(Settings(max_attempts=2))
    message_id = queue.enqueue(b"x")
    fail(queue, 1)
    assert drain(queue) == [b"x"]
    assert queue.get(message_id).state == "done"


def test_the_history_tells_of_every_failure(engine, clock):
    """Attempt, outcome, reason, when, how long, and the nonce of its receipt, in order."""
    queue = engine.make_queue(Settings(max_attempts=3))
    message_id = queue.enqueue(b"x")
    receipts = []
    for reason in ("first", "second", "third"):
        message = queue.dequeue()
        receipts.append(message.receipt)
        clock.advance(2)
        message.requeue(delay_s=0, reason=reason)
    history = queue.get(message_id).history
    assert [(each.attempt, each.outcome, each.reason) for each in history] == [
        (1, "requeued", "first"),
        (2, "requeued", "second"),
        (3, "dead", "third"),
    ]
    assert [f"{message_id}.{each.nonce}" for each in history] == receipts
    assert [each.duration_s for each in history] == [2, 2, 2]
    assert [clock.wall_ms() - each.ended_at_ms for each in history] == [4000, 2000, 0]


def test_the_history_keeps_what_a_worker_knows(queue):
    """Exit status, signal, the end of standard error, host, pid and duration stand in the history."""
    details = Attempt(
        attempt=0, outcome="", ended_at_ms=0, exit_status=3, stderr="no such host\n", host="w1", pid=77, duration_s=1.5
    )
    message_id = queue.enqueue(b"x")
    queue.dequeue().requeue(delay_s=0, reason="exit status 3", details=details)
    queue.dequeue().dead_letter("killed", details=Attempt(attempt=0, outcome="", ended_at_ms=0, signal=9))
    first, second = queue.get(message_id).history
    assert (first.attempt, first.outcome, first.reason) == (1, "requeued", "exit status 3")
    assert (first.exit_status, first.signal, first.stderr) == (3, None, "no such host\n")
    assert (first.host, first.pid, first.duration_s) == ("w1", 77, 1.5)
    assert (second.attempt, second.outcome, second.signal, second.exit_status) == (2, "dead", 9, None)


def test_the_history_stays_when_it_succeeds(queue, drain):
    """A message that failed before it was done shows how."""
    message_id = queue.enqueue(b"x")
    fail(queue, 1, reason="at first")
    drain(queue)
    assert [each.reason for each in queue.get(message_id).history] == ["at first"]


def test_a_list_leaves_the_history_out(queue):
    """A page costs no file reads: `get` alone has history and headers."""
    queue.enqueue(b"x", headers={"k": "v"})
    queue.dequeue().dead_letter("no")
    (listed,) = queue.list("dead").messages
    assert (listed.history, dict(listed.headers), listed.reason) == ((), {}, "no")


@pytest.mark.parametrize(
    "reason",
    ["", "two\nlines\r\n", "ünï ✓ 🦑", "nul \0 inside", "half \udc80 a pair", '{"json": "\\"}', "long " * 20_000],
    ids=["empty", "lines", "unicode", "nul", "surrogate", "json", "long"],
)
def test_a_reason_may_be_any_text(queue, reason):
    """What a program printed is never a cause to fail again; the history has it as it was, a list its last line."""
    message_id = queue.enqueue(b"x")
    queue.dequeue().requeue(delay_s=0, reason=reason)
    queue.dequeue().dead_letter(reason)
    history = queue.get(message_id).history
    assert [each.outcome for each in history] == ["requeued", "dead"]
    assert len(queue.dead_letters.list().messages) == 1
    if len(reason) < 100 and "\udc80" not in reason and "\0" not in reason:
        assert queue.get(message_id).reason == (["", *reason.strip().splitlines()][-1])
        assert [each.reason for each in history] == [reason, reason]
