"""GET /dequeue and POST /queues/{q}/claims: claiming, waiting, and giving back what nobody came for.

A `Request-Id` marks the claim: 8 letters of its receipt are made of the queue, the token's name and the Request-Id, so
a lost answer is found again by the claim itself, from any process (`Queue.dequeue_marked`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Query, Request
from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from spoolq import validate
from spoolq.interfaces import Queue
from spoolq.message import Message
from spoolq.web.batching import Batcher
from spoolq.web.envelope import (
    EXAMPLE,
    INLINE_ALL_BYTES,
    INLINE_MAX_BYTES,
    Envelope,
    envelope,
    octet_headers,
)
from spoolq.web.routes import QueueName, Strict, declare, new_router, nothing, ok
from spoolq.web.security import Call, call_of
from spoolq.web.service import Service
from spoolq.web.streaming import SAFE_HEADERS, BodyAnswer, has_gone, until_gone
from spoolq.web.waiting import Take, Waiting, give_back

router = new_router()

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_OCTETS = "application/octet-stream"

RequestIdHeader = Annotated[
    str | None,
    Header(alias="Request-Id", description="Asked again with the same one: the same answer, while that claim lasts"),
]


def mark_of(call: Call, queue: str) -> str | None:
    """The mark of a claim: of the asker's own Request-Id, so that another token's is another."""
    if call.asked_id is None:
        return None
    digest = hashlib.sha256(f"{call.who}\0{queue}\0{call.asked_id}".encode()).digest()
    number = int.from_bytes(digest[:8], "big")
    letters = []
    for _ in range(8):
        number, digit = divmod(number, 36)
        letters.append(_ALPHABET[digit])
    return "".join(letters)


def taker(count: int, lease_s: float | None, mark: str | None) -> Take:
    """What claims, in whichever thread."""

    def take(queue: Queue) -> Sequence[Message]:
        if mark is not None:
            return queue.dequeue_marked(mark, count, lease_s=lease_s)
        return queue.dequeue_many(count, lease_s=lease_s)

    return take


async def claim(request: Request, name: str, *, count: int, wait_s: float, lease_s: float | None) -> Sequence[Message]:
    """Claim now, or wait in line until there is something."""
    service: Service = request.app.state.service
    validate.check_wait(wait_s)
    validate.check_lease(lease_s)
    mark = mark_of(call_of(request.scope), name)
    take = taker(count, lease_s, mark)
    if count == 1 and mark is None:
        batcher: Batcher = request.app.state.batcher
        found = await batcher.claim(name, lease_s)
    else:
        found = await service.quick(name, take)
    if not found and wait_s > 0 and not service.closing.is_set():
        found = await _wait(request, name, take, min(wait_s, service.limits.max_wait_s))
    if found and await _is_gone(request):
        await give_back(service, name, found)
        return []
    return found


async def _wait(request: Request, name: str, take: Take, wait_s: float) -> Sequence[Message]:
    waiting: Waiting = request.app.state.waiting
    gone = asyncio.ensure_future(until_gone(request.receive))
    try:
        found = await waiting.wait(name, take, wait_s, gone)
        if found and gone.done():
            await give_back(request.app.state.service, name, found)
            return []
        return found
    finally:
        gone.cancel()


async def _is_gone(request: Request) -> bool:
    if "spoolq.transport" in request.scope:
        return has_gone(request.scope)
    return await request.is_disconnected()


class ClaimAnswer(Response):
    """Claimed messages, given back where the answer cannot be sent."""

    media_type = "application/json"

    def __init__(self, content: bytes, service: Service, queue: str, messages: Sequence[Message]) -> None:
        super().__init__(content)
        self._service = service
        self._queue = queue
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or give back."""
        if has_gone(scope):
            await give_back(self._service, self._queue, self._messages)
            return
        await super().__call__(scope, receive, send)


class OctetsAnswer(Response):
    """One claimed message's body, given back where it cannot be sent to its end."""

    def __init__(self, service: Service, queue: str, message: Message, body: BodyAnswer) -> None:
        super().__init__()
        self._service = service
        self._queue = queue
        self._message = message
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or give back."""
        try:
            await self._body(scope, receive, send)
        finally:
            if not self._body.was_sent:
                await give_back(self._service, self._queue, [self._message])


def _read_inline(messages: Sequence[Message], most_bytes: int) -> list[bytes | None]:
    """The bodies that go into the envelopes. Reads files."""
    left = INLINE_ALL_BYTES
    bodies: list[bytes | None] = []
    for message in messages:
        if message.body_bytes > min(most_bytes, left):
            bodies.append(None)
            continue
        bodies.append(message.body)
        left -= message.body_bytes
    return bodies


async def envelopes(
    service: Service, name: str, messages: Sequence[Message], inline_bytes: int
) -> list[dict[str, Any]]:
    """The envelopes of claimed messages."""
    if all(message._body is not None for message in messages):  # read with the claim
        bodies = _read_inline(messages, inline_bytes)
    else:
        try:
            bodies = await service.apart(lambda: _read_inline(messages, inline_bytes))
        except BaseException:
            await give_back(service, name, messages)
            raise
    return [envelope(message, name, body) for message, body in zip(messages, bodies, strict=True)]


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


async def _answer(request: Request, name: str, messages: Sequence[Message], inline_bytes: int) -> Response:
    if not messages:
        return nothing()
    service: Service = request.app.state.service
    message = messages[0]
    if _wants_octets(request):
        return await _octets(service, name, message)
    made = await envelopes(service, name, messages, inline_bytes)
    return ClaimAnswer(_dumped(made[0]), service, name, messages)


def _wants_octets(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return _OCTETS in accept and accept.partition(";")[0].split(",")[0].strip() == _OCTETS


async def _octets(service: Service, name: str, message: Message) -> Response:
    try:
        file = await service.apart(message.open)
    except BaseException:
        await give_back(service, name, [message])
        raise
    headers = {
        **SAFE_HEADERS,
        "Content-Type": message.content_type or _OCTETS,
        "Content-Length": str(message.body_bytes),
        **octet_headers(message, name),
    }
    return OctetsAnswer(service, name, message, BodyAnswer(service, file, 0, message.body_bytes, 200, headers))


async def quick_dequeue(request: Request) -> Response | None:
    """GET /dequeue, with no parameters but these three."""
    name, wait_s, lease_s = "default", 0.0, None
    try:
        for each in request.scope["query_string"].split(b"&"):
            key, _, value = each.partition(b"=")
            if key == b"queue" and value.isalnum():
                name = value.decode("ascii")
            elif key == b"wait_s":
                wait_s = float(value)
            elif key == b"lease_s":
                lease_s = float(value)
            elif each:
                return None
    except ValueError:
        return None
    if not name.islower() and not name.isdigit():
        return None
    messages = await claim(request, name, count=1, wait_s=wait_s, lease_s=lease_s)
    return await _answer(request, name, messages, INLINE_MAX_BYTES)


_QUEUE = Query(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="The queue's name")
_WAIT = "Wait up to this long for a message; at most 60"
_LEASE = "How long the claim lasts; the queue's lease_s unless given"


@declare(
    router,
    "GET",
    "/dequeue",
    needs="consume",
    success={
        200: {
            "model": Envelope,
            "description": "Claimed",
            "content": {
                "application/json": {"example": EXAMPLE},
                _OCTETS: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        204: {"description": "Nothing there"},
    },
)
async def dequeue(
    request: Request,
    queue: Annotated[str, _QUEUE] = "default",
    wait_s: Annotated[float, Query(ge=0, le=3_153_600_000, description=_WAIT)] = 0,
    lease_s: Annotated[float | None, Query(gt=0, le=3_153_600_000, description=_LEASE)] = None,
    inline_bytes: Annotated[int, Query(ge=0, le=INLINE_MAX_BYTES)] = INLINE_MAX_BYTES,
    request_id: RequestIdHeader = None,
) -> Response:
    """Claim the next message: highest priority first, then oldest."""
    messages = await claim(request, queue, count=1, wait_s=wait_s, lease_s=lease_s)
    return await _answer(request, queue, messages, inline_bytes)


class Claim(Strict):
    """How many to claim, and for how long."""

    count: Annotated[int, Field(ge=1, le=validate.MAX_LIMIT)] = 1
    wait_s: Annotated[float, Field(ge=0, le=3_153_600_000)] = 0
    lease_s: Annotated[float | None, Field(gt=0, le=3_153_600_000)] = None
    inline_bytes: Annotated[int, Field(ge=0, le=INLINE_MAX_BYTES)] = INLINE_MAX_BYTES


class Claimed(Strict):
    """What was claimed."""

    messages: list[Envelope]


@declare(
    router,
    "POST",
    "/queues/{q}/claims",
    needs="consume",
    success={200: ok(Claimed, "None to `count` messages", {"messages": [EXAMPLE]})},
)
async def claim_many(
    request: Request, queue: QueueName, asked: Claim | None = None, request_id: RequestIdHeader = None
) -> Response:
    """Claim several messages at once; waits for the first only."""
    asked = asked or Claim()
    messages = await claim(request, queue, count=asked.count, wait_s=asked.wait_s, lease_s=asked.lease_s)
    service: Service = request.app.state.service
    made = await envelopes(service, queue, messages, asked.inline_bytes)
    return ClaimAnswer(_dumped({"messages": made}), service, queue, messages)
