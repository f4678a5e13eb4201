"""The application: what it is made of, and how it starts and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from spoolq import __version__
from spoolq import queue as entry
from spoolq.errors import SpoolqError
from spoolq.tokens import TokenFile
from spoolq.web import (
    bodies,
    claims,
    dead_letters,
    dequeue,
    enqueue,
    keeping,
    messages,
    queues,
    status,
)
from spoolq.web.access_log import Done
from spoolq.web.batching import Batcher
from spoolq.web.metrics import Counters
from spoolq.web.problems import Problem
from spoolq.web.security import Gate, Names, answer_for, call_of
from spoolq.web.service import Limits, Service
from spoolq.web.shortcuts import Shortcuts
from spoolq.web.waiting import Waiting

_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457; `type` is stable",
    "type": "object",
    "required": ["type", "title", "status", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "request_id": {"type": "string"},
        "message_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"where": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "line": {"type": "integer"},
        "ids": {"type": "array", "items": {"type": "string"}},
        "problems": {"type": "array", "items": {"type": "string"}},
    },
    "example": {
        "type": "urn:spoolq:problem:lease-lost",
        "title": "The claim has ended",
        "status": 409,
        "detail": "this delivery has ended, and the message is ready now",
        "request_id": "5f0c2a9be1d04c77",
    },
}


def create_app(
    spool: str | os.PathLike[str] = "spool",
    *,
    limits: Limits | None = None,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    token_needed: bool = False,
) -> ASGIApp:
    """The REST API of a spool, as an ASGI application. Makes the spool where there is none, when it starts.

    hosts, origins: further names that it answers to, and pages that may ask. token_needed: also where the spool has no
    token, as for a server that others can reach.
    """
    place = os.fspath(spool) if entry.is_url(spool) else os.path.abspath(os.fspath(spool))
    counters = Counters()
    closing = _Closing()
    app = FastAPI(
        title="spoolq",
        version=__version__,
        description="A persistent message queue whose messages are plain files. docs/rest-api.md has every answer.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(place, limits or Limits(), closing),
        redirect_slashes=False,
    )
    app.state.counters = counters
    for module in (enqueue, dequeue, claims, bodies, messages, dead_letters, queues, keeping, status):
        # Not include_router, which would look through routers before routes at every request.
        app.router.routes.extend(module.router.routes)
    for kind in (SpoolqError, ValueError, Problem, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Gate(
        Shortcuts(app),
        names=Names(hosts, origins),
        tokens=TokenFile(place),
        token_needed=token_needed,
        done=Done(counters),
        is_closing=closing.is_set,
    )


async def _answer(request: Request, error: Exception) -> Response:
    call = call_of(request.scope)
    return answer_for(error, call).response(call.request_id)


class _Closing:
    """Whether the server stops; set from a signal's handler."""

    def __init__(self) -> None:
        self.value = False

    def is_set(self) -> bool:
        return self.value


def _lifespan(place: str, limits: Limits, closing: _Closing) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(place, limits)
        waiting = Waiting(service, app.state.counters.waiters.set)
        app.state.service = service
        app.state.batcher = Batcher(service)
        app.state.waiting = waiting
        await service.apart(lambda: entry.open_queue(place).close())
        await service.queue("default")
        closing.value = False

        def stop() -> None:
            closing.value = True
            service.closing.set()
            waiting.end()
            for each in list(service.on_closed):
                each()

        restore = _before_signals(stop)
        try:
            yield
        finally:
            restore()
            stop()
            await service.close()

    return lifespan


def _before_signals(stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` in the loop when TERM or INT comes, before the server's own handler; returns what ends that.

    uvicorn tells an application that it stops only once every answer is sent, and a long poll would wait for its end.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        server = before[number]
        if callable(server):
            server(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        if callable(signal.getsignal(number)):
            before[number] = signal.signal(number, handle)

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    return restore


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        schema["components"]["schemas"]["Problem"] = _PROBLEM_SCHEMA
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{}, {"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
