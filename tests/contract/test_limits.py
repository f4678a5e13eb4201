"""What a queue accepts: sizes and numbers."""

import io
from dataclasses import replace

import pytest

from spoolq.errors import Full, MessageTooLarge, QueueFull
from spoolq.models import NewMessage
from spoolq.settings import Limits, Settings


def test_a_body_over_the_limit_is_refused(engine):
    """limits.body_bytes holds for bytes; exactly as many are accepted, and a refusal leaves nothing."""
    queue = engine.make_queue(Settings(limits=Limits(body_bytes=10)))
    queue.enqueue(b"x" * 10)
    with pytest.raises(MessageTooLarge, match="10"):
        queue.enqueue(b"x" * 11)
    with pytest.raises(MessageTooLarge):
        queue.enqueue_many([NewMessage(body=b"x" * 11)])
    assert queue.stats().ready == 1


def test_a_stream_over_the_limit_is_refused_before_its_end(engine):
    """Somebody who never stops sending is stopped."""

    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def read(self, size=-1):
            self.given += 65_536
            if self.given > 100 * 1024 * 1024:
                raise AssertionError("it read on and on")
            return b"x" * 65_536

    queue = engine.make_queue(Settings(limits=Limits(body_bytes=1_000_000)))
    with pytest.raises(MessageTooLarge):
        queue.enqueue(Endless())
    assert queue.stats().ready == 0


@pytest.mark.parametrize("move", [False, True], ids=["copy", "move"])
def test_a_file_over_the_limit_is_refused_and_stays(engine, tmp_path, move):
    """Nothing is taken that does not fit."""
    queue = engine.make_queue(Settings(limits=Limits(body_bytes=10)))
    path = tmp_path / "large"
    path.write_bytes(b"x" * 11)
    with pytest.raises(MessageTooLarge):
        queue.enqueue_file(path, move=move)
    assert path.stat().st_size == 11
    assert queue.stats().ready == 0


def test_a_full_queue_refuses(engine):
    """limits.messages counts what waits, scheduled included; with one claimed there is room again."""
    queue = engine.make_queue(Settings(limits=Limits(messages=2)))
    queue.enqueue(b"1")
    queue.enqueue(b"2", delay_s=60)
    with pytest.raises(QueueFull, match="2"):
        queue.enqueue(b"3")
    message = queue.dequeue()
    queue.enqueue(b"3")
    message.ack()
    with pytest.raises(Full):
        queue.enqueue(b"4")


def test_a_queue_full_of_bytes_refuses(engine):
    """limits.bytes counts the bodies of what waits."""
    queue = engine.make_queue(Settings(limits=Limits(bytes=100)))
    queue.enqueue(b"x" * 100)
    with pytest.raises(QueueFull, match="100"):
        queue.enqueue(b"x")
    queue.dequeue().ack()
    queue.enqueue(b"x")


@pytest.mark.parametrize("move", [False, True], ids=["copy", "move"])
def test_a_full_queue_leaves_the_file(engine, tmp_path, move):
    """Nothing is taken that finds no room."""
    queue = engine.make_queue(Settings(limits=Limits(messages=1)))
    queue.enqueue(b"1")
    path = tmp_path / "file"
    path.write_bytes(b"2")
    with pytest.raises(QueueFull):
        queue.enqueue_file(path, move=move)
    assert path.read_bytes() == b"2"


def test_a_full_queue_takes_its_own_back(engine, clock):
    """Release, requeue and redrive are never refused: nothing is lost for want of room."""
    queue = engine.make_queue(Settings(limits=Limits(messages=1)))
    bodies = [b"1", b"2", b"3"]
    messages = []
    for body in bodies:
        queue.enqueue(body)
        messages.append(queue.dequeue())
    messages[0].release()
    messages[1].requeue(delay_s=0)
    messages[2].dead_letter("no")
    assert queue.dead_letters.redrive() == 1
    assert [message.body for message in queue.dequeue_many(3)] == bodies


def test_a_limit_that_is_lifted_is_lifted(engine):
    """New settings hold from the next enqueue on."""
    queue = engine.make_queue(Settings(limits=Limits(messages=1)))
    queue.enqueue(b"1")
    queue.change_settings(replace(queue.settings, limits=Limits()))
    queue.enqueue(b"2")
    assert queue.stats().ready == 2
