"""The samples that the stack runs until you put your own in their place.

`describe` handles a message: `spoolq work spoolq.samples:describe`. `produce` makes some; `python -m spoolq.samples`
does so until TERM. scripts/consumer.py and scripts/producer.py are programs around the two.
"""

from __future__ import annotations

import hashlib
import mimetypes
import random
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spoolq.queue import open_queue

if TYPE_CHECKING:
    from spoolq.interfaces import Queue
    from spoolq.message import Message

_CHUNK_BYTES = 1 << 20


def describe(message: Message) -> None:
    """Print a message's name, size, type, number of lines and SHA-256. Its body is never in memory as a whole."""
    digest, lines, size = hashlib.sha256(), 0, 0
    with message.open() as body:
        while piece := body.read(_CHUNK_BYTES):
            digest.update(piece)
            lines += piece.count(b"\n")
            size += len(piece)
    name = message.name or message.id
    kind = message.content_type or mimetypes.guess_type(name)[0] or "unknown type"
    # One write, so that threads do not mix their lines.
    sys.stdout.write(f"{name}: {size} bytes, {kind}, {lines} lines, sha256 {digest.hexdigest()}\n")
    sys.stdout.flush()


def bodies(seed: int | None = None) -> Iterator[bytes]:
    """Synthetic messages without end, of 40 bytes to some kilobytes. The same `seed` makes the same ones."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz \n", k=chance.choice((20, 200, 4000))))
        yield f"sample message {number}\n{text}\n".encode()


def produce(queue: Queue, rate: float, stop: threading.Event, *, limit: int | None = None) -> int:
    """Enqueue `rate` synthetic messages a second until `stop` is set, or there are `limit`; how many there were."""
    for number, body in enumerate(bodies(), 1):
        queue.enqueue(body, name=f"sample-{number}.txt")
        if number == limit or stop.wait(1 / rate):
            return number
    raise AssertionError("there is always a next body")


def main() -> int:
    """Produce until TERM or Ctrl-C, as the settings say."""
    import os

    from spoolq.cli.stopping import stopping
    from spoolq.stack.settings import adopt, load

    adopt(os.environ)
    settings = load(os.environ)
    with open_queue(settings.spool) as queue, stopping() as stop:
        print(f"enqueued {produce(queue, settings.producer_rate, stop)} messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
