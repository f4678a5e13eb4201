"""Enqueues that are asked for while the disk syncs go together into the next sync.

With durability "power" most of an enqueue is waiting for the disk, and many syncs side by side cost little more than
one: what has come by the time a batch ends is the next batch. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque

from spoolq.errors import SpoolqError
from spoolq.models import NewMessage
from spoolq.web.service import Service

MOST = 128
MOST_AT_ONCE = 2
"""Batches under way for a queue: while one syncs, the next one's files are written."""


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
    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._waiting: deque[tuple[NewMessage, asyncio.Future[str]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def enqueue(self, message: NewMessage) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, future))
        if len(self._tasks) < MOST_AT_ONCE:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            await self._enqueue_all(batch)

    async def _enqueue_all(self, batch: list[tuple[NewMessage, asyncio.Future[str]]]) -> None:
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
            return
        except BaseException as error:
            for _, future in batch:
                _fail(future, error)
            raise
        for (_, future), id in zip(batch, ids, strict=True):
            if not future.done():
                future.set_result(id)


def _fail(future: asyncio.Future[str], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
