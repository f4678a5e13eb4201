"""Bodies of any size, up and down: never held in memory, here or there."""

import hashlib
import io
import json
import os
import socket
import tracemalloc
from urllib.parse import quote

import pytest

from spoolq import open_queue
from spoolq.client.bodies import IN_MEMORY_BYTES
from spoolq.errors import MessageTooLarge, StorageError
from spoolq.models import NewMessage
from tests.client.scripted import ID, answer
from tests.helpers import wait_for
from tests.http_server import AppServer

LARGE_BYTES = 50 * 1024 * 1024
PIECE = bytes(range(256)) * 1024
MEMORY_BYTES = 12 * 1024 * 1024
"""Client and server together, both in this process."""


class Generated(io.RawIOBase):
    """A body that is made while it is read."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def read(self, size=-1):
        piece = PIECE[: min(len(PIECE), self.left)]
        self.left -= len(piece)
        return piece


def digest(file):
    found, size = hashlib.sha256(), 0
    while piece := file.read(1 << 18):
        found.update(piece)
        size += len(piece)
    return size, found.hexdigest()


@pytest.fixture
def memory():
    """How much was held at most since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_large_body_is_never_held_whole(live, memory):
    """50 MB up without a known length, and down again, of a claim and by its id."""
    message_id = live.enqueue(Generated(LARGE_BYTES))
    message = live.dequeue()
    assert (message.id, message.body_bytes) == (message_id, LARGE_BYTES)
    expected = digest(Generated(LARGE_BYTES))
    with message.open() as file:
        assert digest(file) == expected
        file.seek(-1, os.SEEK_END)
        assert file.read() == PIECE[-1:]
    with live.read_body(message_id) as file:
        assert digest(file) == expected
    assert memory() < MEMORY_BYTES


def test_a_large_file_is_sent_with_its_length(live, memory, tmp_path):
    """So the server can refuse it at once; moved, it is gone."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for _ in range(40):
            file.write(PIECE)
    message_id = live.enqueue_file(path, move=True)
    assert live.get(message_id).body_bytes == 40 * len(PIECE)
    assert not path.exists()
    assert memory() < MEMORY_BYTES


def test_small_and_large_bodies_are_the_same_kind_of_file(live):
    """From the beginning, can be read again, and is closed by the caller."""
    for size in (0, 1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1):
        message_id = live.enqueue(b"x" * size)
        with live.read_body(message_id) as file:
            assert len(file.read()) == size
            file.seek(0)
            assert file.read(1) == b"x"[:size]


def test_a_body_over_the_limit_is_refused_while_it_is_sent(live):
    """Whether the length was known or not; the connection serves the next request."""
    from dataclasses import replace

    from spoolq.settings import Limits

    live.change_settings(replace(live.settings, limits=Limits(body_bytes=1_000_000)))
    for _ in range(3):
        endless = Generated(1 << 40)
        with pytest.raises(MessageTooLarge):
            live.enqueue(endless)
        assert (1 << 40) - endless.left < LARGE_BYTES
        with pytest.raises(MessageTooLarge):
            live.enqueue(b"x" * 20_000_000)
    live.enqueue(b"fits")
    assert live.stats().ready == 1


def test_a_large_one_among_many_is_streamed(live):
    """`enqueue_many` sends what is large on its own; the order stays."""
    large = b"y" * 5_000_000
    ids = live.enqueue_many([b"1", large, NewMessage(body=b"2", headers={"k": "v"}), b"3"])
    assert len(set(ids)) == 4
    assert [message.body for message in live.dequeue_many(4)] == [b"1", large, b"2", b"3"]


@pytest.mark.parametrize("chars", [10, 4_000, 60_000], ids=["few", "some", "many"])
def test_headers_of_any_length_travel(live, chars, tmp_path):
    """In a header of the request, or in a part of it where a proxy might refuse that."""
    headers = {"text": "x" * (chars // 2), "ünï ✓": "é" * (chars // 3)}
    path = tmp_path / "file"
    path.write_bytes(PIECE)
    ids = [
        live.enqueue(PIECE, headers=headers, name="a", content_type="text/plain"),
        live.enqueue(Generated(len(PIECE)), headers=headers, name="a", content_type="text/plain"),
        live.enqueue_file(path, headers=headers, name="a", content_type="text/plain"),
        *live.enqueue_many([NewMessage(body=PIECE, headers=headers, name="a", content_type="text/plain")]),
    ]
    for message in live.dequeue_many(4):
        assert message.id in ids
        assert (dict(message.headers), message.name, message.content_type) == (headers, "a", "text/plain")
        assert message.body == PIECE
    assert [dict(live.get(each).headers) for each in ids] == [headers] * 4


def test_a_file_that_shrinks_while_it_is_sent(scripted, tmp_path):
    """Nothing is enqueued, and the words say why."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)

    class Shrinking(io.FileIO):
        def read(self, size=-1):
            os.truncate(path, 10)
            return super().read(size)

    queue, server = scripted(answer(201, {"id": ID}))
    with Shrinking(path, "rb") as file, pytest.raises(StorageError, match="must not change"):
        queue.enqueue(file)
    (asked,) = wait_for(lambda: server.asked)
    assert asked.headers["content-length"] == "100"


def test_a_file_that_grows_while_it_is_sent(scripted, tmp_path):
    """What it had at first is the message: that was announced."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)

    class Growing(io.FileIO):
        def read(self, size=-1):
            with open(path, "ab") as file:
                file.write(b"y")
            return super().read(size)

    queue, server = scripted(answer(201, {"id": ID}))
    with Growing(path, "rb") as file:
        file.seek(1)
        queue.enqueue(file)
    assert server.asked[0].body == b"x" * 99


def test_lines_of_a_batch_are_json(scripted):
    """Each with its options; what is the default is left out."""
    queue, server = scripted(answer(201, {"ids": [ID, ID]}))
    queue.enqueue_many([b"\xff", NewMessage(body=b"2", priority=9, delay_s=1.5, ttl_s=0, group="g")])
    lines = [json.loads(line) for line in server.asked[0].body.splitlines()]
    assert lines == [
        {"body_base64": "/w=="},
        {"body_base64": "Mg==", "priority": 9, "delay_s": 1.5, "ttl_s": 0, "group": "g"},
    ]
    assert server.asked[0].headers["content-type"] == "application/x-ndjson"


def test_a_unix_socket(live, make_app, tmp_path_factory):
    """The same requests, over a path."""
    path = tmp_path_factory.mktemp("s") / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = AppServer(listener)
    with server.serving(make_app), open_queue(f"http+unix://{quote(str(path), safe='')}") as queue:
        message_id = queue.enqueue(b"x" * 1_000_000)
        assert live.get(message_id).body_bytes == 1_000_000
        assert [message.id for message in queue.dequeue_many(2, wait_s=5)] == [message_id]
    server.close()
