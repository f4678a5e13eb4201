"""Long polling that holds no thread: whoever waits is a future in a line, and one task a queue serves the line.

Watch first, then look, then wait, as every consumer does: the queue's listener wakes the task from the inotify thread,
and the task claims for the first in the line, until there is nothing. Some things come by time alone (a claim's end, a
delay), so it looks again as soon as the queue says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spoolq.errors import SpoolqError
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.web.problems import Problem
from spoolq.web.service import Service

log = logging.getLogger("spoolq.web")

LOOK_EVERY_S = 2.0
Take = Callable[[Queue], Sequence[Message]]


@dataclass(eq=False, slots=True)
class _Waiter:
    """One who waits. take: claims for it."""

    take: Take
    found: asyncio.Future[Sequence[Message]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Waiting:
    """Everybody who waits in this process. changed: told how many they are."""

    def __init__(self, service: Service, changed: Callable[[int], None]) -> None:
        self._service = service
        self._changed = changed
        self._lines: dict[str, _Line] = {}
        self.count = 0

    async def wait(self, name: str, take: Take, wait_s: float, gone: asyncio.Future[None]) -> Sequence[Message]:
        """What `take` claims within `wait_s`, or nothing: also once `gone` is done, or the server stops."""
        if self.count >= self._service.limits.max_waiters:
            raise Problem("too-many", "too many wait here already", hint="Try again with wait_s=0, or a little later")
        self._count(1)
        try:
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = _Line(self._service, name)
            return await line.wait(take, wait_s, gone)
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self.count += more
        self._changed(self.count)

    def end(self) -> None:
        """The server stops: nobody waits any longer."""
        for line in self._lines.values():
            line.end()


class _Line:
    """Those who wait for one queue, first come, first served."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._waiters: deque[_Waiter] = deque()
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, take: Take, wait_s: float, gone: asyncio.Future[None]) -> Sequence[Message]:
        waiter = _Waiter(take)
        self._waiters.append(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        try:
            await asyncio.wait((waiter.found, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Whoever serves the line looks whether the future is done before it claims for it.
            if not waiter.found.done():
                waiter.found.cancel()
        return [] if waiter.found.cancelled() else waiter.found.result()

    def end(self) -> None:
        for waiter in self._waiters:
            if not waiter.found.done():
                waiter.found.set_result([])

    def _first(self) -> _Waiter | None:
        while self._waiters:
            if not self._waiters[0].found.done():
                return self._waiters[0]
            self._waiters.popleft()
        return None

    async def _serve(self) -> None:
        """Until nobody is left in the line."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._awake.set)

        stop: Callable[[], None] | None = None
        try:
            queue = await self._service.queue(self._name)
            stop = await self._service.apart(lambda: queue.listen(wake))
            while self._first() is not None:
                self._awake.clear()
                await self._serve_all()
                if self._first() is not None:
                    await self._sleep(queue)
        except Exception as error:
            self._fail(error)
        finally:
            if stop is not None:
                stop()

    async def _serve_all(self) -> None:
        """Claim for one after another, until there is nothing."""
        await self._service.call(self._name, lambda queue: queue.maintain())
        while (waiter := self._first()) is not None:
            try:
                found = await self._service.quick(self._name, waiter.take)
            except ValueError as error:
                # Of this one's own request; the others' may be right.
                if not waiter.found.done():
                    waiter.found.set_exception(error)
                continue
            if not found:
                return
            if waiter.found.done():
                await give_back(self._service, self._name, found)
            else:
                waiter.found.set_result(found)

    async def _sleep(self, queue: Queue) -> None:
        look_s = await self._service.apart(lambda: queue.next_look_s(LOOK_EVERY_S))
        try:
            async with asyncio.timeout(look_s):
                await self._awake.wait()
        except TimeoutError:
            pass

    def _fail(self, error: Exception) -> None:
        """Nobody can be served: tell all who wait."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.found.done():
                waiter.found.set_exception(error)


async def give_back(service: Service, name: str, messages: Sequence[Message]) -> None:
    """Release what nobody came for: uncounted, for the next."""
    for message in messages:
        try:
            await service.call(name, lambda queue, receipt=message.receipt: queue.release(receipt))  # type: ignore[misc]
        except SpoolqError as error:
            # Its lease has ended, or will: it is delivered again all the same.
            log.info("claim.not_given_back id=%s error=%s", message.id, error.message)
        else:
            log.info("claim.given_back id=%s", message.id)
