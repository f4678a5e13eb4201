"""The plain case of what is asked most, answered without FastAPI, whose reading of a request costs more than a message.

Each reader returns None where a request is not that plain, and has read nothing of its body then: FastAPI's route,
which takes everything, answers it. So there is nothing that only works here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from spoolq.web import claims, dequeue, enqueue
from spoolq.web.security import Call

Quick = Callable[[Request], Awaitable[Response | None]]

_OF_QUEUE = re.compile(r"/queues/([a-z0-9][a-z0-9._-]{0,63})/(?:messages|claims/([0-9a-z.-]{1,80})/acknowledge)")


class Shortcuts:
    """Stands before the application."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, or hand on."""
        if scope["type"] == "http":
            found = _find(scope)
            if found is not None:
                scope["app"] = self._app
                answer = await found(Request(scope, receive, send))
                if answer is not None:
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _find(scope: Scope) -> Quick | None:
    """The reader for a request; None where there is none, or its token is not for everything that it needs."""
    method, path = scope["method"], scope["path"]
    call: Call = scope["spoolq.call"]
    if call.has_bad_id:
        return None
    if method == "POST":
        if path == "/enqueue":
            return enqueue.quick_enqueue if _may(call, "enqueue") else None
        found = _OF_QUEUE.fullmatch(path)
        if found is None:
            return None
        scope["path_params"] = {"q": found[1], "receipt": found[2]}
        if found[2] is None:
            return enqueue.quick_send if _may(call, "enqueue") else None
        return claims.quick_acknowledge if _may(call, "consume") else None
    if method == "GET" and path == "/dequeue":
        return dequeue.quick_dequeue if _may(call, "consume") else None
    return None


def _may(call: Call, needs: str) -> bool:
    token = call.token
    return token is None or (token.has(needs) and not token.queues)
