"""Dead letters: look at them by reason, put them back, delete them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from spoolq import validate
from spoolq.interfaces import Progress, Queue
from spoolq.models import Filter, Page
from spoolq.web.messages import Cursor, Limit, Where, page_of
from spoolq.web.problems import Problem
from spoolq.web.routes import Json, QueueName, Strict, declare, new_router, ok
from spoolq.web.service import Service
from spoolq.web.streaming import Interrupted, until_gone

router = new_router()

_Text = Annotated[str | None, Field(max_length=1000)]
_Seconds = Annotated[float | None, Field(ge=0, le=3_153_600_000)]
Ids = Annotated[list[Annotated[str, Field(max_length=36)]], Field(max_length=validate.MAX_LIMIT)]


class Selection(Strict):
    """Which dead letters: each given part must hold."""

    name: _Text = None
    reason: _Text = None
    group: _Text = None
    text: _Text = None
    min_age_s: _Seconds = None
    max_age_s: _Seconds = None
    min_attempts: Annotated[int | None, Field(ge=0, lt=2**31)] = None

    def as_filter(self) -> Filter:
        """As queues take it."""
        return Filter(**self.model_dump())


class Redrive(Strict):
    """Which go back: these ids, else what `where` admits, else all."""

    ids: Ids | None = None
    where: Selection | None = None
    limit: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    rate: Annotated[float | None, Field(gt=0, le=1e9)] = None
    dry_run: bool = False


class Purge(Strict):
    """Which are deleted."""

    ids: Ids | None = None
    where: Selection | None = None
    dry_run: bool = False


class Count(Strict):
    """How many."""

    count: int
    dry_run: bool


class Reason(Strict):
    """A reason, and how many gave up by it."""

    reason: str
    count: int


class Reasons(Strict):
    """The most frequent first."""

    reasons: list[Reason]


@declare(router, "GET", "/queues/{q}/dead-letters", needs="consume", success={200: ok(Page, "A page, oldest first")})
async def dead_letters(
    request: Request, queue: QueueName, where: Where, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """The dead letters, oldest first."""
    service: Service = request.app.state.service
    page = await service.call(queue, lambda each: each.dead_letters.list(where=where, limit=limit, cursor=cursor))
    return page_of(request, page)


@declare(router, "GET", "/queues/{q}/dead-letters/reasons", needs="consume", success={200: ok(Reasons)})
async def reasons(request: Request, queue: QueueName) -> Response:
    """Each reason with its count."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.dead_letters.reasons())
    return Json({"reasons": [{"reason": reason, "count": count} for reason, count in found]})


async def while_asked(request: Request, name: str, act: Callable[[Queue, Progress], int]) -> int:
    """Long work, which ends between two messages when nobody is there any more, or the server stops."""
    service: Service = request.app.state.service
    stop = threading.Event()

    def progress(done: int, of: int) -> None:
        if stop.is_set():
            raise Interrupted

    gone = asyncio.ensure_future(until_gone(request.receive))
    gone.add_done_callback(lambda ended: None if ended.cancelled() else stop.set())
    service.on_closed.append(stop.set)
    try:
        return await service.call(name, lambda queue: act(queue, progress))
    except Interrupted:
        raise Problem("closing", "the work was ended between two messages; what is done is done") from None
    finally:
        service.on_closed.remove(stop.set)
        gone.cancel()


@declare(
    router,
    "POST",
    "/queues/{q}/dead-letters/redrive",
    needs="admin",
    success={200: ok(Count, "Put back", {"count": 3, "dry_run": False})},
)
async def redrive(request: Request, queue: QueueName, asked: Redrive | None = None) -> Response:
    """Put dead letters back to be delivered, attempts at 0, history kept."""
    said = asked or Redrive()
    ids = None if said.ids is None else [validate.check_message_id(id) for id in said.ids]
    where = None if said.where is None else said.where.as_filter()
    count = await while_asked(
        request,
        queue,
        lambda each, progress: each.dead_letters.redrive(
            ids, where=where, limit=said.limit, rate=said.rate, dry_run=said.dry_run, progress=progress
        ),
    )
    return Json({"count": count, "dry_run": said.dry_run})


@declare(
    router,
    "POST",
    "/queues/{q}/dead-letters/purge",
    needs="admin",
    success={200: ok(Count, "Deleted", {"count": 3, "dry_run": False})},
)
async def purge(request: Request, queue: QueueName, asked: Purge | None = None) -> Response:
    """Delete dead letters for good."""
    said = asked or Purge()
    ids = None if said.ids is None else [validate.check_message_id(id) for id in said.ids]
    where = None if said.where is None else said.where.as_filter()
    count = await while_asked(
        request,
        queue,
        lambda each, progress: each.dead_letters.purge(ids, where=where, dry_run=said.dry_run, progress=progress),
    )
    return Json({"count": count, "dry_run": said.dry_run})
