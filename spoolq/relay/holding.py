"""Keeping claims that live by time while what they hold is on its way: a large body over a slow line takes long.

A spool's claims live as long as this process, so nothing is done for them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spoolq.errors import LeaseLost, NotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.message import Message

log = logging.getLogger("spoolq.relay")

_PART = 3
"""A lease is extended when a third of it is over, so that two tries may fail."""


@contextmanager
def held(source: Queue, left: Sequence[Message]) -> Iterator[None]:
    """Extend, from a thread of its own, the claims on what is still in `left`, which the caller takes out of."""
    if source.capabilities.holders or not left:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(source, left, over), name="spoolq-relay-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep(source: Queue, left: Sequence[Message], over: threading.Event) -> None:
    lease_s = source.settings.lease_s
    while not over.wait(lease_s / _PART):
        for message in tuple(left):
            if over.is_set():
                return
            try:
                message.extend(lease_s)
            except (LeaseLost, NotFound):  # RACE: settled meanwhile; or it has ended, and then the key tells
                continue
            except SpoolqError as error:
                log.warning("relay.not_extended error=%s", error)
                break
