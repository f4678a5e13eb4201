"""GET of a body: of a message in any state, or of a claim. Ranges and ETags are streaming.py's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from fastapi import Request
from starlette.responses import Response

from spoolq import validate
from spoolq.errors import NotFound
from spoolq.interfaces import Queue
from spoolq.web.routes import MessageId, QueueName, Receipt, declare, new_router
from spoolq.web.service import Service
from spoolq.web.streaming import body_answer

router = new_router()

_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_SUCCESS: dict[int, dict[str, Any]] = {
    200: {"description": "The body", "content": _BINARY},
    206: {"description": "The range that was asked for", "content": _BINARY},
}


async def _send(request: Request, name: str, id: str, open_body: Callable[[Queue], BinaryIO]) -> Response:
    service: Service = request.app.state.service

    def begin(queue: Queue) -> tuple[BinaryIO, str | None]:
        file = open_body(queue)
        try:
            return file, queue.get(id).content_type
        except NotFound:  # it was settled meanwhile; the open file is as it was
            return file, None
        except BaseException:
            file.close()
            raise

    file, content_type = await service.call(name, begin)
    try:
        return body_answer(service, file, id, content_type, request.headers, {})
    except BaseException:
        file.close()
        raise


@declare(router, "GET", "/queues/{q}/messages/{id}/body", needs="consume", success=_SUCCESS, also=(304, 404, 409, 416))
async def body(request: Request, queue: QueueName, message_id: MessageId) -> Response:
    """The body of a message in any state."""
    return await _send(request, queue, message_id, lambda each: each.read_body(message_id))


@declare(
    router, "GET", "/queues/{q}/claims/{receipt}/body", needs="consume", success=_SUCCESS, also=(304, 404, 409, 416)
)
async def claimed_body(request: Request, queue: QueueName, receipt: Receipt) -> Response:
    """The body of a claimed message."""
    return await _send(request, queue, validate.parse_receipt(receipt)[0], lambda each: each.open_body(receipt))
