"""The storm's processes: `python -m tests.postgres.crowd ROLE URL ...`. What each knows it says, as WORD ID ATTEMPT.

It tells of a deed after it: what it does not tell of may have happened, and what it tells of has.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

from spoolq import LeaseLost, open_queue
from spoolq.errors import Busy, OutcomeUnknown, SpoolqError, Unreachable
from spoolq.message import Message

REASON = "again, please"


def produce(url: str, first: str, end: str) -> None:
    """Numbers as bodies, each under itself as key: what is sent again, by this one or the next, is there once."""
    with persistently(open_queue, url) as queue:
        for number in range(int(first), int(end)):
            message_id = persistently(queue.enqueue, b"%d" % number, dedup_key=str(number))
            print(message_id, flush=True)


def work(url: str, seed: str) -> None:
    """Acknowledge most, fail a few."""
    chance = random.Random(seed)
    with persistently(open_queue, url) as queue:
        while True:
            message = persistently(queue.dequeue, wait_s=5)
            if message is not None:
                tell("took", message)
                settle(message, "requeue" if chance.random() < 0.02 else "ack")


def hold(url: str, lease_s: str, how: str) -> None:
    """Claim one, wait to be told, and settle it then: too late, if who tells has seen to that."""
    with persistently(open_queue, url) as queue:
        message = queue.dequeue(wait_s=60, lease_s=float(lease_s))
        assert message is not None
        tell("took", message)
        sys.stdin.readline()
        settle(message, how)


def settle(message: Message, how: str) -> None:
    """As a careful program does: what is safe to repeat is repeated, and the rest is let be."""
    began_s = time.monotonic()
    while True:
        try:
            message.requeue(delay_s=0, reason=REASON) if how == "requeue" else message.ack()
        except LeaseLost:
            return tell("lost", message)
        except OutcomeUnknown:
            tell("unknown", message)
            sys.stderr.write(f"{how}: unknown after {time.monotonic() - began_s:.1f} s\n")
            if how == "requeue":
                return None
        except (Unreachable, Busy):
            time.sleep(0.1)
        else:
            return tell("again" if how == "requeue" else "done", message)


def persistently(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Until the database answers; only of what may be repeated."""
    while True:
        try:
            return call(*arguments, **options)
        except SpoolqError as error:
            sys.stderr.write(f"{error}\n")
            time.sleep(0.1)


def tell(word: str, message: Message) -> None:
    print(word, message.id, message.attempts, flush=True)


if __name__ == "__main__":
    {"produce": produce, "work": work, "hold": hold}[sys.argv[1]](*sys.argv[2:])
