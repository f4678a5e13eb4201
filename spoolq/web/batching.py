"""What comes together is done together: one transaction, one directory sync, files synced side by side.

What one turn of the event loop brings is a batch. Where nothing is waited for (an enqueue with durability "process", a
claim, an acknowledgement unless with "full"), it is done in the loop itself at the end of the turn. Else a thread does
it, and what has come by the time it ends is the next batch: most of such a call is waiting for the disk. Nobody waits
for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Generic, TypeVar

from spoolq.errors import SpoolqError
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.models import NewMessage
from spoolq.web.service import Service
from spoolq.web.waiting import give_back

MOST = 128
MOST_IN_LOOP = 16
MOST_AT_ONCE = 2
"""Batches under way for a queue: while one syncs, the next one's files are written."""

A = TypeVar("A")
R = TypeVar("R")

Act = Callable[[Queue, list[A]], Sequence[R | Exception]]
"""Does a batch: an answer, or an error, for each that asked. What it raises concerns nobody yet: it did nothing, or
what may be done again."""

Missed = Callable[[str, R], None]
"""Called with the queue's name and an answer whose asker does not wait for it any more."""


class Batcher:
    """Small calls to every queue of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._returning: set[asyncio.Task[None]] = set()
        nothing_synced = frozenset(("process", "power"))
        self._enqueues: _Lines[NewMessage, str] = _Lines(service, _enqueue, frozenset(("process",)))
        self._claims: _Lines[float | None, Sequence[Message]] = _Lines(service, _claim, nothing_synced, self._return)
        self._ends: _Lines[str, None] = _Lines(service, _acknowledge, nothing_synced)

    async def enqueue(self, name: str, message: NewMessage) -> str:
        """Enqueue a small message without a key; returns the id once it is safe."""
        return await self._enqueues.ask(name, message)

    async def claim(self, name: str, lease_s: float | None) -> Sequence[Message]:
        """Claim a message; none where there is nothing."""
        return await self._claims.ask(name, lease_s)

    async def acknowledge(self, name: str, receipt: str) -> None:
        """Processed; `receipt` is a well-formed one."""
        await self._ends.ask(name, receipt)

    def _return(self, name: str, messages: Sequence[Message]) -> None:
        if messages:
            task = asyncio.create_task(give_back(self._service, name, messages))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)


def _enqueue(queue: Queue, messages: list[NewMessage]) -> list[str | Exception]:
    return list(queue.enqueue_many(messages))


def _claim(queue: Queue, leases: list[float | None]) -> list[Sequence[Message] | Exception]:
    answers: list[Sequence[Message] | Exception] = []
    for lease_s, asking in groupby(leases):
        count = len(list(asking))
        try:
            found = queue.dequeue_many(count, lease_s=lease_s)
        except Exception as error:
            # What was claimed before it is delivered.
            if not answers:
                raise
            answers += [error] * count
        else:
            answers += [[message] for message in found]
            answers += [[]] * (count - len(found))
    return answers


def _acknowledge(queue: Queue, receipts: list[str]) -> list[Exception | None]:
    lost = frozenset(queue.acknowledge_many(receipts)) if len(receipts) > 1 else frozenset(receipts)
    return [_try_alone(queue, receipt) if receipt in lost else None for receipt in receipts]


def _try_alone(queue: Queue, receipt: str) -> Exception | None:
    try:
        queue.acknowledge(receipt)
    except SpoolqError as error:
        return error
    return None


class _Lines(Generic[A, R]):
    """Those who ask for the same, a line for each queue. in_loop: the durabilities where nothing is waited for."""

    def __init__(
        self, service: Service, act: Act[A, R], in_loop: frozenset[str], missed: Missed[R] | None = None
    ) -> None:
        self._service = service
        self._act = act
        self._in_loop = in_loop
        self._missed = missed
        self._lines: dict[str, _Line[A, R]] = {}

    def ask(self, name: str, asked: A) -> asyncio.Future[R]:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(self._service, name, self._act, self._in_loop, self._missed)
        return line.ask(asked)


class _Line(Generic[A, R]):
    """Those who ask one queue."""

    def __init__(
        self, service: Service, name: str, act: Act[A, R], in_loop: frozenset[str], missed: Missed[R] | None
    ) -> None:
        self._service = service
        self._name = name
        self._act = act
        self._in_loop = in_loop
        self._missed = missed
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._is_called = False
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, asked: A) -> asyncio.Future[R]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((asked, future))
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        """The turn has ended: do what it brought, or have a thread do it."""
        self._is_called = False
        queue = self._service.opened(self._name)
        while self._waiting and queue is not None and queue.is_free() and queue.settings.durability in self._in_loop:
            batch = self._next(MOST_IN_LOOP)
            try:
                answers = self._act(queue, [asked for asked, _ in batch])
            except Exception:
                # One by one, in a thread: each is told what is true of it.
                self._start(batch)
            else:
                self._tell(batch, answers)
        if self._waiting and len(self._tasks) < MOST_AT_ONCE:
            self._start([])

    def _next(self, most: int) -> list[tuple[A, asyncio.Future[R]]]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _start(self, failed: list[tuple[A, asyncio.Future[R]]]) -> None:
        task = asyncio.create_task(self._run(failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, failed: list[tuple[A, asyncio.Future[R]]]) -> None:
        for each in failed:
            await self._do([each])
        while self._waiting:
            await self._do(self._next(MOST))

    async def _do(self, batch: list[tuple[A, asyncio.Future[R]]]) -> None:
        asked = [each for each, _ in batch]
        try:
            answers = await self._service.call(self._name, lambda queue: self._act(queue, asked))
        except (SpoolqError, ValueError) as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            # One of them is not right, or there is no room for all: each is told what is true of it.
            for each in batch:
                await self._do([each])
        except BaseException as error:
            for _, future in batch:
                _fail(future, error)
            if not isinstance(error, Exception):
                raise
            # A fault of ours is these askers' alone: those behind them are served.
        else:
            self._tell(batch, answers)

    def _tell(self, batch: list[tuple[A, asyncio.Future[R]]], answers: Sequence[R | Exception]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(future, answer)
            elif not future.done():
                future.set_result(answer)
            elif self._missed is not None:
                self._missed(self._name, answer)


def _fail(future: asyncio.Future[R], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
