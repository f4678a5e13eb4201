"""Queues of a server by its URL: open, list, create, delete. `spoolq.queue` comes here for http:// and https://."""

from __future__ import annotations

import os
from typing import Any

from spoolq import validate
from spoolq.client import address, values
from spoolq.client.connection import BULK_S, Call
from spoolq.client.queue import HttpQueue
from spoolq.errors import QueueNotFound
from spoolq.settings import Settings


def open_queue(url: str, *, queue: str | None = None, detached: bool = False) -> HttpQueue:
    """Open a queue of a server. QueueNotFound, NotAllowed; Unreachable where no server answers. Makes nothing."""
    opened = HttpQueue(address.parse(url, queue, os.environ), detached=detached)
    try:
        if opened.name not in opened.queues():
            hint = "Make it with: spoolq queues create; or the token is not for it"
            raise QueueNotFound(f"no queue {opened.name!r} at {opened.server}", op="open", hint=hint)
    except BaseException:
        opened.close()
        raise
    return opened


def list_queues(url: str) -> list[str]:
    """The names of a server's queues, as far as the token may see them."""
    with HttpQueue(address.parse(url, None, os.environ)) as any_queue:
        return list(any_queue.queues())


def create_queue(url: str, name: str, settings: Settings | None = None) -> HttpQueue:
    """Make a queue at a server and open it. QueueExists."""
    asked: dict[str, Any] = {"name": validate.check_queue_name(name)}
    if settings is not None:
        asked["settings"] = values.plain(settings)
    made = HttpQueue(address.parse(url, name, os.environ))
    try:
        made.connection.ask(Call(method="POST", path="/queues", op="create_queue", json=asked))
    except BaseException:
        made.close()
        raise
    return made


def delete_queue(url: str, name: str) -> int:
    """Delete a queue of a server with all its messages; returns how many."""
    with HttpQueue(address.parse(url, name, os.environ)) as doomed:
        return doomed.ask("DELETE", "", "delete_queue", lambda data: int(data["deleted"]), answer_s=BULK_S)
