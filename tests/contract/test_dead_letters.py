"""The dead letters: looked at, sent again, deleted."""

import pytest

from spoolq.errors import MessageNotFound
from spoolq.models import Filter
from spoolq.settings import Retention, Settings

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
def bury(queue, clock):
    """Make dead letters of these bodies, a second apart; answers their ids."""

    def bury(*bodies, reason="broken", **options):
        ids = [queue.enqueue(body, **options) for body in bodies]
        for _ in bodies:
            queue.dequeue().dead_letter(reason)
            clock.advance(1)
        return ids

    return bury


def test_a_consumer_can_give_up(queue, body_of):
    """The message is dead, with the reason, at any attempt."""
    message_id = queue.enqueue(b"x")
    queue.dequeue().dead_letter("not JSON")
    info = queue.get(message_id)
    assert (info.state, info.attempts, info.reason) == ("dead", 1, "not JSON")
    assert [(each.attempt, each.outcome, each.reason) for each in info.history] == [(1, "dead", "not JSON")]
    assert body_of(queue, message_id) == b"x"
    assert queue.dequeue() is None


def test_dead_letters_are_listed_oldest_first(queue, bury):
    """Page by page, each once."""
    ids = bury(b"1", b"2", b"3")
    page = queue.dead_letters.list(limit=2)
    rest = queue.dead_letters.list(limit=2, cursor=page.cursor)
    assert [info.id for info in page.messages + rest.messages] == ids
    assert rest.cursor is None


def test_dead_letters_are_filtered(queue, bury):
    """By a part of the reason or the name, in any case."""
    (first,) = bury(b"1", reason="Connection refused", name="orders.csv")
    (second,) = bury(b"2", reason="not JSON", name="stock.csv")
    assert [info.id for info in queue.dead_letters.list(where=Filter(reason="connection")).messages] == [first]
    assert [info.id for info in queue.dead_letters.list(where=Filter(name="STOCK")).messages] == [second]
    assert queue.dead_letters.list(where=Filter(name="stock", reason="connection")).messages == ()


def test_reasons_are_counted(queue, bury):
    """Each reason with its count, the most frequent first."""
    bury(b"1", reason="rare")
    bury(b"2", b"3", reason="frequent")
    assert list(queue.dead_letters.reasons()) == [("frequent", 2), ("rare", 1)]


def test_no_dead_letters_have_no_reasons(queue):
    """Nothing there: nothing counted, listed, redriven or purged."""
    assert list(queue.dead_letters.reasons()) == []
    assert queue.dead_letters.list().messages == ()
    assert queue.dead_letters.redrive() == 0
    assert queue.dead_letters.purge() == 0


def test_a_redriven_message_is_delivered_again(queue, bury):
    """The same id, attempts from the start, its time of enqueue and its history kept."""
    (message_id,) = bury(b"x", headers={"k": "v"}, priority=7)
    enqueued_at_ms = queue.get(message_id).enqueued_at_ms
    assert queue.dead_letters.redrive() == 1
    info = queue.get(message_id)
    assert (info.state, info.attempts, info.enqueued_at_ms) == ("ready", 0, enqueued_at_ms)
    assert ("dead", "broken") in [(each.outcome, each.reason) for each in info.history]
    message = queue.dequeue()
    assert (message.body, message.attempts, message.priority, dict(message.headers)) == (b"x", 1, 7, {"k": "v"})


def test_a_redriven_message_has_all_its_attempts(engine):
    """It fails as often as a new one before it is dead again; the history holds both lives."""
    queue = engine.make_queue(Settings(max_attempts=2))
    message_id = queue.enqueue(b"x")
    for _ in range(2):
        assert queue.dequeue().requeue(delay_s=0) == "ready"
        assert queue.dequeue().requeue(delay_s=0) == "dead"
        queue.dead_letters.redrive([message_id])
    outcomes = [each.outcome for each in queue.get(message_id).history if each.outcome in ("requeued", "dead")]
    assert outcomes == ["requeued", "dead"] * 2


def test_only_the_named_are_redriven(queue, bury):
    """By ids, the others stay."""
    first, second, third = bury(b"1", b"2", b"3")
    assert queue.dead_letters.redrive([third, first]) == 2
    assert [info.id for info in queue.dead_letters.list().messages] == [second]


def test_only_what_the_filter_admits_is_redriven(queue, bury):
    """By reason, the others stay."""
    bury(b"1", b"2", reason="timeout")
    (other,) = bury(b"3", reason="not JSON")
    assert queue.dead_letters.redrive(where=Filter(reason="timeout")) == 2
    assert [info.id for info in queue.dead_letters.list().messages] == [other]


def test_redrive_stops_at_its_limit(queue, bury):
    """The oldest first."""
    first, second, third = bury(b"1", b"2", b"3")
    assert queue.dead_letters.redrive(limit=2) == 2
    assert [info.id for info in queue.dead_letters.list().messages] == [third]
    assert {info.id for info in queue.list("ready").messages} == {first, second}


def test_a_dry_run_only_counts(queue, bury):
    """Neither redrive nor purge changes anything with dry_run, and both say what they would do."""
    bury(b"1", b"2", reason="timeout")
    bury(b"3")
    assert queue.dead_letters.redrive(where=Filter(reason="timeout"), dry_run=True) == 2
    assert queue.dead_letters.redrive(limit=1, dry_run=True) == 1
    assert queue.dead_letters.purge(dry_run=True) == 3
    assert queue.stats().dead == 3


@pytest.mark.parametrize("work", ["redrive", "purge"])
def test_an_unknown_id_is_an_error_when_it_is_met(queue, bury, work):
    """MessageNotFound; those before it are dealt with, those after it not."""
    first, second = bury(b"1", b"2")
    with pytest.raises(MessageNotFound, match=NOBODY):
        getattr(queue.dead_letters, work)([first, NOBODY, second])
    assert [info.id for info in queue.dead_letters.list().messages] == [second]


@pytest.mark.parametrize("work", ["redrive", "purge"])
def test_a_message_that_is_not_dead_is_not_touched(queue, work):
    """A ready, claimed or done message is no dead letter."""
    ids = queue.enqueue_many([b"1", b"2", b"3"])
    done, _ = queue.dequeue(), queue.dequeue()
    done.ack()
    for message_id in ids:
        state = queue.get(message_id).state
        with pytest.raises(MessageNotFound):
            getattr(queue.dead_letters, work)([message_id])
        assert queue.get(message_id).state == state


@pytest.mark.parametrize("work", ["redrive", "purge"])
def test_progress_is_told_and_can_stop_the_work(queue, bury, work):
    """What the callback raises goes to the caller, between two messages; the rest stays."""
    bury(*[b"x"] * 5)
    seen = []

    class StoppedError(Exception):
        pass

    def progress(done, total):
        seen.append((done, total))
        raise StoppedError

    with pytest.raises(StoppedError):
        getattr(queue.dead_letters, work)(progress=progress)
    assert seen[0][1] == 5
    changed = 5 - len(queue.dead_letters.list().messages)
    assert changed == seen[0][0]


def test_redrive_at_a_rate_redrives_all(queue, bury):
    """A rate slows it down and leaves nothing out."""
    bury(b"1", b"2", b"3")
    assert queue.dead_letters.redrive(rate=1000) == 3


def test_a_purged_dead_letter_is_gone(queue, bury):
    """Its id is known no more."""
    first, second = bury(b"1", b"2")
    assert queue.dead_letters.purge([first]) == 1
    with pytest.raises(MessageNotFound):
        queue.get(first)
    assert queue.dead_letters.purge(where=Filter(reason="other")) == 0
    assert queue.dead_letters.purge() == 1
    assert queue.stats().dead == 0
    with pytest.raises(MessageNotFound):
        queue.read_body(second)


def test_dead_letters_stay_for_ever_by_default(queue, bury, engine):
    """dead_s = 0 keeps them until somebody acts."""
    bury(b"x")
    engine.advance(10 * 365 * 86_400)
    queue.clean()
    assert queue.stats().dead == 1


def test_dead_letters_go_when_their_retention_ends(engine):
    """dead_s seconds after it died, a dead letter is deleted."""
    queue = engine.make_queue(Settings(retention=Retention(dead_s=100)))
    queue.enqueue(b"x")
    queue.dequeue().dead_letter("no")
    engine.advance(99)
    queue.clean()
    assert queue.stats().dead == 1
    engine.advance(2)
    queue.clean()
    assert queue.stats().dead == 0


def test_a_done_message_can_be_replayed(queue):
    """It is delivered again with the same id and attempts from the start; its old receipt is worth nothing more."""
    message_id = queue.enqueue(b"x", headers={"k": "v"}, name="n")
    queue.dequeue().requeue(delay_s=0, reason="first")
    queue.dequeue().ack()
    queue.replay(message_id)
    info = queue.get(message_id)
    assert (info.state, info.attempts) == ("ready", 0)
    assert "first" in [each.reason for each in info.history]
    message = queue.dequeue()
    assert (message.id, message.attempts, dict(message.headers), message.name) == (message_id, 1, {"k": "v"}, "n")


def test_only_a_done_message_can_be_replayed(queue, bury):
    """A ready, claimed, dead or unknown one: MessageNotFound."""
    (dead,) = bury(b"x")
    claimed = queue.enqueue(b"y")
    queue.dequeue()
    ready = queue.enqueue(b"z")
    for message_id in (dead, claimed, ready, NOBODY):
        with pytest.raises(MessageNotFound):
            queue.replay(message_id)
    assert [queue.get(each).state for each in (dead, claimed, ready)] == ["dead", "claimed", "ready"]
