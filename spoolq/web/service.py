"""How the routes call queues: each is opened once, and no call keeps the event loop waiting.

A short call is made in the loop itself when the queue's lock is free, which costs less than handing it to a thread;
every other one in a pool. Queues are opened detached: claims live by time alone, and outlive the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from spoolq import queue as entry
from spoolq.errors import QueueNotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.settings import Settings
from spoolq.web.problems import Problem

log = logging.getLogger("spoolq.web")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one process takes on at once. max_body_bytes: 0 for no limit but the queue's."""

    max_body_bytes: int = 0
    max_uploads: int = 32
    max_waiters: int = 2000
    max_wait_s: float = 60.0
    pause_s: float = 30.0
    threads: int = 8


class Service:
    """The queues of one spool, for one server process."""

    def __init__(self, spool: str, limits: Limits) -> None:
        self.spool = spool
        self.limits = limits
        self.closing = asyncio.Event()
        self.on_closed: list[Callable[[], None]] = []
        self._open: dict[str, Queue] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="spoolq-web")
        self._uploads = ThreadPoolExecutor(limits.max_uploads, thread_name_prefix="spoolq-upload")
        self._uploading = 0

    # Queues

    async def queue(self, name: str) -> Queue:
        """The open queue of this name. QueueNotFound where there is none."""
        found = self._open.get(name)
        if found is not None:
            return found
        lock = self._opening.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                found = self._open.get(name)
                if found is None:
                    found = await self.apart(
                        lambda: entry.open_queue(self.spool, queue=name, create=False, detached=True)
                    )
                    self._open[name] = found
                return found
        finally:
            if not lock.locked():
                self._opening.pop(name, None)

    def opened(self, name: str) -> Queue | None:
        """The queue, where it is open already."""
        return self._open.get(name)

    async def forget(self, name: str) -> None:
        """Close a queue that is there no longer, or that is another one of the same name by now."""
        queue = self._open.pop(name, None)
        if queue is not None:
            await self.apart(lambda: _close(queue))

    async def names(self) -> list[str]:
        """The names of the spool's queues."""
        return await self.apart(lambda: entry.list_queues(self.spool))

    async def create(self, name: str, settings: Settings | None) -> None:
        """Make a queue."""
        await self.apart(lambda: entry.create_queue(self.spool, name, settings).close())

    async def delete(self, name: str) -> int:
        """Delete a queue with all its messages; how many there were."""
        deleted = await self.apart(lambda: entry.delete_queue(self.spool, name))
        await self.forget(name)
        return deleted

    # Calls

    async def apart(self, act: Callable[[], T]) -> T:
        """Call in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, act)

    async def call(self, name: str, act: Callable[[Queue], T]) -> T:
        """Call a queue in a thread; once more where it was deleted and made again since it was opened."""
        queue = await self.queue(name)
        try:
            return await self.apart(lambda: act(queue))
        except QueueNotFound:
            await self.forget(name)
        queue = await self.queue(name)
        return await self.apart(lambda: act(queue))

    async def quick(self, name: str, act: Callable[[Queue], T]) -> T:
        """A short call: in the loop itself where nothing would make it wait, else as `call`."""
        queue = self._open.get(name)
        if queue is not None and queue.is_free() and queue.settings.durability != "full":
            try:
                return act(queue)
            except QueueNotFound:
                await self.forget(name)
        return await self.call(name, act)

    def begin_upload(self, name: str, act: Callable[[Queue], T]) -> asyncio.Future[T]:
        """Call an open queue in a thread of its own for as long as a body comes. Problem where too many do."""
        queue = self._open.get(name)
        if queue is None:
            raise Problem("queue-not-found", f"there is no queue {name!r}")
        if self._uploading >= self.limits.max_uploads:
            raise Problem("too-many", "too many uploads at once", hint="Try again, or start the server with more")
        self._uploading += 1
        future = asyncio.get_running_loop().run_in_executor(self._uploads, lambda: act(queue))
        future.add_done_callback(self._upload_ended)
        return future

    def _upload_ended(self, future: asyncio.Future[T]) -> None:
        self._uploading -= 1

    # Stopping

    async def close(self) -> None:
        """Close every queue. What was claimed and not settled stays claimed until its lease ends."""
        self.closing.set()
        for each in self.on_closed:
            each()
        queues, self._open = list(self._open.values()), {}
        for queue in queues:
            await self.apart(lambda queue=queue: _close(queue))  # type: ignore[misc]
        self._uploads.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False)


def _close(queue: Queue) -> None:
    try:
        queue.close()
    except SpoolqError as error:
        log.warning("queue.not_closed queue=%s error=%s", queue.name, error.message)
