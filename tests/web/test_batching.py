"""What comes in one turn of the event loop is done in one transaction, and each is told what is true of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spoolq.errors import LeaseLost
from spoolq.models import MessageInfo, NewMessage
from spoolq.queue import open_queue as open_spool
from spoolq.settings import Settings
from spoolq.spool.queue import SpoolQueue
from spoolq.web.batching import Batcher
from spoolq.web.service import Limits, Service
from tests.helpers import LIMIT_S

Use = Callable[[Batcher, Service], Awaitable[None]]


@pytest.fixture(params=["process", "power", "full"])
def run(spool: Path, request: pytest.FixtureRequest) -> Callable[[Use], None]:
    """`run(use)` calls `use(batcher, service)` in an event loop, with each durability."""
    with open_spool(spool) as queue:
        queue.change_settings(Settings(durability=request.param))

    async def main(use: Use) -> None:
        service = Service(str(spool), Limits())
        await service.queue("default")
        try:
            await use(Batcher(service), service)
        finally:
            await service.close()

    def in_thread(use: Use) -> None:
        # Not in this one: a browser's tests leave a loop running in it.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(main(use))).result()

    return in_thread


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the queue was called, by method."""
    counts = dict.fromkeys(("enqueue_many", "dequeue_many", "acknowledge_many"), 0)
    for name in counts:
        real = getattr(SpoolQueue, name)

        def counted(self: SpoolQueue, *args: Any, _name: str = name, _real: Any = real, **more: Any) -> Any:
            counts[_name] += 1
            return _real(self, *args, **more)

        monkeypatch.setattr(SpoolQueue, name, counted)
    return counts


def test_twelve_of_a_kind_are_one_call(run: Callable[[Use], None], calls: dict[str, int]):
    async def use(batcher: Batcher, service: Service) -> None:
        ids = await asyncio.gather(*(batcher.enqueue("default", NewMessage(body=b"x")) for _ in range(12)))
        found = await asyncio.gather(*(batcher.claim("default", None) for _ in range(12)))
        assert sorted(message.id for (message,) in found) == sorted(ids)
        await asyncio.gather(*(batcher.acknowledge("default", message.receipt) for (message,) in found))
        stats = await service.call("default", lambda queue: queue.stats())
        assert (stats.ready, stats.claimed, stats.done) == (0, 0, 12)

    run(use)
    assert calls == {"enqueue_many": 1, "dequeue_many": 1, "acknowledge_many": 1}


def test_where_there_is_less_the_last_get_nothing(run: Callable[[Use], None]):
    async def use(batcher: Batcher, service: Service) -> None:
        await asyncio.gather(*(batcher.enqueue("default", NewMessage(body=b"x")) for _ in range(2)))
        found = await asyncio.gather(*(batcher.claim("default", None) for _ in range(4)))
        assert [len(each) for each in found] == [1, 1, 0, 0]

    run(use)


def test_each_has_the_lease_it_asked_for(run: Callable[[Use], None]):
    async def use(batcher: Batcher, service: Service) -> None:
        await asyncio.gather(*(batcher.enqueue("default", NewMessage(body=b"x")) for _ in range(3)))
        found = await asyncio.gather(*(batcher.claim("default", lease_s) for lease_s in (None, 1000.0, None)))
        infos = [await service.call("default", lambda queue, id=each[0].id: queue.get(id)) for each in found]
        lasts = [round((info.deadline_at_ms - info.changed_at_ms) / 1000) for info in infos]
        assert lasts == [60, 1000, 60]

    run(use)


def test_a_lost_claim_concerns_nobody_else(run: Callable[[Use], None]):
    async def use(batcher: Batcher, service: Service) -> None:
        await asyncio.gather(*(batcher.enqueue("default", NewMessage(body=b"x")) for _ in range(3)))
        found = await asyncio.gather(*(batcher.claim("default", None) for _ in range(3)))
        receipts = [message.receipt for (message,) in found]
        await service.call("default", lambda queue: queue.release(receipts[1]))
        ended = await asyncio.gather(
            *(batcher.acknowledge("default", receipt) for receipt in receipts), return_exceptions=True
        )
        assert [type(each) for each in ended] == [type(None), LeaseLost, type(None)]

    run(use)


def test_the_same_receipt_twice_at_once_is_twice_well(run: Callable[[Use], None]):
    async def use(batcher: Batcher, service: Service) -> None:
        await batcher.enqueue("default", NewMessage(body=b"x"))
        ((message,), _) = await asyncio.gather(batcher.claim("default", None), batcher.claim("default", None))
        await asyncio.gather(*(batcher.acknowledge("default", message.receipt) for _ in range(2)))
        stats = await service.call("default", lambda queue: queue.stats())
        assert (stats.claimed, stats.done) == (0, 1)

    run(use)


def test_what_nobody_waits_for_any_more_goes_back_uncounted(run: Callable[[Use], None], calls: dict[str, int]):
    async def use(batcher: Batcher, service: Service) -> None:
        id = await batcher.enqueue("default", NewMessage(body=b"x"))

        def get(id: str) -> Awaitable[MessageInfo]:
            return service.call("default", lambda queue: queue.get(id))

        asking = asyncio.ensure_future(batcher.claim("default", None))
        await asyncio.sleep(0)  # in line, and not yet served
        asking.cancel()
        async with asyncio.timeout(LIMIT_S):
            while calls["dequeue_many"] == 0 or (await get(id)).state != "ready":
                await asyncio.sleep(0.005)
        assert (await get(id)).attempts == 0

    run(use)


def test_a_fault_of_one_call_keeps_nobody_behind_it_waiting(
    run: Callable[[Use], None], monkeypatch: pytest.MonkeyPatch
):
    """Also one that nobody thought of: each is told, and none waits for ever."""
    real, failures = SpoolQueue.dequeue_many, iter((True, True))

    def faulty(self: SpoolQueue, *args: Any, **more: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("made for this test")
        return real(self, *args, **more)

    monkeypatch.setattr(SpoolQueue, "dequeue_many", faulty)

    async def use(batcher: Batcher, service: Service) -> None:
        await asyncio.gather(*(batcher.enqueue("default", NewMessage(body=b"x")) for _ in range(3)))
        async with asyncio.timeout(LIMIT_S):
            answers: list[Any] = []
            for _ in range(3):
                three = (batcher.claim("default", None) for _ in range(3))
                answers += await asyncio.gather(*three, return_exceptions=True)
        assert RuntimeError in map(type, answers)
        assert sum(len(each) for each in answers if not isinstance(each, BaseException)) == 3

    run(use)
