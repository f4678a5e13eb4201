"""What is sent again after a lost connection, and what is not: a server that dies in the middle."""

import io
import threading

import pytest

from spoolq.client import values
from spoolq.errors import Busy, LeaseLost, OutcomeUnknown, StorageError, TryAgain, Unreachable
from spoolq.models import NewMessage
from tests.client.scripted import ID, RECEIPT, answer, cut, die, die_at_the_head, problem

STATS = answer(200, {"queue": "default", "ready": 3})
CREATED = answer(201, {"id": ID, "queue": "default"})
ENVELOPE = {
    "id": ID,
    "receipt": RECEIPT,
    "attempts": 1,
    "priority": 5,
    "name": None,
    "original_name": None,
    "headers": {},
    "content_type": None,
    "group": None,
    "enqueued_at_ms": 1,
    "body_bytes": 1,
    "body": "x",
}
CLAIMED = answer(200, {"messages": [ENVELOPE]})
NOTHING = answer(200, {"messages": []})


class Pipe(io.RawIOBase):
    """A body that can be read once."""

    def __init__(self, *pieces):
        self.left = list(pieces)

    def readable(self):
        return True

    def read(self, size=-1):
        return self.left.pop(0) if self.left else b""


def test_looking_is_repeated(scripted):
    """It changes nothing."""
    queue, server = scripted(die, die, STATS)
    assert queue.stats().ready == 3
    assert [each.target for each in server.asked] == ["/queues/default/stats"] * 3


def test_an_answer_cut_in_the_middle_is_asked_for_again(scripted):
    """As one that never came."""
    queue, _ = scripted(cut(b'{"queue"', 100), STATS)
    assert queue.stats().ready == 3


def test_it_gives_up(scripted):
    """After the last try: nobody answers there, and in words where."""
    queue, server = scripted(*[die] * 9)
    with pytest.raises(Unreachable, match=r"stats: http://127\.0\.0\.1") as caught:
        queue.stats()
    assert isinstance(caught.value, TryAgain)
    assert len(server.asked) == 4


def test_nobody_listens(scripted):
    """Nothing was sent, so nothing was done, whatever it was."""
    queue, server = scripted()
    server.close()
    for call in (lambda: queue.enqueue(b"x"), queue.stats, lambda: queue.release(RECEIPT), queue.dequeue):
        with pytest.raises(Unreachable, match="does not answer"):
            call()
    server.__post_init__()


def test_an_enqueue_is_not_repeated(scripted):
    """It may have been enqueued: the outcome is unknown, which is said."""
    queue, server = scripted(die, CREATED)
    with pytest.raises(OutcomeUnknown, match="look before you repeat it"):
        queue.enqueue(b"x")
    assert len(server.asked) == 1


def test_an_enqueue_with_a_key_is_repeated(scripted):
    """The server knows the second one by its key; a file is sent from where it stood."""
    file = io.BytesIO(b"skipped" + b"body" * 100_000)
    file.seek(7)
    queue, server = scripted(die, die_at_the_head, CREATED)
    assert queue.enqueue(file, dedup_key="order 17") == ID
    assert [each.target for each in server.asked] == ["/queues/default/messages?dedup_key=order%2017"] * 3
    assert server.asked[-1].body == b"body" * 100_000


def test_a_pipe_is_sent_once(scripted):
    """What has been read from it is gone, key or not."""
    queue, server = scripted(die, CREATED)
    with pytest.raises(OutcomeUnknown, match="to repeat it is safe"):
        queue.enqueue(Pipe(b"one", b"two"), dedup_key="k")
    assert len(server.asked) == 1
    assert server.asked[0].body == b"onetwo"


def test_many_with_keys_are_repeated(scripted):
    """Each of them has to have one."""
    keyed = [NewMessage(body=b"1", dedup_key="a"), NewMessage(body=b"2", dedup_key="b")]
    queue, server = scripted(die, answer(201, {"ids": [ID, ID]}))
    assert queue.enqueue_many(keyed) == [ID, ID]
    assert server.asked[0].body == server.asked[1].body
    queue, _ = scripted(die)
    with pytest.raises(OutcomeUnknown):
        queue.enqueue_many([*keyed, b"3"])


def test_a_dequeue_is_repeated_under_the_same_request_id(scripted):
    """The server answers with what it has claimed; the next dequeue is another one."""
    queue, server = scripted(die, cut(b"{", 100), CLAIMED, NOTHING)
    message = queue.dequeue()
    assert (message.receipt, message.body) == (RECEIPT, b"x")
    assert queue.dequeue() is None
    ids = [each.headers["request-id"] for each in server.asked]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_dequeue_whose_answer_never_came_is_asked_for_by_the_next(scripted):
    """A server that was away for long has the claim still; one that asks for something else begins anew."""
    queue, server = scripted(*[die] * 4, problem("busy", 503), NOTHING, CLAIMED)
    with pytest.raises(OutcomeUnknown):
        queue.dequeue(lease_s=30)
    with pytest.raises(Busy):
        queue.dequeue(lease_s=30)
    assert queue.dequeue(lease_s=30) is None
    assert queue.dequeue(lease_s=30) is not None
    ids = [each.headers["request-id"] for each in server.asked]
    assert len(set(ids[:6])) == 1
    assert ids[6] != ids[5]
    queue, server = scripted(*[die] * 4, CLAIMED)
    with pytest.raises(OutcomeUnknown):
        queue.dequeue(lease_s=30)
    queue.dequeue(lease_s=60)
    assert server.asked[4].headers["request-id"] != server.asked[3].headers["request-id"]


@pytest.mark.parametrize("call", ["acknowledge", "extend", "acknowledge_many"])
def test_what_ends_the_same_twice_is_repeated(scripted, call):
    """An acknowledge again is a success; an extension again is the same extension."""
    arguments = {"acknowledge": (RECEIPT,), "extend": (RECEIPT, 60), "acknowledge_many": ([RECEIPT],)}[call]
    queue, server = scripted(die, answer(200, {"acknowledged": 1, "lost": []}))
    getattr(queue, call)(*arguments)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.release(RECEIPT),
        lambda queue: queue.requeue(RECEIPT),
        lambda queue: queue.move_to_dead_letter_queue(RECEIPT, "no"),
        lambda queue: queue.purge(),
        lambda queue: queue.delete(ID),
        lambda queue: queue.run_now(ID),
        lambda queue: queue.dead_letters.redrive(),
        lambda queue: queue.dead_letters.purge(),
    ],
)
def test_what_does_not_is_asked_once(scripted, call):
    """A worker treats it as trouble with storage, and decides itself."""
    queue, server = scripted(die, answer(200, {"count": 0}))
    with pytest.raises(OutcomeUnknown) as caught:
        call(queue)
    assert isinstance(caught.value, StorageError)
    assert len(server.asked) == 1


def test_a_server_that_stops_has_done_nothing(scripted):
    """It says so, and whatever it was is tried again."""
    queue, server = scripted(problem("closing", 503), CREATED)
    assert queue.enqueue(b"x") == ID
    assert server.asked[1].body == b"x"
    queue, _ = scripted(*[problem("closing", 503)] * 4)
    with pytest.raises(Unreachable, match="stopping"):
        queue.enqueue(b"x")


def test_a_proxy_without_its_server(scripted):
    """502 and the like without a problem document: it may have got there, or not."""
    queue, server = scripted(answer(502, b"Bad Gateway", kind="text/html"), STATS)
    assert queue.stats().ready == 3
    queue, server = scripted(answer(504, b"", kind="text/html"), CREATED)
    with pytest.raises(OutcomeUnknown, match="504"):
        queue.enqueue(b"x")
    assert len(server.asked) == 1


def test_a_server_that_is_slow_is_asked_once(scripted):
    """It works on it, for all one knows; a long poll is given its time, and more."""
    slow = threading.Event()
    queue, server = scripted(lambda asked: slow.wait(10) and STATS(asked))
    with pytest.raises(Unreachable, match="timed out"):
        queue.ask("GET", "/stats", "stats", values.stats, answer_s=0.05)
    slow.set()
    queue.close()
    assert len(server.asked) == 1
    server.broken.clear()


def test_an_error_is_not_repeated(scripted):
    """The server has judged."""
    queue, server = scripted(problem("lease-lost", 409, detail="it has ended"), answer(204))
    with pytest.raises(LeaseLost, match="it has ended"):
        queue.acknowledge(RECEIPT)
    assert len(server.asked) == 1


def test_a_body_goes_on_where_it_stopped(scripted):
    """After a lost connection the rest is asked for, of the same body only."""
    queue, server = scripted(
        cut(b"begin", 10, ETag='"1"'),
        answer(206, b"ning!", kind="text/plain", ETag='"1"', Content_Range="bytes 5-9/10"),
    )
    with queue.read_body(ID) as file:
        assert file.read() == b"beginning!"
    assert "range" not in server.asked[0].headers
    assert server.asked[1].headers["range"] == "bytes=5-"
    assert server.asked[1].headers["if-range"] == '"1"'


def test_a_body_that_is_another_one_begins_anew(scripted):
    """The server answers with the whole: nothing of the first is kept."""
    queue, _ = scripted(cut(b"begin", 10, ETag='"1"'), answer(200, b"new", kind="text/plain", ETag='"2"'))
    with queue.read_body(ID) as file:
        assert file.read() == b"new"


def test_a_body_that_never_comes(scripted):
    """Unreachable, and no file is left open."""
    queue, _ = scripted(*[cut(b"begin", 10)] * 4)
    with pytest.raises(Unreachable, match="lost"):
        queue.read_body(ID)
