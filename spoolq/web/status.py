"""The server itself: whether it lives, whether it can work, and its figures."""

from __future__ import annotations

from os import environ

from fastapi import Request
from starlette.responses import Response

from spoolq.errors import NotCapable, QueueNotFound, SpoolqError
from spoolq.interfaces import Queue
from spoolq.models import Health, Stats
from spoolq.relay import reports
from spoolq.web.metrics import Counters
from spoolq.web.problems import Problem, problem_of
from spoolq.web.routes import Json, Strict, declare, new_router, ok
from spoolq.web.service import Service

router = new_router()

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Status(Strict):
    """In a word."""

    status: str


@declare(router, "GET", "/healthz", needs="", success={200: ok(Status, "It answers", {"status": "ok"})}, also=())
async def healthz(request: Request) -> Response:
    """The process answers."""
    return Json({"status": "ok"})


@declare(router, "GET", "/readyz", needs="", success={200: ok(Status, "It can work", {"status": "ready"})}, also=())
async def readyz(request: Request) -> Response:
    """Whether requests can be carried out; else what is wrong."""
    service: Service = request.app.state.service
    wrong = ["the server is stopping"] if service.closing.is_set() else []
    cause: SpoolqError | None = None
    try:
        await service.names()  # of a database that is away: at once, where a queue that is open asks for half a minute
        _, health = await service.call("default", figures)
        if health is not None and not health.has_room:
            wrong.append("the disk's reserve is reached: nothing more is enqueued")
    except SpoolqError as error:
        wrong.append(problem_of(error).detail)
        cause = error
    if wrong:
        raise Problem("not-ready", "; ".join(wrong), problems=wrong) from cause
    return Json({"status": "ready"})


def figures(queue: Queue) -> tuple[Stats, Health | None]:
    """What the metrics show of a queue."""
    try:
        return queue.stats(), queue.health()
    except NotCapable:
        return queue.stats(), None


@declare(
    router,
    "GET",
    "/metrics",
    needs="consume",
    success={200: {"description": "Figures", "content": {TEXT: {"schema": {"type": "string"}}}}},
    also=(),
)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    service: Service = request.app.state.service
    counters: Counters = request.app.state.counters
    found = []
    for name in await service.names():
        try:
            found.append(await service.call(name, figures))
        except QueueNotFound:  # deleted since they were listed
            continue
    relays = reports.directory_for(service.spool, environ)
    text = await service.apart(lambda: counters.text(found, reports.read(relays)))
    return Response(text, media_type=TEXT)
