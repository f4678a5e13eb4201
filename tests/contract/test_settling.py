"""Ending a delivery: acknowledge, requeue, release, dead letter, extend; and receipts whose claim has ended."""

import pytest

from spoolq.errors import LeaseLost, MessageNotFound
from spoolq.settings import Retention, Settings

SETTLE = {
    "acknowledge": lambda queue, receipt: queue.acknowledge(receipt),
    "requeue": lambda queue, receipt: queue.requeue(receipt, delay_s=0, reason="stale"),
    "release": lambda queue, receipt: queue.release(receipt),
    "extend": lambda queue, receipt: queue.extend(receipt, 60),
    "move_to_dead_letter_queue": lambda queue, receipt: queue.move_to_dead_letter_queue(receipt, "stale"),
    "open_body": lambda queue, receipt: queue.open_body(receipt).close(),
}
END = {
    "requeued": lambda queue, message: message.requeue(delay_s=0),
    "released": lambda queue, message: message.release(),
    "dead": lambda queue, message: message.dead_letter("no"),
    "given back by hand": lambda queue, message: queue.give_back(message.id),
}


def everything(queue):
    """All that an observer sees of a queue."""
    states = ("ready", "scheduled", "claimed", "done", "dead")
    return [queue.get(info.id) for state in states for info in queue.list(state).messages]


def test_an_acknowledged_message_is_done(queue, body_of):
    """It is delivered no more, and is kept to look at."""
    message_id = queue.enqueue(b"x")
    queue.acknowledge(queue.dequeue().receipt)
    assert queue.dequeue() is None
    assert queue.get(message_id).state == "done"
    assert body_of(queue, message_id) == b"x"


def test_a_receipt_is_the_id_and_a_nonce(queue):
    """Plain ASCII, `<id>.<nonce>`, and another one for each delivery."""
    message_id = queue.enqueue(b"x")
    first = queue.dequeue()
    first.release()
    second = queue.dequeue()
    for message in (first, second):
        found, _, nonce = message.receipt.partition(".")
        assert found == message_id
        assert nonce.isascii()
        assert nonce.isalnum()
    assert first.receipt != second.receipt


@pytest.mark.parametrize("done_s", [0, 86_400], ids=["deleted", "kept"])
def test_acknowledging_again_succeeds(engine, done_s):
    """The answer to the first may have been lost: the same receipt is answered with success for ten minutes."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=done_s)))
    queue.enqueue(b"x")
    receipt = queue.dequeue().receipt
    queue.acknowledge(receipt)
    queue.acknowledge(receipt)
    engine.advance(590)
    queue.acknowledge(receipt)
    assert queue.acknowledge_many([receipt]) == []
    assert queue.stats().acknowledged_total == 1


def test_acknowledging_again_after_it_is_forgotten(engine):
    """Past the ten minutes after the message is gone the receipt proves nothing."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=0)))
    queue.enqueue(b"x")
    receipt = queue.dequeue().receipt
    queue.acknowledge(receipt)
    engine.advance(1300)
    engine.advance(1300)
    with pytest.raises(LeaseLost):
        queue.acknowledge(receipt)


@pytest.mark.parametrize("remove", ["delete", "purge", "clean"])
def test_acknowledging_again_succeeds_where_the_message_was_deleted(engine, remove):
    """For ten minutes, whoever deleted it: a consumer that lost the answer asks again."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=5)))
    id = queue.enqueue(b"x")
    message = queue.dequeue()
    message.ack()
    if remove == "clean":
        engine.advance(6)
        queue.clean()
    else:
        {"delete": lambda: queue.delete(id), "purge": lambda: queue.purge(["done"])}[remove]()
    with pytest.raises(MessageNotFound):
        queue.get(id)
    queue.acknowledge(message.receipt)
    assert queue.acknowledge_many([message.receipt]) == []
    with pytest.raises(LeaseLost):
        queue.requeue(message.receipt)
    with pytest.raises(LeaseLost):
        queue.acknowledge(f"{id}.tother")
    assert queue.stats().done == 0


def test_done_is_deleted_at_once_where_nothing_is_kept(engine):
    """With retention.done_s = 0 acknowledging deletes."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=0)))
    queue.enqueue(b"x", headers={"k": "v"})
    queue.dequeue().ack()
    assert queue.list("done").messages == ()
    assert queue.stats().done == 0
    assert queue.stats().acknowledged_total == 1


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize("end", END)
def test_a_receipt_of_an_ended_delivery_changes_nothing(queue, settle, end):
    """LeaseLost, and every message is as it was."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    END[end](queue, message)
    before = everything(queue)
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, message.receipt)
    assert everything(queue) == before


@pytest.mark.parametrize("settle", SETTLE)
def test_a_receipt_is_refused_while_another_holds_the_message(engine, queue, settle):
    """The next holder keeps its claim, and can acknowledge."""
    queue.enqueue(b"x")
    stale = queue.dequeue()
    stale.release()
    holder = engine.make_queue().dequeue()
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, stale.receipt)
    assert queue.get(holder.id).receipt == holder.receipt
    holder.ack()


@pytest.mark.parametrize("settle", [each for each in SETTLE if each != "acknowledge"])
def test_an_acknowledged_delivery_cannot_be_settled_otherwise(queue, settle):
    """What is done stays done."""
    message_id = queue.enqueue(b"x")
    message = queue.dequeue()
    message.ack()
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, message.receipt)
    assert queue.get(message_id).state == "done"


@pytest.mark.parametrize("settle", SETTLE)
def test_a_receipt_of_an_earlier_delivery_is_refused_after_a_later_one_was_acknowledged(queue, settle):
    """That the message is done is no answer to the one who had lost it."""
    queue.enqueue(b"x")
    stale = queue.dequeue()
    stale.release()
    queue.dequeue().ack()
    before = everything(queue)
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, stale.receipt)
    assert everything(queue) == before


@pytest.mark.parametrize("settle", SETTLE)
def test_a_receipt_of_no_message_is_refused(queue, settle):
    """A well-formed receipt whose message nobody knows: LeaseLost."""
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, "01890a5d-ac96-774b-bcce-b302099a8057.k0a1b2c7")


@pytest.mark.parametrize("settle", SETTLE)
def test_a_receipt_of_a_waiting_message_is_refused(queue, settle):
    """Knowing an id is not holding a claim."""
    message_id = queue.enqueue(b"x")
    with pytest.raises(LeaseLost):
        SETTLE[settle](queue, f"{message_id}.k0a1b2c7")
    assert queue.get(message_id).state == "ready"


@pytest.mark.parametrize("settle", SETTLE)
@pytest.mark.parametrize(
    "receipt",
    [
        "",
        "nonsense",
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8057.",
        "01890A5D-AC96-774B-BCCE-B302099A8057.k0a1b2c7",
        "01890a5d-ac96-774b-bcce-b302099a8057.k0a1b2c7\n",
        "01890a5d-ac96-774b-bcce-b302099a8057.x0a1b2c7",
        "../../etc/passwd.k0a1b2c7",
    ],
)
def test_what_is_no_receipt_is_a_wrong_argument(queue, settle, receipt):
    """ValueError, with what was given."""
    with pytest.raises(ValueError, match="receipt") as caught:
        SETTLE[settle](queue, receipt)
    assert repr(receipt)[:60] in str(caught.value)


def test_any_object_of_the_queue_may_settle(engine, queue):
    """The receipt is the proof, wherever it is shown."""
    message_id = queue.enqueue(b"x")
    receipt = queue.dequeue().receipt
    other = engine.make_queue()
    with other.open_body(receipt) as file:
        assert file.read() == b"x"
    other.acknowledge(receipt)
    assert queue.get(message_id).state == "done"


def test_many_are_acknowledged_at_once(queue):
    """Those whose claim had ended are answered; the others are done."""
    queue.enqueue_many([b"1", b"2", b"3"])
    first, second, third = queue.dequeue_many(3)
    second.release()
    assert queue.acknowledge_many([first.receipt, second.receipt, third.receipt]) == [second.receipt]
    assert {info.id for info in queue.list("done").messages} == {first.id, third.id}
    assert queue.get(second.id).state == "ready"


@pytest.mark.parametrize("done_s", [0, 86_400], ids=["deleted", "kept"])
@pytest.mark.parametrize("claimed", ["together", "apart"])
def test_many_are_acknowledged_each_by_its_own_receipt(engine, claimed, done_s):
    """An old receipt ends nothing, though the message is claimed again, together with others that are acknowledged."""
    queue = engine.make_queue(Settings(retention=Retention(done_s=done_s)))
    ids = queue.enqueue_many([b"1", b"2", b"3"])
    old = queue.dequeue()
    old.requeue(delay_s=0)
    messages = queue.dequeue_many(3) if claimed == "together" else [queue.dequeue() for _ in ids]
    others = [message for message in messages if message.id != old.id]
    receipts = [others[0].receipt, old.receipt, others[1].receipt]
    assert queue.acknowledge_many(receipts) == [old.receipt]
    assert queue.acknowledge_many(receipts) == [old.receipt], "again"
    assert queue.stats().claimed == 1
    assert queue.get(old.id).state == "claimed"
    assert queue.acknowledge_many([message.receipt for message in messages]) == []
    assert queue.stats().claimed == 0


def test_acknowledging_none_is_nothing(queue):
    """No receipts: none had ended."""
    assert queue.acknowledge_many([]) == []


def test_acknowledging_many_judges_all_before_it_begins(queue):
    """One that is no receipt is a ValueError, and no other is acknowledged."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    with pytest.raises(ValueError, match="nonsense"):
        queue.acknowledge_many([message.receipt, "nonsense"])
    assert queue.get(message.id).state == "claimed"


def test_a_released_message_is_as_if_never_claimed(queue):
    """It is deliverable at once, in its old place, and the attempt is not counted."""
    queue.enqueue(b"first")
    queue.enqueue(b"second")
    message = queue.dequeue()
    queue.release(message.receipt)
    info = queue.get(message.id)
    assert (info.state, info.attempts, info.receipt) == ("ready", 0, None)
    again = queue.dequeue()
    assert (again.body, again.attempts) == (b"first", 1)


def test_release_can_go_on_for_ever(engine):
    """However often it is given back, it is not a dead letter."""
    queue = engine.make_queue(Settings(max_attempts=2))
    queue.enqueue(b"x")
    for _ in range(10):
        queue.dequeue().release()
    assert queue.dequeue().attempts == 1


def test_the_body_can_be_opened_again(queue):
    """`open` gives the body from its beginning, each time."""
    queue.enqueue(b"hello")
    message = queue.dequeue()
    for _ in range(2):
        with message.open() as file:
            assert file.read(4) == b"hell"


def test_the_path_is_a_file_with_the_body(queue, needs):
    """Where an engine has paths, the message is a file for as long as it is claimed."""
    needs(queue, "paths")
    queue.enqueue(b"hello")
    message = queue.dequeue()
    assert message.path.read_bytes() == b"hello"
    message.ack()
    assert not message.path.exists()
