"""Looking at messages, and changing those that nobody holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from spoolq import validate
from spoolq.models import Filter, MessageInfo, Page, State
from spoolq.web.envelope import info
from spoolq.web.routes import Json, MessageId, QueueName, Strict, declare, new_router, nothing, ok
from spoolq.web.security import call_of
from spoolq.web.service import Service

router = new_router()

_DONE = {204: {"description": "Done"}}
TEXT_CHARS = 1000
Text = Annotated[str | None, Query(max_length=TEXT_CHARS)]
Age = Annotated[float | None, Query(ge=0, le=3_153_600_000)]
Limit = Annotated[int, Query(ge=1, le=validate.MAX_LIMIT, description="At most so many")]
Cursor = Annotated[str | None, Query(max_length=2000, description="Where the last page ended")]


class Found(Strict):
    """Messages."""

    messages: list[MessageInfo]


class PriorityNow(Strict):
    """A new priority."""

    priority: Annotated[int, Field(ge=0, le=9)]


class GivenBack(Strict):
    """Why the claim ends."""

    reason: Annotated[str, Field(max_length=TEXT_CHARS)] = "given back by hand"


def filters(
    name: Text = None,
    reason: Text = None,
    group: Text = None,
    text: Text = None,
    min_age_s: Age = None,
    max_age_s: Age = None,
    min_attempts: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> Filter | None:
    """Which messages: each given part must hold."""
    made = Filter(
        name=name,
        reason=reason,
        group=group,
        text=text,
        min_age_s=min_age_s,
        max_age_s=max_age_s,
        min_attempts=min_attempts,
    )
    return None if made == Filter() else made


Where = Annotated[Filter | None, Depends(filters)]


def shows_receipts(request: Request) -> bool:
    """A receipt is for those who may consume."""
    token = call_of(request.scope).token
    return token is None or token.has("consume")


def page_of(request: Request, page: Page) -> Response:
    """A page as JSON."""
    shown = shows_receipts(request)
    return Json({"messages": [info(each, with_receipt=shown) for each in page.messages], "cursor": page.cursor})


@declare(router, "GET", "/queues/{q}/messages", needs="consume", success={200: ok(Page, "A page")})
async def messages(
    request: Request,
    queue: QueueName,
    where: Where,
    state: State = "ready",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The messages in a state: ready by delivery order, scheduled by time, the others oldest first."""
    service: Service = request.app.state.service
    return page_of(
        request,
        await service.call(queue, lambda each: each.list(state, where=where, limit=limit, cursor=cursor)),
    )


@declare(router, "GET", "/queues/{q}/messages/search", needs="consume", success={200: ok(Found, "In any state")})
async def search(
    request: Request,
    queue: QueueName,
    text: Annotated[str, Query(max_length=TEXT_CHARS, description="A part of the id, the name or the reason")],
    limit: Limit = 100,
) -> Response:
    """Messages in any state whose id begins with, or whose name or reason contains the text."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.search(text, limit=limit))
    return Json({"messages": [info(each, with_receipt=shows_receipts(request)) for each in found]})


@declare(
    router,
    "GET",
    "/queues/{q}/messages/peek",
    needs="consume",
    success={200: ok(MessageInfo, "The next one"), 204: {"description": "None"}},
)
async def peek(request: Request, queue: QueueName) -> Response:
    """The message that the next dequeue would claim, unclaimed."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.peek())
    return nothing() if found is None else Json(info(found))


@declare(router, "GET", "/queues/{q}/messages/{id}", needs="consume", success={200: ok(MessageInfo, "All of it")})
async def message(request: Request, queue: QueueName, message_id: MessageId) -> Response:
    """All that is known of a message, history included."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.get(message_id))
    return Json(info(found, with_receipt=shows_receipts(request)))


@declare(router, "PATCH", "/queues/{q}/messages/{id}", needs="admin", success=_DONE)
async def change(request: Request, queue: QueueName, message_id: MessageId, asked: PriorityNow) -> Response:
    """Change the priority of a waiting message."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.set_priority(message_id, asked.priority))
    return nothing()


@declare(router, "DELETE", "/queues/{q}/messages/{id}", needs="admin", success=_DONE)
async def delete(request: Request, queue: QueueName, message_id: MessageId) -> Response:
    """Delete a message that nobody holds."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.delete(message_id))
    return nothing()


@declare(router, "POST", "/queues/{q}/messages/{id}/run-now", needs="admin", success=_DONE)
async def run_now(request: Request, queue: QueueName, message_id: MessageId) -> Response:
    """Make a scheduled message ready."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.run_now(message_id))
    return nothing()


@declare(router, "POST", "/queues/{q}/messages/{id}/replay", needs="admin", success=_DONE)
async def replay(request: Request, queue: QueueName, message_id: MessageId) -> Response:
    """Deliver a done message again."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.replay(message_id))
    return nothing()


@declare(router, "POST", "/queues/{q}/messages/{id}/give-back", needs="admin", success=_DONE)
async def give_back(
    request: Request, queue: QueueName, message_id: MessageId, asked: GivenBack | None = None
) -> Response:
    """End somebody's claim, counted, so that it is delivered again."""
    service: Service = request.app.state.service
    reason = (asked or GivenBack()).reason
    await service.call(queue, lambda each: each.give_back(message_id, reason=reason))
    return nothing()
