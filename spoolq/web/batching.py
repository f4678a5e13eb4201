"""Enqueues that come together go together: one transaction, one directory sync, files synced side by side.

With durability "power" most of an enqueue is waiting for the disk, and what has come by the time a batch ends is the
next batch. With "process" nothing is waited for, so what one turn of the event loop brings is a batch, enqueued in the
loop itself at the end of the turn. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque

from spoolq.errors import SpoolqError
from spoolq.models import NewMessage
from spoolq.web.service import Service

MOST = 128
MOST_IN_LOOP = 16
MOST_AT_ONCE = 2
"""Batches under way for a queue: while one syncs, the next one's files are written."""

Waiter = tuple[NewMessage, asyncio.Future[str]]


class Batcher:
    """Enqueues small messages without a key, for every queue of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lines: dict[str, _Line] = {}

    async def enqueue(self, name: str, message: NewMessage) -> str:
        """Enqueue in company; returns the id once it is safe."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(self._service, name)
        return await line.enqueue(message)


class _Line:
    """Those who enqueue to one queue."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._waiting: deque[Waiter] = deque()
        self._is_called = False
        self._tasks: set[asyncio.Task[None]] = set()

    def enqueue(self, message: NewMessage) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        self._waiting.append((message, future))
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        """The turn has ended: enqueue what it brought, or have a thread do it."""
        self._is_called = False
        queue = self._service.opened(self._name)
        while self._waiting and queue is not None and queue.is_free() and queue.settings.durability == "process":
            batch = self._next(MOST_IN_LOOP)
            try:
                ids = queue.enqueue_many([message for message, _ in batch])
            except Exception:
                # One by one, in a thread: each is told what is true of it.
                self._start(batch)
            else:
                _tell(batch, ids)
        if self._waiting and len(self._tasks) < MOST_AT_ONCE:
            self._start([])

    def _next(self, most: int) -> list[Waiter]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _start(self, failed: list[Waiter]) -> None:
        task = asyncio.create_task(self._run(failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, failed: list[Waiter]) -> None:
        for each in failed:
            await self._enqueue_all([each])
        while self._waiting:
            await self._enqueue_all(self._next(MOST))

    async def _enqueue_all(self, batch: list[Waiter]) -> None:
        messages = [message for message, _ in batch]
        try:
            ids = await self._service.call(self._name, lambda queue: queue.enqueue_many(messages))
        except (SpoolqError, ValueError) as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            # One of them is not right, or there is no room for all: each is told what is true of it.
            for each in batch:
                await self._enqueue_all([each])
        except BaseException as error:
            for _, future in batch:
                _fail(future, error)
            raise
        else:
            _tell(batch, ids)


def _tell(batch: list[Waiter], ids: list[str]) -> None:
    for (_, future), id in zip(batch, ids, strict=True):
        if not future.done():
            future.set_result(id)


def _fail(future: asyncio.Future[str], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
