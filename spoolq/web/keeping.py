"""Keeping a queue in order: clean, check, rebuild."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from spoolq.models import Problem
from spoolq.web.routes import Json, QueueName, Strict, declare, new_router, ok
from spoolq.web.service import Service

router = new_router()


class Clean(Strict):
    """Whether only to say what would be deleted."""

    dry_run: bool = False


class Check(Strict):
    """Whether to mend what is found."""

    fix: bool = False


class Counts(Strict):
    """Counts and bytes by what it was."""

    counts: dict[str, int]


class Found(Strict):
    """What is wrong."""

    kind: str
    what: str
    fix: str
    message_id: str
    fixed: bool


class Problems(Strict):
    """All that is wrong."""

    problems: list[Found]


class Rebuilt(Strict):
    """How many messages the new index has."""

    messages: int


def _without_paths(spool: str, problem: Problem) -> dict[str, Any]:
    def relative(text: str) -> str:
        return text.replace(f"{spool}/", "").replace(spool, "the spool")

    return {
        "kind": problem.kind,
        "what": relative(problem.what),
        "fix": relative(problem.fix),
        "message_id": problem.message_id,
        "fixed": problem.fixed,
    }


@declare(router, "POST", "/queues/{q}/clean", needs="admin", success={200: ok(Counts)})
async def clean(request: Request, queue: QueueName, asked: Clean | None = None) -> Response:
    """Delete what retention says, now."""
    service: Service = request.app.state.service
    said = asked or Clean()
    return Json({"counts": await service.call(queue, lambda each: each.clean(dry_run=said.dry_run))})


@declare(router, "POST", "/queues/{q}/check", needs="admin", success={200: ok(Problems)})
async def check(request: Request, queue: QueueName, asked: Check | None = None) -> Response:
    """Compare what is stored with what is indexed, both ways."""
    service: Service = request.app.state.service
    said = asked or Check()
    found = await service.call(queue, lambda each: each.check(fix=said.fix))
    return Json({"problems": [_without_paths(service.spool, problem) for problem in found]})


@declare(router, "POST", "/queues/{q}/rebuild", needs="admin", success={200: ok(Rebuilt)}, also=(404, 507))
async def rebuild(request: Request, queue: QueueName) -> Response:
    """Make the index anew from the files."""
    service: Service = request.app.state.service
    return Json({"messages": await service.call(queue, lambda each: each.rebuild())})
