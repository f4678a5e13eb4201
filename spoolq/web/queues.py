"""The queues of the spool: list, make, delete, settings, pause, purge, and what happens in them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Body, Query, Request
from pydantic import Field
from starlette.responses import Response

from spoolq import settings as settings_module
from spoolq.models import DropInfo, Health, HolderInfo, Minute, State, Stats
from spoolq.web.dead_letters import while_asked
from spoolq.web.routes import Json, QueueName, Strict, declare, new_router, nothing, ok
from spoolq.web.security import call_of
from spoolq.web.service import Service

router = new_router()

_DONE = {204: {"description": "Done"}}
_HOUR_MS = 3_600_000
Purged = Literal["ready", "scheduled", "done", "dead"]
_WAITING: tuple[Purged, ...] = ("ready", "scheduled")


class Names(Strict):
    """The queues that the token may see."""

    queues: list[str]


class NewQueue(Strict):
    """A queue to make; settings: those that differ from the defaults."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    settings: dict[str, Any] | None = None


class Made(Strict):
    """It is there now."""

    name: str


class About(Strict):
    """A queue."""

    name: str
    settings: dict[str, Any]
    capabilities: dict[str, bool]
    stats: Stats


class Deleted(Strict):
    """How many messages went with it."""

    deleted: int


class Counted(Strict):
    """How many."""

    count: int


class States(Strict):
    """Whose messages are deleted."""

    states: list[Purged] = Field(default_factory=lambda: list(_WAITING), max_length=4)


class Minutes(Strict):
    """The history; minutes without an event are left out."""

    minutes: list[Minute]


class Ages(Strict):
    """One more count than bounds."""

    counts: list[int]


class Dropped(Strict):
    """By name."""

    drops: list[DropInfo]


class Holders(Strict):
    """Who holds claims in a process of this machine."""

    holders: list[HolderInfo]


@declare(
    router,
    "GET",
    "/queues",
    needs="any",
    success={200: ok(Names, "Their names", {"queues": ["default", "emails"]})},
    also=(),
)
async def queues(request: Request) -> Response:
    """The names of the spool's queues."""
    service: Service = request.app.state.service
    token = call_of(request.scope).token
    names = await service.names()
    return Json({"queues": [name for name in names if token is None or token.admits(name)]})


@declare(router, "POST", "/queues", needs="admin", success={201: ok(Made, "It is there now")}, also=(409, 507))
async def create(request: Request, asked: NewQueue) -> Response:
    """Make a queue."""
    service: Service = request.app.state.service
    settings = None if asked.settings is None else settings_module.parse(asked.settings)
    await service.create(asked.name, settings)
    return Json({"name": asked.name}, 201, {"Location": f"/queues/{asked.name}"})


@declare(router, "GET", "/queues/{q}", needs="consume", success={200: ok(About)})
async def about(request: Request, queue: QueueName) -> Response:
    """A queue: its settings, what it can do, and its figures."""
    service: Service = request.app.state.service

    def look(each: Any) -> dict[str, Any]:
        return {
            "name": each.name,
            "settings": asdict(each.settings),
            "capabilities": asdict(each.capabilities),
            "stats": each.stats().as_dict(),
        }

    return Json(await service.call(queue, look))


@declare(router, "DELETE", "/queues/{q}", needs="admin", success={200: ok(Deleted)})
async def delete(request: Request, queue: QueueName) -> Response:
    """Delete a queue with all its messages, also while others have it open."""
    service: Service = request.app.state.service
    return Json({"deleted": await service.delete(queue)})


@declare(router, "GET", "/queues/{q}/settings", needs="consume", success={200: ok(dict[str, Any], "All of them")})
async def settings(request: Request, queue: QueueName) -> Response:
    """A queue's settings, as queue.toml has them."""
    service: Service = request.app.state.service
    return Json(await service.call(queue, lambda each: asdict(each.settings)))


@declare(
    router,
    "PUT",
    "/queues/{q}/settings",
    needs="admin",
    success={200: ok(dict[str, Any], "As they are now")},
    also=(404, 507),
)
async def change_settings(
    request: Request,
    queue: QueueName,
    asked: Annotated[dict[str, Any], Body(examples=[{"max_attempts": 4, "retry": {"base_s": 1}}])],
) -> Response:
    """Make these the queue's settings; what is left out gets its default."""
    service: Service = request.app.state.service
    wanted = settings_module.parse(asked)

    def change(each: Any) -> dict[str, Any]:
        each.change_settings(wanted)
        return asdict(each.settings)

    return Json(await service.call(queue, change))


@declare(router, "POST", "/queues/{q}/pause", needs="admin", success=_DONE)
async def pause(request: Request, queue: QueueName) -> Response:
    """Deliver nothing until it is resumed."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.pause())
    return nothing()


@declare(router, "POST", "/queues/{q}/resume", needs="admin", success=_DONE)
async def resume(request: Request, queue: QueueName) -> Response:
    """Deliver again."""
    service: Service = request.app.state.service
    await service.call(queue, lambda each: each.resume())
    return nothing()


@declare(router, "POST", "/queues/{q}/purge", needs="admin", success={200: ok(Counted, "Deleted")})
async def purge(request: Request, queue: QueueName, asked: States | None = None) -> Response:
    """Delete every message in these states for good."""
    said = asked or States()
    count = await while_asked(
        request,
        queue,
        lambda each, progress: each.purge(said.states, progress=progress),
    )
    return Json({"count": count})


@declare(router, "GET", "/queues/{q}/stats", needs="consume", success={200: ok(Stats, "Counts, bytes and totals")})
async def stats(request: Request, queue: QueueName) -> Response:
    """Counts, bytes and totals."""
    service: Service = request.app.state.service
    return Json(await service.call(queue, lambda each: each.stats().as_dict()))


@declare(router, "GET", "/queues/{q}/ages", needs="consume", success={200: ok(Ages)})
async def ages(
    request: Request,
    queue: QueueName,
    bounds_s: Annotated[str, Query(max_length=400, description="Rising seconds, with commas between")],
    state: State = "ready",
) -> Response:
    """How many messages of a state were enqueued within each bound; the last count is of older ones."""
    service: Service = request.app.state.service
    bounds = [float(part) for part in bounds_s.split(",")]
    return Json({"counts": await service.call(queue, lambda each: list(each.ages(bounds, state)))})


@declare(router, "GET", "/queues/{q}/drops", needs="consume", success={200: ok(Dropped)})
async def drops(request: Request, queue: QueueName, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """Files that were dropped and are no messages yet, and why."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.drops(limit=limit))
    return Json({"drops": [asdict(drop) for drop in found]})


@declare(router, "GET", "/queues/{q}/health", needs="consume", success={200: ok(Health, "Disk, reserve, index")})
async def health(request: Request, queue: QueueName) -> Response:
    """What the queue stands on."""
    service: Service = request.app.state.service
    return Json(asdict(await service.call(queue, lambda each: each.health())))


@declare(router, "GET", "/queues/{q}/minutes", needs="consume", success={200: ok(Minutes, "Oldest first")})
async def minutes(
    request: Request,
    queue: QueueName,
    since_at_ms: Annotated[int | None, Query(ge=0, lt=2**53, description="An hour ago unless given")] = None,
) -> Response:
    """The history, minute by minute."""
    service: Service = request.app.state.service
    since = int(time.time() * 1000) - _HOUR_MS if since_at_ms is None else since_at_ms
    found = await service.call(queue, lambda each: each.minutes(since))
    return Json({"minutes": [asdict(minute) for minute in found]})


@declare(router, "GET", "/queues/{q}/holders", needs="consume", success={200: ok(Holders)})
async def holders(request: Request, queue: QueueName) -> Response:
    """Who holds claims."""
    service: Service = request.app.state.service
    found = await service.call(queue, lambda each: each.holders())
    return Json({"holders": [asdict(holder) for holder in found]})
