"""The consumer's loop, the same on every engine: `Queue.consume` is this.

It knows the interface only. What a message does when the loop is left is decided here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from spoolq import validate
from spoolq.errors import LeaseLost

if TYPE_CHECKING:
    from spoolq.interfaces import Queue, Slot
    from spoolq.message import Message

_LOG = logging.getLogger("spoolq.consume")
_LOOK_EVERY_S = 60.0


def consume(source: Queue | Slot, *, wait_s: float | None = None, lease_s: float | None = None) -> Iterator[Message]:
    """Messages one after another; the end of the loop's body acknowledges what it has not settled itself.

    Leaving the loop by break, or an exception in it, gives the message in hand back, uncounted. Ends after `wait_s`
    without a message; None waits for ever. A claim that ended under the body, or that the body settled through the
    queue, is logged and passed over: others hold the message now, and the loop goes on.
    """
    if wait_s is not None:
        validate.check_wait(wait_s)
    validate.check_lease(lease_s)
    return _consume(source, wait_s, lease_s)


def _consume(source: Queue | Slot, wait_s: float | None, lease_s: float | None) -> Iterator[Message]:
    while True:
        message = source.dequeue(wait_s=_LOOK_EVERY_S if wait_s is None else wait_s, lease_s=lease_s)
        if message is None:
            if wait_s is None:
                continue
            return
        try:
            yield message
        except BaseException:  # the loop was left: GeneratorExit, which must go on
            _settle(message, message.release)
            raise
        _settle(message, message.ack)


def _settle(message: Message, settle: Callable[[], None]) -> None:
    if message.settled is not None:
        return
    try:
        settle()
    except LeaseLost:
        _LOG.warning("lease_lost", extra={"message_id": message.id, "receipt": message.receipt})
