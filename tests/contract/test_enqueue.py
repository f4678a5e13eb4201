"""Putting messages in: what may be a body, what comes with it, and what comes back out."""

import io
import os
import re
import uuid

import pytest

from spoolq.errors import SpoolqError, UnsafeFile
from spoolq.models import NewMessage

FORM_OF_AN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.mark.parametrize("body", [b"", b"x", b"\x00\xff\r\n", b"a" * 100_000], ids=["empty", "one", "binary", "long"])
def test_bytes_come_out_as_they_went_in(queue, body):
    """A body is bytes, and nothing is added, cut or translated."""
    queue.enqueue(body)
    message = queue.dequeue()
    assert message.body == body
    assert message.body_bytes == len(body)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_bodies(queue, kind):
    """A bytearray and a memoryview are as good as bytes, and are copied."""
    original = bytearray(b"changed later")
    queue.enqueue(kind(original))
    original[:7] = b"CHANGED"
    assert queue.dequeue().body == b"changed later"


def test_a_memoryview_of_wider_items_is_taken_as_bytes(queue):
    """The size of a body is its bytes, not the items of a view on it."""
    view = memoryview(bytes(range(16))).cast("I")
    message_id = queue.enqueue(view)
    assert queue.get(message_id).body_bytes == 16
    assert queue.dequeue().body == bytes(range(16))


def test_an_open_file_is_read_to_its_end(queue):
    """A body of several megabytes is read from where the file stands."""
    content = os.urandom(3_000_001)
    file = io.BytesIO(b"skipped" + content)
    file.seek(7)
    queue.enqueue(file)
    assert queue.dequeue().body == content


def test_a_file_that_gives_short_reads_is_read_to_its_end(queue):
    """A pipe or socket gives what it has; only an empty read is the end."""

    class Dribble(io.RawIOBase):
        def __init__(self):
            self.left = [b"one ", b"two ", b"three"]

        def readable(self):
            return True

        def read(self, size=-1):
            return self.left.pop(0) if self.left else b""

    queue.enqueue(Dribble())
    assert queue.dequeue().body == b"one two three"


def test_text_is_no_body(queue):
    """Which encoding was meant is not guessed: TypeError, and nothing is enqueued."""
    with pytest.raises(TypeError, match=r"bytes.*str"):
        queue.enqueue("text")
    with pytest.raises(TypeError, match="bytes"):
        queue.enqueue(io.StringIO("text"))
    assert queue.dequeue() is None


def test_a_file_that_fails_half_way_leaves_nothing(queue):
    """What reading a body raises goes to the caller, and no half of a message stays."""

    class Broken(io.RawIOBase):
        pieces = 0

        def readable(self):
            return True

        def read(self, size=-1):
            self.pieces += 1
            if self.pieces > 1:
                raise RuntimeError("the pipe broke")
            return b"half"

    with pytest.raises(RuntimeError, match="the pipe broke"):
        queue.enqueue(Broken())
    assert queue.dequeue() is None
    assert queue.stats().ready == 0


def test_ids_are_uuids_that_sort_by_time(queue, clock):
    """Each id is a UUIDv7 in lower case, later than all before it."""
    ids = []
    for _ in range(3):
        ids += [queue.enqueue(b"a"), queue.enqueue(b"b")]
        clock.advance(1)
    assert all(FORM_OF_AN_ID.fullmatch(each) for each in ids)
    assert ids == sorted(set(ids))
    assert uuid.UUID(ids[0]).version == 7


def test_what_came_with_a_message_comes_out_with_it(queue):
    """Headers, content type, name, priority and group are seen by the consumer and by `get`."""
    headers = {"Trace": "abc", "Ünïcode": "wert ✓", "empty": ""}
    message_id = queue.enqueue(
        b"{}", headers=headers, content_type="application/json", name="order.json", priority=7, group="g"
    )
    message = queue.dequeue()
    info = queue.get(message_id)
    for seen in (message, info):
        assert dict(seen.headers) == headers
        assert seen.content_type == "application/json"
        assert (seen.name, seen.priority, seen.group) == ("order.json", 7, "g")
    assert message.id == message_id
    assert message.json() == {}


def test_what_came_with_a_message_stays_through_requeue(queue):
    """A second delivery shows the same headers, content type and name."""
    queue.enqueue(b"x", headers={"k": "v"}, content_type="text/plain", name="n.txt")
    queue.dequeue().requeue(delay_s=0)
    again = queue.dequeue()
    assert (dict(again.headers), again.content_type, again.name) == ({"k": "v"}, "text/plain", "n.txt")


def test_a_plain_message_has_nothing_with_it(queue):
    """No headers is an empty mapping; the others are None; the priority is 5."""
    queue.enqueue(b"x")
    message = queue.dequeue()
    assert (dict(message.headers), message.content_type, message.name, message.group) == ({}, None, None, None)
    assert (message.priority, message.attempts) == (5, 1)


def test_a_name_is_made_harmless(queue):
    """A name with a path, quotes or line breaks shows none of them, and keeps its extension."""
    queue.enqueue(b"x", name="../../etc/a b;$(c)\n.csv")
    name = queue.dequeue().name
    assert name.endswith(".csv")
    assert not set("/ ;$()\n") & set(name)


def test_a_long_name_is_cut(queue):
    """A name of any length is accepted; what is shown is at most 120 bytes, extension kept."""
    queue.enqueue(b"x", name="ü" * 300 + ".tar")
    name = queue.dequeue().name
    assert len(name.encode()) <= 120
    assert name.endswith(".tar")


def test_many_are_enqueued_in_order(queue, drain):
    """`enqueue_many` takes bare bytes and NewMessage alike, also from a generator, and answers ids in order."""
    ids = queue.enqueue_many(iter([b"1", NewMessage(body=b"2", headers={"k": "v"}), b"3"]))
    assert ids == sorted(ids)
    assert dict(queue.get(ids[1]).headers) == {"k": "v"}
    assert drain(queue) == [b"1", b"2", b"3"]


def test_many_may_be_none(queue):
    """No messages: no ids."""
    assert queue.enqueue_many([]) == []


def test_many_is_more_than_a_batch(queue):
    """A thousand in one call are a thousand messages."""
    ids = queue.enqueue_many(b"%d" % number for number in range(1000))
    assert len(set(ids)) == 1000
    assert queue.stats().ready == 1000


def test_many_honours_each_ones_options(queue, drain):
    """Priority, delay, key and group of each message in a batch are its own."""
    first, second, third, fourth = queue.enqueue_many(
        [
            NewMessage(body=b"low", priority=1),
            NewMessage(body=b"later", delay_s=60),
            NewMessage(body=b"keyed", dedup_key="k"),
            NewMessage(body=b"keyed again", dedup_key="k"),
        ]
    )
    assert third == fourth
    assert queue.get(second).state == "scheduled"
    assert drain(queue) == [b"keyed", b"low"]
    assert queue.get(first).state == "done"


def test_many_says_which_entry_is_wrong(queue):
    """An entry that is no message is a TypeError with its value; one with a bad option a ValueError."""
    with pytest.raises(TypeError, match="text"):
        queue.enqueue_many(["text"])
    with pytest.raises(ValueError, match="12"):
        queue.enqueue_many([NewMessage(body=b"x", priority=12)])


def test_a_file_is_copied(queue, tmp_path):
    """`enqueue_file` leaves the file, and the message does not follow its later changes."""
    path = tmp_path / "report.csv"
    path.write_bytes(b"a,b\n")
    queue.enqueue_file(path)
    path.write_bytes(b"changed")
    message = queue.dequeue()
    assert message.body == b"a,b\n"
    assert message.name == "report.csv"


def test_a_file_is_moved(queue, tmp_path):
    """With `move` the file is gone and the message is there."""
    path = tmp_path / "report.csv"
    path.write_bytes(b"a,b\n")
    message_id = queue.enqueue_file(str(path), move=True, priority=8, headers={"k": "v"})
    assert not path.exists()
    message = queue.dequeue()
    assert (message.id, message.body, message.priority, dict(message.headers)) == (message_id, b"a,b\n", 8, {"k": "v"})


def test_a_file_can_be_given_another_name(queue, tmp_path):
    """`name` replaces the file's own."""
    path = tmp_path / "a"
    path.write_bytes(b"x")
    queue.enqueue_file(path, name="b.txt")
    assert queue.dequeue().name == "b.txt"


@pytest.mark.parametrize("move", [False, True], ids=["copy", "move"])
def test_only_a_regular_file_is_enqueued(queue, tmp_path, move):
    """A directory, a FIFO and a link are UnsafeFile; none is opened, and none is harmed."""
    target = tmp_path / "target"
    target.write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to(target)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, link, fifo):
        with pytest.raises(UnsafeFile):
            queue.enqueue_file(path, move=move)
        assert path.exists()
    assert queue.dequeue() is None


@pytest.mark.parametrize("move", [False, True], ids=["copy", "move"])
def test_a_missing_file_is_an_error_that_names_it(queue, tmp_path, move):
    """The path is in the words, and nothing is enqueued."""
    with pytest.raises(SpoolqError, match=r"missing\.csv"):
        queue.enqueue_file(tmp_path / "missing.csv", move=move)
    assert queue.dequeue() is None


def test_a_moved_file_with_a_wrong_argument_stays(queue, tmp_path):
    """Arguments are judged before the file is touched."""
    path = tmp_path / "report.csv"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="priority"):
        queue.enqueue_file(path, move=True, priority=10)
    assert path.read_bytes() == b"x"


def test_queues_do_not_share_messages(engine):
    """What is put in one queue is not in another."""
    first, second = engine.make_queue(name="first"), engine.make_queue(name="second")
    first.enqueue(b"x")
    assert second.dequeue() is None
    assert first.dequeue().body == b"x"
    assert (first.name, second.name) == ("first", "second")
