"""What a consumer does with what it got: acknowledge, requeue, release, extend, dead letter."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from spoolq import validate
from spoolq.models import Attempt, State
from spoolq.web.batching import Batcher
from spoolq.web.routes import Json, QueueName, Receipt, Strict, declare, new_router, nothing, ok
from spoolq.web.service import Service

router = new_router()

_DONE = {204: {"description": "Done"}}
_LOST = (404, 409)
REASON_CHARS = 4000
Reason = Annotated[str, Field(max_length=100_000)]


class Receipts(Strict):
    """Claims to settle together."""

    receipts: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=validate.MAX_LIMIT)]


class Acknowledged(Strict):
    """How many were acknowledged, and the receipts whose claim had ended."""

    acknowledged: int
    lost: list[str]


class Details(Strict):
    """What a worker knows of a failure."""

    exit_status: Annotated[int | None, Field(ge=-(2**31), lt=2**31)] = None
    signal: Annotated[int | None, Field(ge=0, lt=1000)] = None
    stderr: Annotated[str, Field(max_length=100_000)] = ""
    duration_s: Annotated[float | None, Field(ge=0, le=3_153_600_000)] = None
    host: Annotated[str, Field(max_length=300)] = ""
    pid: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Failure(Strict):
    """Why it goes back, and when it may come again."""

    delay_s: Annotated[float | None, Field(ge=0, le=3_153_600_000)] = None
    reason: Reason = ""
    details: Details | None = None


class Burial(Strict):
    """Why it is given up."""

    reason: Reason = ""
    details: Details | None = None


class Extension(Strict):
    """How long the claim lasts from now."""

    lease_s: Annotated[float, Field(gt=0, le=3_153_600_000)]


class StateNow(Strict):
    """The state that the message is in now."""

    state: State


def _attempt(details: Details | None) -> Attempt | None:
    if details is None:
        return None
    return Attempt(attempt=0, outcome="", ended_at_ms=0, **details.model_dump())


@declare(
    router,
    "POST",
    "/queues/{q}/claims/acknowledge",
    needs="consume",
    success={200: ok(Acknowledged, "Those whose claim lasted", {"acknowledged": 2, "lost": []})},
)
async def acknowledge_many(request: Request, queue: QueueName, asked: Receipts) -> Response:
    """Processed: many at once."""
    service: Service = request.app.state.service
    for receipt in asked.receipts:
        validate.parse_receipt(receipt)
    lost = await service.call(queue, lambda each: each.acknowledge_many(asked.receipts))
    return Json({"acknowledged": len(asked.receipts) - len(lost), "lost": lost})


async def quick_acknowledge(request: Request) -> Response | None:
    """Acknowledge, where nothing is said."""
    if request.scope["query_string"] or _has_body(request):
        return None
    service: Service = request.app.state.service
    name, receipt = request.path_params["q"], request.path_params["receipt"]
    if service.opened(name) is None:
        return None
    validate.parse_receipt(receipt)
    batcher: Batcher = request.app.state.batcher
    await batcher.acknowledge(name, receipt)
    return nothing()


def _has_body(request: Request) -> bool:
    return any(
        (key == b"content-length" and value != b"0") or key == b"transfer-encoding"
        for key, value in request.scope["headers"]
    )


@declare(
    router,
    "POST",
    "/queues/{q}/claims/{receipt}/acknowledge",
    needs="consume",
    success=_DONE,
    also=_LOST,
)
async def acknowledge(request: Request, queue: QueueName, receipt: Receipt) -> Response:
    """Processed: the message is done."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.acknowledge(receipt))
    return nothing()


@declare(
    router,
    "POST",
    "/queues/{q}/claims/{receipt}/requeue",
    needs="consume",
    success={200: ok(StateNow, "It is back, or dead", {"state": "scheduled"})},
    also=_LOST,
)
async def requeue(request: Request, queue: QueueName, receipt: Receipt, asked: Failure | None = None) -> Response:
    """Failed: back after a while, the attempt counted; dead when its attempts are used up."""
    service: Service = request.app.state.service
    said = asked or Failure()
    state = await service.call(
        queue,
        lambda each: each.requeue(
            receipt, delay_s=said.delay_s, reason=said.reason[-REASON_CHARS:], details=_attempt(said.details)
        ),
    )
    return Json({"state": state})


@declare(router, "POST", "/queues/{q}/claims/{receipt}/release", needs="consume", success=_DONE, also=_LOST)
async def release(request: Request, queue: QueueName, receipt: Receipt) -> Response:
    """Give it back untouched, the attempt not counted."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.release(receipt))
    return nothing()


@declare(router, "POST", "/queues/{q}/claims/{receipt}/extend", needs="consume", success=_DONE, also=_LOST)
async def extend(request: Request, queue: QueueName, receipt: Receipt, asked: Extension) -> Response:
    """More time: the claim now ends so many seconds from now."""
    service: Service = request.app.state.service
    await service.quick(queue, lambda each: each.extend(receipt, asked.lease_s))
    return nothing()


@declare(router, "POST", "/queues/{q}/claims/{receipt}/dead-letter", needs="consume", success=_DONE, also=_LOST)
async def dead_letter(request: Request, queue: QueueName, receipt: Receipt, asked: Burial | None = None) -> Response:
    """Give up on it."""
    service: Service = request.app.state.service
    said = asked or Burial()
    reason, details = said.reason[-REASON_CHARS:], _attempt(said.details)
    await service.call(queue, lambda each: each.move_to_dead_letter_queue(receipt, reason, details=details))
    return nothing()
